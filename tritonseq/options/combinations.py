"""Options beside each other: what cannot be combined, and what has no effect.

Both functions read `options`, the values of all options in the settled form of `checks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff")
_RESULTS_ONLY = ("output_scores", "output_logits")
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
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        value = options[name]
        forced = {value} if isinstance(value, int) else set(value or ())
        if forced and forced <= set(options["suppress_tokens"] or ()):
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
