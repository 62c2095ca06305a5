"""Inputs: what is passed as `input_ids` becomes checked tensors; every fault is found here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tritonseq.options.containers import plain, read_mask, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTEGERS = (
    torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64,
    torch.int64,
)  # fmt: skip


class Prompts(NamedTuple):
    """A checked batch."""

    ids: Tensor
    """`[B, P]` int64, padded as given; or the states `[B, P, d]` of a caller's own encoder."""
    lengths: Tensor
    """`[B]` int64, true lengths."""
    starts: Tensor | None
    """`[B]` int64 number of pads before each prompt; None when there are none."""
    given: Tensor | None = None
    """`[B, P]` the ids as given, where the pads among them are no tokens of the model."""

    @property
    def shown(self) -> Tensor:
        """What the caller gets back before the tokens that are generated."""
        return self.ids if self.given is None else self.given

    @property
    def ends(self) -> Tensor | None:
        """`[B]` int64, where the pads behind each prompt start; None when there are none."""
        ends = self.lengths if self.starts is None else self.starts + self.lengths
        return ends if bool((ends < self.ids.shape[1]).any()) else None

    def right_padded(self) -> Tensor:
        """`[B, S]` the prompts moved to the left edge, S being the longest true length."""
        if self.starts is None:
            return self.ids[:, : int(self.lengths.max())]
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
    ids, mask = _as_tensors(input_ids, attention_mask, pad_token_id, vocab_size, device)
    if mask is None:
        mask = _infer_mask(ids, pad_token_id, eos_token_ids)
    lengths = _lengths(mask)
    starts = ids.shape[1] - lengths
    given = None
    if _is_strange(pad_token_id, vocab_size):
        given = (
            input_ids.to(ids)
            if isinstance(input_ids, Tensor)
            else ids.masked_fill(mask == 0, pad_token_id or 0)
        )
    return Prompts(ids, lengths, starts if bool(starts.any()) else None, given)


def read_sources(
    input_ids: Tensor | Sequence[Sequence[int]] | None,
    attention_mask: Tensor | Sequence[Sequence[int]] | None,
    *,
    vocab_size: int,
    pad_token_id: int | None,
    infer_mask: bool,
    max_positions: int | None,
    device: torch.device,
) -> Prompts:
    """Check a batch of sources, the input of an encoder, and move it to `device`.

    `input_ids` and `attention_mask` as for `read_prompts`, except that sources may be padded on
    either side. With `infer_mask`, and without a mask, pad tokens at the edges are padding; a
    source of nothing else is a fault. Raises ValueError for sources longer than `max_positions`,
    and for everything else that is wrong.
    """
    if input_ids is None:
        raise ValueError("input_ids is None: this model needs sources to read")
    ids, mask = _as_tensors(
        input_ids, attention_mask, pad_token_id, vocab_size, device, side="right"
    )
    if mask is None:
        mask = torch.ones_like(ids)
        if infer_mask and pad_token_id is not None:
            # Pads between tokens are text.
            text = (ids != pad_token_id).long()
            mask = text.cummax(1).values & text.flip(1).cummax(1).values.flip(1)
    lengths = check_mask(mask, "source")
    starts = mask.long().argmax(1)
    inside = torch.arange(ids.shape[1], device=device) - starts[:, None]
    holes = ((inside >= 0) & (inside < lengths[:, None])) != mask.bool()
    if bool(holes.any()):
        row = int(holes.any(1).nonzero()[0])
        raise ValueError(
            f"the attention_mask of source {row} has holes: {_short(mask[row])}; padding must "
            "stand before or behind the text, not within it"
        )
    longest = int(lengths.max())
    if max_positions is not None and longest > max_positions:
        raise ValueError(
            f"source {int(lengths.argmax())} has {longest} tokens, the model has {max_positions} "
            f"positions: truncate it, input_ids[:, :{max_positions}], or truncation=True in "
            "generate_text"
        )
    return Prompts(ids, lengths, starts if bool(starts.any()) else None)


