"""`stop_strings` ends hypotheses where transformers does: any tokenizer, any search, any batch."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import seq2seq
import torch
import transformers
from pieces import BART, theirs, write_byte_pairs, write_checkpoint
from transformers import BartTokenizer, BertTokenizer, StopStringCriteria

import tritonseq
from tritonseq.decoding.stop_strings import StopStrings
from tritonseq.demo.run import EMBEDDED

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses"),
    pytest.mark.filterwarnings("ignore:this checkpoint writes"),
]
NETWORKS = {"t5": "t5", "marian": "marian", "bart": "bart", "bert": "bart"}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "fox", "##ing", "##ed", "jump", "stop", "##per", "over"]
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 4, "num_return_sequences": 3},
    "early": {"num_beams": 3, "early_stopping": True},
}


class Checkpoint:
    """A tokenizer and a model of transformers, and ours, of one folder."""

    def __init__(self, folder: Path, family: str) -> None:
        config: dict[str, Any] = {}
        if family == "bart":
            words = ["the quick brown fox jumps over lazy dogs in K\u00f6ln"] * 9
            self.tokenizer: Any = BartTokenizer.from_pretrained(
                write_byte_pairs(folder, words, BART)
            )
            self.tokenizer.save_pretrained(folder)
        elif family == "bert":
            folder.mkdir()
            letters = [*"abcdefghijklmnop,.!'", *(f"##{c}" for c in "abcdefghijklmn")]
            (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *letters, *WORDS]))
            self.tokenizer = BertTokenizer.from_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        else:
            self.tokenizer = theirs(write_checkpoint(folder, family), family)
        if family == "marian":
            pad = self.tokenizer.pad_token_id
            config = {"pad_token_id": pad, "decoder_start_token_id": pad, "bad_words_ids": [[pad]]}
            config |= {"eos_token_id": 0, "forced_eos_token_id": 0}
        size = len(self.tokenizer)
        self.model = seq2seq.hf_model(NETWORKS[family], vocab_size=size, **config)
        self.model.save_pretrained(folder)
        self.ours = tritonseq.load(folder, device="cpu")

    def cuts(self, ids: torch.Tensor, count: int, draw: random.Random) -> list[str]:
        """Parts of what the model writes, which begin and end where they happen to."""
        written = self.model.generate(ids, max_new_tokens=9)
        base = self.tokenizer("abcdef", add_special_tokens=False)["input_ids"]
        found = []
        for _ in range(count):
            row = written[draw.randrange(len(written)), 1:]
            text = self.tokenizer.decode([*base, *row.tolist()])[6:]
            first = draw.randrange(max(1, len(text) - 1))
            found.append(text[first : first + draw.choice((1, 2, 3, 5, 9))])
        return [text for text in found if text and "\N{REPLACEMENT CHARACTER}" not in text] or ["a"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("stops")
    return {family: Checkpoint(root / family, family) for family in NETWORKS}


@pytest.mark.parametrize("family", NETWORKS)
def test_ids_are_those_of_transformers(checkpoints: dict[str, Checkpoint], family: str) -> None:
    one, draw, ended = checkpoints[family], random.Random(family), 0
    for case, (name, search) in enumerate(SEARCHES.items()):
        ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(case))
        strings = one.cuts(ids, 1 + case % 3, draw)
        how = {"max_new_tokens": 9, **search}
        expected = one.model.generate(ids, stop_strings=strings, tokenizer=one.tokenizer, **how)
        found = one.ours.generate(ids, stop_strings=strings, hf_exact=True, **how)
        assert torch.equal(found, expected), (name, strings)
        plain = one.ours.generate(ids, hf_exact=True, **how)
        ended += plain.shape != found.shape or not torch.equal(plain, found)
    assert ended


@pytest.mark.parametrize("family", NETWORKS)
def test_pieces_are_those_of_transformers(checkpoints: dict[str, Checkpoint], family: str) -> None:
    one = checkpoints[family]
    mode = StopStringCriteria._get_stop_string_matching_mode(one.tokenizer)
    texts, ids = StopStringCriteria.clean_tokenizer_vocab(
        one.tokenizer, stop_string_matching_mode=mode
    )
    wanted = {
        token: text if isinstance(text, bytes) else text.encode()
        for token, text in zip(ids, texts, strict=True)
    }
    found = one.ours.tokenizer.pieces()
    if family == "marian":
        # transformers strips the text that it looks at, and so loses a lone space.
        (space,) = (token for token, piece in found.items() if piece == b" ")
        assert wanted.pop(space) == b"" and found.pop(space) == b" "
    assert found == wanted


def test_a_byte_may_be_a_token(tmp_path: Path) -> None:
    pieces = tritonseq.text.tokenizer.Tokenizer.from_folder(write_checkpoint(tmp_path, "byt5"))
    found = pieces.pieces()
    assert found[3 + 65] == b"A" and found[3 + 200] == bytes([200]) and found[1] == b"</s>"


@pytest.mark.parametrize("seed", range(6))
def test_the_automaton_finds_what_a_search_in_the_text_finds(seed: int) -> None:
    draw = random.Random(seed)

    def word(most: int) -> str:
        return "".join(draw.choices("ab\u00f6", k=draw.randint(1, most)))

    strings = [word(5) for _ in range(draw.randint(1, 4))]
    pieces = {token: word(4).encode() for token in range(1, 40)} | {40: b"", 41: b"\xb6", 42: b"x"}
    stops = StopStrings(strings, pieces, 50)
    tables = stops.on(torch.device("cpu"))
    for _ in range(40):
        ids = [draw.randrange(1, 43) for _ in range(12)]
        states, text = stops.behind(torch.tensor([ids[:3]]), None)[:, 0], b""
        for place, token in enumerate(ids):
            before, text = len(text), text + pieces[token]
            if place < 3:
                continue
            ends = [
                at + len(string.encode())
                for string in strings
                for at in range(len(text))
                if text.startswith(string.encode(), at)
            ]
            found = tables.is_complete(states, torch.tensor([token]))
            assert bool(found) == any(end > before for end in ends)
            states = tables.after(states, torch.tensor([token]))
    # A token that is none of the tokenizer's, and pads before a prompt, break a string.
    broken = stops.behind(torch.tensor([[1, 0], [45, 1]]), torch.tensor([2, 1]))
    assert broken[0] == 0 and broken[1] == tables.after(torch.tensor([0]), torch.tensor([1]))


def test_prompts_may_begin_a_string() -> None:
    """As in transformers, also where they are padded."""
    folder = EMBEDDED / "gpt2-words"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    ours = tritonseq.load(folder, device="cpu")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts = ["three plus four is", "nine plus nineteen is"]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    plain = tokenizer.batch_decode(model.generate(**batch, max_new_tokens=6), True)
    strings = ["is" + plain[0].partition(" is")[2][:2], "plus", "zz"]
    how: dict[str, Any] = {"max_new_tokens": 6, "pad_token_id": tokenizer.pad_token_id}
    wanted = model.generate(**batch, stop_strings=strings, tokenizer=tokenizer, **how)
    found = ours.generate(batch["input_ids"], batch["attention_mask"], stop_strings=strings, **how)
    assert torch.equal(found, wanted)
    lengths = (found != how["pad_token_id"]).sum(dim=1) - batch["attention_mask"].sum(dim=1)
    assert lengths[0] == 1, "the prompt has begun what its first token completes"


@pytest.mark.parametrize(
    "search",
    [
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 2, "max_time": 99.0},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "early_stopping": "never"},
    ],
)
def test_they_do_what_a_criterion_on_the_host_does(
    checkpoints: dict[str, Checkpoint], search: dict[str, Any]
) -> None:
    one = checkpoints["bart"]
    ids = torch.randint(5, 40, (2, 6), generator=torch.Generator().manual_seed(9))
    strings, how = one.cuts(ids, 3, random.Random(2)), {"max_new_tokens": 10, **search}
    criterion = StopStringCriteria(one.tokenizer, strings)
    torch.manual_seed(0)
    wanted = one.ours.generate(ids, stopping_criteria=[criterion], **how)
    torch.manual_seed(0)
    assert torch.equal(one.ours.generate(ids, stop_strings=strings, **how), wanted)


@pytest.mark.parametrize("search", [{}, {"num_beams": 2}])
def test_refilled_slots_and_pipelines_end_there_too(search: dict[str, Any]) -> None:
    model = tritonseq.load(EMBEDDED / "bart-numbers", device="cpu")
    texts = [f"The bill is {n} euros." for n in (1234, 5, 77, 100200, 31, 9000, 12, 456)]
    how = {"stop_strings": ["hund", "y-"], "num_return_sequences": 1, **search}
    alone = [model.generate_text([text], **how)[0] for text in texts]
    assert alone[0].endswith("one thousand two hundred")
    assert alone[2].endswith("seventy-")
    assert model.generate_text(texts, batch_size=3, **how) == alone
    for refill in (True, False):
        results = tritonseq.pipeline(model, texts, batch_size=3, refill=refill, **how)
        assert [result.text for result in results] == alone


@pytest.mark.long
def test_processes_know_them() -> None:
    texts = [f"The bill is {n} euros." for n in (1234, 5, 77)]
    found = tritonseq.pipeline(
        str(EMBEDDED / "bart-numbers"), texts, devices=("cpu",), stop_strings="hundred"
    )
    assert next(iter(found)).text.endswith("one thousand two hundred")


def test_unilm_ends_hypotheses_by_them() -> None:
    model = tritonseq.load(EMBEDDED / "unilm-clock", device="cpu")
    text = "we met at half past seven ."
    (whole,) = model.generate_text([text], num_beams=2)
    stop = whole[:2]
    (cut,) = model.generate_text([text], num_beams=2, stop_strings=stop)
    assert stop in cut and len(cut) < len(whole) and whole.startswith(cut)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "an empty string, which ends every text"),
        (["a", ""], "an empty string, which ends every text"),
        ([], "is empty: leave it out"),
        (["a", 3], "must be a string or a list of strings"),
        (3, "must be a list"),
        ("a" * 501, "has 501 bytes, and 500 are the most"),
        ("a\ud800", "not valid Unicode"),
    ],
)
def test_what_is_no_string(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tritonseq.GenerationConfig(stop_strings=value)


def test_what_cannot_be_is_refused(checkpoints: dict[str, Checkpoint]) -> None:
    one = checkpoints["bert"]
    with pytest.raises(ValueError, match="no token of the vocabulary can complete one"):
        one.ours.generate([[5]], stop_strings=["\u4e2d"])
    with pytest.raises(ValueError, match=r"stop_strings needs the checkpoint's tokenizer: a model"):
        tritonseq.from_transformers(one.model).generate([[5]], stop_strings="a")
    with pytest.raises(ValueError, match="filled up with pad_token_id, and the model has none"):
        one.ours.generate([[5]], stop_strings="a", pad_token_id=None, eos_token_id=None)
    with pytest.raises(ValueError, match="use the checkpoint's own: leave it out"):
        one.ours.generate([[5]], stop_strings="a", tokenizer=one.tokenizer)
