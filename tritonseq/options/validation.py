"""Validation of options: each value by itself, and values beside each other.

A check of one value, `check(name, value)`, returns it in its settled form: plain, immutable Python
objects, numbers of numpy as int or float, lists as tuples. Faults are ValueErrors that show the
value; `CHECKS` has a check for every option. `check_together` and its kin read all options in
their settled forms.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tritonseq.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator


Check = Callable[[str, Any], Any]

MOST = 2**62
"""Numbers beyond this are no ids and no lengths, and do not fit into a tensor."""


MOST_BEAMS = 2**16
"""More would be chosen among for hours. Some hundreds are in use."""

MOST_STOP_BYTES = 500
"""More, of all stop strings together, are no ends that a text could have."""

MOST_PROCESSES = 256
"""More of one kind would only be in each other's way, and fill the memory."""


def whole(minimum: int, maximum: int = MOST) -> Check:
    """A check for integers from `minimum` to `maximum`; bools are refused."""

    def check(name: str, value: Any) -> int:
        number = integer(value)
        if number is None or number < minimum:
            raise ValueError(f"{name} must be an integer >= {minimum}, not {shown(value)}")
        if number > maximum:
            raise ValueError(f"{name} must be an integer up to {maximum}, not {shown(value)}")
        return number

    return check


def token(name: str, value: Any) -> int:
    """A token id, or a negative number, which stands for a token that never comes."""
    number = integer(value)
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


def first_or_list(name: str, value: Any) -> int | tuple[int | None, ...] | None:
    """One token that comes first, or one for each sample; None where none is forced."""
    if _is_one(name, value):
        return token_id(name, value)
    items = _items(name, value)
    settled = tuple(None if item is None else token_id(name, item) for item in items)
    return None if all(item is None for item in settled) else settled


