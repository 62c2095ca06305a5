"""Checkpoints of every layout and format load to the same weights; faulty ones say why not."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import folders
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tritonseq.checkpoint.devices import resolve_device, resolve_dtype
from tritonseq.checkpoint.loader import from_transformers_model, load_checkpoint, read_generation
from tritonseq.kernels import private_torch
from tritonseq.models.matmul import empty_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    State = dict[str, Tensor]

# No two sizes agree, so that no transposition can go unnoticed.
SIZES = {
    "vocab_size": 53,
    "n_positions": 17,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "n_inner": 20,
}


def tiny(**options: Any) -> transformers.GPT2LMHeadModel:
    """A GPT-2 whose every tensor, norms and biases included, is random."""
    torch.manual_seed(len(options))
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def write(
    folder: Path, state: Mapping[str, Tensor], kind: str = "safetensors", **config: Any
) -> Path:
    """A checkpoint folder around `state`; `kind` is safetensors, zip or legacy."""
    keys = {"model_type": "gpt2", **SIZES, **config}
    weights = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    return folders.write(folder, state, keys, weights=weights, zipped=kind == "zip")


def load(folder: Path, dtype: str | torch.dtype = "auto") -> nn.Module:
    return load_checkpoint(folder, device="cpu", dtype=dtype).decoder


def weights(model: nn.Module) -> State:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def expected(model: nn.Module) -> State:
    """What our parameters should be, spelt out from transformers' own modules."""
    body = getattr(model, "transformer", model)
    state = {name: parameter.detach() for name, parameter in body.named_parameters()}
    state["wte"], state["wpe"] = state.pop("wte.weight"), state.pop("wpe.weight")
    if hasattr(model, "lm_head") and not model.config.tie_word_embeddings:
        state["lm_head"] = model.lm_head.weight.detach()
    return state


def assert_same(actual: State, wanted: State) -> None:
    assert actual.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(actual[name], tensor), name


def original(model: transformers.GPT2LMHeadModel) -> State:
    """The first GPT-2 upload: no prefix, no head, causal masks among the weights."""
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 17, 17).tril() for i in range(2)}
    return model.transformer.state_dict() | masks


