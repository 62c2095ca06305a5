"""GenerationConfig: names complete, values checked, defaults and merging as in transformers."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from transformers import GenerationConfig as TheirConfig

from tritonseq.model import Model
from tritonseq.options import unsupported
from tritonseq.options.config import GenerationConfig, as_generation_config
from tritonseq.options.validation import CHECKS

OWN = {"hf_exact", "no_repeat_ngram_ignore_ids", "output_token_scores", "search"}


class TestNames:
    def test_every_parameter_of_transformers_has_its_place(self):
        theirs = {name for name in vars(TheirConfig()) if not name.startswith("_")}
        theirs.discard("transformers_version")
        tables = [
            set(GenerationConfig.option_names) - OWN,
            set(unsupported.IGNORED),
            set(unsupported.LATER),
            set(unsupported.REFUSED),
        ]
        assert set.union(*tables) == theirs
        assert sum(map(len, tables)) == len(theirs) == 71

    def test_every_field_has_a_check(self):
        assert set(CHECKS) == set(GenerationConfig.option_names)

    def test_defaults_are_transformers(self):
        theirs = TheirConfig._get_default_generation_params()
        ours = GenerationConfig()
        for name in set(GenerationConfig.option_names) - OWN - {"max_length"}:
            wanted = theirs.get(name)
            if wanted is None and name in ("renormalize_logits", "do_sample", "output_logits"):
                wanted = False
            assert getattr(ours, name) == wanted, name
        # Their 20 means 20 new tokens where nothing is given; the search resolves it.
        assert ours.max_length is None and theirs["max_length"] == 20


WRONG = [
    ("max_length", 0),
    ("max_new_tokens", 0),
    ("max_new_tokens", -3),
    ("max_new_tokens", 2.0),
    ("max_new_tokens", "5"),
    ("max_new_tokens", True),
    ("min_length", -1),
    ("min_new_tokens", -1),
    ("max_time", -0.1),
    ("max_time", float("nan")),
    ("search", "beam"),
    ("search", True),
    ("search", ["unilm"]),
    ("do_sample", 1),
    ("do_sample", "yes"),
    ("num_beams", 0),
    ("num_beams", True),
    ("num_beams", 2.5),
    ("num_beam_groups", 0),
    ("diversity_penalty", -1.0),
    ("early_stopping", "always"),
    ("early_stopping", 1),
    ("length_penalty", float("inf")),
    ("length_penalty", "1.0"),
    ("num_return_sequences", 0),
    ("temperature", -1.0),
    ("temperature", float("nan")),
    ("temperature", "hot"),
    ("top_k", -1),
    ("top_k", 5.0),
    ("top_p", float("nan")),
    ("top_p", 1.1),
    ("top_p", -0.1),
    ("top_p", True),
    ("min_p", 1.5),
    ("min_p", -0.1),
    ("typical_p", 0.0),
    ("typical_p", 2.0),
    ("epsilon_cutoff", 1.0),
    ("epsilon_cutoff", -0.5),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", -1.5),
    ("encoder_repetition_penalty", 0.0),
    ("no_repeat_ngram_size", -1),
    ("no_repeat_ngram_ignore_ids", 5),
    ("no_repeat_ngram_ignore_ids", [-1]),
    ("no_repeat_ngram_ignore_ids", ["[X_SEP]"]),
    ("encoder_no_repeat_ngram_size", 1.5),
    ("stop_strings", ""),
    ("stop_strings", ["", "end"]),
    ("stop_strings", 3),
    ("bad_words_ids", []),
    ("bad_words_ids", [[]]),
    ("bad_words_ids", [[1], []]),
    ("bad_words_ids", [1, 2]),
    ("bad_words_ids", [[-1]]),
    ("bad_words_ids", [["word"]]),
    ("bad_words_ids", "word"),
    ("sequence_bias", {}),
    ("sequence_bias", []),
    ("sequence_bias", {(): 1.0}),
    ("sequence_bias", {(-1,): 1.0}),
    ("sequence_bias", {(1,): "much"}),
    ("sequence_bias", {(1,): float("nan")}),
    ("sequence_bias", {5: 1.0}),
    ("sequence_bias", [[[1, 2]]]),
    ("sequence_bias", [[1, 2], 3.0]),
    ("forced_bos_token_id", [1, -1]),
    ("forced_bos_token_id", [1, "no"]),
    ("forced_bos_token_id", -1),
    ("forced_eos_token_id", -1),
    ("forced_eos_token_id", [1, -1]),
    ("remove_invalid_values", 1),
    ("exponential_decay_length_penalty", (1,)),
    ("exponential_decay_length_penalty", (1, 0.0)),
    ("exponential_decay_length_penalty", (-1, 1.1)),
    ("exponential_decay_length_penalty", 1.1),
    ("suppress_tokens", 5),
    ("suppress_tokens", [1.5]),
    ("begin_suppress_tokens", [None]),
    ("pad_token_id", 1.5),
    ("pad_token_id", 2**63),
    ("pad_token_id", [1]),
    ("bos_token_id", 1.0),
    ("eos_token_id", 1.5),
    ("eos_token_id", [1, True]),
    ("eos_token_id", "</s>"),
    ("eos_token_id", 2.0),
    ("eos_token_id", True),
    ("decoder_start_token_id", [0, -1]),
    ("decoder_start_token_id", [[0, 1]]),
    ("decoder_start_token_id", [[]]),
    ("output_scores", 1),
    ("return_dict_in_generate", 0),
    ("hf_exact", "no"),
]


class TestValues:
    @pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{n}={v!r}" for n, v in WRONG])
    def test_impossible_values_are_named_and_shown(self, name, value):
        with pytest.raises(ValueError, match=f"^{name} ") as caught:
            GenerationConfig(**{name: value})
        shown = str(caught.value)
        assert "must" in shown or "empty" in shown

    def test_the_value_is_in_the_message(self):
        with pytest.raises(ValueError, match=r"top_p must be a number in \[0, 1\], not 1\.1"):
            GenerationConfig(top_p=1.1)

    def test_every_checked_option_has_a_wrong_value_above(self):
        flags = {"renormalize_logits", "output_logits", "output_token_scores"}
        assert {name for name, _ in WRONG} | flags == set(CHECKS)

    def test_numbers_of_other_libraries(self):
        config = GenerationConfig(
            max_new_tokens=np.int64(5),
            temperature=np.float32(0.5),
            length_penalty=2,
            eos_token_id=torch.tensor([1, 2]),
            forced_eos_token_id=torch.tensor(3),
            suppress_tokens=np.array([4, 5]),
            decoder_start_token_id=np.array([[6], [7]]),
            do_sample=np.bool_(False),
            remove_invalid_values=np.bool_(True),
        )
        assert config.decoder_start_token_id == (6, 7)
        assert config.do_sample is False and config.remove_invalid_values is True
        assert config.max_new_tokens == 5 and type(config.max_new_tokens) is int
        assert config.temperature == 0.5 and type(config.length_penalty) is float
        assert config.eos_token_id == (1, 2) and config.forced_eos_token_id == 3
        assert config.suppress_tokens == (4, 5)

    def test_none_is_the_default(self):
        nothing = dict.fromkeys(GenerationConfig.option_names)
        assert GenerationConfig(**nothing) == GenerationConfig()

    def test_empty_lists_of_tokens_are_none(self):
        config = GenerationConfig(suppress_tokens=[], begin_suppress_tokens=[], eos_token_id=[])
        assert config == GenerationConfig() and config.eos_token_ids == ()

    def test_end_tokens_are_one_or_several(self):
        assert GenerationConfig().eos_token_ids == ()
        assert GenerationConfig(eos_token_id=0).eos_token_ids == (0,)
        assert GenerationConfig(eos_token_id=[3, 1]).eos_token_ids == (3, 1)

    def test_one_end_token_is_no_list(self):
        told = r"eos_token_id must be a token id or a list of them, not 2\.0"
        with pytest.raises(ValueError, match=told):
            GenerationConfig(eos_token_id=2.0)

    def test_both_spellings_of_biases(self):
        pairs = GenerationConfig(sequence_bias=[[[1, 2], 0.5], [[3], -1.0]])
        mapping = GenerationConfig(sequence_bias={(1, 2): 0.5, (3,): -1.0})
        assert pairs == mapping and hash(pairs) == hash(mapping)

    def test_a_config_is_a_frozen_value(self):
        config = GenerationConfig(num_beams=4, bad_words_ids=[[1, 2]])
        with pytest.raises(AttributeError):
            config.num_beams = 5  # type: ignore[misc]
        for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), copy.copy(config)):
            assert twin == config and hash(twin) == hash(config)
            assert "num_beams" in twin and "top_k" not in twin
            assert repr(twin) == "GenerationConfig(num_beams=4, bad_words_ids=((1, 2),))"


TOGETHER = {
    "cold": ({"do_sample": True, "temperature": 0.0}, "do_sample=False"),
    "greedy-many": ({"num_return_sequences": 2}, "num_return_sequences=2"),
    "too-many": ({"num_beams": 3, "num_return_sequences": 4}, "exceeds num_beams=3"),
    "uneven-groups": (
        {"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0},
        "num_beams=4 must be a multiple of num_beam_groups=3",
    ),
    "groups-without-beams": ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "num_beams=1"),
    "equal-groups": ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty > 0"),
    "sampled-groups": (
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
        "do_sample=False",
    ),
    "forced-bos-suppressed": (
        {"forced_bos_token_id": 3, "suppress_tokens": [3, 4]},
        "forced_bos_token_id=3 is also in suppress_tokens",
    ),
    "groups-of-unilm": (
        {"search": "unilm", "num_beams": 4, "num_beam_groups": 2},
        'search="unilm" .* groups .* num_beam_groups is 2: pass search="transformers"',
    ),
    "sampled-beams-of-unilm": (
        {"search": "unilm", "num_beams": 3, "do_sample": True},
        'search="unilm" .* num_beams is 3 with do_sample=True: pass search="transformers"',
    ),
    "forced-eos-suppressed": (
        {"forced_eos_token_id": [3, 4], "suppress_tokens": [3, 4]},
        r"forced_eos_token_id=\(3, 4\) is also in suppress_tokens",
    ),
}


class TestCombinations:
    @pytest.mark.parametrize(("given", "told"), TOGETHER.values(), ids=TOGETHER.keys())
    def test_impossible(self, given, told):
        with pytest.raises(ValueError, match=told):
            GenerationConfig(**given)

    @pytest.mark.parametrize(
        "given",
        [
            # Greedy search ignores the temperature, and temperature 0 is what people mean by it.
            {"temperature": 0.0},
            {"do_sample": True, "num_return_sequences": 5},
            {"num_beams": 4, "num_return_sequences": 4},
            {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 0.5},
            {"forced_eos_token_id": [3, 4], "suppress_tokens": [3]},
            {"early_stopping": "never", "num_beams": 2},
            {"search": "unilm", "num_beams": 2, "num_return_sequences": 2},
            {"search": "unilm", "do_sample": True, "num_return_sequences": 2},
            {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "min_length": 0, "max_time": 0.0},
        ],
        ids=str,
    )
    def test_possible(self, given):
        config = GenerationConfig(**given)
        for name in given:
            assert name in config

    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ({"bad_words_ids": [[3], [5, 10]]}, "bad_words_ids"),
            ({"sequence_bias": {(10, 3): 1.0}}, "sequence_bias"),
            ({"forced_bos_token_id": 10}, "forced_bos_token_id"),
            ({"forced_eos_token_id": [1, 10]}, "forced_eos_token_id"),
            ({"no_repeat_ngram_ignore_ids": [3, 10]}, "no_repeat_ngram_ignore_ids"),
            ({"decoder_start_token_id": 10}, "decoder_start_token_id"),
        ],
        ids=str,
    )
    def test_tokens_that_the_model_lacks(self, given, name):
        config = GenerationConfig(**given)
        config.check_vocabulary(11)
        with pytest.raises(ValueError, match=f"{name} holds token id 10, outside .* of 10 tokens"):
            config.check_vocabulary(10)

    def test_end_and_suppressed_tokens_may_lie_outside(self):
        """Small models keep the end token of the large one; it is never chosen then."""
        GenerationConfig(eos_token_id=50256, suppress_tokens=[50256]).check_vocabulary(10)


def effective(theirs: TheirConfig, model: TheirConfig, **options: object) -> TheirConfig:
    """The steps that transformers' generate takes to settle its options."""
    settled = copy.deepcopy(theirs)
    settled.update(**model.to_dict(), defaults_only=True)
    settled.update(**model._get_default_generation_params(), defaults_only=True)
    settled.update(**options)
    return settled


