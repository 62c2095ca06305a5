"""From what a caller passes as `input_ids` to checked tensors; every fault is found here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64)


class Prompts(NamedTuple):
    """A checked batch."""

    ids: Tensor
    """`[B, P]` int64, padded on the left as given."""
    lengths: Tensor
    """`[B]` int64, true lengths."""
    starts: Tensor | None
    """`[B]` int64 number of pads before each prompt; None when there are none."""

    def right_padded(self) -> Tensor:
        """`[B, S]` the prompts moved to the left edge, S being the longest true length."""
        if self.starts is None:
            return self.ids
        offsets = torch.arange(int(self.lengths.max()), device=self.ids.device)
        last = self.ids.shape[1] - 1
        return self.ids.gather(1, (self.starts[:, None] + offsets).clamp(max=last))


def read_prompts(
    input_ids: Tensor | Sequence[Sequence[int]] | None,
    attention_mask: Tensor | Sequence[Sequence[int]] | None,
    *,
    vocab_size: int,
    pad_token_id: int | None,
    eos_token_ids: Sequence[int],
    bos_token_id: int | None,
    device: torch.device,
) -> Prompts:
    """Check a batch of prompts and move it to `device`.

    `input_ids`: `[B, P]` integers, or lists of token ids (of any lengths: they are padded);
    None starts every hypothesis from `bos_token_id`. `attention_mask`: `[B, P]`, 0 where a prompt
    is padded; without one, pads are recognised if the pad token is no end token, as in
    transformers. Prompts are padded on the left. Raises ValueError for everything else.
    """
    if input_ids is None:
        if bos_token_id is None:
            raise ValueError("input_ids is None and the model has no bos_token_id to start from")
        input_ids = [[bos_token_id]]
    if isinstance(input_ids, Tensor):
        ids = input_ids
        mask = None if attention_mask is None else _integers(attention_mask, "attention_mask")
    else:
        ids, mask = _from_lists(input_ids, attention_mask, pad_token_id)
    _check_ids(ids, vocab_size)
    ids = ids.to(device=device, dtype=torch.int64)
    if mask is None:
        mask = _infer_mask(ids, pad_token_id, eos_token_ids)
    elif mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask has shape {list(mask.shape)}, input_ids {list(ids.shape)}: "
            "they must be equal"
        )
    lengths = _lengths(mask.to(device))
    starts = ids.shape[1] - lengths
    return Prompts(ids, lengths, starts if bool(starts.any()) else None)


def _from_lists(
    input_ids: Sequence[Sequence[int]],
    attention_mask: Tensor | Sequence[Sequence[int]] | None,
    pad_token_id: int | None,
) -> tuple[Tensor, Tensor | None]:
    if isinstance(input_ids, (str, Mapping)) or not hasattr(input_ids, "__iter__"):
        kind = type(input_ids).__name__
        raise ValueError(
            f"input_ids must be a tensor or lists of token ids, not {kind}: "
            "pass text to generate_text, and the output of a tokenizer as generate(**encoding)"
        )
    if any(isinstance(row, str) for row in input_ids):
        raise ValueError("input_ids must be token ids, not text: pass text to generate_text")
    if any(not hasattr(row, "__iter__") for row in input_ids):
        raise ValueError("input_ids must be a batch: wrap a single prompt as [prompt]")
    rows = [list(row) for row in input_ids]
    if not rows:
        raise ValueError("input_ids is empty: pass at least one prompt")
    width = max(len(row) for row in rows)
    if attention_mask is not None and any(len(row) != width for row in rows):
        raise ValueError(
            "input_ids are lists of different lengths, which are padded here: "
            "leave attention_mask out"
        )
    if attention_mask is not None or all(len(row) == width for row in rows):
        mask = None if attention_mask is None else _integers(attention_mask, "attention_mask")
        return _integers(rows, "input_ids"), mask
    pad = 0 if pad_token_id is None else pad_token_id
    padded = [[pad] * (width - len(row)) + row for row in rows]
    marks = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return _integers(padded, "input_ids"), torch.tensor(marks)


def _integers(values: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} must be integers of shape [B, P]: {error}") from None


def _check_ids(ids: Tensor, vocab_size: int) -> None:
    if ids.dim() != 2:
        raise ValueError(
            f"input_ids must have shape [B, P], not {list(ids.shape)}; "
            "a single prompt needs a batch dimension: ids[None]"
        )
    if ids.numel() == 0:
        raise ValueError(f"input_ids is empty (shape {list(ids.shape)}): pass at least one token")
    if ids.dtype not in _INTEGERS:
        raise ValueError(f"input_ids must be integers, not {ids.dtype}: pass token ids")
    low, high = (int(bound) for bound in ids.long().aminmax())
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise ValueError(
            f"token id {bad} is outside the vocabulary of {vocab_size} tokens; "
            "was the text tokenized for another model?"
        )


def _infer_mask(ids: Tensor, pad_token_id: int | None, eos_token_ids: Sequence[int]) -> Tensor:
    if pad_token_id is None or pad_token_id in eos_token_ids:
        return torch.ones_like(ids)
    return (ids != pad_token_id).long()


def _lengths(mask: Tensor) -> Tensor:
    """True lengths `[B]` of left-padded rows."""
    if bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError("attention_mask must hold 0 and 1 only")
    mask = mask.long()
    lengths = mask.sum(1)
    if not bool(lengths.all()):
        row = int((lengths == 0).nonzero()[0])
        raise ValueError(f"prompt {row} is all padding: every prompt needs at least one token")
    first = mask.argmax(1)
    wrong = (mask.shape[1] - first) != lengths
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"prompt {row} is not padded on the left only: its attention_mask (given, or inferred "
            f"from the pad token) is {_short(mask[row])}; put padding before the prompt "
            "(tokenizer.padding_side='left'), or pass an attention_mask of ones if it is text"
        )
    return lengths


def _short(row: Tensor) -> str:
    digits = "".join(str(int(value)) for value in row)
    return digits if len(digits) <= 40 else f"{digits[:18]}...{digits[-18:]}"
