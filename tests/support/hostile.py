"""Checkpoints with one thing wrong, drawn at random: what a damaged or a hostile file may hold."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import seq2seq
import tiny
import tiny_unilm
import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

VALUES: tuple[Any, ...] = (
    10**9, 2**31, 2**62, 2**63, 10**400, 50_000, -1, 0, 1, 7, 0.5, 8.0, 1e308, float("nan"),
    float("inf"), float("-inf"), True, False, None, "", "x", "8", "\ud800", "gelu", [], [1], [[1]],
    [None], {}, {"a": 1}, "a" * 10_000,
)  # fmt: skip
SIZES = (
    "n_layer", "n_head", "n_embd", "n_positions", "n_inner", "vocab_size", "num_layers",
    "num_heads",
    "num_decoder_layers", "d_model", "d_kv", "d_ff", "relative_attention_num_buckets",
    "relative_attention_max_distance", "encoder_layers", "decoder_layers", "encoder_ffn_dim",
    "decoder_ffn_dim", "encoder_attention_heads", "decoder_attention_heads",
    "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size", "type_vocab_size", "rel_pos_bins", "max_rel_pos",
)  # fmt: skip
OTHERS = (
    "model_type", "activation_function", "hidden_act", "feed_forward_proj", "scale_embedding",
    "scale_attn_weights", "tie_word_embeddings", "add_cross_attention", "layer_norm_epsilon",
    "layer_norm_eps", "dtype", "torch_dtype", "task_specific_params", "quantization_config",
    "architectures", "eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id",
    "source_type_id", "target_type_id", "mask_token_id", "variant", "pos_shift",
    "share_encoder_decoder_embeddings", "decoder_vocab_size",
)  # fmt: skip
OPTIONS = (
    "max_length", "max_new_tokens", "min_length", "do_sample", "num_beams", "num_beam_groups",
    "diversity_penalty", "early_stopping", "length_penalty", "num_return_sequences", "temperature",
    "top_k", "top_p", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids",
    "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "eos_token_id",
    "pad_token_id", "bos_token_id", "decoder_start_token_id", "sequence_bias", "max_time",
    "exponential_decay_length_penalty", "search", "renormalize_logits",
)  # fmt: skip


class Mutation(NamedTuple):
    """What was changed, and words of which a message must have one."""

    what: str
    words: tuple[str, ...]


def originals(folder: Path) -> dict[str, Path]:
    """A tiny checkpoint of every family, in safetensors and as a pickle."""
    made = {}
    for family in ("gpt2", "t5", "bart", "marian", "unilm"):
        own = folder / family
        own.mkdir()
        if family == "unilm":
            tiny_unilm.tiny().write(own)
        else:
            model = tiny.hf_gpt2() if family == "gpt2" else seq2seq.hf_model(family)
            model.save_pretrained(own)
        made[family] = own
        pickled = folder / f"{family}-pickled"
        shutil.copytree(own, pickled)
        torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
        (pickled / "model.safetensors").unlink()
        made[pickled.name] = pickled
    return made


def mutate(folder: Path, draw: random.Random) -> Mutation:
    """Change one thing in the checkpoint."""
    weights = next(
        path for path in folder.iterdir() if path.name in ("model.safetensors", "pytorch_model.bin")
    )
    kinds: tuple[tuple[Callable[..., Mutation], float], ...] = (
        (_config_key, 5),
        (_option, 3),
        (_damage, 2),
        (_replace, 1),
        (_weights, 3),
    )
    change = draw.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
    return change(folder, weights, draw)


def _config_key(folder: Path, _: Path, draw: random.Random) -> Mutation:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    keys = [key for key in (*SIZES, *OTHERS) if key in config] if draw.random() < 0.8 else OTHERS
    key, value = draw.choice(keys), draw.choice(VALUES)
    path.write_text(json.dumps({**config, key: value}))
    return Mutation(f"{key}={value!r:.60}", (key, "config.json", "checkpoint", "model_type"))


def _option(folder: Path, _: Path, draw: random.Random) -> Mutation:
    path = folder / "generation_config.json"
    options = json.loads(path.read_text()) if path.exists() else {}
    changed = {draw.choice(OPTIONS): draw.choice(VALUES) for _ in range(draw.choice((1, 1, 2)))}
    path.write_text(json.dumps({**options, **changed}))
    return Mutation(f"{changed!r:.120}", (*changed, *OPTIONS, "generation_config.json"))


def _damage(folder: Path, _: Path, draw: random.Random) -> Mutation:
    path = draw.choice([path for path in folder.iterdir() if path.suffix == ".json"])
    text = path.read_bytes()
    at = draw.randrange(len(text))
    forms = {
        "cut": text[:at],
        "a byte changed": text[:at] + bytes([draw.randrange(256)]) + text[at + 1 :],
        "empty": b"",
        "deep": b'{"x":' + b"[" * 100_000,
        "a list": b"[1]",
        "a number": b"1",
        "no UTF-8": text[:at] + b"\xff" + text[at:],
        "marked": b"\xef\xbb\xbf" + text,
        "twice": text.rstrip().removesuffix(b"}") + b', "vocab_size": 3, "vocab_size": 4}',
        "a pointer": b"version https://git-lfs.github.com/spec/v1\n",
    }
    form = draw.choice(list(forms))
    path.write_bytes(forms[form])
    # A letter of a key that changes leaves a key that nobody knows, and one that is not there.
    return Mutation(f"{path.name} {form}", ("config", "checkpoint", "model_type", *SIZES, *OPTIONS))


def _replace(folder: Path, weights: Path, draw: random.Random) -> Mutation:
    path = draw.choice([folder / "config.json", folder / "generation_config.json", weights])
    if path.exists():
        path.unlink()
    form = draw.choice(("folder", "pipe", "dangling", "loop", "device", "empty", "nothing"))
    if form == "folder":
        path.mkdir()
    elif form == "pipe":
        os.mkfifo(path)
    elif form == "empty":
        path.touch()
    elif form != "nothing":
        target = {"dangling": "nowhere", "loop": path.name, "device": "/dev/zero"}[form]
        path.symlink_to(target)
    return Mutation(f"{path.name} is {form}", (path.name, "weights", "decoder_start_token_id"))


def _weights(folder: Path, path: Path, draw: random.Random) -> Mutation:
    words = (path.name, "has shape", "checkpoint", "config.json", "weights", "missing")
    if path.suffix == ".bin":
        return Mutation(_pickled(path, draw), words)
    text = path.read_bytes()
    size = int.from_bytes(text[:8], "little")
    header, rest = json.loads(text[8 : 8 + size]), text[8 + size :]
    name = draw.choice([name for name in header if name != "__metadata__"])
    entry, form = header[name], draw.choice(("shape", "dtype", "offset", "name", "cut", "length"))
    if form == "shape":
        entry["shape"] = draw.choice(([], [0], [2**62, 4], [10**9], entry["shape"][::-1], [-1]))
    elif form == "dtype":
        entry["dtype"] = draw.choice(("I8", "BOOL", "F64", "F8_E4M3", "nothing", 3))
    elif form == "offset":
        entry["data_offsets"] = draw.choice(([0, 4], [0, 2**62], [8, 4], ["x"]))
    elif form == "name":
        header[draw.choice(("x", "", "h.999.x", name + "."))] = header.pop(name)
    new = json.dumps(header).encode()
    length = draw.randrange(2**40) if form == "length" else len(new)
    text = length.to_bytes(8, "little") + new + rest
    path.write_bytes(text[: draw.randrange(len(text))] if form == "cut" else text)
    return Mutation(f"{name}: {form} {entry}", (*words, name))


def _pickled(path: Path, draw: random.Random) -> str:
    table: dict[Any, Any] = torch.load(path)
    name = draw.choice(list(table))
    tensor = table[name]
    values: dict[str, Any] = {
        "stride 0": torch.zeros(1).expand(10**9),
        "stride 0 of its shape": torch.zeros(()).expand(tensor.shape),
        "sparse": torch.eye(4).to_sparse(),
        "a number": 3,
        "a table": {"a": tensor},
        "empty": torch.zeros(0),
        "turned": tensor.t() if tensor.dim() == 2 else tensor[None],
        "meta": torch.empty(tensor.shape, device="meta"),
        "int8": torch.zeros(tensor.shape, dtype=torch.int8),
        "a parameter": torch.nn.Parameter(tensor),
        "complex": torch.zeros(tensor.shape, dtype=torch.complex64),
        "nothing": None,
    }
    form = draw.choice([*values, "gone", "no name", "cut", "a byte changed"])
    if form in values:
        table[name] = values[form]
    elif form == "gone":
        del table[name]
    elif form == "no name":
        table[3] = table.pop(name)
    torch.save(table, path)
    text = path.read_bytes()
    at = draw.randrange(len(text))
    if form == "cut":
        path.write_bytes(text[:at])
    elif form == "a byte changed":
        path.write_bytes(text[:at] + bytes([text[at] ^ 0xFF]) + text[at + 1 :])
    return f"{name}: {form}"