class TestMerging:
    def test_options_win(self):
        config = GenerationConfig(num_beams=4, eos_token_id=5)
        merged = config.merged(num_beams=2, length_penalty=0.5)
        assert (merged.num_beams, merged.length_penalty, merged.eos_token_id) == (2, 0.5, 5)
        assert config.num_beams == 4

    def test_none_switches_off(self):
        config = GenerationConfig(eos_token_id=5, top_k=10, no_repeat_ngram_size=3, min_p=0.1)
        merged = config.merged(eos_token_id=None, top_k=None, no_repeat_ngram_size=None, min_p=None)
        assert merged.eos_token_ids == ()
        assert (merged.top_k, merged.no_repeat_ngram_size, merged.min_p) == (0, 0, None)

    def test_layers_settle_as_in_transformers(self):
        """Model defaults, then the config object, then options: whatever each leaves open."""
        model = {"num_beams": 4, "length_penalty": 2.0, "eos_token_id": 5, "top_k": 7}
        user = {"num_beams": 1, "min_length": 3, "do_sample": True}
        for options_ in ({}, {"top_k": 3, "num_beams": 2}):
            wanted = effective(TheirConfig(**user), TheirConfig(**model), **options_)
            defaults = GenerationConfig.from_dict(model, strict=False)
            for given in (GenerationConfig(**user), TheirConfig(**user), dict(user)):
                config = as_generation_config(given, defaults=defaults).merged(**options_)
                for name in ("num_beams", "length_penalty", "eos_token_id", "top_k", "min_length"):
                    assert getattr(config, name) == getattr(wanted, name), name

    def test_an_explicit_default_overrules_the_model(self):
        defaults = GenerationConfig(num_beams=4, num_return_sequences=1)
        assert as_generation_config(GenerationConfig(), defaults=defaults).num_beams == 4
        explicit = as_generation_config(GenerationConfig(num_beams=1), defaults=defaults)
        assert explicit.num_beams == 1
        # Also through further layers.
        assert explicit.merged(max_new_tokens=5).over(defaults).num_beams == 1

    def test_the_search_of_a_model_can_be_overruled(self):
        defaults = GenerationConfig(search="unilm")
        assert not GenerationConfig().has_unilm_search
        assert GenerationConfig().over(defaults).has_unilm_search
        for search in ("transformers", None):
            assert not defaults.merged(search=search).has_unilm_search
        grouped = {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 0.5}
        assert not defaults.merged(search="transformers", **grouped).has_unilm_search
        with pytest.raises(ValueError, match='pass search="transformers"'):
            defaults.merged(**grouped)

    def test_merged_options_are_checked_together(self):
        with pytest.raises(ValueError, match="exceeds num_beams=2"):
            GenerationConfig(num_beams=4, num_return_sequences=3).merged(num_beams=2)

    def test_something_else_than_a_config(self):
        with pytest.raises(ValueError, match="must be a GenerationConfig, not 5"):
            as_generation_config(5)


