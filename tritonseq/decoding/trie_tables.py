"""Trie tables: sorted, so that a whole batch walks them at once.

Nodes are numbered breadth first, so the edges sorted by (node, token) lead to the nodes in order:
the place of an edge in its table is the number of its child. No pointer is stored, and no Python
object per node.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Greater than every edge, so that a search for an edge always ends at some place.
_NO_EDGE = torch.iinfo(torch.int64).max


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

    def first_tokens(self, root: int) -> Tensor:
        """`[F]` the tokens that the sequences of a root start with."""
        first, last = self.first[root : root + 2].tolist()
        return self.edges[first:last] % self.base

    def followed_tokens(self) -> Tensor:
        """`[T]` the distinct tokens behind which some sequence goes on."""
        goes_on = self.first[self.roots :].diff()[:-1] > 0
        return (self.edges[:-1][goes_on] % self.base).unique()

    def sole_openings(self) -> Tensor:
        """`[roots]` the token that all sequences of a root start with and go on from, or -1."""
        roots = torch.arange(self.roots, device=self.first.device)
        edges, behind = self.first[roots], self.first[roots + 1]
        children = edges + self.roots
        sole = (behind - edges == 1) & (self.first[children + 1] > self.first[children])
        return torch.where(sole, self.edges[edges] % self.base, -1)

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


def grow(tokens: Tensor, lengths: Tensor, nodes: Tensor, base: int) -> tuple[list[Tensor], Tensor]:
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
