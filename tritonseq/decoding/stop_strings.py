"""Stop strings: hypotheses that end where the text of their tokens completes a string.

An automaton reads the text, byte by byte, and knows after each which beginnings of stop strings
are open (Aho and Corasick, "Efficient string matching", 1975). A token moves it from every state
to another, and completes a string on the way or does not; tokens that do the same to all states
are one class. So a step is two look-ups per beam, on the device, however long tokens and strings
are, and where a beam stands follows its lineage.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AT_ONCE = 2**22
"""Pairs of a token and a state that are followed at the same time while tables are made."""


class StopTables(NamedTuple):
    """What tokens do to the automaton; `C` classes of tokens, `S` states, of which 0 is first."""

    classes: Tensor
    """`[V]` int64: the class of each token."""
    moves: Tensor
    """`[C, S]` int64: the state that it leads to."""
    completes: Tensor
    """`[C, S]` bool: whether a stop string is complete with it, or within it."""

    def after(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Where `states` lead to by `tokens`; both of one shape."""
        return self.moves[self.classes[tokens], states]

    def is_complete(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Whether `tokens` complete a stop string after `states`."""
        return self.completes[self.classes[tokens], states]


class StopStrings:
    """Stop strings for the tokens of a vocabulary.

    As in transformers the text is that of all tokens, special ones too, from the start of the
    prompt (of the decoder) on; and a hypothesis ends when its last token completes a string,
    whether that begins or ends within tokens.
    """

    def __init__(
        self, strings: Sequence[str], pieces: Mapping[int, bytes], vocab_size: int
    ) -> None:
        """`pieces`: what each token adds to a text, in UTF-8; tokens without one break strings.

        Raises ValueError if no token can complete any of the strings.
        """
        self._tables = _tables(_Automaton(strings), pieces, vocab_size)
        self._copies = {self._tables.classes.device: self._tables}
        if not bool(self._tables.completes.any()):
            raise ValueError(
                f"stop_strings={list(strings)!r}: no token of the vocabulary can complete one, so "
                "none would ever be written; leave them out"
            )

    def on(self, device: torch.device) -> StopTables:
        """The tables on a device, copied there once."""
        if device not in self._copies:
            self._copies[device] = StopTables(*(table.to(device) for table in self._tables))
        return self._copies[device]

    def behind(self, prompts: Tensor, starts: Tensor | None) -> Tensor:
        """`[B, 1]` the state that each prompt of `[B, P]` leads to, from `starts [B]` on."""
        tables = self.on(prompts.device)
        states = torch.zeros(prompts.shape[0], dtype=torch.int64, device=prompts.device)
        for place in range(prompts.shape[1]):
            states = tables.after(states, prompts[:, place])
            if starts is not None:
                states = states.masked_fill(starts > place, 0)
        return states[:, None]


class _Automaton:
    """States of strings in bytes: state 0 is the start, others what is open of a string.

    Bytes are renumbered: 0 stands for all that no string holds.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        patterns = [string.encode() for string in strings]
        used = sorted({byte for pattern in patterns for byte in pattern})
        self.numbers = bytearray(256)
        """The number of each byte."""
        for number, byte in enumerate(used, start=1):
            self.numbers[byte] = number if number < 256 else 0
        assert len(used) < 256, "UTF-8 has no byte 255"
        children, self.accepts = [dict[int, int]()], [False]
        for pattern in patterns:
            state = 0
            for number in pattern.translate(self.numbers):
                if number not in children[state]:
                    children[state][number] = len(children)
                    children.append({})
                    self.accepts.append(False)
                state = children[state][number]
            self.accepts[state] = True
        self.next = [[0] * len(children) for _ in range(len(used) + 1)]
        """`next[number][state]`."""
        self._fill(children)

    def _fill(self, children: Sequence[Mapping[int, int]]) -> None:
        """Where no string goes on, the longest end that begins one does; breadth first."""
        shorter, waiting = [0] * len(children), deque([0])
        while waiting:
            state = waiting.popleft()
            self.accepts[state] |= self.accepts[shorter[state]]
            for number, row in enumerate(self.next):
                fallback = row[shorter[state]] if state else 0
                child = children[state].get(number)
                row[state] = fallback if child is None else child
                if child is not None:
                    shorter[child] = fallback
                    waiting.append(child)


def _tables(automaton: _Automaton, pieces: Mapping[int, bytes], vocab_size: int) -> StopTables:
    # Most tokens are alike without the bytes that no string holds: of those, one breaks as well
    # as many.
    alike: dict[bytes, list[int]] = {}
    numbers = bytes(automaton.numbers)
    for token, piece in pieces.items():
        reading = re.sub(rb"\0+", b"\0", piece.translate(numbers))
        alike.setdefault(reading, []).append(token)
    alike.setdefault(b"\0", [])
    readings = sorted(alike, key=len, reverse=True)
    size = max(1, AT_ONCE // len(automaton.accepts))
    parts = (_followed(automaton, readings[n : n + size]) for n in range(0, len(readings), size))
    found = [_distinct(part) for part in parts]
    rows, again = _distinct(torch.cat([own for own, _ in found]))
    kinds = [
        numbers_of[inverse]
        for numbers_of, (_, inverse) in zip(
            again.split([len(own) for own, _ in found]), found, strict=True
        )
    ]
    by_reading = dict(zip(readings, torch.cat(kinds).tolist(), strict=True))
    classes = torch.full((max(vocab_size, max(pieces, default=0) + 1),), by_reading[b"\0"])
    for reading, tokens in alike.items():
        classes[torch.tensor(tokens, dtype=torch.int64)] = by_reading[reading]
    return StopTables(classes, rows // 2, rows % 2 == 1)


def _followed(automaton: _Automaton, readings: Sequence[bytes]) -> Tensor:
    """`[U, S]` for each reading and state: twice the state it leads to, and 1 if a string was
    complete on the way. Readings come by falling lengths.

    From most states a reading leads at once to where it leads from the first one: only the others
    are followed by themselves, until they are there too.
    """
    step, accepts = torch.tensor(automaton.next), torch.tensor(automaton.accepts)
    lengths = torch.tensor([len(reading) for reading in readings])
    usual = torch.zeros(len(readings), dtype=torch.int64)
    usual_hits = torch.zeros(len(readings), dtype=torch.bool)
    owner, start = _apart(step, readings)
    state, hits = start, torch.zeros_like(start, dtype=torch.bool)
    ended = [(owner[:0], start[:0], state[:0], hits[:0])]
    count = len(readings)
    for place in range(len(readings[0])):
        over = lengths[owner] <= place
        ended.append((owner[over], start[over], state[over], hits[over]))
        owner, start, state, hits = (each[~over] for each in (owner, start, state, hits))
        while len(readings[count - 1]) <= place:
            count -= 1
        numbers = torch.tensor([reading[place] for reading in readings[:count]])
        usual[:count] = step[numbers, usual[:count]]
        usual_hits[:count] |= accepts[usual[:count]]
        state = step[numbers[owner], state]
        hits = hits | accepts[state]
        differs = (state != usual[owner]) | (hits != usual_hits[owner])
        owner, start, state, hits = (each[differs] for each in (owner, start, state, hits))
    ended.append((owner, start, state, hits))
    rows = (2 * usual + usual_hits)[:, None].repeat(1, len(accepts))
    for owner, start, state, hits in ended:
        rows[owner, start] = 2 * state + hits
    rows[lengths == 0] = 2 * torch.arange(len(accepts))
    return rows


def _apart(step: Tensor, readings: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """Each reading with each state that its first byte does not lead to where it leads from the
    first state: indices of readings, and states."""
    by_first: dict[int, list[int]] = {}
    for index, reading in enumerate(readings):
        if reading:
            by_first.setdefault(reading[0], []).append(index)
    pairs = []
    for number, indices in by_first.items():
        (states,) = torch.nonzero(step[number] != step[number, 0], as_tuple=True)
        owners = torch.tensor(indices).repeat_interleave(len(states))
        pairs.append((owners, states.repeat(len(indices))))
    none = torch.zeros(0, dtype=torch.int64)
    owner, start = zip(*pairs, strict=True) if pairs else ((none,), (none,))
    return torch.cat(owner), torch.cat(start)


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """As `torch.unique(rows, dim=0, return_inverse=True)`, which compares rows item by item."""
    weights = torch.randint(2**62, rows.shape[1:], generator=torch.Generator().manual_seed(0))
    # Sums wrap around, and are as good as different for rows that are.
    _, inverse = torch.unique((rows * weights).sum(dim=1), return_inverse=True)
    some = torch.empty(int(inverse.max()) + 1, dtype=torch.int64)
    some[inverse] = torch.arange(len(rows))
    if not torch.equal(rows[some[inverse]], rows):
        return torch.unique(rows, dim=0, return_inverse=True)
    return rows[some], inverse