def read_decoder_prompts(
    decoder_input_ids: Tensor | Sequence[Sequence[int]] | None,
    *,
    samples: int,
    start_token_ids: Sequence[int],
    vocab_size: int,
    device: torch.device,
) -> Prompts:
    """Check what targets start with: `[B, P]` integers, or None for the start token alone.

    `start_token_ids`: one for all samples, or one for each. As in transformers it is put before
    `decoder_input_ids` of which no row starts with it. Raises ValueError if there is none, or if
    numbers of samples differ.
    """
    if not start_token_ids:
        raise ValueError(
            "neither decoder_start_token_id nor bos_token_id is known: pass decoder_start_token_id"
        )
    if len(start_token_ids) not in (1, samples):
        raise ValueError(
            f"decoder_start_token_id has {len(start_token_ids)} tokens for {samples} sources: "
            "pass one, or one for each"
        )
    if max(start_token_ids) >= vocab_size:
        raise ValueError(
            f"the start token {max(start_token_ids)} (decoder_start_token_id, else bos_token_id) "
            f"is outside the vocabulary of {vocab_size} tokens: pass decoder_start_token_id"
        )
    start = torch.tensor(start_token_ids, device=device).expand(samples)[:, None]
    if decoder_input_ids is None:
        ids = start.clone()
    else:
        name = "decoder_input_ids"
        ids, mask = _as_tensors(decoder_input_ids, None, None, vocab_size, device, name=name)
        if mask is not None:
            raise ValueError("decoder_input_ids must all have one length: no padding goes there")
        if ids.shape[0] != samples:
            raise ValueError(
                f"decoder_input_ids has {ids.shape[0]} rows for {samples} sources: pass one each"
            )
        if bool((ids[:, :1] != start).all()):
            ids = torch.cat((start, ids), dim=1)
    lengths = torch.full((samples,), ids.shape[1], device=device)
    return Prompts(ids, lengths, None)


def empty_prompts(samples: int, device: torch.device) -> Prompts:
    """What targets start with where they start empty: `[B, 0]`."""
    lengths = torch.zeros(samples, device=device, dtype=torch.int64)
    return Prompts(lengths.new_zeros(samples, 0), lengths, None)


def check_decoder_mask(mask: Any) -> None:
    """Raise ValueError unless a decoder_attention_mask is None or has ones only."""
    if mask is not None and not bool((read_mask(mask, "decoder_attention_mask") == 1).all()):
        raise ValueError(
            "decoder_attention_mask must be all ones: what targets start with has one length, and "
            "no padding goes there"
        )


def _as_tensors(
    input_ids: Tensor | Sequence[Sequence[int]],
    attention_mask: Tensor | Sequence[Sequence[int]] | None,
    pad_token_id: int | None,
    vocab_size: int,
    device: torch.device,
    *,
    side: str = "left",
    name: str = "input_ids",
) -> tuple[Tensor, Tensor | None]:
    """Checked int64 ids on `device`, and the mask, if one was given or lists were padded."""
    if isinstance(input_ids, Tensor):
        ids = plain(input_ids, name)
        mask = None if attention_mask is None else read_mask(attention_mask, "attention_mask")
    else:
        pad = 0 if _is_strange(pad_token_id, vocab_size) else pad_token_id
        ids, mask = _from_lists(input_ids, attention_mask, pad, side, name)
    if pad_token_id is not None and _is_strange(pad_token_id, vocab_size):
        ids, mask = _without_strange_pads(ids, mask, pad_token_id)
    _check_ids(ids, vocab_size, name)
    if mask is not None and mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask has shape {list(mask.shape)}, {name} {list(ids.shape)}: "
            "they must be equal"
        )
    ids = ids.to(device=device, dtype=torch.int64)
    return ids, None if mask is None else mask.to(device)


def _is_strange(pad_token_id: int | None, vocab_size: int) -> bool:
    """Whether the pad token is none of the model's: some tokenizers have one without embedding."""
    return pad_token_id is not None and not 0 <= pad_token_id < vocab_size


