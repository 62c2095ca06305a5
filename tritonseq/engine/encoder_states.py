"""Encoder states: what another encoder made of its input, in the place of ids of sources.

Cross-attention knows no positions, so states may come from anywhere: from texts longer than the
model's own positions, from several passages side by side (Izacard and Grave, "Leveraging Passage
Retrieval with Generative Models for Open Domain Question Answering", 2021), from images or sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonseq.options.containers import plain, read_mask
from tritonseq.shown import shown

from .inputs import Prompts, check_mask

_NAME = "encoder_outputs"


class EncoderStates(NamedTuple):
    """Stands where ids of sources do; made by `of`, checked by `read`."""

    states: Tensor
    """`[B, S, d]`."""

    @classmethod
    def of(cls, outputs: Any, decoder: Any) -> EncoderStates:
        """Of a tensor, a tuple that begins with one, or what has a `last_hidden_state`.

        Raises ValueError for everything else, and for a model without an encoder of its own.
        """
        if not decoder.is_encoder_decoder or decoder.is_prefix_lm:
            raise ValueError(
                f"{_NAME} are for models that attend to the states of an encoder: pass input_ids"
            )
        if isinstance(outputs, Mapping):
            found = outputs.get("last_hidden_state")
        elif isinstance(outputs, (tuple, list)) and outputs:
            found = outputs[0]
        else:
            found = getattr(outputs, "last_hidden_state", outputs)
        if not isinstance(found, Tensor):
            raise ValueError(
                f"{_NAME} is {shown(outputs)}: it must be a tensor [B, S, d], a tuple that begins "
                "with one, or have it as last_hidden_state"
            )
        return cls(plain(found, _NAME).detach())

    @classmethod
    def each(cls, outputs: Any, decoder: Any) -> list[EncoderStates]:
        """Those of single sources, `[S, d]` each; ValueError for what is no such list."""
        if not isinstance(outputs, (Tensor, tuple, list)) or getattr(outputs, "ndim", 3) != 3:
            raise ValueError(f"{_NAME} must be a list of tensors [S, d], not {shown(outputs)}")
        found = []
        for place, states in enumerate(outputs):
            if not isinstance(states, Tensor) or states.dim() != 2:
                what = list(states.shape) if isinstance(states, Tensor) else shown(states)
                raise ValueError(f"{_NAME}[{place}] is {what}: pass a tensor [S, d] of each source")
            found.append(cls.of(states[None], decoder))
        return found

    def copied(self) -> EncoderStates:
        """What the caller may change meanwhile."""
        return EncoderStates(self.states.clone())

    def read(self, attention_mask: Any, decoder: Any) -> Prompts:
        """The states that the mask `[B, S]` leaves, moved to the left; all, without one.

        There may be padding anywhere, also between states. Raises ValueError for what is not of
        the width, dtype and device that the decoder attends to, for states that are no numbers,
        and for sources of padding only.
        """
        states = self.states
        _check(states, decoder)
        samples, length = states.shape[:2]
        strange = ~states.isfinite().all(dim=2)
        if attention_mask is None:
            _check_numbers(strange)
            return Prompts(states, torch.full((samples,), length, device=states.device), None)
        mask = read_mask(attention_mask, "attention_mask").to(states.device)
        if mask.shape != states.shape[:2]:
            raise ValueError(
                f"attention_mask has shape {list(mask.shape)}, and {_NAME} {list(states.shape)}: "
                f"pass one of {[samples, length]}"
            )
        lengths = check_mask(mask, "source")
        # What is padding may be anything.
        _check_numbers(strange & (mask != 0))
        behind = (mask == 0).long()
        if bool((behind.diff(dim=1) < 0).any()):
            order = behind.argsort(dim=1, stable=True)
            states = states.gather(1, order[:, :, None].expand_as(states))
        return Prompts(states, lengths, None)


def _check_numbers(strange: Tensor) -> None:
    """Raise ValueError if any state of `[B, S]` is strange; the weights would be blamed for it."""
    if bool(strange.any()):
        source, place = strange.nonzero()[0].tolist()
        raise ValueError(
            f"{_NAME} holds NaN or infinity in source {source}, state {place}: the encoder that "
            "made it overflows, or its padding is to be hidden by an attention_mask"
        )


def _check(states: Tensor, decoder: Any) -> None:
    width, dtype, device = decoder.states_width, decoder.dtype, decoder.device
    if states.dim() != 3 or states.shape[2] != width:
        raise ValueError(
            f"{_NAME} has shape {list(states.shape)}: the model attends to states of width "
            f"{width}, so pass [B, S, {width}]"
        )
    if states.numel() == 0:
        raise ValueError(f"{_NAME} is empty (shape {list(states.shape)}): pass at least one state")
    if states.dtype != dtype:
        raise ValueError(f"{_NAME} is {states.dtype}, the model {dtype}: pass states.to({dtype})")
    if states.device != device:
        raise ValueError(
            f'{_NAME} is on {states.device}, the model on {device}: pass states.to("{device}")'
        )
