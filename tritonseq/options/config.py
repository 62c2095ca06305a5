"""GenerationConfig: every option of `generate`, checked, with the defaults of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from tritonseq.callers import warn

from .unsupported import CHANGING, refusal, settle
from .validation import CHECKS, check_together, idle_names, idle_options

TokenIds = int | Sequence[int] | None


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class GenerationConfig:
    """Options of `generate`. Names, meanings and defaults are transformers' (5.24.0).

    An option that is None counts as not given: it takes the model's default where there is one.
    Lists become tuples, so that a config is hashable. A value that cannot mean anything is a
    ValueError that shows it.
    """

    option_names: ClassVar[tuple[str, ...]]

    # Lengths; max_length and min_length count the prompt.
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    max_time: float | None = None
    stop_strings: str | Sequence[str] | None = None
    """Ends what is generated where its text completes one of them, which stays in the result."""

    # How to search.
    search: str | None = None
    """Ours: by the rules of "transformers" (or None) or of "unilm", UniLM's own decoders."""
    do_sample: bool = False
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    early_stopping: bool | str = False
    length_penalty: float = 1.0
    num_return_sequences: int = 1

    # What sampling draws from.
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0

    # Changes to the scores.
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[Any] | None = None
    encoder_repetition_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    no_repeat_ngram_ignore_ids: Sequence[int] | None = None
    """Ours: tokens that are free to repeat, UniLM's [X_SEP] for one."""
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] | None = None
    forced_bos_token_id: TokenIds = None
    """One for all samples, or one for each; None among them forces nothing."""
    forced_eos_token_id: TokenIds = None
    remove_invalid_values: bool = False
    exponential_decay_length_penalty: Sequence[float] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    renormalize_logits: bool = False

    # Special tokens.
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: TokenIds = None
    decoder_start_token_id: TokenIds = None

    # What to return.
    output_scores: bool = False
    output_logits: bool = False
    output_token_scores: bool = False
    """Ours: the log-probability of each chosen token, `token_scores` of the result."""
    return_dict_in_generate: bool = False

    hf_exact: bool = False
    """Ours: also reproduce what transformers gets wrong (pads counted as text, for one)."""

    def __new__(cls, **options: Any) -> GenerationConfig:
        # A config remembers what it was given: an explicit num_beams=1 overrules a model's
        # default of 4, the same value left at its default does not.
        self = super().__new__(cls)
        given = frozenset(name for name, value in options.items() if value is not None)
        object.__setattr__(self, "_given", given)
        return self

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            value = getattr(self, name)
            settled = _DEFAULTS[name] if value is None else check(name, value)
            object.__setattr__(self, name, settled)
        self._check_together()

    def _check_together(self) -> None:
        check_together(self._settled())

    def __repr__(self) -> str:
        given = (f"{name}={getattr(self, name)!r}" for name in self.option_names if name in self)
        return f"GenerationConfig({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        """Equal are configs that were given the same: they also act alike over a model's own."""
        return isinstance(other, GenerationConfig) and self._stated() == other._stated()

    def __hash__(self) -> int:
        return hash(tuple((name, repr(value)) for name, value in self._stated().items()))

    def __contains__(self, name: str) -> bool:
        """Whether this option was given, rather than left at its default."""
        given: frozenset[str] = self._given  # type: ignore[attr-defined]
        return name in given

    @classmethod
    def from_dict(
        cls, options: Mapping[str, Any], *, strict: bool, origin: str = "the checkpoint"
    ) -> GenerationConfig:
        """Read a generation_config.json, or the generation keys of a config.json.

        With `strict=False` keys of other purposes are dropped, with a warning where transformers
        would heed one; and what is wrong, or would find other tokens in transformers, is an error
        of `merged`, unless the call says otherwise: then it names `origin`, the file. With
        `strict=True` all of that is an error at once, except the bookkeeping that transformers
        writes.
        """
        known = {name: value for name, value in options.items() if name in CHECKS}
        others = {name: value for name, value in options.items() if name not in CHECKS}
        if not strict:
            reasons = {name: refusal(name, value) for name, value in others.items()}
            for name, reason in reasons.items():
                if reason and name not in CHANGING:
                    warn(f"ignored in the checkpoint's options: {reason}")
            faults = {name: reason for name, reason in reasons.items() if name in CHANGING}
            return StoredConfig.read(_modern(options, known), origin, faults)
        for name, value in others.items():
            if not isinstance(name, str):
                raise ValueError(f"generation_config has the key {name!r}: options have names")
            if name != "transformers_version" and not name.startswith("_"):
                settle(name, value, cls.option_names)
        config = cls(**known)
        declined = frozenset(name for name, value in others.items() if value is not None)
        object.__setattr__(config, "_declined", declined)
        return config

    def merged(self, **options: Any) -> GenerationConfig:
        """A config in which `options` win over this one; an option that is None is switched off.

        Raises ValueError for an unknown option, naming the nearest known one, and for an option
        of transformers that is not supported, with the reason.
        """
        values = self._values()
        for name, value in options.items():
            if name not in CHECKS:
                settle(name, value, self.option_names)
            else:
                values[name] = _OFF.get(name) if value is None else value
        config = self._checked(values, options)
        for reason in idle_options(config._settled(), config._asked(options)):
            warn(reason)
        return config

    def over(self, defaults: GenerationConfig) -> GenerationConfig:
        """This config, with what it was not given taken from `defaults`."""
        values = {**defaults._values(), **self._values()}
        if not isinstance(self, StoredConfig) and not isinstance(defaults, StoredConfig):
            return GenerationConfig(**values)
        said = {*self._values(), *self._declined}
        left = {name: fault for name, fault in defaults._faults.items() if name not in said}
        return StoredConfig.of(values, {**left, **self._faults})

    _faults: ClassVar[Mapping[str, str]] = {}
    """By their names the options of a file that cannot be followed, and why."""

    _declined: ClassVar[frozenset[str]] = frozenset()
    """Options that are none here, and that the caller gave the value that changes nothing."""

    def _checked(self, values: dict[str, Any], options: Mapping[str, Any]) -> GenerationConfig:
        """A config of `values`, those of this one and the caller's `options` over them."""
        return GenerationConfig(**values)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All tokens that end a hypothesis; empty when none does."""
        return _as_tuple(self.eos_token_id)

    @property
    def decoder_start_token_ids(self) -> tuple[int, ...]:
        """What targets start with: one token, or one for each sample; empty if nothing is known.

        Without a decoder_start_token_id it is the bos token, as in transformers.
        """
        start = self.decoder_start_token_id
        return _as_tuple(self.bos_token_id if start is None else start)

    @property
    def forced_bos_token_ids(self) -> tuple[int | None, ...]:
        """What must come first: one token, or one for each sample; empty if nothing is forced."""
        return _as_tuple(self.forced_bos_token_id)

    @property
    def has_unilm_search(self) -> bool:
        """Whether UniLM's rules decide, rather than transformers'."""
        return self.search == "unilm"

    @property
    def candidates_per_beam(self) -> int:
        """Continuations that beam search considers: enough that all ends leave a full beam."""
        return max(2, 1 + len(self.eos_token_ids))

    @property
    def fill_token_id(self) -> int | None:
        """What follows an ended hypothesis: padding, or an end token where there is no pad."""
        if self.pad_token_id is None and self.eos_token_ids:
            ends = self.eos_token_ids
            # Negative ones are no tokens, and end nothing.
            return next((token for token in ends if token >= 0), ends[0])
        return self.pad_token_id

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ValueError for a token id that the model cannot emit and that has to be.

        End tokens beyond the vocabulary never come, and padding is never read.
        """
        used: dict[str, Any] = {
            "decoder_start_token_id": _as_tuple(self.decoder_start_token_id),
            "forced_bos_token_id": [t for t in self.forced_bos_token_ids if t is not None],
            "forced_eos_token_id": _as_tuple(self.forced_eos_token_id),
            "no_repeat_ngram_ignore_ids": self.no_repeat_ngram_ignore_ids or (),
            "bad_words_ids": [token for word in self.bad_words_ids or () for token in word],
            "sequence_bias": [token for ids in dict(self.sequence_bias or ()) for token in ids],
        }
        for name, tokens in used.items():
            highest = max(tokens, default=0)
            if highest >= vocab_size:
                raise ValueError(
                    f"{name} holds token id {highest}, outside the vocabulary of "
                    f"{vocab_size} tokens"
                )

    def _stated(self) -> dict[str, Any]:
        return {name: value for name, value in self._values().items() if value is not None}

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.option_names if name in self}

    def _settled(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.option_names}

    def _asked(self, options: Mapping[str, Any]) -> set[str]:
        """Which of `options`, all merged into this config, ask for more than the default."""
        given = {name for name, value in options.items() if value is not None and name in self}
        return {name for name in given if getattr(self, name) != _DEFAULTS[name]}