class TestOtherOptions:
    def test_a_typing_error_names_the_nearest_option(self):
        with pytest.raises(ValueError, match="'num_beam': did you mean 'num_beams'"):
            GenerationConfig().merged(num_beam=2)
        with pytest.raises(ValueError, match=r"unknown option 'zzz': .*option_names"):
            GenerationConfig().merged(zzz=2)

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("attention_masks", "attention_mask"),
            ("logit_processor", "logits_processor"),
            ("stopping_criterion", "stopping_criteria"),
            ("generation_configs", "generation_config"),
            ("streamers", "streamer"),
            ("input", "inputs"),
            ("source_lang", "src_lang"),
            ("numbeams", "num_beams"),
            ("maxlength", "max_length"),
        ],
    )
    def test_arguments_of_generate_are_suggested_too(self, name, nearest):
        with pytest.raises(ValueError, match=f"unknown option '{name}': did you mean '{nearest}'"):
            GenerationConfig().merged(**{name: 1})

    def test_the_arguments_are_those_of_generate(self):
        parameters = set(inspect.signature(Model.generate).parameters) - {"self", "options"}
        assert set(unsupported.ARGUMENTS) == parameters - set(GenerationConfig.option_names)
        for name in unsupported.ARGUMENTS:
            with pytest.raises(ValueError, match=f"^{name} is no generation option: it is an arg"):
                GenerationConfig().merged(**{name: None})

    def test_a_strange_name_is_told_where_to_look(self):
        with pytest.raises(
            ValueError, match=r"option 'xyzzy': GenerationConfig\.option_names lists"
        ):
            GenerationConfig().merged(xyzzy=1)

    @pytest.mark.parametrize("name", unsupported.TEXT_ARGUMENTS)
    def test_what_only_texts_need(self, name):
        with pytest.raises(ValueError, match=f"^{name}='x' is for generate_text"):
            GenerationConfig().merged(**{name: "x"})
        assert GenerationConfig().merged(**{name: None}) == GenerationConfig()

    def test_the_arguments_of_texts_are_those_of_generate_text(self):
        parameters = set(inspect.signature(Model.generate_text).parameters)
        assert set(unsupported.TEXT_ARGUMENTS) == parameters - {"self", "options", "task"}

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (torch.zeros(3, 4), "<Tensor>"),
            (np.zeros((3, 4)), "<ndarray>"),
            (torch.nn.Linear(2, 2), "<Linear>"),
            ("line\nline", r"'line\nline'"),
            (list(range(1000)), f"{repr(list(range(1000)))[:57]}..."),
        ],
        ids=["tensor", "array", "module", "text", "list"],
    )
    def test_a_message_shows_no_whole_objects(self, value, shown):
        for name in ("inputs_embeds", "stop_everything", "penalty_alpha", "assistant_model"):
            with pytest.raises(ValueError) as caught:
                GenerationConfig().merged(**{name: value})
            assert len(str(caught.value)) < 200
            if not str(caught.value).startswith("unknown"):
                assert str(caught.value).startswith(f"{name}={shown} is not ")

    def test_doing_without_the_models_defaults_is_refused(self):
        assert GenerationConfig().merged(use_model_defaults=True) == GenerationConfig()
        with pytest.raises(ValueError, match="use_model_defaults=False is not supported"):
            GenerationConfig().merged(use_model_defaults=False)

    @pytest.mark.parametrize("name", [*unsupported.REFUSED, *unsupported.REFUSED_ARGUMENTS])
    def test_refused_with_a_reason(self, name):
        with pytest.raises(ValueError, match=f"^{name}='x' is not supported: \\w+"):
            GenerationConfig().merged(**{name: "x"})

    @pytest.mark.parametrize("name", unsupported.LATER)
    def test_not_yet_supported(self, name):
        with pytest.raises(ValueError, match=f"^{name}='x' is not yet supported"):
            GenerationConfig().merged(**{name: "x"})

    def test_what_changes_nothing_is_accepted(self):
        theirs = TheirConfig._get_default_generation_params()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name in (*unsupported.REFUSED, *unsupported.LATER, *unsupported.REFUSED_ARGUMENTS):
                values = {None, False, theirs.get(name)}
                for value in values if name != "use_model_defaults" else (None, True):
                    assert GenerationConfig().merged(**{name: value}) == GenerationConfig()
            for name in unsupported.IGNORED:
                for value in (None, True, "static", 64):
                    assert GenerationConfig().merged(**{name: value}) == GenerationConfig()

    def test_doing_without_a_cache_is_ignored_aloud(self):
        with pytest.warns(UserWarning, match="use_cache=False is ignored"):
            GenerationConfig().merged(use_cache=False)

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"temperature": 0.7, "top_p": 0.9}, "without do_sample=True, .*: temperature, top_p"),
            ({"length_penalty": 2.0}, "without num_beams > 1, .*: length_penalty"),
            ({"early_stopping": True}, "without num_beams > 1, .*: early_stopping"),
            ({"output_scores": True}, "without return_dict_in_generate=True, .*: output_scores"),
            (
                {"no_repeat_ngram_ignore_ids": torch.tensor([3, 4])},
                "without no_repeat_ngram_size, .*: no_repeat_ngram_ignore_ids",
            ),
            (
                {"search": "unilm", "num_beams": 2, "early_stopping": True},
                'with search="unilm", no effect of: early_stopping',
            ),
            (
                {"search": "unilm", "min_length": 2, "min_new_tokens": 1},
                'search="unilm" and num_beams=1, .*: min_length, min_new_tokens',
            ),
            (
                {"search": "unilm", "no_repeat_ngram_ignore_ids": [3]},
                'search="unilm" and num_beams=1, .*: no_repeat_ngram_ignore_ids',
            ),
            (
                {
                    "search": "unilm",
                    "no_repeat_ngram_size": 3,
                    "no_repeat_ngram_ignore_ids": [3],
                },
                "num_beams=1, .*: no_repeat_ngram_size, no_repeat_ngram_ignore_ids",
            ),
        ],
        ids=str,
    )
    def test_idle_options_are_pointed_out(self, given, told):
        with pytest.warns(UserWarning, match=f"{told}$") as caught:
            GenerationConfig().merged(**given)
        # Once, and where the caller stands.
        assert len(caught) == 1 and caught[0].filename == __file__

    def test_idle_defaults_of_a_model_are_not(self):
        model = GenerationConfig(temperature=0.6, top_p=0.9, length_penalty=2.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.merged(max_new_tokens=5, top_k=50, do_sample=False)
            model.merged(do_sample=True, num_beams=2, temperature=0.9, early_stopping=True)
            upstream = {"search": "unilm", "early_stopping": True, "min_new_tokens": 1}
            model = GenerationConfig(**upstream, no_repeat_ngram_ignore_ids=[3])
            model.merged(max_new_tokens=5)
            model.merged(num_beams=2, no_repeat_ngram_size=3, min_length=2)
            model.merged(do_sample=True, no_repeat_ngram_size=3, min_length=2)
            model.merged(search="transformers", no_repeat_ngram_size=3, min_new_tokens=2)
            model.merged(search=None, num_beams=2, early_stopping="never")


class TestFiles:
    def test_what_transformers_writes_is_read_back(self, tmp_path):
        given = {"num_beams": 4, "eos_token_id": [1, 2], "bad_words_ids": [[3]], "max_length": 9}
        TheirConfig(**given, sequence_bias=[[[1], 0.5]]).save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "generation_config.json").read_text())
        wanted = GenerationConfig(**given, sequence_bias={(1,): 0.5})
        for strict in (True, False):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert GenerationConfig.from_dict(stored, strict=strict) == wanted

    def test_generation_keys_of_a_model_config(self):
        """The keys of the GPT-2 repository: none of them is a generation option but the ids."""
        stored = {
            "activation_function": "gelu_new",
            "architectures": ["GPT2LMHeadModel"],
            "bos_token_id": 50256,
            "eos_token_id": 50256,
            "use_cache": False,
            "output_hidden_states": False,
            "transformers_version": "4.1.0",
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        }
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            config = GenerationConfig.from_dict(stored, strict=False)
        assert config == GenerationConfig(bos_token_id=50256, eos_token_id=50256)
        with pytest.raises(ValueError, match="unknown option 'activation_function'"):
            GenerationConfig.from_dict(stored, strict=True)

    def test_what_would_decode_otherwise_is_dropped_aloud(self):
        stored = {"prompt_lookup_num_tokens": 4, "top_k": 5}
        with pytest.warns(UserWarning, match="prompt_lookup_num_tokens=4 is not yet supported"):
            config = GenerationConfig.from_dict(stored, strict=False)
        assert config == GenerationConfig(top_k=5)
        with pytest.raises(ValueError, match=r"top_h=0\.4 is not yet supported"):
            GenerationConfig.from_dict({"top_h": 0.4}, strict=True)

    def test_habits_of_old_checkpoints(self):
        stored = {"pad_token_id": -1, "bos_token_id": 3, "force_bos_token_to_be_generated": True}
        config = GenerationConfig.from_dict(stored, strict=False)
        assert config == GenerationConfig(bos_token_id=3, forced_bos_token_id=3)

    def test_a_config_of_transformers_of_an_assistant(self):
        with pytest.raises(ValueError, match="assistant_early_exit=4 is not supported: there is"):
            as_generation_config(TheirConfig(assistant_early_exit=4))


