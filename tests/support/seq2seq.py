"""Tiny random models of the T5 and BART families and of ProphetNet, the same in both engines.

Each is written by transformers' `save_pretrained` and read back by `tritonseq.load`.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import tiny
import torch
import transformers

import tritonseq

if TYPE_CHECKING:
    from collections.abc import Callable

VOCAB = 61
TEXT = 5
"""The first token id that is no special token of any family; the last id is Marian's pad."""
ROUNDING = 2e-5
"""More than float32 loses in a sum of log-probabilities; what differs by less is a near tie."""


class Family(NamedTuple):
    """One variant as transformers names it, with the sizes of its tiny model."""

    model: str
    config: str
    sizes: dict[str, Any]


_T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
_BART = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 40,
}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_MARIAN = {
    "pad_token_id": VOCAB - 1,
    "decoder_start_token_id": VOCAB - 1,
    "bad_words_ids": [[VOCAB - 1]],
    "activation_function": "swish",
    "scale_embedding": True,
}
_PROPHETNET = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 70,
    "hidden_size": 32,
    "num_encoder_layers": 2,
    "num_encoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "num_decoder_layers": 2,
    "num_decoder_attention_heads": 4,
    "decoder_ffn_dim": 44,
    "num_buckets": 8,
    "relative_max_distance": 12,
    "ngram": 2,
    "decoder_start_token_id": 2,
}
_FSMT = {
    **{key: value for key, value in _BART.items() if key != "vocab_size"},
    "src_vocab_size": VOCAB,
    "tgt_vocab_size": VOCAB,
    "num_beams": 1,
    "forced_eos_token_id": None,
    "max_length": 20,
    "scale_embedding": False,
}
FAMILIES: dict[str, Family] = {
    "t5": Family("T5ForConditionalGeneration", "T5Config", _T5),
    "t5-v1.1": Family("T5ForConditionalGeneration", "T5Config", {**_T5, **_GATED}),
    "mt5": Family("MT5ForConditionalGeneration", "MT5Config", {**_T5, **_GATED}),
    "umt5": Family("UMT5ForConditionalGeneration", "UMT5Config", {**_T5, **_GATED}),
    "bart": Family("BartForConditionalGeneration", "BartConfig", _BART),
    "mbart": Family(
        "MBartForConditionalGeneration",
        "MBartConfig",
        {**_BART, "scale_embedding": True, "decoder_start_token_id": 3},
    ),
    "pegasus": Family(
        "PegasusForConditionalGeneration", "PegasusConfig", {**_BART, "scale_embedding": True}
    ),
    "marian": Family("MarianMTModel", "MarianConfig", {**_BART, **_MARIAN}),
    "prophetnet": Family("ProphetNetForConditionalGeneration", "ProphetNetConfig", _PROPHETNET),
    "m2m_100": Family(
        "M2M100ForConditionalGeneration", "M2M100Config", {**_BART, "decoder_start_token_id": 3}
    ),
    "fsmt": Family("FSMTForConditionalGeneration", "FSMTConfig", _FSMT),
    "mvp": Family("MvpForConditionalGeneration", "MvpConfig", _BART),
    "plbart": Family(
        "PLBartForConditionalGeneration", "PLBartConfig", {**_BART, "decoder_start_token_id": 3}
    ),
    "blenderbot": Family(
        "BlenderbotForConditionalGeneration",
        "BlenderbotConfig",
        {**_BART, "encoder_no_repeat_ngram_size": 0},
    ),
}
# Built of the same blocks as others: whole grids of these are for the long tests.
LIKE_OTHERS = ("m2m_100", "fsmt", "mvp", "plbart", "blenderbot")
# And so are those of one that transformers is slow with.
SPARED = (*LIKE_OTHERS, "prophetnet")
EVERY = [
    pytest.param(name, marks=pytest.mark.long) if name in SPARED else name for name in FAMILIES
]
# What transformers makes of longer prompts of a ProphetNet is wrong.
BEGUN = (
    EVERY[: list(FAMILIES).index("prophetnet")] + EVERY[list(FAMILIES).index("prophetnet") + 1 :]
)
T5_FAMILY = ("t5", "t5-v1.1", "mt5", "umt5")
BART_FAMILY = ("bart", "mbart", "pegasus", "marian", "m2m_100", "mvp", "plbart", "blenderbot")


