"""Checks of single option values: each returns the value in its settled form, or raises.

Settled forms are plain, immutable Python objects: numpy numbers become int or float, lists become
tuples. A check is called as `check(name, value)`; faults are ValueErrors that show the value.
`CHECKS` has one for every option.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tritonseq.shown import shown

Check = Callable[[str, Any], Any]

MOST = 2**62
"""Numbers beyond this are no ids and no lengths, and do not fit into a tensor."""


MOST_BEAMS = 2**16
"""More would be chosen among for hours. Some hundreds are in use."""

MOST_PROCESSES = 256
"""More of one kind would only be in each other's way, and fill the memory."""


def whole(minimum: int, maximum: int = MOST) -> Check:
    """A check for integers from `minimum` to `maximum`; bools are refused."""

    def check(name: str, value: Any) -> int:
        number = _integer(value)
        if number is None or number < minimum:
            raise ValueError(f"{name} must be an integer >= {minimum}, not {shown(value)}")
        if number > maximum:
            raise ValueError(f"{name} must be an integer up to {maximum}, not {shown(value)}")
        return number

    return check


def token(name: str, value: Any) -> int:
    """A token id, or a negative number, which stands for a token that never comes."""
    number = _integer(value)
    if number is None or not -MOST <= number <= MOST:
        raise ValueError(f"{name} must be a token id, not {shown(value)}")
    return number


def real(rule: str, accepts: Callable[[float], bool]) -> Check:
    """A check for finite numbers that `accepts`; `rule` describes them in the error."""

    def check(name: str, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool | str) else float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            number = math.nan
        if not math.isfinite(number) or not accepts(number):
            raise ValueError(f"{name} must be {rule}, not {shown(value)}")
        return number

    return check


def flag(name: str, value: Any) -> bool:
    """True or False itself, or numpy's."""
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        value = bool(value)
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {shown(value)}")
    return value


def early_stopping(name: str, value: Any) -> bool | str:
    """True, False or "never"."""
    if not isinstance(value, bool) and not (isinstance(value, str) and value == "never"):
        raise ValueError(f"{name} must be True, False or 'never', not {shown(value)}")
    return value


def search(name: str, value: Any) -> str:
    """The rules of a search, by the name of the project that they come from."""
    if not isinstance(value, str) or value not in ("transformers", "unilm"):
        raise ValueError(f"{name} must be 'transformers' or 'unilm', not {shown(value)}")
    settled: str = value
    return settled


def token_list(name: str, value: Any) -> tuple[int, ...] | None:
    """Any iterable of token ids; None if it is empty."""
    return tuple(token_id(name, item) for item in _items(name, value)) or None


def strange_list(name: str, value: Any) -> tuple[int, ...] | None:
    """Any iterable of token ids; as in transformers, one that is no token's id changes nothing."""
    return tuple(token(name, item) for item in _items(name, value)) or None


def token_or_list(name: str, value: Any) -> int | tuple[int, ...] | None:
    """One token id or several."""
    return token_id(name, value) if _is_one(name, value) else token_list(name, value)


def end_or_list(name: str, value: Any) -> int | tuple[int, ...] | None:
    """One end token or several; as in transformers, one that is no token's id ends nothing."""
    return token(name, value) if _is_one(name, value) else strange_list(name, value)


def start_or_list(name: str, value: Any) -> int | tuple[int, ...] | None:
    """One start token or several, which may stand in rows of one, as transformers makes them."""
    if _is_one(name, value):
        return token_id(name, value)
    items = _items(name, value)
    rows = [item if isinstance(item, list | tuple) and len(item) == 1 else [item] for item in items]
    return token_list(name, [row[0] for row in rows])


def words(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """A non-empty list of non-empty lists of token ids."""
    settled = tuple(_sequence(name, word) for word in _items(name, value))
    if not settled:
        raise ValueError(f"{name} is empty: leave it out, or list at least one word")
    return settled


def biases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """`{tuple of ids: bias}` or `[[ids, bias], ...]`, as pairs; a later pair replaces an equal."""
    pairs = value.items() if isinstance(value, Mapping) else _items(name, value)
    settled: dict[tuple[int, ...], float] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"{name} must hold pairs of token ids and a bias, not {shown(pair)}")
        ids, bias = pair
        settled[_sequence(name, ids)] = _bias(name, bias)
    if not settled:
        raise ValueError(f"{name} is empty: leave it out, or give at least one bias")
    return tuple(settled.items())


