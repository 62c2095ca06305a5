"""Tiny random GPT-2 models, as transformers builds them and as tritonseq takes them over."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import transformers

import tritonseq

VOCAB = 61
EOS = 7
PAD = 3


class Pair(NamedTuple):
    """The same weights in both engines."""

    theirs: Any
    ours: tritonseq.Model


def hf_gpt2(seed: int = 0, **config: Any) -> Any:
    """A GPT2LMHeadModel whose random logits are spread, so that float32 has no near ties."""
    defaults = {
        "vocab_size": VOCAB,
        "n_positions": 64,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**(defaults | config)))
    model = model.float().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        # A small embedding keeps the tied head from merely repeating the last token.
        scale = 0.1 if name.endswith(("wte.weight", "wpe.weight", "lm_head.weight")) else 0.3
        if parameter.dim() == 2:  # sums over more terms are no larger
            scale *= (32 / model.config.n_embd) ** 0.5
        if parameter.dim() > 0 and not name.endswith((".beta", ".eps")):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * scale + centre)
    # Flat enough that hypotheses differ, with end tokens that come up every now and then.
    model.transformer.ln_f.weight.data *= 3.0
    model.lm_head.weight.data[EOS] *= 2.0
    return model


def pair(seed: int = 0, **config: Any) -> Pair:
    """Both engines on one model."""
    theirs = hf_gpt2(seed, **config)
    return Pair(theirs, tritonseq.from_transformers(theirs))


def prompts(
    batch: int, length: int, *, seed: int = 0, ragged: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids `[batch, length]` and their mask; ragged ones are padded on the left.

    No pad or end token occurs in the text itself.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(EOS + 1, VOCAB, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    if ragged:
        pads = torch.randint(0, length, (batch,), generator=generator)
        pads[int(torch.randint(0, batch, (1,), generator=generator))] = 0
        mask = (torch.arange(length) >= pads[:, None]).long()
        ids = ids.masked_fill(mask == 0, PAD)
    return ids, mask


def theirs(model: Any, ids: torch.Tensor, mask: torch.Tensor, **options: Any) -> Any:
    """What transformers generates, with everything it can tell."""
    return model.generate(
        ids,
        attention_mask=mask,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **options,
    )


def ours(model: tritonseq.Model, ids: torch.Tensor, mask: torch.Tensor, **options: Any) -> Any:
    """What tritonseq generates, with everything it can tell."""
    return model.generate(
        ids,
        mask,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **options,
    )


def assert_same(mine: Any, other: Any) -> None:
    """Ids and beam indices equal; scores and logits within float32's rounding."""
    torch.testing.assert_close(mine.sequences, other.sequences, rtol=0, atol=0)
    assert len(mine.scores) == len(other.scores)
    for a, b in zip(mine.scores, other.scores, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3, equal_nan=True)
    for a, b in zip(mine.logits, other.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3, equal_nan=True)
    if getattr(other, "sequences_scores", None) is not None:
        torch.testing.assert_close(
            mine.sequences_scores, other.sequences_scores, rtol=1e-4, atol=1e-4, equal_nan=True
        )
        assert torch.equal(mine.beam_indices, other.beam_indices.long())