def distilled(model: transformers.GPT2LMHeadModel) -> State:
    """distilgpt2: a prefix, two kinds of masks, the tied head repeated."""
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 17, 17) > 0 for i in range(2)}
    more = {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    return model.state_dict() | masks | more


def headed(model: transformers.GPT2LMHeadModel) -> State:
    """Of the tied pair only the head was kept."""
    state = model.state_dict()
    del state["transformer.wte.weight"]
    return state


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("layout", [original, distilled, headed])
def test_layouts(tmp_path: Path, layout: Callable[..., State], kind: str) -> None:
    model = tiny()
    assert_same(weights(load(write(tmp_path, layout(model), kind))), expected(model))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_size", ["1GB", "3KB"])
def test_what_transformers_saves(tmp_path: Path, tied: bool, shard_size: str) -> None:
    model = tiny(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "3KB")
    assert_same(weights(load(tmp_path)), expected(model))


def test_body_alone(tmp_path: Path) -> None:
    body = tiny().transformer
    body.save_pretrained(tmp_path)
    assert_same(weights(load(tmp_path)), expected(body))


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_sharded_pickles(tmp_path: Path, kind: str) -> None:
    model = tiny(tie_word_embeddings=False)
    shard(write(tmp_path, model.state_dict(), kind, tie_word_embeddings=False), kind)
    assert_same(weights(load(tmp_path)), expected(model))


def shard(folder: Path, kind: str, parts: int = 3) -> Path:
    """Split the weights of a folder into files with an index; returns the index."""
    whole = folder / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    state = load_file(whole) if kind == "safetensors" else torch.load(whole)
    whole.unlink()
    weight_map = {}
    for part in range(parts):
        names = list(state)[part::parts]
        path = whole.with_stem(f"{whole.stem}-{part + 1:05}-of-{parts:05}")
        folders.save(path, {name: state[name] for name in names}, zipped=kind == "zip")
        weight_map |= dict.fromkeys(names, path.name)
    index = folder / f"{whole.name}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_safetensors_win_over_pickles(tmp_path: Path) -> None:
    model = tiny()
    write(tmp_path, model.state_dict())
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert_same(weights(load(tmp_path)), expected(model))


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(tmp_path: Path, kind: str, stored: torch.dtype, wanted: torch.dtype) -> None:
    model = tiny().to(stored)
    loaded = weights(load(write(tmp_path, model.state_dict(), kind), dtype=wanted))
    assert_same(loaded, {name: tensor.to(wanted) for name, tensor in expected(model).items()})
    assert {tensor.dtype for tensor in loaded.values()} == {wanted}


@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_weights_lie_as_the_model_wants_them(tmp_path: Path, wanted: torch.dtype) -> None:
    model: Any = load(write(tmp_path, tiny().state_dict()), dtype=wanted)
    for name, tensor in weights(model).items():
        # One tensor is the embedding and the head, and is laid out for that.
        dim = model.input_dim("lm_head" if name == "wte" else name)
        empty = empty_weight(tensor.shape, dim, device=torch.device("cpu"), dtype=wanted)
        assert tensor.stride() == empty.stride(), name


def test_loading_leaves_the_file_behind(tmp_path: Path) -> None:
    model = tiny()
    loaded = load(write(tmp_path, model.state_dict()))
    (tmp_path / "model.safetensors").write_bytes(bytes(100_000))
    assert_same(weights(loaded), expected(model))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("dtype", "config", "device", "wanted"),
    [
        ("auto", {}, CPU, torch.float32),
        ("auto", {"dtype": "bfloat16"}, CPU, torch.bfloat16),
        ("auto", {"torch_dtype": "bfloat16"}, CUDA, torch.bfloat16),
        ("auto", {"dtype": None, "torch_dtype": "bfloat16"}, CPU, torch.bfloat16),
        ("auto", {"dtype": "float16"}, CPU, torch.float32),
        ("auto", {"dtype": "float16"}, CUDA, torch.float16),
        ("auto", {"dtype": "float64"}, CPU, torch.float32),
        ("float16", {"dtype": "float32"}, CPU, torch.float16),
        ("torch.bfloat16", {}, CPU, torch.bfloat16),
        (torch.float32, {"dtype": "bfloat16"}, CUDA, torch.float32),
    ],
)
def test_dtype_rules(
    dtype: str | torch.dtype, config: dict[str, Any], device: torch.device, wanted: torch.dtype
) -> None:
    assert resolve_dtype(dtype, config, device) == wanted


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_t5_takes_bfloat16_on_gpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    t5, bart = {"model_type": "mt5", "dtype": "float32"}, {"model_type": "bart"}
    wanted = torch.bfloat16 if has_bfloat16 else torch.float32
    assert resolve_dtype("auto", t5, CUDA) == wanted
    assert resolve_dtype("auto", t5, CPU) == torch.float32
    assert resolve_dtype("float32", t5, CUDA) == torch.float32
    assert resolve_dtype("auto", bart, CUDA) == torch.float32


@pytest.mark.parametrize("dtype", ["half", torch.float64, torch.int16, "auto "])
def test_unknown_dtype(dtype: Any) -> None:
    with pytest.raises(ValueError, match="is not supported: say 'auto', float32"):
        resolve_dtype(dtype, {}, CPU)


def test_device_rules() -> None:
    assert resolve_device("cpu") == resolve_device(CPU) == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="'gpu' is not known"):
        resolve_device("gpu")
    with pytest.raises(ValueError, match="'cuda:99' is not here"):
        resolve_device("cuda:99")
    for device in ("meta", torch.device("meta"), "", True, 3.0, None, [], {}, b"cpu"):
        with pytest.raises(ValueError, match=r"^device .* say 'auto', 'cpu' or 'cuda'$"):
            resolve_device(device)  # type: ignore[arg-type]


