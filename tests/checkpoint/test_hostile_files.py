"""Files of a checkpoint that are damaged or lie: named at once, before anything is built."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
import seq2seq
import tiny
import tiny_unilm
import torch
from safetensors.torch import load_file, save_file

import tritonseq
from tritonseq.checkpoint import files, weights
from tritonseq.checkpoint.files import read_json
from tritonseq.cli.main import main
from tritonseq.models.bart import Bart
from tritonseq.models.gpt2 import GPT2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCE = [[8, 9, 10, 11]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for family in ("gpt2", "t5", "bart", "marian", "unilm"):
        made[family] = tmp_path_factory.mktemp(family)
        if family == "unilm":
            tiny_unilm.tiny().write(made[family])
        else:
            model = tiny.hf_gpt2() if family == "gpt2" else seq2seq.hf_model(family)
            model.save_pretrained(made[family])
    return made


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a family's checkpoint, with keys of config.json changed."""

    def make(family: str, **changes: Any) -> Path:
        folder = tmp_path / family
        shutil.copytree(folders[family], folder)
        change(folder / "config.json", **changes)
        return folder

    return make


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(folder: Path, **changes: Any) -> Path:
    """The weights as a pickle, with entries changed; returns its path."""
    table: dict[Any, Any] = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**table, **changes}, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


SIZES = [
    ("gpt2", "n_layer", "2 layers; missing: transformer.h.2"),
    ("gpt2", "n_positions", "transformer.wpe.weight"),
    ("gpt2", "n_embd", "transformer.wpe.weight"),
    ("gpt2", "vocab_size", "transformer.wte.weight"),
    ("gpt2", "n_inner", "transformer.h.0.mlp.c_proj.weight"),
    ("t5", "num_layers", "2 layers; missing: encoder.block.2"),
    ("t5", "num_decoder_layers", "2 layers; missing: decoder.block.2"),
    ("t5", "vocab_size", "shared.weight"),
    ("t5", "d_model", "shared.weight"),
    ("t5", "d_ff", "DenseReluDense.wo.weight"),
    ("t5", "d_kv", "SelfAttention.q.weight"),
    ("t5", "num_heads", "relative_attention_bias"),
    ("t5", "relative_attention_num_buckets", "relative_attention_"),
    ("t5", "relative_attention_max_distance", "at most"),
    ("bart", "encoder_layers", "2 layers; missing: model.encoder.layers.2"),
    ("bart", "decoder_layers", "2 layers; missing: model.decoder.layers.2"),
    ("bart", "max_position_embeddings", "embed_positions.weight"),
    ("bart", "d_model", "shared.weight"),
    ("bart", "encoder_ffn_dim", "encoder.layers.0.fc1.weight"),
    ("bart", "decoder_ffn_dim", "decoder.layers.0.fc1.weight"),
    ("marian", "max_position_embeddings", "is computed"),
    ("unilm", "num_hidden_layers", "2 layers; missing: bert.encoder.layer.2"),
    ("unilm", "hidden_size", "word_embeddings.weight"),
    ("unilm", "intermediate_size", "intermediate.dense.weight"),
    ("unilm", "max_rel_pos", "at most"),
]


@pytest.mark.parametrize("value", [2**36, 10**400], ids=["large", "10**400"])
@pytest.mark.parametrize(("family", "key", "shown"), SIZES)
def test_sizes_that_the_weights_do_not_have(
    copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, family: str, key: str,
    shown: str, value: int,
) -> None:  # fmt: skip
    """The key and what shows otherwise are named, and no network is made for them."""

    def never(self: Any, config: Any) -> None:
        pytest.fail("a network was made")

    for network in (GPT2, Bart):
        monkeypatch.setattr(network, "__init__", never)
    with pytest.raises(ValueError, match=key) as caught:
        tritonseq.load(copy(family, **{key: value}))
    told = str(caught.value)
    beyond = value >= 2**40 and "no network has such a size" in told
    assert beyond or shown in told


@pytest.mark.parametrize("value", [3, 50_000, 10**9])
def test_too_many_layers_are_told_by_the_first_that_is_missing(
    copy: Callable[..., Path], value: int
) -> None:
    with pytest.raises(ValueError, match=rf"n_layer is {value}, and the weights have 2 layers"):
        tritonseq.load(copy("gpt2", n_layer=value))


