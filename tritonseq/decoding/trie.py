"""The trie of sequences that may be generated: read, checked against a request, asked by hand."""

from __future__ import annotations

import copy
import reprlib
from array import array
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritonseq.options.containers import plain

from .trie_tables import Tables, grow

if TYPE_CHECKING:
    Sequences = Iterable[Sequence[int] | Tensor]

# Beyond all token ids: below it, `node * base + token` fits 64 bits for billions of nodes.
_NO_TOKEN = 1 << 31


class Trie:
    """The sequences that `generate` may produce, for its argument `prefix_allowed_tokens_fn`.

    A sequence is the whole target as it is generated after the decoder's prompt:

    - The decoder's start token belongs to the prompt, so sequences leave it out.
    - A token that `forced_bos_token_id` puts first may start all sequences or none: if none
      starts with it, it comes before them.
    - A complete sequence may be followed by an end token, beside the tokens of longer sequences,
      so end tokens may be written last or left out. Nothing may follow one within a sequence.

    Sequences longer than `max_new_tokens` or `max_length` allows are cut off there. What has left
    the trie may only end: rows that are finished and go on as padding, and beams that found no
    continuation because there are more beams than sequences. Asked for more sequences than there
    are, beam search therefore returns some that mean nothing: mostly repetitions, with a sum of
    log-probabilities of about -1e9 or less. It also counts them, so `early_stopping=True` may
    miss a long sequence then.

    A trie takes 17 bytes per node, that is per distinct prefix, on every device that it is used
    on. Building one takes some 300 bytes per sequence besides, for sequences of 7 tokens.
    De Cao et al., "Autoregressive Entity Retrieval", 2021.
    """

    def __init__(self, sequences: Sequences) -> None:
        """`sequences`: lists, arrays or tensors of token ids; repeated ones count once.

        Raises ValueError for none at all, and for one that is empty or holds what is no id.
        """
        self._build([sequences])

    @classmethod
    def per_sample(cls, candidates: Iterable[Sequences]) -> Trie:
        """A trie in which each sample of a batch has sequences of its own: `candidates[b]`."""
        trie = cls.__new__(cls)
        trie._build(candidates)
        return trie

    def __len__(self) -> int:
        """How many distinct sequences there are."""
        # The place outside the trie counts as complete too.
        return int(self._tables.complete.sum()) - 1

    def __repr__(self) -> str:
        return f"Trie({len(self)} sequences, {self._tables.nodes} nodes)"

    def allowed_after(
        self, generated: Sequence[int] | Tensor, end_token_id: int | Sequence[int], sample: int = 0
    ) -> list[int]:
        """The token ids that may follow `generated [L]`, which does not hold the prompt.

        The same constraint as a function for transformers is
        `lambda sample, ids: trie.allowed_after(ids[prompt_length:], end_token_id)`, where a forced
        first token that the sequences leave out counts as part of the prompt.
        """
        ends = [end_token_id] if isinstance(end_token_id, int) else list(end_token_id)
        tables = self._tables
        samples = len(self._roots)
        if sample < 0 or (not self.is_shared and sample >= samples):
            raise ValueError(f"sample={sample}, and the Trie has sequences for {samples}")
        node = self._roots[0 if self.is_shared else sample]
        for token in torch.as_tensor(generated, dtype=torch.int64).cpu():
            node = tables.advance(node, token)
        first, last = tables.first[node : node + 2].tolist()
        children: list[int] = (tables.edges[first:last] - node * tables.base).tolist()
        return sorted({*children, *ends}) if tables.complete[node] else children

    @property
    def identity(self) -> int:
        """The same for tries, and parts of tries, that share their sequences."""
        return id(self._copies)

    def check(
        self,
        *,
        vocab_size: int | None,
        samples: int,
        end_token_ids: Sequence[int],
        start_token_ids: Sequence[int] = (),
        forced_token_ids: Sequence[int | None] = (),
    ) -> None:
        """Raise ValueError if a request of `samples` samples cannot follow this trie.

        `start_token_ids`: what the decoder's prompts start with, one for all samples or one for
        each; empty without an encoder. `forced_token_ids`: what will be forced to come first in
        each sample, if anything.
        """
        tables = self._tables
        if vocab_size is not None and tables.base > vocab_size:
            raise ValueError(
                f"the Trie holds token id {tables.base - 1}, outside the vocabulary of "
                f"{vocab_size} tokens"
            )
        if not any(vocab_size is None or token < vocab_size for token in end_token_ids):
            raise ValueError(
                "a Trie says which sequences may end, and there is no end token: pass eos_token_id"
            )
        self._check_samples(samples)
        forced = tuple(forced_token_ids) or (None,) * samples
        if start_token_ids:
            starts = list(start_token_ids) * (samples // len(start_token_ids))
            # A start token that is forced as well comes a second time.
            both = zip(starts, forced, strict=True)
            self._check_starts([_NO_TOKEN if t == first else t for t, first in both], samples)
        for token in end_token_ids:
            if bool((self._followed == token).any()):
                raise ValueError(
                    f"a sequence of the Trie goes on behind end token {token}, where generation "
                    "stops: leave out what comes after it"
                )
        if self.is_behind(forced):
            for token in end_token_ids:
                if token in forced:
                    raise ValueError(
                        f"forced_bos_token_id={token} is an end token, behind which no sequence of "
                        "the Trie could come: pass another one"
                    )

    def is_behind(self, forced_token_ids: Sequence[int | None]) -> bool:
        """Whether sequences come behind the tokens that are forced first, one or None a sample.

        Else they start with these. Raises ValueError if that is true of some sequences only.
        """
        found: set[bool] = set()
        roots = self._roots.expand(len(forced_token_ids)).tolist()
        for root, token in sorted({*zip(roots, forced_token_ids, strict=True)}, key=str):
            starts = self._tables.first_tokens(root)
            # Where nothing is forced, nothing comes before the sequences.
            held = torch.ones_like(starts) if token is None else starts == token
            found |= {bool(held.any()), bool(held.all())}
            if len(found) > 1:
                shown = "None" if token is None else token
                raise ValueError(
                    f"forced_bos_token_id={shown} comes first, and some sequences of the Trie "
                    "start with it, or with another that is forced, while others do not: let all "
                    "of them start with what is forced, or none"
                )
        return found == {False}

    def part(self, places: Sequence[int], samples: int) -> Trie:
        """The trie for those of `samples` samples that stand at `places`, in this order.

        It shares the tables. Raises ValueError if there are sequences for another number.
        """
        self._check_samples(samples)
        if self.is_shared:
            return self
        part = copy.copy(self)
        part._roots = self._roots[list(places)]
        return part

    def starts(self, samples: int) -> Tensor:
        """`[samples, 1]` the node that each sample starts from, on the CPU."""
        return self._roots[:, None].expand(samples, 1)

    def on(self, device: torch.device) -> Tables:
        """The tables on a device, copied there once."""
        if device not in self._copies:
            self._copies[device] = self._tables.to(device)
        return self._copies[device]

    def width(self, depth: int) -> int:
        """The most tokens that any prefix of `depth` tokens can be continued with, at least 1."""
        return self._widths[depth] if depth < len(self._widths) else 1

    @property
    def widest(self) -> int:
        """The most tokens that any prefix can be continued with."""
        return max(self._widths)

    def _build(self, candidates: Iterable[Sequences]) -> None:
        tokens, lengths, roots = _read(candidates)
        base = int(tokens.max()) + 1
        levels, complete = grow(tokens, lengths, roots, base)
        self._tables = Tables.of_edges(torch.cat(levels), complete, int(roots[-1]) + 1, base)
        self._copies = {self._tables.edges.device: self._tables}
        self._roots = torch.arange(self._tables.roots)
        self._followed = self._tables.followed_tokens()
        sizes = [self._tables.roots, *map(len, levels)]
        degrees = self._tables.first.diff()[: self._tables.nodes].split(sizes)
        self._widths = [max(1, int(degree.max())) for degree in degrees]

    @property
    def is_shared(self) -> bool:
        """Whether all samples have the same sequences, however many samples there are."""
        return self._tables.roots == 1

    def _check_samples(self, samples: int) -> None:
        if not self.is_shared and len(self._roots) != samples:
            raise ValueError(
                f"the Trie has sequences for {len(self._roots)} samples, and the batch has "
                f"{samples}: Trie.per_sample takes one set of sequences per sample"
            )

    def _check_starts(self, start_token_ids: Sequence[int], samples: int) -> None:
        opening = self._tables.sole_openings()[self.starts(samples)[:, 0]]
        repeated = opening == torch.tensor(start_token_ids)
        if bool(repeated.any()):
            sample = int(repeated.nonzero()[0])
            raise ValueError(
                f"all sequences of the Trie for sample {sample} start with token "
                f"{int(opening[sample])}, which is the decoder's start token and already there: "
                "leave it out"
            )


def _read(candidates: Iterable[Sequences]) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens in a row, the length of every sequence, and the root that it starts from."""
    tokens, lengths, roots = array("q"), array("q"), array("q")
    for root, sequences in enumerate(_iterable(candidates)):
        for number, sequence in enumerate(_iterable(sequences)):
            before = len(tokens)
            try:
                tokens.extend(sequence if type(sequence) is list else _row(sequence))
            except (TypeError, ValueError, OverflowError) as error:
                shown = reprlib.repr(sequence)
                raise ValueError(
                    f"sequence {number} of a Trie must be a list of token ids, not {shown}"
                ) from error
            if len(tokens) == before:
                raise ValueError(f"sequence {number} of a Trie is empty: leave it out")
            lengths.append(len(tokens) - before)
            roots.append(root)
        if not roots or roots[-1] != root:
            raise ValueError("a Trie needs at least one sequence, or nothing could be generated")
    if not roots:
        raise ValueError("Trie.per_sample needs the sequences of at least one sample")
    flat, sizes, starts = (torch.frombuffer(a, dtype=torch.int64) for a in (tokens, lengths, roots))
    for extreme in (int(flat.min()), int(flat.max())):
        if not 0 <= extreme < _NO_TOKEN:
            raise ValueError(f"a Trie holds {extreme}, which is no token id of any vocabulary")
    return flat, sizes, starts


def _row(sequence: Any) -> Iterable[int]:
    """A sequence of ids that is no list; ValueError for what has no order, or no values."""
    if isinstance(sequence, Tensor):
        sequence = plain(sequence, "sequence")
    if isinstance(sequence, (str, bytes, bytearray, Mapping, Set)):
        raise TypeError("no list of ids")
    ids: Iterable[int] = sequence.tolist() if hasattr(sequence, "tolist") else sequence
    return ids


def _iterable(items: Any) -> Iterable[Any]:
    if isinstance(items, Tensor):
        items = plain(items, "sequences")
    is_listed = isinstance(items, Iterable) and getattr(items, "ndim", 1) > 0
    if not is_listed or isinstance(items, str | bytes | Mapping):
        raise ValueError(f"a Trie is made of lists of token ids, not of {reprlib.repr(items)}")
    listed: Iterable[Any] = items
    return listed
