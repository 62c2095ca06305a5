"""Every processor and whole stacks of them against transformers, bit by bit."""

from __future__ import annotations

import math
import random
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import GenerationConfig as TheirConfig
from transformers.generation import GenerationMixin, LogitsProcessor
from walk import begun, write

from tritonseq.decoding.processor_list import build_processors, forced_first, hamming_penalty
from tritonseq.options.config import GenerationConfig

if TYPE_CHECKING:
    from tritonseq.decoding.hypotheses import Hypotheses

NO_TOP_K = {"top_k": 0}


class Bare(GenerationMixin):
    """What transformers' list of processors needs to know of a model."""

    config = SimpleNamespace(is_encoder_decoder=False)


def hypotheses(
    *, samples=2, beams=1, prompt=4, generated=3, vocab=11, starts=None, seed=0
) -> Hypotheses:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocab, (samples, prompt), generator=g)
    made = begun(ids, starts, beams=beams, new_tokens=generated + 9)
    for t in range(generated):
        tokens = torch.randint(vocab, (samples, beams), generator=g)
        parents = torch.randint(beams, (samples, beams), generator=g) if t else None
        write(made, tokens, parents)
    return made


def scores_for(
    h: Hypotheses, vocab: int, seed: int = 0, *, holes: float = 0.0, coarse: bool = True
) -> torch.Tensor:
    """Scores, `coarse` ones with many ties; a share of `holes` is banned already."""
    g = torch.Generator().manual_seed(seed)
    rows = h.prompt.shape[0] * h.beams
    scores = torch.randn(rows, vocab, generator=g) * 3
    scores = scores.round(decimals=1) if coarse else scores
    return scores.masked_fill(torch.rand(rows, vocab, generator=g) < holes, -math.inf)


def zeros(h: Hypotheses, vocab: int = 11) -> torch.Tensor:
    return torch.zeros(h.prompt.shape[0] * h.beams, vocab)


def ours(
    options: dict[str, Any], h: Hypotheses, scores: torch.Tensor, *, room: int = 9, **more: Any
) -> torch.Tensor:
    for processor in built(options, h, room=room, **more):
        scores = processor.apply(h, scores)
    return scores


def built(options: dict[str, Any], h: Hypotheses, *, room: int = 9, **more: Any) -> list[Any]:
    config = GenerationConfig(**options)
    h.source.ids.copy_(h.prompt)
    h.source.starts.copy_(h.prompt_starts * (not config.hf_exact))
    minimum = config.min_length - h.prompt_length
    h.minimum.fill_(minimum if config.min_new_tokens is None else config.min_new_tokens)
    forced = forced_first(config, h.prompt_length, len(h.prompt))
    h.first.copy_(torch.tensor([-1 if token is None else token for token in forced]))
    h.written.limit.fill_(room)
    return build_processors(config, most_new_tokens=room, device=torch.device("cpu"), **more)


def theirs(
    options: dict[str, Any],
    h: Hypotheses,
    scores: torch.Tensor,
    *,
    room: int = 9,
    prefix_allowed_tokens_fn: Any = None,
    user: Any = (),
) -> torch.Tensor:
    return their_list(
        options, h, room=room, prefix_allowed_tokens_fn=prefix_allowed_tokens_fn, user=user
    )(h.ids, scores)


def their_list(
    options: dict[str, Any],
    h: Hypotheses,
    *,
    room: int = 9,
    prefix_allowed_tokens_fn: Any = None,
    user: Any = (),
) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = TheirConfig(**{k: v for k, v in options.items() if k != "hf_exact"})
    config.update(**config._get_default_generation_params(), defaults_only=True)
    config.max_length = h.prompt_length + room
    if config.min_new_tokens is not None:
        config.min_length = h.prompt_length + config.min_new_tokens
    ends = config.eos_token_id
    config._eos_token_tensor = None if ends is None else torch.tensor(ends).reshape(-1)
    starts = h.by_row(h.prompt_starts)
    mask = (torch.arange(h.ids.shape[1]) >= starts[:, None]).long()
    return Bare()._get_logits_processor(
        config,
        input_ids_seq_length=h.prompt_length,
        encoder_input_ids=h.prompt,
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        logits_processor=list(user),
        device="cpu",
        model_kwargs={"attention_mask": mask[:, : h.prompt_length]},
    )


