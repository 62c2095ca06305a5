"""Tiny random encoder-decoder models as transformers builds them, and a walk through both engines.

Nothing here is shaped for search: weights are wild, so that no term is too small to be missed.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor
from walk import begin, feed

import tritonseq

if TYPE_CHECKING:
    from collections.abc import Sequence

VOCAB = 47

T5_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}
BART_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "d_model": 24,
    "encoder_layers": 2,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 36,
}
MARIAN_TOKENS = {"pad_token_id": 1, "decoder_start_token_id": 1}
SIZES: dict[str, dict[str, Any]] = {
    "t5": T5_SIZES,
    "mt5": T5_SIZES,
    "umt5": T5_SIZES,
    "bart": BART_SIZES,
    "mbart": BART_SIZES,
    "pegasus": BART_SIZES,
    # Its own special tokens stand at the end of a large vocabulary.
    "marian": BART_SIZES | MARIAN_TOKENS,
    "m2m_100": BART_SIZES,
    "fsmt": {k: v for k, v in BART_SIZES.items() if k != "vocab_size"}
    | {"src_vocab_size": VOCAB, "tgt_vocab_size": 43},
    "mvp": BART_SIZES,
    "plbart": BART_SIZES,
    "blenderbot": BART_SIZES,
}

COUNTING_PADS = ("m2m_100", "fsmt")
"""Where transformers gives a token behind pads another position if all are read at once."""


PROPHETNET_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "hidden_size": 24,
    "num_encoder_layers": 2,
    "num_encoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "num_decoder_layers": 3,
    "num_decoder_attention_heads": 3,
    "decoder_ffn_dim": 36,
    "num_buckets": 8,
    "relative_max_distance": 12,
}
# What transformers says of whole targets is wrong for it: see `PlainProphetNet`.
OTHER_SIZES = {"prophetnet": PROPHETNET_SIZES}


def network(model_type: str, seed: int = 0, **config: Any) -> Any:
    """A transformers model in float32 whose every weight, norms and biases included, is random."""
    sizes = (SIZES | OTHER_SIZES)[model_type]
    settings = transformers.CONFIG_MAPPING[model_type](**{**sizes, **config})
    model = transformers.AutoModelForSeq2SeqLM.from_config(settings).float().eval()
    randomise(model, seed)
    return model


def randomise(model: Any, seed: int = 0) -> None:
    """Fill a transformers model, its tied weights once, and sinusoids not at all."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        sinusoidal = "embed_positions" in name and not parameter.requires_grad
        if not sinusoidal and not name.endswith((".beta", ".eps")):
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.2 * noise + centre)
    bias = getattr(model, "final_logits_bias", None)
    if bias is not None:
        bias.copy_(torch.randn(bias.shape, generator=generator))


def sources(lengths: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random sources `[B, S]`, with garbage behind their ends, and their lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (len(lengths), max(lengths)), generator=generator)
    return tokens, torch.tensor(lengths)


def reference_logits(model: Any, source: Tensor, targets: Tensor) -> Tensor:
    """What transformers says, `[K, V]`, after each of the `targets [K, N]` of one source `[s]`."""
    is_counting = model.config.model_type in COUNTING_PADS
    if is_counting and bool((targets == model.config.pad_token_id).any()):
        return _stepped_reference(model, source, targets)
    with torch.no_grad():
        result = model(
            input_ids=source.expand(len(targets), -1), decoder_input_ids=targets, use_cache=False
        )
    return result.logits[:, -1].float()


@torch.no_grad()
def _stepped_reference(model: Any, source: Tensor, targets: Tensor) -> Tensor:
    """By its cache, token by token, as it generates."""
    states = model.get_encoder()(source.expand(len(targets), -1))
    cache = None
    for column in targets.split(1, dim=1):
        result = model(
            encoder_outputs=states, decoder_input_ids=column, cache=cache, use_cache=True
        )
        cache = result.cache
    return result.logits[:, -1].float()


def all_logits(model: Any, tokens: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
    """What transformers says, `[B, K, V]`, after the `targets [B, K, N]` of every source."""
    return torch.stack(
        [
            reference_logits(model, row[:length], target)
            for row, length, target in zip(tokens, lengths, targets, strict=True)
        ]
    )


def stepped_logits(ours: Any, tokens: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
    """What a network of tritonseq says, `[B, K, V]`, after feeding `targets [B, K, N]`.

    Their first token is the prompt, the same for all beams of a sample.
    """
    _, beams, length = targets.shape
    cache, logits = begin(
        ours, tokens, lengths, prompt=targets[:, 0, :1], beams=beams, target_length=length - 1
    )
    logits = logits[:, None].expand(-1, beams, -1)
    own = torch.arange(beams).repeat(len(tokens), length - 1, 1)
    for position in range(1, length):
        logits = feed(ours, targets[:, :, position], own, cache)
    return logits.float()


def assert_same_walk(
    model: Any,
    ours: Any,
    lengths: list[int],
    *,
    prompt_length: int = 1,
    beams: int = 1,
    steps: int = 4,
    seed: int = 0,
) -> None:
    """Logits of the prefill and of steps with beams that change places equal transformers'.

    `ours` is the network of tritonseq. Tokens and parents are drawn at random.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens, true_lengths = sources(lengths, seed)
    samples, vocab = len(lengths), ours.vocab_size
    prompt = torch.randint(0, vocab, (samples, prompt_length), generator=generator)
    cache, logits = begin(
        ours, tokens, true_lengths, prompt=prompt, beams=beams, target_length=steps
    )
    rows = prompt[:, None].expand(-1, beams, -1)
    wanted = all_logits(model, tokens, true_lengths, rows[:, :1])[:, 0]
    torch.testing.assert_close(logits.float(), wanted, rtol=1e-4, atol=1e-3)
    lineage = torch.arange(beams).repeat(samples, steps, 1)
    for step in range(steps):
        parents = torch.randint(0, beams, (samples, beams), generator=generator)
        newest = torch.randint(0, vocab, (samples, beams), generator=generator)
        history = lineage[:, :step]
        lineage[:, :step] = history.gather(2, parents[:, None].expand_as(history))
        rows = rows.gather(1, parents[..., None].expand_as(rows))
        rows = torch.cat((rows, newest[..., None]), 2)
        logits = feed(ours, newest, None if beams == 1 else lineage, cache)
        wanted = all_logits(model, tokens, true_lengths, rows)
        torch.testing.assert_close(logits.float(), wanted, rtol=1e-4, atol=1e-3)


def assert_close_in_half_precision(
    model: Any,
    dtype: torch.dtype,
    *,
    tame: Any = None,
    times: float = 2.0,
    lengths: Sequence[int] = (9, 1, 6, 6, 30),
) -> None:
    """Ours in `dtype` errs at most `times` as much against float32 as transformers' own.

    The yardstick is `tame`, a model with the same results in float32, where `model` itself is
    beyond what transformers can do in `dtype`.
    """
    tokens, true_lengths = sources(lengths)
    vocab = model.get_output_embeddings().weight.shape[0]
    targets = torch.randint(0, vocab, (len(lengths), 2, 5))
    targets[:, 1, 0] = targets[:, 0, 0]
    exact = all_logits(model, tokens, true_lengths, targets)
    yardstick = copy.deepcopy(model if tame is None else tame)
    own = all_logits(yardstick.to(dtype), tokens, true_lengths, targets)
    ours = tritonseq.from_transformers(copy.deepcopy(model).to(dtype))
    assert ours.dtype == dtype
    error = (stepped_logits(ours.decoder, tokens, true_lengths, targets) - exact).abs().max()
    assert error <= times * (own - exact).abs().max()