def hf_model(family: str, seed: int = 0, **config: Any) -> Any:
    """A model of transformers whose random logits are spread, so that float32 has no near ties."""
    model_class, config_class, sizes = FAMILIES[family]
    settings = getattr(transformers, config_class)(**{**sizes, **config})
    model = getattr(transformers, model_class)(settings).float().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        # Sines and cosines are frozen, and stay what they are.
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            if name.endswith(("fc2.weight", "wo.weight", "output.weight")):
                # Activations are positive on average: without this, their mean would add the
                # same vector to every state.
                noise -= noise.mean(dim=1, keepdim=True)
            # Sums over more terms are no larger.
            wide = parameter.dim() == 2 and "relative" not in name
            width = getattr(settings, "d_model", None) or settings.hidden_size
            scale = _scale(name) * ((32 / width) ** 0.5 if wide else 1.0)
            parameter.data.copy_(noise * scale + float(is_norm))
    _spread(model, generator)
    if hasattr(model, "final_logits_bias"):
        bias = model.final_logits_bias
        bias.copy_(torch.randn(bias.shape, generator=generator) * 0.3)
    if family == "marian":
        # As OPUS-MT does: the pad token starts targets, and must not come again.
        model.generation_config.bad_words_ids = [[settings.pad_token_id]]
    return model


def _scale(name: str) -> float:
    """How far apart the values of a parameter are."""
    if any(part in name for part in ("shared", "embed_", "word_embeddings", "lm_head")):
        # A small embedding keeps the tied head from merely repeating the last token.
        return 0.2
    # What attention adds changes slowly from step to step: were it large, all tokens of a
    # target would be the same.
    if name.endswith(("out_proj.weight", "Attention.o.weight")):
        return 0.1
    # Biases are the same whatever is read.
    if name.endswith("bias"):
        return 0.1
    # T5 does not scale its attention scores.
    return 0.15 if name.endswith("Attention.q.weight") else 0.4


@torch.no_grad()
def _spread(model: Any, generator: torch.Generator) -> None:
    """Scale the last norm so that logits have a standard deviation of about 2.

    Post-norm models keep their states at one length whatever their weights are: without this,
    their logits would lie as close together as the embedding is small.
    """
    head = model.get_output_embeddings().weight
    lowest = min(head.shape[0], model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(0, lowest, (2, 8, 6), generator=generator)
    logits = model(input_ids=ids[0], decoder_input_ids=ids[1], use_cache=False).logits
    decoder = model.get_decoder()
    last = getattr(decoder, "final_layer_norm", None) or getattr(decoder, "layer_norm", None)
    if last is None:
        ends = ("final_layer_norm", "feed_forward_layer_norm")
        last = next(
            getattr(decoder.layers[-1], end) for end in ends if hasattr(decoder.layers[-1], end)
        )
    for parameter in last.parameters():
        parameter *= 2.0 / logits.std()
    # End tokens come up every now and then.
    ends = model.generation_config.eos_token_id
    for end in ends if isinstance(ends, list) else [] if ends is None else [ends]:
        head[end] *= 2.2


def load(model: Any) -> tritonseq.Model:
    """What tritonseq reads from the files that transformers writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return tritonseq.load(folder)


def pair(family: str, seed: int = 0, **config: Any) -> tiny.Pair:
    """Both engines on one model."""
    theirs = hf_model(family, seed, **config)
    return tiny.Pair(theirs, load(theirs))


def sources(
    batch: int,
    length: int,
    *,
    pad: int,
    seed: int = 0,
    ragged: bool = False,
    side: str = "right",
    vocab: int = VOCAB,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids `[batch, length]` and their mask; ragged ones are padded on one side.

    The text itself holds no special token.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(TEXT, vocab - 1, (batch, length), generator=generator)
    pads = torch.zeros(batch, dtype=torch.int64)
    if ragged:
        pads = torch.randint(0, length, (batch,), generator=generator)
        pads[int(torch.randint(0, batch, (1,), generator=generator))] = 0
    places = torch.arange(length).expand(batch, -1)
    places = places if side == "left" else places.flip(1)
    mask = (places >= pads[:, None]).long()
    return ids.masked_fill(mask == 0, pad), mask


def assert_same(mine: Any, other: Any, again: Callable[..., Any]) -> bool:
    """Is everything equal? False at a near tie; AssertionError where transformers is sure.

    A near tie is no excuse for any answer: ours must be one that transformers gives, too, when
    its scores move by less than float32 can hold. `again(logits_processor=...)` makes it generate
    `other` once more.
    """
    try:
        tiny.assert_same(mine, other)
    except AssertionError:
        if not any(_is_same(mine, again(logits_processor=[_Shaker(seed)])) for seed in range(32)):
            raise
        return False
    return True


class _Shaker:
    """Moves scores at random by less than `ROUNDING`."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + (torch.rand(scores.shape, generator=self._generator) - 0.5) * ROUNDING


def _is_same(mine: Any, other: Any) -> bool:
    try:
        tiny.assert_same(mine, other)
    except AssertionError:
        return False
    return True