def test_keys_of_the_caller(tmp_path: Path) -> None:
    """They count instead of those of config.json, whatever the architecture."""
    model = tiny()
    folder = write(tmp_path, model.state_dict(), model_type=None, n_head=2)
    changes = {"n_head": 3, "eos_token_id": 4}
    with pytest.raises(ValueError, match="model_type is None"):
        load_checkpoint(folder, overrides=changes)
    other: Any = "config.json"
    with pytest.raises(ValueError, match=r"config is 'config\.json': pass a mapping"):
        load_checkpoint(folder, overrides=other)
    loaded = load_checkpoint(folder, device="cpu", model_type="gpt2", overrides=changes)
    assert_same(weights(loaded.decoder), expected(model))
    assert loaded.decoder.config.n_head == loaded.config["n_head"] == 3
    assert loaded.generation["eos_token_id"] == 4
    (folder / "generation_config.json").write_text('{"eos_token_id": 5, "num_beams": 2}')
    loaded = load_checkpoint(folder, overrides={"model_type": "gpt2", "eos_token_id": 4})
    assert loaded.generation == {"eos_token_id": 4, "num_beams": 2}


def test_generation_parameters(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "max_length": 50, "eos_token_id": None}
    assert read_generation(tmp_path, config) == {"model_type": "gpt2", "max_length": 50}
    (tmp_path / "generation_config.json").write_text('{"num_beams": 4, "top_k": null}')
    assert read_generation(tmp_path, config) == {"num_beams": 4}
    write(tmp_path, tiny().state_dict())
    assert load_checkpoint(tmp_path, device="cpu").generation == {"num_beams": 4}


def without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


FAULTY_STATES: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (
        lambda s: without(s, "transformer.h.1.mlp.c_fc.bias"),
        r"missing: transformer\.h\.1\.mlp\.c_fc\.bias",
    ),
    "left over": (
        lambda s: s | {"transformer.h.2.ln_1.weight": torch.ones(12)},
        r"left over: transformer\.h\.2\.ln_1\.weight",
    ),
    "transposed": (
        lambda s: s | {"transformer.h.0.mlp.c_fc.weight": torch.ones(20, 12)},
        r"h\.0\.mlp\.c_fc\.weight has shape \[20, 12\].* asks for \[12, 20\]",
    ),
    "other vocabulary": (
        lambda s: s | {"transformer.wte.weight": torch.ones(54, 12)},
        r"transformer\.wte\.weight has shape \[54, 12\].* asks for \[53, 12\]",
    ),
    "quantised": (
        lambda s: s | {"transformer.wpe.weight": torch.ones(17, 12, dtype=torch.int8)},
        r"transformer\.wpe\.weight is a Tensor of torch\.int8",
    ),
    "float8": (
        lambda s: s | {"transformer.wpe.weight": torch.ones(17, 12).to(torch.float8_e4m3fn)},
        r"transformer\.wpe\.weight is a Tensor of torch\.float8_e4m3fn",
    ),
}


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
@pytest.mark.parametrize("fault", FAULTY_STATES)
def test_faulty_tensors(tmp_path: Path, fault: str, kind: str) -> None:
    spoil, message = FAULTY_STATES[fault]
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, spoil(tiny().state_dict()), kind))


def test_untied_head_of_another_shape(tmp_path: Path) -> None:
    state = tiny(tie_word_embeddings=False).state_dict() | {"lm_head.weight": torch.ones(12, 53)}
    message = r"lm_head\.weight has shape \[12, 53\].* asks for \[53, 12\]"
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, state, tie_word_embeddings=False))


def set_config(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "config.json").write_text(text)


def set_index(value: Any) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        index = shard(folder, "safetensors")
        index.write_text(value if isinstance(value, str) else json.dumps(value))

    return spoil


def lose_shard(folder: Path) -> None:
    shard(folder, "safetensors")
    (folder / "model-00002-of-00003.safetensors").unlink()