def assert_same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.shape == wanted.shape
    equal = (got == wanted) | (got.isnan() & wanted.isnan())
    assert equal.all(), (got[~equal], wanted[~equal])


ENDS = {"eos_token_id": [2, 7]}
CONSTRAINTS = {
    "bias-one": {"sequence_bias": {(3,): 1.5, (9,): -2.0}},
    "bias-summed": {
        "sequence_bias": {(1, 3): 0.3, (3,): 0.1, (5, 4, 3): 0.7, (2, 3): -1.3, (4,): math.inf}
    },
    "bias-pairs": {"sequence_bias": [[[1, 3], 0.3], [[3], 0.25]]},
    "strangers": {"encoder_repetition_penalty": 1.7},
    "repetition": {"repetition_penalty": 1.3},
    "repetition-favoured": {"repetition_penalty": 0.6},
    "unigrams": {"no_repeat_ngram_size": 1},
    "bigrams": {"no_repeat_ngram_size": 2},
    "ngrams-longer-than-text": {"no_repeat_ngram_size": 40},
    "source-unigrams": {"encoder_no_repeat_ngram_size": 1},
    "source-bigrams": {"encoder_no_repeat_ngram_size": 2},
    "bad-words": {"bad_words_ids": [[1], [3, 4], [5, 6, 7], [4, 4], [0, 0, 0, 0, 0, 0, 0, 0, 1]]},
    "bad-words-with-end": {**ENDS, "bad_words_ids": [[2], [7], [3]]},
    "min-length": {**ENDS, "min_length": 8},
    "min-length-reached": {**ENDS, "min_length": 7},
    "min-length-endless": {"min_length": 8},
    "min-new-tokens": {**ENDS, "min_new_tokens": 4},
    "end-beyond-vocabulary": {"eos_token_id": [2, 999], "min_new_tokens": 4},
    "forced-bos-late": {"forced_bos_token_id": 3},
    "forced-eos-early": {"forced_eos_token_id": [3, 4]},
    "invalid": {"remove_invalid_values": True},
    "decay": {**ENDS, "exponential_decay_length_penalty": (1, 1.4)},
    "decay-shrinking": {**ENDS, "exponential_decay_length_penalty": (0, 0.7)},
    "decay-later": {**ENDS, "exponential_decay_length_penalty": (3, 1.4)},
    "suppress": {"suppress_tokens": [1, 1, 5, 999]},
    "suppress-at-begin-late": {"begin_suppress_tokens": [1, 5]},
    "renormalize": {"renormalize_logits": True},
}
WARPERS = {
    "temperature": {"temperature": 0.7, **NO_TOP_K},
    "top-k-1": {"top_k": 1},
    "top-k-3": {"top_k": 3},
    "top-k-default": {},
    "top-p": {"top_p": 0.6, **NO_TOP_K},
    "top-p-tiny": {"top_p": 1e-6, **NO_TOP_K},
    "top-k-top-p": {"top_p": 0.8, "top_k": 4},
    "min-p": {"min_p": 0.2, **NO_TOP_K},
    "min-p-0": {"min_p": 0.0, **NO_TOP_K},
    "min-p-1": {"min_p": 1.0, **NO_TOP_K},
    "typical": {"typical_p": 0.5, **NO_TOP_K},
    "top-k-typical": {"typical_p": 0.9, "top_k": 4},
    "epsilon": {"epsilon_cutoff": 0.05, **NO_TOP_K},
}
BOTH = {
    **CONSTRAINTS,
    **{name: {**options, "do_sample": True} for name, options in WARPERS.items()},
}