def as_generation_config(
    config: Any, *, defaults: GenerationConfig | None = None
) -> GenerationConfig:
    """A GenerationConfig from ours, transformers' (anything with `to_dict`) or a mapping.

    What it leaves open is taken from `defaults`, the model's own.
    """
    if not isinstance(config, GenerationConfig):
        options = config.to_dict() if hasattr(config, "to_dict") else config
        if not isinstance(options, Mapping):
            raise ValueError(f"generation_config must be a GenerationConfig, not {config!r}")
        config = GenerationConfig.from_dict(options, strict=True)
    settled: GenerationConfig = config
    return settled if defaults is None else settled.over(defaults)


def _as_tuple(tokens: TokenIds) -> tuple[int, ...]:
    if tokens is None:
        return ()
    return (tokens,) if isinstance(tokens, int) else tuple(tokens)


class StoredConfig(GenerationConfig):
    """What the files of a checkpoint say, right or wrong: it counts only when it is used.

    transformers loads a checkpoint whose options mean nothing, or nothing beside each other, and
    a call may say otherwise. So faults wait here until `merged`, which every call goes through.
    """

    @classmethod
    def read(
        cls, options: Mapping[str, Any], origin: str, refused: Mapping[str, str | None]
    ) -> StoredConfig:
        """Options as they stand in the file `origin`.

        refused: by their names what is no option here, and why; None where it changes nothing.
        """
        values = {}
        faults = {
            name: f"{reason} ({origin} says so): take it out there, or pass {name}=None to do "
            "without it"
            for name, reason in refused.items()
            if reason
        }
        for name, value in options.items():
            try:
                if value is not None:
                    CHECKS[name](name, value)
                values[name] = value
            except ValueError as error:
                faults[name] = f"{error} ({origin} says so): correct it there, or pass {name}="
        return cls.of(values, faults)

    @classmethod
    def of(cls, values: Mapping[str, Any], faults: Mapping[str, str]) -> StoredConfig:
        """Options that are right by themselves, and what is wrong with others."""
        config = cls(**values)
        object.__setattr__(config, "_faults", dict(faults))
        return config

    def _check_together(self) -> None:
        """Not yet: another layer may say otherwise."""

    def _checked(self, values: dict[str, Any], options: Mapping[str, Any]) -> GenerationConfig:
        settled = StoredConfig(**values)  # what the caller says must be right by itself
        idle = idle_names(settled._settled())
        for name, fault in self._faults.items():
            if name not in options and name not in idle:
                raise ValueError(fault)
        try:
            return GenerationConfig(**values)
        except ValueError as error:
            said = [
                f"{name}={getattr(settled, name)!r}"
                for name in self.option_names
                if name in self and name not in options and name in str(error)
            ]
            if not said:
                raise
            raise ValueError(f"{error} (by default of the checkpoint: {', '.join(said)})") from None


def _modern(options: Mapping[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Undo two habits of old checkpoints."""
    unset = {name: None for name in ("pad", "bos", "eos") if known.get(f"{name}_token_id") == -1}
    known = {**known, **{f"{name}_token_id": None for name in unset}}
    if options.get("force_bos_token_to_be_generated"):
        known = {**known, "forced_bos_token_id": known.get("bos_token_id")}
    return known


_DEFAULTS = {field.name: field.default for field in fields(GenerationConfig)}
GenerationConfig.option_names = tuple(_DEFAULTS)

# What None means as an explicit option, where it is not the default.
_OFF = {"top_k": 0}