def test_a_checkpoint_with_idle_nonsense_still_loads():
    """transformers loads such files; what means nothing is told of as soon as it counts."""
    stored = {"top_p": -0.5, "num_beams": 2}
    config = GenerationConfig.from_dict(stored, strict=False, origin="its.json")
    assert config.num_beams == 2 and config.top_p == 1.0
    assert config.merged(max_new_tokens=3).top_p == 1.0
    with pytest.raises(ValueError, match=r"top_p must be .* not -0\.5 \(its\.json says so\)"):
        config.merged(do_sample=True)
    assert config.merged(do_sample=True, top_p=0.5).top_p == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = GenerationConfig.from_dict(
            {"eos_token_id": -1, "pad_token_id": -1, "bos_token_id": -1}, strict=False
        )
    assert config.eos_token_ids == () and config.pad_token_id is None


def test_a_max_length_that_loses_is_said_to():
    model = GenerationConfig(max_new_tokens=12)
    with pytest.warns(UserWarning, match="no effect of max_length=7: max_new_tokens=12"):
        model.merged(max_length=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.merged(max_length=7, max_new_tokens=None).max_new_tokens is None


def test_configs_that_were_given_the_same_are_equal():
    assert GenerationConfig(num_beams=2) == GenerationConfig(num_beams=2)
    assert hash(GenerationConfig(num_beams=2)) == hash(GenerationConfig(num_beams=2))
    # Over a model's default of 4 beams, these two differ.
    assert GenerationConfig(num_beams=1) != GenerationConfig()