@pytest.mark.parametrize("holes", [0.0, 0.3, 0.95], ids=["whole", "some-banned", "most-banned"])
@pytest.mark.parametrize("beams", [1, 3], ids=["one-beam", "beams"])
@pytest.mark.parametrize("options", BOTH.values(), ids=BOTH.keys())
def test_each_processor_equals_transformers(options, beams, holes):
    for seed in range(4):
        h = hypotheses(beams=beams, generated=3, seed=seed)
        scores = scores_for(h, 11, seed, holes=holes)
        all_options = {**options, "num_beams": beams}
        assert_same(ours(all_options, h, scores.clone()), theirs(all_options, h, scores.clone()))


@pytest.mark.parametrize("vocab", [1, 2, 5], ids="vocabulary-{}".format)
@pytest.mark.parametrize("ends", [None, 0, [0, 1, 2]], ids=["no-end", "one-end", "three-ends"])
@pytest.mark.parametrize("options", WARPERS.values(), ids=WARPERS.keys())
def test_warpers_keep_what_transformers_keeps_of_few_tokens(options, ends, vocab):
    for beams in (1, 2):
        h = hypotheses(samples=1, beams=beams, vocab=vocab)
        scores = scores_for(h, vocab, seed=vocab)
        all_options = {**options, "do_sample": True, "num_beams": beams, "eos_token_id": ends}
        assert_same(ours(all_options, h, scores.clone()), theirs(all_options, h, scores.clone()))


@pytest.mark.parametrize("coarse", [True, False], ids=["ties", "no-ties"])
@pytest.mark.parametrize("options", WARPERS.values(), ids=WARPERS.keys())
def test_warpers_over_a_real_vocabulary(options, coarse):
    """Wide enough for every vector path and for sorting the few candidates that are left."""
    h = hypotheses(samples=3, vocab=50257)
    scores = scores_for(h, 50257, coarse=coarse)
    for top_k in (0, 7, 600):
        all_options = {"do_sample": True, **options, "top_k": top_k}
        assert_same(ours(all_options, h, scores.clone()), theirs(all_options, h, scores.clone()))


@pytest.mark.parametrize("coarse", [True, False], ids=["ties", "no-ties"])
@pytest.mark.parametrize("options", WARPERS.values(), ids=WARPERS.keys())
def test_warpers_where_rows_have_lost_unequally_many_tokens(options, coarse):
    h = hypotheses(samples=5, vocab=300)
    scores = scores_for(h, 300, coarse=coarse)
    for row, left in enumerate((300, 20, 2, 1, 0)):
        scores[row, left:] = -math.inf
    for rows in (slice(0, 5), slice(1, 5), slice(4, 5)):
        part = hypotheses(samples=5 - (rows.start or 0), vocab=300)
        all_options = {**options, "do_sample": True}
        got = ours(all_options, part, scores[rows].clone())
        assert_same(got, theirs(all_options, part, scores[rows].clone()))


def test_processors_that_wait_for_their_step():
    """Walk through all steps; what fires at one of them must fire at that one only."""
    options = {
        **ENDS,
        "forced_bos_token_id": 4,
        "forced_eos_token_id": 7,
        "begin_suppress_tokens": [1, 3],
        "min_length": 3,
        "exponential_decay_length_penalty": (2, 1.1),
    }
    for prompt in (1, 2, 3):
        for generated in range(6):
            h = hypotheses(prompt=prompt, generated=generated, beams=2)
            scores = scores_for(h, 11, generated)
            got = ours({**options, "num_beams": 2}, h, scores.clone(), room=6)
            assert_same(got, theirs({**options, "num_beams": 2}, h, scores.clone(), room=6))