FAULTY_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"has no config\.json"),
    "bad config": (set_config('{"model_type": '), r"config\.json is not valid JSON"),
    "binary config": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"),
        r"config\.json is not valid JSON",
    ),
    "list for config": (set_config("[1]"), r"config\.json holds no JSON object but a list"),
    "no model_type": (set_config("{}"), "model_type is None"),
    "unknown model_type": (set_config('{"model_type": "gpt9"}'), "'gpt9' is not supported"),
    "list model_type": (
        set_config('{"model_type": ["gpt2"]}'),
        r"model_type is \['gpt2'\], not a name",
    ),
    "quantised": (
        set_config('{"model_type": "gpt2", "quantization_config": {"bits": 4}}'),
        "quantised checkpoints are not supported",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        r"has no weights: neither model\.safetensors nor pytorch_model\.bin",
    ),
    "shard lost": (
        lose_shard,
        r"index\.json names model-00002-of-00003\.safetensors, which is not",
    ),
    "bad index": (set_index("{"), r"model\.safetensors\.index\.json is not valid JSON"),
    "empty index": (set_index({"weight_map": {}}), r"index\.json has no weight_map"),
    "list in index": (set_index({"weight_map": ["a"]}), r"index\.json has no weight_map"),
    "index leads elsewhere": (
        set_index({"weight_map": {"wte": "../model.safetensors"}}),
        r"names '\.\./model\.safetensors', which is not a plain file name",
    ),
    "Git LFS pointer": (
        lambda f: (f / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1"
        ),
        "only a Git LFS pointer: run `git lfs pull`",
    ),
}


@pytest.mark.parametrize("fault", FAULTY_FOLDERS)
def test_faulty_folders(tmp_path: Path, fault: str) -> None:
    spoil, message = FAULTY_FOLDERS[fault]
    folder = write(tmp_path / "checkpoint", tiny().state_dict())
    write(tmp_path, tiny().state_dict())  # what a hostile index could reach
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_truncated_and_garbled_files(tmp_path: Path, kind: str) -> None:
    """Cut anywhere, or with a stretch of its head overwritten, a file is an error that names it."""
    folder = write(tmp_path, tiny().state_dict(), kind)
    path = folder / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    whole = path.read_bytes()
    rng = random.Random(0)
    for cut in [0, 1, 7, 8, 9, len(whole) - 1, *rng.sample(range(len(whole)), 30)]:
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=path.name):
            load(folder)
    for _ in range(60):
        start = rng.randrange(200)
        path.write_bytes(whole[:start] + rng.randbytes(16) + whole[start + 16 :])
        try:
            load(folder)
        except ValueError as error:
            # An altered name or number can also pass as a checkpoint that does not fit.
            assert path.name in str(error) or "config.json" in str(error)


class Attack:
    """Unpickles to a call of os.system."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "legacy", "protocol 2", "protocol 4"])
def test_malicious_pickles(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    folder = write(tmp_path / "checkpoint", {}, "zip")
    path = folder / "pytorch_model.bin"
    state: dict[str, Any] = {**tiny().transformer.state_dict(), "wte.weight": Attack(canary)}
    if kind.startswith("protocol"):
        path.write_bytes(pickle.dumps(state, protocol=int(kind[-1])))
    else:
        folders.save(path, state, zipped=kind == "zip")
    with pytest.raises(
        ValueError, match=r"pytorch_model\.bin is refused.*could run code.*safetensors"
    ):
        load(folder)
    assert not canary.exists()
    # The trap was armed: a reader without our care falls into it.
    if kind.startswith("protocol"):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([torch.ones(2)], "holds a list, not a table of tensors"),
        ({"model": {"wte": torch.ones(2)}}, "'model' is a dict, not a tensor"),
        ({"epoch": 3}, "'epoch' is a int, not a tensor"),
    ],
)
def test_pickles_of_other_things(tmp_path: Path, table: Any, message: str) -> None:
    folder = write(tmp_path, {}, "zip")
    torch.save(table, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
        load(folder)


MEASURE = """
import sys, pathlib, torch

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

