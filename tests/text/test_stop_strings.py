"""`stop_strings` ends hypotheses where transformers does: any tokenizer, any search, any batch."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import seq2seq
import torch
from pieces import BART, theirs, write_byte_pairs, write_checkpoint
from transformers import BartTokenizer, BertTokenizer

import tritonseq

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses"),
    pytest.mark.filterwarnings("ignore:this checkpoint writes"),
]
NETWORKS = {
    "t5": "t5",
    "pegasus": "pegasus",
    "mbart": "mbart",
    "marian": "marian",
    "bart": "bart",
    "bert": "bart",
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "fox", "##ing", "##ed", "jump", "stop", "##per", "over"]
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 4, "num_return_sequences": 3},
    "early": {"num_beams": 3, "early_stopping": True},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tokenizer and a model of transformers, and ours, of one folder for each family."""
    root = tmp_path_factory.mktemp("stops")
    return {family: _pair(root / family, family) for family in NETWORKS}


def _pair(folder: Path, family: str) -> tuple[Any, Any, tritonseq.Model]:
    config: dict[str, Any] = {}
    if family == "bart":
        words = ["the quick brown fox jumps over lazy dogs in K\u00f6ln"] * 9
        tokenizer = BartTokenizer.from_pretrained(write_byte_pairs(folder, words, BART))
        tokenizer.save_pretrained(folder)
    elif family == "bert":
        folder.mkdir()
        pieces = [*SPECIAL, *"abcdefghijklmnop,.!'", *(f"##{c}" for c in "abcdefghijklmn"), *WORDS]
        (folder / "vocab.txt").write_text("\n".join(pieces))
        tokenizer = BertTokenizer.from_pretrained(folder)
        tokenizer.save_pretrained(folder)
    else:
        tokenizer = theirs(write_checkpoint(folder, family), family)
    if family == "marian":
        pad = tokenizer.pad_token_id
        config = {"pad_token_id": pad, "decoder_start_token_id": pad, "bad_words_ids": [[pad]]}
        config |= {"eos_token_id": 0, "forced_eos_token_id": 0}
    model = seq2seq.hf_model(NETWORKS[family], vocab_size=len(tokenizer), **config)
    model.save_pretrained(folder)
    return tokenizer, model, tritonseq.load(folder, device="cpu")


def _strings(
    tokenizer: Any, model: Any, ids: torch.Tensor, count: int, draw: random.Random
) -> list[str]:
    """Cuts of what the model writes, which begin and end where they happen to."""
    written = model.generate(ids, max_new_tokens=12)
    base = tokenizer("abcdef", add_special_tokens=False)["input_ids"]
    found = []
    while len(found) < count:
        row = written[draw.randrange(len(written)), 1:]
        text = tokenizer.decode([*base, *row.tolist()])[6:]
        first = draw.randrange(max(1, len(text) - 1))
        found.append(text[first : first + draw.choice((1, 2, 3, 5, 9))])
    return [string for string in found if string and "\N{REPLACEMENT CHARACTER}" not in string] or [
        " "
    ]


@pytest.mark.parametrize("family", NETWORKS)
def test_ids_are_those_of_transformers(pairs: dict[str, Any], family: str) -> None:
    tokenizer, model, ours = pairs[family]
    draw = random.Random(family)
    ended = 0
    for case, (name, search) in enumerate([*SEARCHES.items()] * 2):
        ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(case))
        strings = _strings(tokenizer, model, ids, 1 + case % 3, draw)
        how = {"max_new_tokens": 12, **search}
        expected = model.generate(ids, stop_strings=strings, tokenizer=tokenizer, **how)
        found = ours.generate(ids, stop_strings=strings, hf_exact=True, **how)
        ended += expected.shape != model.generate(ids, **how).shape or not torch.equal(
            expected, model.generate(ids, **how)
        )
        assert torch.equal(found, expected), (
            name,
            strings,
            [tokenizer.batch_decode(x) for x in (expected, found)],
        )
    assert ended >= 2