def test_invalid_scores_become_finite():
    h = hypotheses(samples=1)
    scores = torch.tensor([[math.nan, math.inf, -math.inf, 1.0, -0.0]])
    wanted = theirs({"remove_invalid_values": True}, h, scores.clone())
    assert_same(ours({"remove_invalid_values": True}, h, scores.clone()), wanted)
    assert wanted.isfinite().all()


@pytest.mark.parametrize("generated", [25, 101], ids=["float32", "float64"])
def test_decay_beyond_the_largest_float(generated):
    """`1e4 ** 100` is an OverflowError in transformers, `1e4 ** 24` makes NaN of a zero there."""
    h = hypotheses(samples=1, prompt=1, generated=generated)
    options = {"eos_token_id": 2, "exponential_decay_length_penalty": (1, 1e4)}
    zero = torch.tensor([[0.5, 0.1, 0.0]])
    assert torch.equal(ours(options, h, zero.clone(), room=200), zero)
    ended = ours(options, h, torch.tensor([[0.5, 0.1, 2.0]]), room=200)
    assert ended.argmax() == 2 and not ended.isnan().any()


def test_biases_are_summed_in_the_order_of_transformers():
    """All of them apply to token 9, and their sum depends on the order."""
    h = begun(torch.tensor([[1, 2, 3, 4]]))
    values = (0.1, 1e8, -1e8, 3e-9, 7.7)
    for seed in range(20):
        rng = random.Random(seed)
        words = [(9,), (4, 9), (3, 4, 9), (2, 3, 4, 9), (1, 2, 3, 4, 9)]
        rng.shuffle(words)
        options = {"sequence_bias": dict(zip(words, values, strict=True))}
        scores = torch.zeros(1, 11)
        assert_same(ours(options, h, scores.clone()), theirs(options, h, scores.clone()))


def test_mass_that_is_met_exactly():
    """Probabilities that are powers of two: sums without rounding, equal to the threshold."""
    h = hypotheses(samples=1)
    for option in ("top_p", "typical_p"):
        for probabilities in ([1, 1, 1, 1], [0, 1, 1, 0], [4, 2, 1, 1]):
            scores = torch.tensor([probabilities]).log()
            for share in (0.25, 0.5, 0.75):
                options = {"do_sample": True, option: share, **NO_TOP_K}
                assert_same(ours(options, h, scores.clone()), theirs(options, h, scores.clone()))


TEXT = {
    name: CONSTRAINTS[name]
    for name in (
        "bias-summed",
        "strangers",
        "repetition",
        "unigrams",
        "bigrams",
        "source-unigrams",
        "source-bigrams",
        "bad-words",
    )
}


def padded(beams: int, seed: int) -> Hypotheses:
    """Two prompts of 6 and 2 tokens; the pads are a token of the text, as GPT-2's often are."""
    h = hypotheses(samples=2, beams=beams, prompt=6, starts=[0, 4], seed=seed, vocab=4)
    h.prompt[1, :4] = 1
    h.forget_texts()
    return h


@pytest.mark.parametrize("options", TEXT.values(), ids=TEXT.keys())
@pytest.mark.parametrize("beams", [1, 3], ids=["one-beam", "beams"])
def test_pads_are_no_text(options, beams):
    """A padded row gets what transformers gives to the same row alone, without pads."""
    for seed in range(6):
        h = padded(beams, seed)
        scores = scores_for(h, 11, seed)
        got = ours(options, h, scores.clone())
        for row in range(2 * beams):
            sample = row // beams
            start = int(h.prompt_starts[sample])
            alone = begun(h.ids[row : row + 1, start:])
            wanted = their_list(options, alone)
            # The source is the prompt; what was generated is not part of it.
            alone_prompt = begun(h.prompt[sample : sample + 1, start:])
            if any(name.startswith("encoder_") for name in options):
                wanted = their_list(options, alone_prompt)
            assert_same(got[row : row + 1], wanted(alone.ids, scores[row : row + 1].clone()))