def test_weights_without_a_table_of_tokens_are_told_by_its_name(copy: Callable[..., Path]) -> None:
    folder = copy("gpt2", vocab_size=2**39)
    table = load_file(folder / "model.safetensors")
    del table["transformer.wte.weight"]
    save_file(table, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: lm_head\.weight"):
        tritonseq.load(folder)


WRONG_TYPES = [
    ("bart", "scale_embedding", "x"),
    ("bart", "scale_embedding", 1),
    ("bart", "tie_word_embeddings", "false"),
    ("bart", "encoder_layers", 2.0),
    ("gpt2", "scale_attn_weights", "x"),
    ("gpt2", "scale_attn_by_inverse_layer_idx", 0),
    ("gpt2", "add_cross_attention", "no"),
    ("gpt2", "tie_word_embeddings", None),
    ("gpt2", "n_layer", None),
    ("gpt2", "layer_norm_epsilon", 10**400),
    ("gpt2", "layer_norm_epsilon", float("nan")),
    ("t5", "tie_word_embeddings", "x"),
    ("t5", "scale_decoder_outputs", []),
    ("t5", "feed_forward_proj", 3),
    ("unilm", "pos_shift", "x"),
    ("unilm", "hidden_act", 0),
    ("unilm", "max_rel_pos", "4"),
    ("gpt2", "dtype", "flaot32"),
]


@pytest.mark.parametrize(("family", "key", "value"), WRONG_TYPES)
def test_a_value_of_another_type_is_refused_by_its_key(
    copy: Callable[..., Path], family: str, key: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=key):
        tritonseq.load(copy(family, **{key: value}))


MALFORMED = {
    "cut": b'{"a": ',
    "deep": b'{"a": ' + b"[" * 100_000,
    "deep in objects": b'{"a":' * 100_000,
    "a list": b"[1]",
    "empty": b"",
    "no UTF-8": b'{"a": "\xff"}',
    "a huge integer": b'{"a": ' + b"1" * 5000 + b"}",
    "contradictory": b'{"n_layer": 2, "n_layer": 3}',
}


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_malformed_json_is_told_by_its_file(
    copy: Callable[..., Path], capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    folder = copy("gpt2")
    (folder / name).write_bytes(MALFORMED[kind])
    with pytest.raises(ValueError, match=name):
        tritonseq.load(folder)
    assert main(["generate", str(folder), "--prompt", "x"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and name in errors[0]


def test_a_key_said_twice_alike_and_a_mark_before_the_text_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "any.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": NaN, "a": NaN, "b": 1}')
    assert read_json(path)["b"] == 1
    path.write_bytes(b'{"a": 1, "a": true}')
    with pytest.raises(ValueError, match=r"any\.json .* says 'a' twice, 1 and True"):
        read_json(path)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", "model.safetensors", "adapter_config.json"),
        "model.safetensors.index.json",
    ],
)
@pytest.mark.parametrize("form", ["folder", "pipe", "device", "nowhere"])
def test_what_is_no_file_is_neither_opened_nor_overlooked(
    copy: Callable[..., Path], name: str, form: str
) -> None:
    folder = copy("gpt2")
    (folder / name).unlink(missing_ok=True)
    if name.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    if form == "folder":
        (folder / name).mkdir()
    elif form == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero" if form == "device" else "nowhere")
    with pytest.raises(ValueError, match=name):
        tritonseq.load(folder)


def test_a_file_that_grows_while_it_is_read_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 10)
    (tmp_path / "any.json").write_text('{"a": 1}' + " " * 9)
    real = os.fstat

    def before(file: int) -> os.stat_result:
        """As it was when it was opened: of a few bytes."""
        return os.stat_result([*real(file)[:6], 8, *real(file)[7:]])

    monkeypatch.setattr(os, "fstat", before)
    with pytest.raises(ValueError, match=r"any\.json has 11 bytes or more"):
        read_json(tmp_path / "any.json")


@pytest.mark.parametrize(
    "shard", ["../x", "/etc/passwd", "missing", "model.safetensors.index.json"]
)
def test_an_index_that_leads_elsewhere(copy: Callable[..., Path], shard: str) -> None:
    folder = copy("gpt2")
    index = folder / "model.safetensors.index.json"
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, shard)}))
    with pytest.raises(ValueError, match=index.name):
        tritonseq.load(folder)