def decay(name: str, value: Any) -> tuple[int, float]:
    """A pair: tokens to generate freely, then the factor per further token."""
    pair = _items(name, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be a pair (start, factor), not {shown(value)}")
    return whole(0)(name, pair[0]), real("a factor > 0", lambda x: x > 0)(name, pair[1])


token_id = whole(0)


def _bias(name: str, value: Any) -> float:
    """A number, which may be infinite."""
    try:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        bias = float(value) if is_number else math.nan
    except OverflowError:
        bias = math.nan
    if math.isnan(bias):
        raise ValueError(f"{name} must have numbers as biases, not {shown(value)}")
    return bias


def _integer(value: Any) -> int | None:
    """The value as an int if it is one, of whatever library."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # a tensor on the meta device has no value
        return None


def _is_one(name: str, value: Any) -> bool:
    """Is it an integer, rather than a list? ValueError for what is neither."""
    if _integer(value) is None and isinstance(value, bool | float | complex):
        raise ValueError(f"{name} must be a token id or a list of them, not {shown(value)}")
    return _integer(value) is not None


def _items(name: str, value: Any) -> list[Any]:
    """The items of a list, tuple, set, array or tensor, as Python objects."""
    try:
        value = value.tolist() if hasattr(value, "tolist") else value
    except RuntimeError as error:  # a tensor without values
        raise ValueError(f"{name} must be a list, not {shown(value)}: {error}") from None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list, not {shown(value)}")
    return list(value)


def _sequence(name: str, value: Any) -> tuple[int, ...]:
    settled = token_list(name, value)
    if settled is None:
        raise ValueError(f"{name} holds an empty sequence: every one needs at least one token id")
    return settled


_POSITIVE = real("a number > 0", lambda x: x > 0)
_NOT_NEGATIVE = real("a number >= 0", lambda x: x >= 0)
_SHARE = real("a number in (0, 1]", lambda x: 0 < x <= 1)

CHECKS: dict[str, Check] = {
    "max_length": whole(1),
    "max_new_tokens": whole(1),
    "min_length": whole(0),
    "min_new_tokens": whole(0),
    "max_time": _NOT_NEGATIVE,
    "search": search,
    "do_sample": flag,
    "num_beams": whole(1, MOST_BEAMS),
    "num_beam_groups": whole(1, MOST_BEAMS),
    "diversity_penalty": _NOT_NEGATIVE,
    "early_stopping": early_stopping,
    "length_penalty": real("a finite number", lambda x: True),
    "num_return_sequences": whole(1),
    "temperature": _NOT_NEGATIVE,
    "top_k": whole(0),
    # At 0 the best token alone is left, in transformers too.
    "top_p": real("a number in [0, 1]", lambda x: 0 <= x <= 1),
    "min_p": real("a number in [0, 1]", lambda x: 0 <= x <= 1),
    "typical_p": _SHARE,
    "epsilon_cutoff": real("a number in [0, 1)", lambda x: 0 <= x < 1),
    "sequence_bias": biases,
    "encoder_repetition_penalty": _POSITIVE,
    "repetition_penalty": _POSITIVE,
    "no_repeat_ngram_size": whole(0),
    "no_repeat_ngram_ignore_ids": token_list,
    "encoder_no_repeat_ngram_size": whole(0),
    "bad_words_ids": words,
    "forced_bos_token_id": token_id,
    "forced_eos_token_id": token_or_list,
    "remove_invalid_values": flag,
    "exponential_decay_length_penalty": decay,
    "suppress_tokens": strange_list,
    "begin_suppress_tokens": strange_list,
    "renormalize_logits": flag,
    "pad_token_id": token,
    "bos_token_id": token_id,
    "eos_token_id": end_or_list,
    "decoder_start_token_id": start_or_list,
    "output_scores": flag,
    "output_logits": flag,
    "return_dict_in_generate": flag,
    "hf_exact": flag,
}