@pytest.mark.parametrize("name", TEXT)
def test_hf_exact_counts_pads_as_transformers_does(name):
    options = TEXT[name]
    differs = 0
    for seed in range(6):
        h = padded(2, seed)
        scores = scores_for(h, 11, seed)
        wanted = theirs(options, h, scores.clone())
        assert_same(ours({**options, "hf_exact": True}, h, scores.clone()), wanted)
        differs += not torch.equal(ours(options, h, scores.clone()), wanted)
    # transformers itself leaves pads out of this one; the biases look at the last tokens only.
    assert (differs > 0) == (name not in ("repetition", "bias-summed", "bad-words"))


def test_pads_may_be_longer_than_a_prefix():
    """Matching looks at the last tokens only; all of them may be pads but one."""
    h = begun(torch.tensor([[5, 5, 5, 6]]), [3])
    options = {"bad_words_ids": [[5, 6, 1], [6, 2]]}
    assert ours(options, h, torch.zeros(1, 7))[0].isneginf().nonzero().tolist() == [[2]]
    got = ours({**options, "hf_exact": True}, h, torch.zeros(1, 7))
    assert got[0].isneginf().nonzero().tolist() == [[1], [2]]


class TestIgnoredInNgrams:
    """What may be repeated is told by hand: transformers knows no such tokens."""

    @staticmethod
    def banned(text: list[int], n: int, ignored: set[int]) -> set[int]:
        tail = text[len(text) - (n - 1) :]
        ngrams = [text[i : i + n] for i in range(len(text) - n + 1)]
        if ignored.intersection(tail):
            return set()
        return {last for *head, last in ngrams if head == tail} - ignored

    @pytest.mark.parametrize("beams", [1, 3], ids=["one-beam", "beams"])
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_by_hand(self, n, beams):
        changed = 0
        for seed in range(12):
            starts = [0, 2] if seed % 2 else None
            h = hypotheses(beams=beams, prompt=3, generated=8, vocab=3, starts=starts, seed=seed)
            options = {"no_repeat_ngram_size": n, "num_beams": beams}
            got = ours({**options, "no_repeat_ngram_ignore_ids": [1, 4]}, h, zeros(h))
            for row, ids in enumerate(h.ids.tolist()):
                text = ids[0 if starts is None else starts[row // beams] :]
                wanted = self.banned(text, n, {1, 4})
                assert set(got[row].isneginf().nonzero().flatten().tolist()) == wanted
            changed += not torch.equal(got, ours(options, h, zeros(h)))
        assert changed > 3

    def test_the_table_serves_every_step(self):
        h = begun(torch.tensor([[5]]))
        options = {"no_repeat_ngram_size": 2, "no_repeat_ngram_ignore_ids": [5]}
        (processor,) = built(options, h)
        found = []
        for token in (3, 4, 3, 5, 3):
            write(h, torch.tensor([[token]]))
            scores = processor.apply(h, zeros(h))
            found.append(scores[0].isneginf().nonzero().flatten().tolist())
        assert found == [[], [], [4], [], [4]]

    def test_those_of_the_source_are_banned_all_the_same(self):
        h = begun(torch.tensor([[3, 4, 3]]))
        ignored = {"no_repeat_ngram_ignore_ids": [3]}
        for option, banned in (("no_repeat_ngram_size", []), ("encoder_no_repeat_ngram_size", [4])):
            got = ours({option: 2, **ignored}, h, zeros(h))
            assert got[0].isneginf().nonzero().flatten().tolist() == banned


class TestPrefixAllowedTokens:
    def test_equals_transformers(self):
        def allowed(sample, ids):
            return [sample, int(ids[-1]), (int(ids[0]) + len(ids)) % 11]

        for beams in (1, 3):
            h = hypotheses(beams=beams)
            for holes in (0.0, 0.5, 0.9):
                scores = scores_for(h, 11, holes=holes)
                options = {"num_beams": beams, "suppress_tokens": [0]}
                got = ours(options, h, scores.clone(), prefix_allowed_tokens_fn=allowed)
                wanted = theirs(options, h, scores.clone(), prefix_allowed_tokens_fn=allowed)
                assert_same(got, wanted)

    def test_wins_where_all_its_tokens_are_banned(self):
        h = hypotheses(samples=2)
        scores = torch.zeros(2, 11)
        scores[0, 3] = -math.inf
        got = ours({}, h, scores, prefix_allowed_tokens_fn=lambda sample, ids: [3])
        assert got[:, 3].tolist() == [0.0, 0.0]
        assert got.isfinite().sum() == 2

    def test_independent_rows_are_of_one_sample(self):
        """Of several sequences that are sampled, each is told the sample that it belongs to."""
        seen = []
        h = hypotheses(samples=2, beams=2)
        options = {"do_sample": True, "num_return_sequences": 2}
        ours(
            options,
            h,
            scores_for(h, 11),
            prefix_allowed_tokens_fn=lambda sample, ids: seen.append(sample) or [0],
        )
        assert seen == [0, 0, 1, 1]

    def test_independent_rows_are_judged_alone(self):
        """Were the second row's score what saves the first, nothing would be left to draw."""
        h = hypotheses(samples=1, beams=2)
        scores = torch.zeros(2, 11)
        scores[0, 3] = -math.inf
        options = {"do_sample": True, "num_return_sequences": 2, **NO_TOP_K}
        got = ours(options, h, scores, prefix_allowed_tokens_fn=lambda sample, ids: [3])
        assert got[:, 3].tolist() == [0.0, 0.0]

    def test_a_group_of_beams(self):
        """Diverse groups are processed one after the other; samples keep their numbers."""
        seen = []
        group = hypotheses(samples=2, beams=4).of_beams(2, 2)
        options = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}
        ours(
            options,
            group,
            scores_for(group, 11),
            prefix_allowed_tokens_fn=lambda sample, ids: seen.append(sample) or [0],
        )
        assert seen == [0, 0, 1, 1]

    def test_no_token_allowed(self):
        h = hypotheses()
        with pytest.raises(ValueError, match=r"allows no token for sample 0 after \["):
            ours({}, h, scores_for(h, 11), prefix_allowed_tokens_fn=lambda sample, ids: [])


class Halve(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores / 2


def named(name: str, log: list[str]) -> Any:
    def call(self, input_ids, scores):
        log.append(name)
        return scores

    return type(name, (LogitsProcessor,), {"__call__": call})()


EVERYTHING = {
    **ENDS,
    "sequence_bias": {(3,): 1.5},
    "encoder_repetition_penalty": 1.2,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 3,
    "bad_words_ids": [[4]],
    "min_new_tokens": 4,
    "forced_bos_token_id": 3,
    "forced_eos_token_id": 2,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": (1, 1.1),
    "suppress_tokens": [5],
    "begin_suppress_tokens": [6],
    "do_sample": True,
    "temperature": 0.9,
    "top_k": 9,
    "top_p": 0.9,
    "min_p": 0.01,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.01,
    "renormalize_logits": True,
}


class TestUserProcessors:
    def test_order_of_everything(self):
        def allowed(sample, ids):
            return [1]

        user = [Halve()]
        h = hypotheses()
        mine = built(EVERYTHING, h, user=user, prefix_allowed_tokens_fn=allowed)
        their = their_list(EVERYTHING, h, user=user, prefix_allowed_tokens_fn=allowed)
        assert [processor.name for processor in mine] == [type(p).__name__ for p in their]
        assert len(mine) == 23

    def test_come_between_constraints_and_warpers(self):
        h = hypotheses()
        scores = scores_for(h, 11)
        options = {"do_sample": True, "top_p": 0.7, "repetition_penalty": 1.3}
        got = ours(options, h, scores.clone(), user=[Halve()])
        assert_same(got, theirs(options, h, scores.clone(), user=[Halve()]))
        assert not torch.equal(got, ours(options, h, scores.clone()))

    def test_see_the_ids_of_their_beams(self):
        h = hypotheses(beams=3, generated=5)
        seen = []
        ours({"num_beams": 3}, h, scores_for(h, 11), user=[lambda i, s: seen.append(i) or s])
        assert torch.equal(seen[0], h.ids) and seen[0].shape == (6, 9)

    def test_replace_a_built_in_of_the_same_class_in_place(self):
        log: list[str] = []
        user = [named("Other", log), named("RepetitionPenaltyLogitsProcessor", log)]
        options = {"repetition_penalty": 1.3, "min_length": 9, "suppress_tokens": [1], **ENDS}
        h = hypotheses()
        names = [processor.name for processor in built(options, h, user=user)]
        assert names == [
            "RepetitionPenaltyLogitsProcessor",
            "MinLengthLogitsProcessor",
            "SuppressTokensLogitsProcessor",
            "Other",
        ]
        ours(options, h, scores_for(h, 11), user=user)
        assert log == ["RepetitionPenaltyLogitsProcessor", "Other"]

    def test_never_replace_a_warper(self):
        """transformers merges the lists before it adds warpers."""
        log: list[str] = []
        user = [named("TopKLogitsWarper", log)]
        h = hypotheses()
        mine = built({"do_sample": True}, h, user=user)
        their = their_list({"do_sample": True}, h, user=[])
        assert [processor.name for processor in mine] == ["TopKLogitsWarper", "TopKLogitsWarper"]
        assert len(their) == 1

    def test_must_return_scores(self):
        h = hypotheses()
        for wrong in (None, torch.zeros(1)):
            with pytest.raises(ValueError, match=r"must return scores \[2, 11\], not"):
                ours({}, h, scores_for(h, 11), user=[lambda ids, scores, wrong=wrong: wrong])


class TestHammingPenalty:
    def test_counts_what_earlier_groups_chose(self):
        g = torch.Generator().manual_seed(0)
        for samples, group, vocab, chosen in ((1, 1, 3, 1), (3, 2, 5, 4), (2, 4, 50, 12)):
            scores = torch.randn(samples * group, vocab, generator=g)
            tokens = torch.randint(vocab, (samples, chosen), generator=g)
            wanted = scores.clone()
            live = torch.rand(samples, chosen, generator=g) < 0.7
            for sample in range(samples):
                frequency = torch.bincount(tokens[sample][live[sample]], minlength=vocab)
                wanted[sample * group : (sample + 1) * group] -= 0.7 * frequency
            assert torch.equal(hamming_penalty(scores, tokens, 0.7, live), wanted)

    def test_works_in_place_and_spares_banned_tokens(self):
        scores = torch.full((2, 4), -math.inf)
        live = torch.ones(1, 2, dtype=torch.bool)
        assert hamming_penalty(scores, torch.tensor([[1, 1]]), 0.5, live) is scores
        assert scores.isneginf().all()


class TestErrors:
    def test_bad_words_of_end_tokens_only_ban_nothing(self):
        assert built({"eos_token_id": 5, "bad_words_ids": [[5]]}, hypotheses()) == []

    def test_decay_without_an_end_token(self):
        with pytest.raises(ValueError, match="pass eos_token_id"):
            built({"exponential_decay_length_penalty": (2, 1.1)}, hypotheses())

    @pytest.mark.parametrize(
        "options", [{"bad_words_ids": [[3, 11]]}, {"sequence_bias": {(11, 3): 1.0}}]
    )
    def test_words_outside_the_vocabulary(self, options):
        h = hypotheses()
        with pytest.raises(ValueError, match="token id 11, outside the vocabulary of 11 tokens"):
            ours(options, h, scores_for(h, 11))


def test_nothing_asked_for_costs_nothing():
    assert built({}, hypotheses()) == []
    assert built({"do_sample": True, "top_k": 0}, hypotheses()) == []


def random_options(rng: random.Random, vocab: int) -> dict[str, Any]:
    """A mixture of options, each of them as likely to be there as not."""

    def tokens(most: int) -> list[int]:
        return [rng.randrange(vocab) for _ in range(rng.randint(1, most))]

    beams = rng.choice([1, 1, 2, 4])
    sample = rng.random() < 0.5
    choices: dict[str, Any] = {
        "sequence_bias": {tuple(tokens(3)): rng.uniform(-3, 3) for _ in range(rng.randint(1, 9))},
        "encoder_repetition_penalty": rng.uniform(0.5, 2),
        "repetition_penalty": rng.uniform(0.5, 2),
        "no_repeat_ngram_size": rng.randint(1, 4),
        "encoder_no_repeat_ngram_size": rng.randint(1, 4),
        "bad_words_ids": [tokens(4) for _ in range(rng.randint(1, 9))] + [[0, 0]],
        "min_length": rng.randint(0, 12),
        "min_new_tokens": rng.randint(0, 5),
        "forced_bos_token_id": rng.randrange(vocab),
        "forced_eos_token_id": rng.choice([rng.randrange(vocab), tokens(3)]),
        "remove_invalid_values": True,
        "begin_suppress_tokens": tokens(3),
        "temperature": rng.uniform(0.3, 2),
        "top_k": rng.randint(0, vocab + 3),
        "top_p": rng.uniform(0.01, 1),
        "min_p": rng.uniform(0, 0.5),
        "typical_p": rng.uniform(0.05, 1),
        "epsilon_cutoff": rng.uniform(0, 0.2),
        "renormalize_logits": True,
    }
    picked = {name: value for name, value in choices.items() if rng.random() < 0.4}
    ends = rng.choice([None, rng.randrange(vocab), tokens(3)])
    if ends is not None and rng.random() < 0.4:
        decay = (rng.randint(0, 3), rng.uniform(0.8, 1.3))
        picked["exponential_decay_length_penalty"] = decay
    if rng.random() < 0.3:
        # Never what is forced: both libraries refuse that.
        picked["suppress_tokens"] = [vocab + 1, vocab + 2]
    return {**picked, "do_sample": sample, "num_beams": beams, "eos_token_id": ends}


def check_random_stack(seed: int) -> None:
    rng = random.Random(seed)
    vocab = rng.choice([3, 11, 40, 300])
    options = random_options(rng, vocab)
    prompt = rng.randint(1, 9)
    h = hypotheses(
        samples=rng.randint(1, 3),
        beams=options["num_beams"],
        prompt=prompt,
        generated=rng.randint(0, 9),
        vocab=min(vocab, rng.choice([3, 300])),
        seed=seed,
    )
    if rng.random() < 0.4:
        h.prompt_starts.copy_(torch.tensor([rng.randrange(prompt) for _ in h.prompt]))
        options["hf_exact"] = True
    coarse = rng.random() < 0.5
    scores = scores_for(h, vocab, seed, holes=rng.choice([0, 0.2, 0.95]), coarse=coarse)
    got = ours(options, h, scores.clone(), room=10)
    assert_same(got, theirs(options, h, scores.clone(), room=10))


@pytest.mark.parametrize("block", range(10))
def test_random_stacks_equal_transformers(block):
    for seed in range(block * 30, block * 30 + 30):
        check_random_stack(seed)


@pytest.mark.long
@pytest.mark.parametrize("block", range(100))
def test_more_random_stacks_equal_transformers(block):
    for seed in range(1000 + block * 100, 1000 + block * 100 + 100):
        check_random_stack(seed)