idle = peak()
from tritonseq.checkpoint.loader import load_checkpoint
model = load_checkpoint(pathlib.Path(sys.argv[1]), device="cpu", dtype=sys.argv[2]).decoder
print((peak() - idle) / sum(parameter.nbytes for parameter in model.parameters()))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Folders with a GPT-2 of 124M parameters in float32, half a gigabyte each."""
    root = tmp_path_factory.mktemp("large")

    def make(kind: str) -> Path:
        if not (root / kind).exists():
            sizes = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12}
            with torch.device("meta"):
                body = transformers.GPT2Model(transformers.GPT2Config(**sizes, n_head=12))
            state = {name: torch.randn(t.shape) for name, t in body.state_dict().items()}
            write(root / kind, state, kind, **sizes, n_head=12, n_inner=None)
        return root / kind

    yield make
    shutil.rmtree(root)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["safetensors", "zip"])
def test_peak_of_memory(large: Callable[[str], Path], kind: str, dtype: str) -> None:
    command = [sys.executable, "-c", MEASURE, str(large(kind)), dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert 1.0 <= float(done.stdout) <= 1.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_live_weights_are_shared(tied: bool, dtype: torch.dtype) -> None:
    model = tiny(tie_word_embeddings=tied).to(dtype)
    taken, wanted = weights(from_transformers_model(model).decoder), expected(model)
    assert_same(taken, wanted)
    assert {n: t.data_ptr() for n, t in taken.items()} == {
        n: t.data_ptr() for n, t in wanted.items()
    }


def test_live_body_alone() -> None:
    body = tiny().transformer
    assert_same(weights(from_transformers_model(body).decoder), expected(body))


def test_live_weights_of_two_dtypes_become_one() -> None:
    model = tiny().to(torch.bfloat16)
    model.transformer.ln_f.float()
    taken = weights(from_transformers_model(model).decoder)
    assert {tensor.dtype for tensor in taken.values()} == {torch.bfloat16}
    assert taken["wte"].data_ptr() == model.lm_head.weight.data_ptr()
    assert model.transformer.ln_f.weight.dtype == torch.float32


def test_live_generation_parameters() -> None:
    model = tiny(bos_token_id=3, eos_token_id=[4, 5])
    model.generation_config.num_beams = 4
    generation = from_transformers_model(model).generation
    assert (generation["num_beams"], generation["eos_token_id"]) == (4, [4, 5])
    assert None not in generation.values()


def test_live_models_that_cannot_be_taken() -> None:
    with pytest.raises(ValueError, match="a Linear is not a transformers model"):
        from_transformers_model(torch.nn.Linear(2, 3))
    with pytest.raises(ValueError, match="a str is not a transformers model"):
        from_transformers_model("gpt2")
    bert = transformers.BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    with pytest.raises(ValueError, match=r"'bert' is not supported; supported: .*gpt2"):
        from_transformers_model(transformers.BertModel(bert))
    with torch.device("meta"):
        hollow = tiny()
    with pytest.raises(ValueError, match="is not in memory"):
        from_transformers_model(hollow)
    quantised = tiny()
    quantised.transformer.h[0].mlp.c_fc.weight = torch.nn.Parameter(
        torch.ones(12, 20, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(ValueError, match=r"h\.0\.mlp\.c_fc\.weight is a Tensor of torch\.int8"):
        from_transformers_model(quantised)


def test_int8_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPUs, without exact sums, and as what a configuration says; so on every machine."""
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match=r"'int8' is for the CPU, and the device is 'cuda:0'"):
        resolve_dtype("int8", {}, torch.device("cuda", 0))
    assert resolve_dtype("auto", {}, cpu) == torch.float32
    with pytest.raises(ValueError, match="dtype is 'int8', not one of float32"):
        resolve_dtype("auto", {"dtype": "int8"}, cpu)
    monkeypatch.setattr(private_torch, "int8_row_max", lambda: 0)
    with pytest.raises(ValueError, match=r"AVX2 or more.*say dtype='bfloat16' or 'float32'"):
        resolve_dtype("int8", {}, cpu)
