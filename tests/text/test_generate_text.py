"""`generate_text` of encoder-decoder models gives the texts of transformers, from text to text."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import seq2seq
import torch
from pieces import theirs, write_checkpoint

import tritonseq

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses"),
    pytest.mark.filterwarnings("ignore:this checkpoint writes"),
]

# tokenizer -> network
NETWORKS = {
    "t5": "t5",
    "byt5": "t5",
    "pegasus": "pegasus",
    "mbart": "mbart",
    "mbart50": "mbart",
    "marian": "marian",
}
TEXTS = ["the quick brown fox", "it's a lazy dog", "rain falls on old houses near river 1999 !"]
LONG = [" ".join(TEXTS) + f" {' '.join(TEXTS)}" * 9, "a house"]
POSITIONS = 64
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 12},
    "beams": {"max_new_tokens": 10, "num_beams": 3, "num_return_sequences": 2},
}


class Both(NamedTuple):
    """One folder in both engines."""

    tokenizer: Any
    model: Any
    ours: tritonseq.Model

    def expected(
        self, texts: list[str], *, positions: int | None = None, **options: Any
    ) -> list[str]:
        """Tokenized, padded on the right, generated and decoded by transformers."""
        batch = self.tokenizer(
            texts,
            padding=True,
            padding_side="right",
            truncation=positions is not None,
            max_length=positions,
            return_tensors="pt",
        )
        mask = batch["attention_mask"]
        ids = self.model.generate(batch["input_ids"], attention_mask=mask, **options)
        decoded: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return decoded


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Both]:
    root = tmp_path_factory.mktemp("text")
    return {family: both_of(root / family, family) for family in NETWORKS}


def both_of(folder: Path, family: str) -> Both:
    """A random network beside a tokenizer whose vocabulary it has."""
    tokenizer = theirs(write_checkpoint(folder, family), family)
    config: dict[str, Any] = {"vocab_size": len(tokenizer)}
    if family == "marian":
        pad = tokenizer.pad_token_id
        config |= {"pad_token_id": pad, "decoder_start_token_id": pad, "bad_words_ids": [[pad]]}
        config |= {"eos_token_id": 0, "forced_eos_token_id": 0}
    model = seq2seq.hf_model(NETWORKS[family], seed=3, **config)
    model.save_pretrained(folder)
    return Both(tokenizer, model, tritonseq.load(folder, device="cpu"))


def same(mine: list[str], wanted: list[str]) -> None:
    """Where a text starts with two marks of spaces, transformers keeps the second."""
    assert [text.lstrip(" ") for text in mine] == [text.lstrip(" ") for text in wanted]
    assert len(set(mine)) > 1, "the model always says the same"


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("family", NETWORKS)
def test_texts_equal_transformers(
    both: dict[str, Both], family: str, options: dict[str, Any]
) -> None:
    pair = both[family]
    plain = pair.expected(TEXTS, **options)
    same(pair.ours.generate_text(TEXTS, **options), plain)
    prefixed = pair.expected([f"summarize: {text}" for text in TEXTS], **options)
    assert prefixed != plain
    same(pair.ours.generate_text(TEXTS, prefix="summarize: ", **options), prefixed)


@pytest.mark.parametrize("family", ["pegasus", "mbart", "mbart50", "marian"])
def test_long_texts_are_cut_to_the_positions_when_asked(both: dict[str, Both], family: str) -> None:
    pair = both[family]
    wanted = pair.expected(LONG, positions=POSITIONS, max_new_tokens=8)
    same(pair.ours.generate_text(LONG, truncation=True, max_new_tokens=8), wanted)
    ids, _ = pair.ours.tokenize(LONG, truncation=True)
    assert ids.shape == (2, POSITIONS)
    with pytest.raises(ValueError, match="truncation=True"):
        pair.ours.generate_text(LONG, max_new_tokens=8)


@pytest.mark.parametrize(
    ("family", "option"),
    [("mbart", "decoder_start_token_id"), ("mbart50", "forced_bos_token_id")],
)
def test_mbart_reads_one_language_and_writes_another(
    both: dict[str, Both], family: str, option: str
) -> None:
    pair = both[family]
    ask: dict[str, Any] = {"src_lang": "fr_XX", "tgt_lang": "de_DE", "max_new_tokens": 8}
    german, romanian = pair.tokenizer.convert_tokens_to_ids(["de_DE", "ro_RO"])
    before = pair.tokenizer.src_lang
    pair.tokenizer.src_lang = "fr_XX"
    try:
        wanted = [
            pair.expected(TEXTS, max_new_tokens=8, **{option: token})
            for token in (german, romanian)
        ]
    finally:
        pair.tokenizer.src_lang = before
    assert wanted[0] != wanted[1]
    same(pair.ours.generate_text(TEXTS, **ask), wanted[0])
    # An option that the call names is obeyed.
    same(pair.ours.generate_text(TEXTS, **ask, **{option: romanian}), wanted[1])


def test_marian_is_told_the_target_in_its_source(both: dict[str, Both]) -> None:
    pair = both["marian"]
    options: dict[str, Any] = {"max_new_tokens": 8, "num_beams": 2}
    wanted = {
        code: pair.expected([f">>{code}<< {text}" for text in TEXTS], **options)
        for code in ("deu", "fra")
    }
    assert wanted["deu"] != wanted["fra"]
    for code, texts in wanted.items():
        same(pair.ours.generate_text(TEXTS, tgt_lang=code, **options), texts)


def test_a_task_brings_its_prefix_and_its_options(tmp_path: Path) -> None:
    pair = both_of(tmp_path, "t5")
    options = {"num_beams": 2, "max_length": 8, "min_length": 6}
    config = json.loads((tmp_path / "config.json").read_text())
    config["task_specific_params"] = {"translation": {"prefix": "translate: ", **options}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = tritonseq.load(tmp_path, device="cpu")
    prefixed = pair.expected([f"translate: {text}" for text in TEXTS], **options)
    plain = pair.expected(TEXTS, **options)
    assert prefixed != plain
    same(ours.generate_text(TEXTS, task="translation"), prefixed)
    same(ours.generate_text(TEXTS, task="translation", prefix=""), plain)
    short = pair.expected([f"translate: {text}" for text in TEXTS], **{**options, "max_length": 7})
    same(ours.generate_text(TEXTS, task="translation", max_length=7), short)
    with pytest.raises(ValueError, match=r"'summary' is not among .*it has translation"):
        ours.generate_text(TEXTS, task="summary")


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("t5", {"tgt_lang": "de"}, "'de': this checkpoint has no languages"),
        ("t5", {"task": "summary"}, "'summary' is not among .*it has none"),
        ("mbart50", {"tgt_lang": "de"}, "'de' is no language"),
        ("mbart", {"src_lang": "xx"}, "'xx' is no language"),
        ("marian", {"src_lang": "eng"}, "src_lang='eng'.*lines name a field.*--src-lang-field"),
        ("t5", {"tgt_lang": [None, "de", None]}, "text 1: 'de': .*lines name.*--tgt-lang-field"),
        ("byt5", {"input_ids": [[1]]}, "input_ids is for generate"),
        ("byt5", {"attention_mask": torch.ones(3, 2)}, "attention_mask is for generate"),
        ("byt5", {"return_dict_in_generate": True}, "return_dict_in_generate is for generate"),
        ("byt5", {"output_token_scores": True}, "is for generate; pipeline takes it, too"),
        ("byt5", {"output_scores": True}, "is for generate; the results of pipeline have"),
        ("byt5", {"output_logits": True}, "output_logits is for generate$"),
        ("t5", {"forced_bos_token_id": "de"}, "must be a token id or a list of them, not 'de'"),
        ("t5", {"truncation": True}, "there is no limit to cut to.* pass max_source_length"),
        ("t5", {"max_source_length": 0}, "max_source_length is 0"),
        ("t5", {"max_source_length": 1}, "a limit of 1 tokens leaves no room"),
        ("t5", {"batch_size": 0}, "batch_size is 0: it must be an integer >= 1"),
        ("t5", {"decoder_input_ids": [[0]]}, "decoder_input_ids has 1 rows for 3 texts"),
        ("t5", {"decoder_start_token_id": [0, 1]}, "decoder_start_token_id has 2 rows for 3 texts"),
    ],
)
def test_faults_are_named(
    both: dict[str, Both], family: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        both[family].ours.generate_text(TEXTS, **options)


@pytest.mark.parametrize("family", ["pegasus", "mbart"])
def test_texts_that_are_too_long_are_told_by_their_place(
    both: dict[str, Both], family: str
) -> None:
    message = f"text 1 has .* tokens, and the encoder has {POSITIONS} positions: .*truncation=True"
    with pytest.raises(ValueError, match=message):
        both[family].ours.generate_text([TEXTS[0], LONG[0], LONG[0]])


MANY = [" ".join(TEXTS[2].split()[: 1 + 7 * number % 11]) for number in range(20)]


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("family", ["t5", "marian"])
def test_batches_change_nothing(
    both: dict[str, Both], family: str, options: dict[str, Any]
) -> None:
    """Sorted by length, three at a time, and one at a time: the same texts in the same order."""
    ours = both[family].ours
    whole = ours.generate_text(MANY, batch_size=len(MANY), **options)
    assert len(set(whole)) > 3
    for size in (1, 3, 16):
        assert ours.generate_text(MANY, batch_size=size, **options) == whole


def test_batches_are_of_like_lengths_and_the_longest_comes_first(
    both: dict[str, Both], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = both["t5"].ours
    widths: list[tuple[int, ...]] = []
    prefill = ours.decoder.prefill

    def watched(tokens: torch.Tensor, *args: Any, **options: Any) -> Any:
        widths.append(tuple(tokens.shape))
        return prefill(tokens, *args, **options)

    monkeypatch.setattr(ours.decoder, "prefill", watched)
    lengths = [len(row) for row in ours.text_job().read(MANY)]
    ours.generate_text(MANY, batch_size=6, max_new_tokens=1)
    tops = sorted(lengths, reverse=True)[::6]
    assert widths == list(zip((6, 6, 6, 2), tops, strict=True))
    widths.clear()
    # The seed of samples is drawn from in the order of the texts.
    ours.generate_text(MANY, batch_size=6, max_new_tokens=1, do_sample=True)
    firsts = [max(lengths[first : first + 6]) for first in range(0, 20, 6)]
    assert widths == list(zip((6, 6, 6, 2), firsts, strict=True))


@pytest.mark.parametrize("size", [1, 3, 20])
def test_what_is_said_of_each_text_follows_it_into_its_batch(
    both: dict[str, Both], size: int
) -> None:
    """Beginnings, start tokens, and what a function or a trie allows to a sample."""
    ours = both["t5"].ours
    tokens = [[20 + number, 60 + number] for number in range(len(MANY))]
    wanted = ours.tokenizer.decode(tokens)

    def allowed(sample: int, ids: torch.Tensor) -> list[int]:
        return [tokens[sample][len(ids) - 1]] if len(ids) < 3 else [1]

    trie = tritonseq.Trie.per_sample([[row] for row in tokens])
    for constraint in (allowed, trie):
        for beams in (1, 2):
            options: dict[str, Any] = {"num_beams": beams, "batch_size": size, "max_new_tokens": 4}
            texts = ours.generate_text(MANY, prefix_allowed_tokens_fn=constraint, **options)
            assert texts == wanted
    begun = torch.tensor([[0, *row] for row in tokens])
    for form in (begun, begun.tolist()):
        texts = ours.generate_text(
            MANY, batch_size=size, decoder_input_ids=form, max_new_tokens=1, suppress_tokens=[]
        )
        assert all(text.startswith(start) for text, start in zip(texts, wanted, strict=True))
    starts = [row[0] for row in tokens]
    texts = ours.generate_text(
        MANY, batch_size=size, decoder_start_token_id=starts, max_new_tokens=1
    )
    firsts = ours.tokenizer.decode([[start] for start in starts])
    assert all(text.startswith(start) for text, start in zip(texts, firsts, strict=True))


def test_samples_are_counted_when_several_are_drawn(both: dict[str, Both]) -> None:
    """As in `generate`, the function is told the text that a row belongs to."""
    samples: set[int] = set()

    def allowed(sample: int, ids: torch.Tensor) -> list[int]:
        samples.add(sample)
        return [20 + sample]

    ours = both["t5"].ours
    options: dict[str, Any] = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 1}
    texts = ours.generate_text(
        TEXTS, batch_size=2, prefix_allowed_tokens_fn=allowed, top_k=0, **options
    )
    assert samples == set(range(3))
    assert texts == ours.tokenizer.decode([[20 + row // 2] for row in range(6)])


def test_nothing_given_is_nothing_asked(both: dict[str, Both]) -> None:
    ours = both["t5"].ours
    nothing = {"input_ids": None, "attention_mask": None, "return_dict_in_generate": None}
    assert ours.generate_text(TEXTS, **nothing) == ours.generate_text(TEXTS)


@pytest.mark.parametrize(
    ("asked", "recommended", "wanted"),
    [
        ({"truncation": True}, 9, 9),
        ({"max_source_length": 7}, 9, 7),
        ({"max_source_length": 12, "truncation": True}, 9, 12),
        ({"max_source_length": 7}, 10**30, 7),
    ],
    ids=str,
)
def test_models_without_positions_cut_to_what_is_recommended_or_asked(
    tmp_path: Path, asked: dict[str, Any], recommended: int, wanted: int
) -> None:
    pair = both_of(tmp_path, "t5")
    config = {"tokenizer_class": "T5Tokenizer", "model_max_length": recommended}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = tritonseq.load(tmp_path, device="cpu")
    assert ours.tokenize(LONG, **asked)[0].shape == (2, wanted)
    same(
        ours.generate_text(LONG, **asked, max_new_tokens=8),
        pair.expected(LONG, positions=wanted, max_new_tokens=8),
    )


def test_positions_and_what_is_asked_the_smaller_counts(both: dict[str, Both]) -> None:
    ours = both["pegasus"].ours
    for length, wanted in ((POSITIONS - 5, POSITIONS - 5), (POSITIONS + 5, POSITIONS)):
        assert ours.tokenize(LONG, max_source_length=length)[0].shape == (2, wanted)


@pytest.mark.filterwarnings("default:this checkpoint writes")
@pytest.mark.parametrize(
    ("family", "silent"),
    [
        ("mbart50", {"tgt_lang": "de_DE"}),
        ("mbart50", {"forced_bos_token_id": 30}),
        ("mbart50", {"decoder_input_ids": [[2, 30]] * 3}),
        ("marian", {"tgt_lang": "deu"}),
        ("marian", {"prefix": ">>fra<< "}),
        ("mbart", {}),
        ("t5", {}),
    ],
    ids=str,
)
def test_a_language_that_nobody_chose_is_pointed_out(
    both: dict[str, Both], family: str, silent: dict[str, Any]
) -> None:
    ours = both[family].ours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.generate_text(TEXTS, max_new_tokens=2, **silent)
    if silent:
        with pytest.warns(UserWarning, match=r"writes \d+ languages .* pass tgt_lang"):
            ours.generate_text(TEXTS, max_new_tokens=2)


@pytest.mark.filterwarnings("error")
def test_what_a_task_brings_is_not_blamed_on_the_caller(both: dict[str, Both]) -> None:
    """The task's max_length and length_penalty were not asked for by the caller."""
    decoder = both["t5"].ours.decoder
    tasks = {"short": {"max_length": 9, "num_beams": 2, "length_penalty": 2.0}}
    own = tritonseq.GenerationConfig(max_new_tokens=20, decoder_start_token_id=0, eos_token_id=1)
    model = tritonseq.Model(decoder, own, None, tasks)
    ids = model.generate([[5, 6]], task="short", max_new_tokens=3, num_beams=1)
    assert ids.shape[1] <= 4
