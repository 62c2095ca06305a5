"""The sequences that may be generated, as sorted tables that a whole batch walks at once.

Nodes are numbered breadth first, so the edges sorted by (node, token) lead to the nodes in order:
the place of an edge in its table is the number of its child. No pointer is stored, and no Python
object per node.
"""

from __future__ import annotations

import reprlib
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    Sequences = Iterable[Sequence[int] | Tensor]

# Beyond all token ids: below it, `node * base + token` fits 64 bits for billions of nodes.
_NO_TOKEN = 1 << 31

# Greater than every edge, so that a search for an edge always ends at some place.
_NO_EDGE = torch.iinfo(torch.int64).max


class Trie:
    """The sequences that `generate` may produce, for its argument `prefix_allowed_tokens_fn`.

    A sequence is the whole target as it is generated after the decoder's prompt, so it starts
    with `forced_bos_token_id` where there is one. A complete sequence may be followed by an end
    token, beside the tokens of longer sequences: end tokens may be left out. What has left the
    trie may only end: rows that are finished and go on as padding, and beams that found no
    continuation because there are more beams than sequences.

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
        `lambda sample, ids: trie.allowed_after(ids[prompt_length:], end_token_id)`.
        """
        ends = [end_token_id] if isinstance(end_token_id, int) else list(end_token_id)
        tables = self._tables
        if sample < 0 or (tables.roots > 1 and sample >= tables.roots):
            raise ValueError(f"sample={sample}, and the Trie has sequences for {tables.roots}")
        node = tables.starts(sample + 1)[-1, 0]
        for token in torch.as_tensor(generated, dtype=torch.int64).cpu():
            node = tables.advance(node, token)
        first, last = tables.first[node : node + 2].tolist()
        children: list[int] = (tables.edges[first:last] - node * tables.base).tolist()
        return sorted({*children, *ends}) if tables.complete[node] else children

    def check(self, *, vocab_size: int | None, samples: int, end_token_ids: Sequence[int]) -> None:
        """Raise ValueError if a request of `samples` samples cannot follow this trie."""
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
        if tables.roots not in (1, samples):
            raise ValueError(
                f"the Trie has sequences for {tables.roots} samples, and the batch has {samples}: "
                "Trie.per_sample takes one set of sequences per sample"
            )

    def on(self, device: torch.device) -> Tables:
        """The tables on a device, copied there once."""
        if device not in self._copies:
            self._copies[device] = self._tables.to(device)
        return self._copies[device]

    def width(self, depth: int) -> int:
        """The most tokens that any prefix of `depth` tokens can be continued with, at least 1."""
        return self._widths[depth] if depth < len(self._widths) else 1

    def _build(self, candidates: Iterable[Sequences]) -> None:
        tokens, lengths, roots = _read(candidates)
        base = int(tokens.max()) + 1
        levels, complete = _grow(tokens, lengths, roots, base)
        self._tables = Tables.of_edges(torch.cat(levels), complete, int(roots[-1]) + 1, base)
        self._copies = {self._tables.edges.device: self._tables}
        sizes = [self._tables.roots, *map(len, levels)]
        degrees = self._tables.first.diff()[: self._tables.nodes].split(sizes)
        self._widths = [max(1, int(degree.max())) for degree in degrees]


class Tables(NamedTuple):
    """A trie on a device. Nodes: the roots, then the children of all edges in order."""

    edges: Tensor
    """`[E + 1]` int64, ascending: `node * base + token`; the last one is no edge."""
    first: Tensor
    """`[nodes + 2]` int64: the first edge of each node, and of the place outside."""
    complete: Tensor
    """`[nodes + 1]` bool: is this the end of a sequence? Outside the trie everything is."""
    roots: int
    base: int
    """One more than the highest token."""

    @classmethod
    def of_edges(cls, edges: Tensor, complete: Tensor, roots: int, base: int) -> Tables:
        """From all edges and the numbers of the complete nodes."""
        nodes = roots + len(edges)
        first = edges.new_zeros(nodes + 2)
        first[1:] = (edges // base).bincount(minlength=nodes + 1).cumsum(0)
        is_complete = torch.zeros(nodes + 1, dtype=torch.bool)
        is_complete[complete] = True
        is_complete[nodes] = True
        return cls(
            torch.cat((edges, edges.new_tensor([_NO_EDGE]))), first, is_complete, roots, base
        )

    @property
    def nodes(self) -> int:
        """How many nodes there are; also the number that stands for the place outside."""
        return self.complete.shape[0] - 1

    def starts(self, samples: int) -> Tensor:
        """`[samples, 1]` the root that each sample starts from."""
        roots = torch.arange(samples, device=self.first.device)[:, None]
        return roots if self.roots > 1 else torch.zeros_like(roots)

    def to(self, device: torch.device) -> Tables:
        """A copy on a device."""
        edges, first, complete = (tensor.to(device) for tensor in self[:3])
        return Tables(edges, first, complete, self.roots, self.base)

    def advance(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """The nodes that `tokens` lead to, in the shape of both."""
        edges = nodes * self.base + tokens
        places = torch.searchsorted(self.edges, edges)
        found = (self.edges[places] == edges) & (tokens >= 0) & (tokens < self.base)
        return torch.where(found, places + self.roots, self.nodes)

    def columns(self, nodes: Tensor, width: int, ends: Tensor) -> Tensor:
        """`[..., width + ends]` the tokens that may follow `nodes [...]`, some of them repeated.

        No node may have more than `width` children. Every column holds an allowed token, so a
        caller needs no mask beside them.
        """
        nodes = nodes[..., None]
        first, behind = self.first[nodes], self.first[nodes + 1]
        offsets = torch.arange(width, device=nodes.device)
        children = self.edges[torch.minimum(first + offsets, behind - 1)] - nodes * self.base
        # What has no child is complete or outside.
        children = torch.where(behind > first, children, ends[0])
        return torch.cat(
            (children, torch.where(self.complete[nodes], ends, children[..., :1])), dim=-1
        )


def _read(candidates: Iterable[Sequences]) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens in a row, the length of every sequence, and the root that it starts from."""
    tokens, lengths, roots = array("q"), array("q"), array("q")
    for root, sequences in enumerate(_iterable(candidates)):
        for number, sequence in enumerate(_iterable(sequences)):
            before = len(tokens)
            try:
                tokens.extend(sequence.tolist() if hasattr(sequence, "tolist") else sequence)
            except (TypeError, OverflowError) as error:
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


def _iterable(items: Any) -> Iterable[Any]:
    if not isinstance(items, Iterable) or isinstance(items, str | bytes):
        raise ValueError(f"a Trie is made of lists of token ids, not of {reprlib.repr(items)}")
    return items


def _grow(tokens: Tensor, lengths: Tensor, nodes: Tensor, base: int) -> tuple[list[Tensor], Tensor]:
    """The edges of every level, ascending, and the nodes that sequences end at.

    All sequences that are long enough take one step per level, starting at `nodes`.
    """
    levels: list[Tensor] = []
    complete: list[Tensor] = []
    count = int(nodes[-1]) + 1
    places = lengths.cumsum(0) - lengths
    while len(nodes) > 0:
        edges, children = (nodes * base + tokens[places]).unique(return_inverse=True)
        levels.append(edges)
        nodes, places, lengths = children + count, places + 1, lengths - 1
        count += len(edges)
        complete.append(nodes[lengths == 0])
        longer = lengths > 0
        nodes, places, lengths = nodes[longer], places[longer], lengths[longer]
    return levels, torch.cat(complete)