def test_of_a_tensor_in_two_shards_the_index_chooses(copy: Callable[..., Path]) -> None:
    folder = copy("gpt2")
    table = load_file(folder / "model.safetensors")
    save_file(table, folder / "a.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in table.items()},
              folder / "b.safetensors")  # fmt: skip
    (folder / "model.safetensors").unlink()
    # Every file must be named, and the last one read would win.
    listed = {**dict.fromkeys(table, "a.safetensors"), "other": "b.safetensors"}
    index = {"weight_map": listed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    wanted = tritonseq.from_transformers(tiny.hf_gpt2()).generate(SOURCE, max_new_tokens=5)
    assert torch.equal(tritonseq.load(folder).generate(SOURCE, max_new_tokens=5), wanted)


PICKLED = {
    "stride 0": torch.zeros(1, 1).expand(10**9, 32),
    "sparse": torch.eye(61, 32).to_sparse(),
    "meta": torch.empty(61, 32, device="meta"),
    "a table": {"weight": torch.zeros(61, 32)},
    "a number": 3,
}


@pytest.mark.parametrize("kind", PICKLED)
def test_pickled_entries_that_are_no_plain_tensors(copy: Callable[..., Path], kind: str) -> None:
    name = "transformer.wte.weight"
    folder = copy("gpt2")
    pickled(folder, **{name: PICKLED[kind]})
    with pytest.raises(ValueError, match=rf"pytorch_model\.bin.*'{name}'"):
        tritonseq.load(folder)


def test_a_pickle_with_a_key_that_is_no_name(copy: Callable[..., Path]) -> None:
    folder = copy("gpt2")
    path = pickled(folder)
    torch.save({**torch.load(path), 3: torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: the key 3 is no name"):
        tritonseq.load(folder)


def test_tensors_that_share_more_than_the_file_has(copy: Callable[..., Path]) -> None:
    folder, memory = copy("gpt2"), torch.zeros(20_000)
    pickled(folder, **{f"x.{number}": memory for number in range(1000)})
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is refused: its tensors have"):
        tritonseq.load(folder)


def test_a_pickle_that_inflates(copy: Callable[..., Path]) -> None:
    folder = copy("gpt2")
    path = pickled(folder)
    with zipfile.ZipFile(path) as plain:
        members = {info.filename: plain.read(info) for info in plain.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is refused: .* is compressed"):
        tritonseq.load(folder)


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart", "unilm"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_parameters_load(copy: Callable[..., Path], family: str, zipped: bool) -> None:
    """What `state_dict(keep_vars=True)` leaves."""
    folder = copy(family)
    wanted = tritonseq.load(folder).generate(SOURCE, max_new_tokens=5)
    path = pickled(folder)
    table = {name: torch.nn.Parameter(value) for name, value in torch.load(path).items()}
    torch.save(table, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(tritonseq.load(folder).generate(SOURCE, max_new_tokens=5), wanted)


_KEY = b"K\x01s."
"""1 becomes the value of what is on the stack, in the table below it; and the end."""
_SHARED = b"".join(b"q%ch%c\x86" % (number, number) for number in range(40))
BOMBS = {
    "nested keys": (b"})" + b"\x85" * 200_000 + _KEY, "tuples of more than"),
    "doubled keys": (b"})" + _SHARED + _KEY, "tuples of more than"),
    "doubled names of memory": (b"}X\1\0\0\0a)" + _SHARED + b"Qs.", "tuples of more than"),
    "a large array": (
        b"cbuiltins\nbytearray\n\x8a\x05" + (4 * 10**9).to_bytes(5, "little") + b"\x85R.",
        "asks for builtins.bytearray",
    ),
    "an array, by its old name": (b"c__builtin__\nbytearray\nK\x08\x85R.", "__builtin__.bytearray"),
    "a tensor that is called": (b"ctorch\nTensor\nJ\x00\x00\x00\x70\x85R.", r"calls torch\.Tensor"),
    "a number that is called": (b"K\x01K\x01\x85R.", "calls a value"),
    "bytes": (b"B\x01\x00\x00\x00a.", "more than tensors"),
    "an attribute for a method": (
        b"ccollections\nOrderedDict\n)R}X\5\0\0\0itemsK\x05sb.",
        "does not fit its config",
    ),
    "nothing": (b".", "is damaged"),
    "less than nothing": (b"}K\x01s.", "is damaged"),
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_that_take_more_than_there_is(
    copy: Callable[..., Path], kind: str, zipped: bool
) -> None:
    """They are told by their opcodes: carried out, some would end the process."""
    content, told = BOMBS[kind]
    folder = copy("gpt2")
    (folder / "model.safetensors").unlink()
    bomb(folder / "pytorch_model.bin", b"\x80\x02" + content, zipped=zipped)
    with pytest.raises(ValueError, match=told):
        tritonseq.load(folder)


def bomb(path: Path, content: bytes, *, zipped: bool) -> None:
    """A file of torch.save with this for a table."""
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
        return
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    first = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    path.write_bytes(first + content + pickle.dumps([], 2))


def test_an_archive_that_torch_and_python_read_differently(copy: Callable[..., Path]) -> None:
    """Of two tables of contents, each takes another one."""
    folder = copy("gpt2")
    path = pickled(folder)
    halves = []
    # Of one length, so that offsets in both tables hold.
    for content in (b"\x80\x02})" + b"\x85" * 300 + _KEY, b"\x80\x02}."):
        bomb(path, content.ljust(400, b"."), zipped=True)
        whole = path.read_bytes()
        end = whole.rindex(b"PK\5\6")
        start = int.from_bytes(whole[end + 16 : end + 20], "little")
        halves += [whole[:start], whole[start:end]]
    path.write_bytes(b"".join(halves) + whole[end:])
    with pytest.raises(ValueError, match="its archive can be read in two ways"):
        tritonseq.load(folder)


def test_a_pickle_is_mapped_once_for_all_pieces_of_a_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = torch.arange(6.0)[:, None].expand(6, 4).contiguous()
    torch.save({"a": table, "b": torch.tensor(3.0)}, tmp_path / "a.bin")
    reader = weights.PickleFile(tmp_path / "a.bin")
    monkeypatch.setattr(weights, "PIECE_BYTES", 32)
    load = MagicMock(wraps=torch.load)
    monkeypatch.setattr(torch, "load", load)
    pieces = list(reader.pieces("a"))
    assert len(pieces) == 3 and torch.equal(torch.cat(pieces), table) and load.call_count == 1
    assert [float(piece) for piece in reader.pieces("b")] == [3.0]