def _without_strange_pads(
    ids: Tensor, mask: Tensor | None, pad_token_id: int
) -> tuple[Tensor, Tensor | None]:
    """Ids in which pads that are no tokens have become some token, and the mask that hides them.

    Where the mask has text they stay, and are refused as any other id outside the vocabulary.
    """
    strange = ids == pad_token_id
    if mask is None and ids.dim() == 2 and bool(strange.any()):
        mask = (~strange).long()
    if mask is None or mask.shape != ids.shape:
        return ids, mask
    return ids.masked_fill(strange & (mask.to(ids.device) == 0), 0), mask


def _from_lists(
    input_ids: Sequence[Sequence[int]],
    attention_mask: Tensor | Sequence[Sequence[int]] | None,
    pad_token_id: int | None,
    side: str,
    name: str,
) -> tuple[Tensor, Tensor | None]:
    rows = read_rows(input_ids, name)
    if not rows:
        raise ValueError(f"{name} is empty: pass at least one prompt")
    width = max(len(row) for row in rows)
    if width and not all(rows):
        kind = "source" if side == "right" else "prompt"
        what = (
            f"{kind} {rows.index([])}" if name == "input_ids" else f"row {rows.index([])} of {name}"
        )
        raise ValueError(f"{what} is empty: pass at least one token")
    if attention_mask is not None and any(len(row) != width for row in rows):
        raise ValueError(
            f"{name} are lists of different lengths, which are padded here: "
            "leave attention_mask out"
        )
    if attention_mask is not None or all(len(row) == width for row in rows):
        mask = None if attention_mask is None else read_mask(attention_mask, "attention_mask")
        return torch.tensor(rows, dtype=torch.int64, device="cpu"), mask
    pad = 0 if pad_token_id is None else pad_token_id
    padded, marks = [], []
    for row in rows:
        fill, ones, zeros = [pad] * (width - len(row)), [1] * len(row), [0] * (width - len(row))
        padded.append(fill + row if side == "left" else row + fill)
        marks.append(zeros + ones if side == "left" else ones + zeros)
    ids = torch.tensor(padded, dtype=torch.int64, device="cpu")
    return ids, torch.tensor(marks, device="cpu")


def _check_ids(ids: Tensor, vocab_size: int, name: str) -> None:
    if ids.dim() != 2:
        raise ValueError(
            f"{name} must have shape [B, P], not {list(ids.shape)}; "
            "a single prompt needs a batch dimension: ids[None]"
        )
    if ids.numel() == 0:
        raise ValueError(f"{name} is empty (shape {list(ids.shape)}): pass at least one token")
    if ids.dtype not in _INTEGERS:
        raise ValueError(f"{name} must be integers, not {ids.dtype}: pass token ids")
    low, high = (int(bound) for bound in ids.long().aminmax())
    if low < 0 and ids.dtype == torch.uint64:
        low, high = 0, low + 2**64  # it was too large for int64
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        if bad == -100:
            raise ValueError(
                f"{name} holds -100, which marks what a loss ignores: these are labels, not ids"
            )
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
    lengths = check_mask(mask, "prompt")
    first = mask.long().argmax(1)
    wrong = (mask.shape[1] - first) != lengths
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"prompt {row} is not padded on the left only: its attention_mask (given, or inferred "
            f"from the pad token) is {_short(mask[row])}; put padding before the prompt "
            "(tokenizer.padding_side='left'), or pass an attention_mask of ones if it is text"
        )
    return lengths


def check_mask(mask: Tensor, what: str) -> Tensor:
    """The number of ones in each row, `[B]`; ValueError for other values and for rows of pads.

    `what` a row is, for the error.
    """
    if bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError("attention_mask must hold 0 and 1 only")
    lengths = mask.long().sum(1)
    if not bool(lengths.all()):
        row = int((lengths == 0).nonzero()[0])
        raise ValueError(f"{what} {row} is all padding: every {what} needs at least one token")
    return lengths


def _short(row: Tensor) -> str:
    digits = "".join(str(int(value)) for value in row)
    return digits if len(digits) <= 40 else f"{digits[:18]}...{digits[-18:]}"