def words(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """A non-empty list of non-empty lists of token ids."""
    settled = tuple(_sequence(name, word) for word in _items(name, value))
    if not settled:
        raise ValueError(f"{name} is empty: leave it out, or list at least one word")
    return settled


def strings(name: str, value: Any) -> tuple[str, ...]:
    """One string or several, none of them empty, of at most `MOST_STOP_BYTES` together."""
    settled = (value,) if isinstance(value, str) else tuple(_items(name, value))
    for item in settled:
        if not isinstance(item, str):
            raise ValueError(f"{name} must be a string or a list of strings, not {shown(value)}")
        if not item:
            raise ValueError(f"{name} holds an empty string, which ends every text: leave it out")
        if any("\ud800" <= character <= "\udfff" for character in item):
            raise ValueError(f"{name} holds {shown(item)}, which is not valid Unicode")
    if not settled:
        raise ValueError(f"{name} is empty: leave it out, or list at least one string")
    size = sum(len(item.encode()) for item in settled)
    if size > MOST_STOP_BYTES:
        raise ValueError(
            f"{name} has {size} bytes, and {MOST_STOP_BYTES} are the most: the end of a string "
            "is enough to tell it by"
        )
    return tuple(dict.fromkeys(settled))


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


def integer(value: Any) -> int | None:
    """The value as an int if it is one, of whatever library; None for others and for bools."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) == "torch.bool":
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # a tensor on the meta device has no value
        return None


def _is_one(name: str, value: Any) -> bool:
    """Whether it is an integer, rather than a list; ValueError for what is neither."""
    if integer(value) is None and isinstance(value, bool | float | complex | str | bytes):
        raise ValueError(f"{name} must be a token id or a list of them, not {shown(value)}")
    return integer(value) is not None


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
    "stop_strings": strings,
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
    "forced_bos_token_id": first_or_list,
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
    "output_token_scores": flag,
    "return_dict_in_generate": flag,
    "hf_exact": flag,
}


_SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff")
_RESULTS_ONLY = ("output_scores", "output_logits", "output_token_scores")
_NGRAMS_ONLY = ("no_repeat_ngram_ignore_ids",)
# UniLM's own greedy decoding heeds neither lengths nor n-grams.
_NOT_GREEDY_UNILM = ("no_repeat_ngram_size", *_NGRAMS_ONLY, "min_length", "min_new_tokens")


def check_together(options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that are valid alone and not beside each other."""
    if options["do_sample"] and options["temperature"] == 0.0:
        raise ValueError("temperature=0.0 leaves nothing to sample: pass do_sample=False")
    if options["search"] == "unilm":
        _check_unilm(options)
    _check_beams(options)
    suppressed = set(options["suppress_tokens"] or ())
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        value = options[name]
        forced = {value} if isinstance(value, int) else set(value or ())
        # One of several ends is enough; of several first tokens, each is all that a sample has.
        lost = forced & suppressed if name == "forced_bos_token_id" else forced <= suppressed
        if forced and lost:
            raise ValueError(
                f"{name}={value!r} is also in suppress_tokens: nothing could "
                "follow; take it out of either (min_new_tokens prevents an early end)"
            )


def _check_beams(options: Mapping[str, Any]) -> None:
    sampling, beams = options["do_sample"], options["num_beams"]
    groups, count = options["num_beam_groups"], options["num_return_sequences"]
    if count > 1 and beams == 1 and not sampling:
        raise ValueError(
            f"greedy search finds one sequence, not num_return_sequences={count}: "
            "pass do_sample=True or num_beams"
        )
    if 1 < beams < count:
        raise ValueError(f"num_return_sequences={count} exceeds num_beams={beams}: raise num_beams")
    if beams % groups:
        raise ValueError(
            f"num_beams={beams} must be a multiple of num_beam_groups={groups}: "
            "groups have equally many beams"
        )
    if groups > 1 and sampling:
        raise ValueError("diverse groups of beams are not sampled: pass do_sample=False")
    if groups > 1 and options["diversity_penalty"] == 0.0:
        raise ValueError(
            f"num_beam_groups={groups} without a diversity_penalty finds the same in every "
            "group: pass diversity_penalty > 0"
        )


def _check_unilm(options: Mapping[str, Any]) -> None:
    if options["num_beam_groups"] > 1:
        raise ValueError(
            f'search="unilm" knows no groups of beams, and num_beam_groups is '
            f'{options["num_beam_groups"]}: pass search="transformers"'
        )
    if options["do_sample"] and options["num_beams"] > 1:
        raise ValueError(
            f'search="unilm" does not sample beams, and num_beams is {options["num_beams"]} '
            'with do_sample=True: pass search="transformers"'
        )


def idle_options(options: Mapping[str, Any], asked: set[str]) -> Iterator[str]:
    """Say which of the options that were `asked` for change nothing under the others.

    Each is told of once, with the first reason that applies.
    """
    if "max_length" in asked and options["max_new_tokens"] is not None:
        yield (
            f"no effect of max_length={options['max_length']}: max_new_tokens="
            f"{options['max_new_tokens']} (given, or the model's default) wins; "
            "pass max_new_tokens=None to count the prompt"
        )
    for when, applies, names in _reasons(options):
        idle = [name for name in names if applies and name in asked]
        if idle:
            yield f"{when}, no effect of: {', '.join(idle)}"
        asked = asked.difference(idle)


def idle_names(options: Mapping[str, Any]) -> set[str]:
    """The options that change nothing under the others, whatever they say.

    Some of them are no options here, and may still stand in the files of a checkpoint.
    """
    idle = {name for _, applies, names in _reasons(options) if applies for name in names}
    beams, sampling = options["num_beams"] > 1, options["do_sample"]
    strange = {
        "dola_layers": beams,
        "eta_cutoff": not sampling,
        "penalty_alpha": beams or sampling or options["top_k"] < 2,
        "top_h": not sampling,
    }
    return idle | {name for name, is_idle in strange.items() if is_idle}


def _reasons(options: Mapping[str, Any]) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
    """When options have no effect, whether that is so, and which they are."""
    unilm, sampling = options["search"] == "unilm", options["do_sample"]
    greedy = options["num_beams"] == 1 and not sampling
    grouped, results = options["num_beam_groups"] > 1, options["return_dict_in_generate"]
    # "never" runs to the last step as upstream does: the same ids, and the whole of beam_trace.
    stopping = unilm and options["early_stopping"] != "never"
    yield 'with search="unilm"', stopping, ("early_stopping",)
    yield 'with search="unilm" and num_beams=1', unilm and greedy, _NOT_GREEDY_UNILM
    yield "without num_beam_groups > 1", not grouped, ("diversity_penalty",)
    yield "without do_sample=True", not sampling, _SAMPLING_ONLY
    # UniLM's commands say "no penalty" even where nothing could have one.
    said = unilm and options["length_penalty"] == 0.0
    beams_only = ("early_stopping",) if said else ("early_stopping", "length_penalty")
    yield "without num_beams > 1", options["num_beams"] == 1, beams_only
    yield "without no_repeat_ngram_size", options["no_repeat_ngram_size"] == 0, _NGRAMS_ONLY
    yield "without return_dict_in_generate=True", not results, _RESULTS_ONLY
