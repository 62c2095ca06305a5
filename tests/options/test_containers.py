"""Containers of texts and ids: understood, or refused by name before anything runs."""

from __future__ import annotations

import io
from array import array
from collections import UserDict, namedtuple
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch

import tritonseq
from tritonseq.demo.run import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings('ignore:with search="unilm", no effect of')

TEXTS = ["march the third", "may first 1999"]


@cache
def load(name: str = "t5-dates") -> tritonseq.Model:
    return tritonseq.load(EMBEDDED / name, device="cpu")


class DataFrame:
    """What pandas and polars have in common: to iterate over it gives the names of columns."""

    columns = ("id", "text")
    shape = (2, 2)

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


class PolarsFrame(DataFrame):
    def with_columns(self) -> None: ...


class Series:
    """A column of pandas."""

    dtype, ndim, shape = "object", 1, (2,)

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[str]:
        return iter(TEXTS)


class Arrow:
    """An array of pyarrow, whose items are no strings."""

    def __iter__(self) -> Iterator[object]:
        return iter([object(), object()])

    def to_pylist(self) -> list[str]:
        return TEXTS


class ArrowTable(Arrow):
    column_names: ClassVar[list[str]] = ["id", "text"]


class Dataset:
    """Rows as datasets has them."""

    column_names: ClassVar[list[str]] = ["id", "text"]

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter([{"id": "a", "text": text} for text in TEXTS])


class Loader:
    collate_fn = None

    def __iter__(self) -> Iterator[list[str]]:
        return iter([TEXTS])


class Reader:
    line_num = 0

    def __iter__(self) -> Iterator[list[str]]:
        return iter([["a", "b"]])


class Cursor:
    def fetchall(self) -> list[tuple[str]]:
        return []

    def __iter__(self) -> Iterator[tuple[str]]:
        return iter([("a",)])


Row = namedtuple("Row", ["id", "text"])
ROWS = [{"id": "a", "text": text} for text in TEXTS]

REFUSED: dict[str, tuple[Any, str]] = {
    "text": (TEXTS[0], r"wrap a single text as \[text\]"),
    "dictionary": ({"text": TEXTS}, r"a dict with keys 'text': .* mapping\['text'\]"),
    "encoding": (UserDict(text=TEXTS), r"a UserDict with keys 'text'"),
    "rows": (ROWS, r"holds dictionaries with keys 'id', 'text': .*row\['text'\] for row"),
    "tuple of rows": (tuple(ROWS), "holds dictionaries"),
    "named rows": ([Row("a", "b")], r"rows of the fields id, text: .*row\.text"),
    "table": (DataFrame(), r"DataFrame with columns 'id', 'text': .*table\['text'\].tolist\(\)"),
    "polars": (PolarsFrame(), r"table\['text'\].to_list\(\)"),
    "dataset": (Dataset(), r"Dataset with columns 'id', 'text': .*table\['text'\]$"),
    "arrow": (Arrow(), r"pass array.to_pylist\(\)"),
    "arrow table": (ArrowTable(), r"table\['text'\].to_pylist\(\)"),
    "bytes": (b"march", r"is a bytes, which is not decoded"),
    "memory": (memoryview(b"march"), "memoryview"),
    "set": (set(TEXTS), r"is a set, which has no order: pass sorted\(texts\)"),
    "frozen set": (frozenset(TEXTS), "no order"),
    "path": (Path("texts.txt"), r"read the file, path.read_text\(\).splitlines\(\)"),
    "file": (io.StringIO("march\n"), "whose lines keep their ends"),
    "bytes file": (io.BytesIO(b"march\n"), "whose lines keep their ends"),
    "items": ({"a": "b"}.items(), "of pairs"),
    "pairs": (zip("ab", "cd", strict=True), "of pairs"),
    "numbered": (enumerate(TEXTS), "of pairs"),
    "batches": (Loader(), "which gives batches: pass loader.dataset"),
    "csv": (Reader(), "several fields"),
    "cursor": (Cursor(), "whose rows are tuples"),
    "table of strings": (np.array([TEXTS]), "ndarray of 2 dimensions"),
    "no dimensions": (np.array("march"), "of 0 dimensions"),
    "bytes array": (np.array([b"march"]), "array of bytes: pass texts.astype"),
    "numbers array": (np.arange(3), "of int64, not of texts"),
    "tensor": (torch.arange(3), "of torch.int64, not of texts"),
    "pairs of texts": ([("march", "may")], "holds tuples, such as .*pair.0. for pair in pairs"),
    "empty tuple": ([()], "holds tuples"),
    "nothings": ([None, "a"], "text 0 is None, no text and no list of tokens"),
    "numbers": ([1, 2], "text 0 is 1, no text"),
    "paths": ([Path("a")], "text 0 is PosixPath"),
    "lists of lists": ([[["a"]]], "text 0 is ..'a'.., no text"),
    "bytes in a list": ([b"a"], "text 0 is b'a'"),
    "structured": (
        np.array([(1, "a")], dtype=[("id", int), ("text", "U4")]),
        r"ndarray with columns 'id', 'text': .*array\['text'\].tolist\(\)",
    ),
    "key iterator": (iter({"a": 1}), "a dict_keyiterator over the keys"),
    "reversed keys": (reversed({"a": 1}), "over the keys of a dictionary"),
    "letters": (iter("march"), r"over single letters: wrap a single text as \[text\]"),
    "other letters": (iter("m\xe4rz"), "over single letters"),
    "set iterator": (iter(set(TEXTS)), "has no order"),
    "array of letters": (array("b", b"march"), "an array of single characters"),
    "class": (list, "must be a list or another iterable of texts, not <class 'list'>"),
    "nothing": (None, "must be a list or another iterable of texts, not None"),
    "number": (7, "must be a list or another iterable of texts, not 7"),
}

UNDERSTOOD: dict[str, Any] = {
    "list": lambda: TEXTS,
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "iterator": lambda: iter(TEXTS),
    "map": lambda: map(str, TEXTS),
    "keys": lambda: dict.fromkeys(TEXTS).keys(),
    "values": lambda: dict(enumerate(TEXTS)).values(),
    "array": lambda: np.array(TEXTS),
    "object array": lambda: np.array(TEXTS, dtype=object),
    "array strings": lambda: list(np.array(TEXTS)),
    "series": Series,
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_list_of_texts_is_refused_with_the_remedy(case: str) -> None:
    texts, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        load().generate_text(texts)
    with pytest.raises(ValueError, match=message):
        tritonseq.pipeline(load(), texts)


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_whatever_has_an_order_is_a_list_of_texts(case: str) -> None:
    wanted = load().generate_text(TEXTS)
    assert load().generate_text(UNDERSTOOD[case]()) == wanted
    results = tritonseq.pipeline(load(), UNDERSTOOD[case]())
    assert [result.text for result in results] == wanted


def test_rows_of_an_iterator_are_refused_when_the_first_one_comes() -> None:
    with pytest.raises(ValueError, match="holds dictionaries"):
        load().generate_text(iter(ROWS))
    with pytest.raises(ValueError, match="holds dictionaries"):
        list(tritonseq.pipeline(load(), iter(ROWS)))
    for odd in (None, 7, ("march", "may"), Path("a"), [5]):
        with pytest.raises(ValueError, match=r"^text 0 is|holds tuples"):
            load().generate_text(iter([odd]))
        with pytest.raises(ValueError, match=r"^text 0 is|holds tuples"):
            list(tritonseq.pipeline(load(), iter([odd])))


@pytest.mark.parametrize("name", ["t5-dates", "gpt2-words", "unilm-clock"])
def test_lists_of_texts_are_no_lists_of_tokens(name: str) -> None:
    """And of the latter, one that is faulty spoils no other."""
    with pytest.raises(ValueError, match="of the vocabulary"):
        load(name).generate_text([["march the third"]])
    lists = np.empty(2, dtype=object)
    lists[:] = [["march the third"], ["may the first"]]
    for texts in ([["march the third"], ["may the first"]], lists):
        with pytest.raises(ValueError, match="none of whose strings is a token of the vocabulary"):
            list(tritonseq.pipeline(load(name), texts))


def test_tuples_are_no_lists_of_tokens() -> None:
    """Pairs of texts are tuples, also where both are words of the vocabulary."""
    model = load("unilm-clock")
    tokens = ["at", "noon"]
    assert model.generate_text([tokens, "at noon"])[0]
    with pytest.raises(ValueError, match=r"^text 1\b"):
        model.generate_text([tokens, tuple(tokens)])
    first, second = tritonseq.pipeline(model, [tokens, tuple(tokens)])
    assert (first.fault, second.text) == (None, "")
    assert second.fault is not None and "no text and no list of tokens" in second.fault


@pytest.mark.parametrize("name", ["t5-dates", "gpt2-words", "bart-numbers", "unilm-clock"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_blank_texts_have_blank_outputs(name: str, options: dict[str, Any]) -> None:
    model, copies = load(name), options.get("num_return_sequences", 1)
    text = "three plus four"
    alone = model.generate_text([text], **options)
    assert model.generate_text([], **options) == []
    assert model.generate_text(iter(()), **options) == []
    for blank in ("", " ", "\t\n", [], ["", " "]):
        assert model.generate_text([blank], **options) == [""] * copies
    mixed: list[Any] = ["", text, " ", text, []]
    answers = model.generate_text(mixed, batch_size=2, **options)
    assert answers == [""] * copies + alone + [""] * copies + alone + [""] * copies
    results = list(tritonseq.pipeline(model, mixed, **options))
    assert [one for result in results for one in result.texts] == answers


def test_blank_texts_keep_their_place_in_arguments_that_speak_of_places() -> None:
    model = load("bart-numbers")
    begun = [[2, 5], [2, 6], [2, 7]]
    both = model.generate_text(["three", "", "four"], decoder_input_ids=begun)
    assert both[1] == ""
    assert both[::2] == model.generate_text(["three", "four"], decoder_input_ids=begun[::2])


@pytest.mark.parametrize("fault", [None, 7, 1.5, b"x", "\ud800", {"a": 1}, object(), [["x"]]])
def test_faulty_texts_are_told_by_their_place(fault: Any) -> None:
    with pytest.raises(ValueError, match=r"^text 2\b"):
        load().generate_text(["march", "", fault])
    results = list(tritonseq.pipeline(load(), ["march", "", fault]))
    assert [result.fault is None for result in results] == [True, True, False]


def test_texts_that_are_too_long_are_told_by_their_place() -> None:
    with pytest.raises(ValueError, match=r"^text 2 has "):
        load("bart-numbers").generate_text(["three", "", "three " * 90])


@cache
def gpt2() -> tritonseq.Model:
    return load("gpt2-words")


IDS: dict[str, tuple[Any, str]] = {
    "dictionary": ({"input_ids": [[5]]}, r"generate\(\*\*encoding\)"),
    "table": (DataFrame(), "DataFrame with columns"),
    "dataset": (Dataset(), "Dataset with columns"),
    "bytes": (b"ab", r"is a bytes: pass list\(\w+\) if its bytes are ids"),
    "bytes in rows": ([b"ab"], r"input_ids\[0\] is a bytes"),
    "set": ({(5, 6)}, "no order"),
    "set in rows": ([{5, 6}], r"input_ids\[0\] is a set.*: pass input_ids\[0\] as a list"),
    "dictionary in rows": ([{5: 6}], r"input_ids\[0\] must be"),
    "file": (io.StringIO("5"), "keep their ends"),
    "path": (Path("ids"), "must be a tensor or lists of token ids, not PosixPath"),
    "text in rows": ([[5, "a"]], r"input_ids\[0\]\[1\] is 'a': token ids must be integers"),
    "nothing in rows": ([[5], [None, 6]], r"input_ids\[1\]\[0\] is None"),
    "truths in rows": ([[True], [1, 2]], r"input_ids\[0\]\[0\] is True"),
    "huge": ([[5, 2**70]], r"input_ids\[0\]\[1\] is 11805.*, outside every vocabulary"),
    "deep": ([[[5]]], r"input_ids\[0\]\[0\] is \[5\]"),
    "strings": (np.array([["5"]]), r"input_ids\[0\]\[0\] is '5'"),
    "nothing": ([None, [5]], r"input_ids\[0\] is None"),
    "number": (5, "must be a tensor or lists of token ids, not int"),
    "no dimensions": (np.array(5), "must be a tensor or lists of token ids, not int"),
    "tensor without values": (torch.ones(1, 2, device="meta").long(), "on the meta device"),
    "sparse": (torch.tensor([[5, 6]]).to_sparse(), r"torch.sparse_coo: .*to_dense\(\)"),
    "compressed": (torch.tensor([[5, 6]]).to_sparse_csr(), "torch.sparse_csr"),
    "nested": (torch.nested.nested_tensor([torch.tensor([5, 6])]), "tensor nested"),
    "jagged": (
        torch.nested.nested_tensor([torch.tensor([5, 6])], layout=torch.jagged),
        "tensor nested",
    ),
    "row without values": ([torch.ones(2, device="meta").long()], r"input_ids\[0\] is a tensor"),
    "no tensor of rows": (torch.tensor(5), r"must have shape \[B, P\], not \[\]"),
    "complex": (torch.tensor([[5j]]), "must be integers, not torch.complex64"),
    "whole floats": (torch.tensor([[5.0]]), "must be integers, not torch.float32"),
    "with a gradient": (torch.ones(1, 2, requires_grad=True), "must be integers"),
    "too large": (torch.tensor([[2**63 + 1]], dtype=torch.uint64), "token id 9223372036854775809"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", IDS)
def test_ids_of_other_kinds_are_refused(case: str) -> None:
    ids, message = IDS[case]
    for arguments in ({"input_ids": ids}, {"inputs": ids}):
        with pytest.raises(ValueError, match=message):
            gpt2().generate(**arguments)
    with pytest.raises(ValueError, match=message):
        gpt2().stream(ids)
    with pytest.raises(ValueError, match=r"decoder_input_ids|token id"):
        load("bart-numbers").generate([[5, 6]], decoder_input_ids=ids)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint16, ">i4", np.int8])
def test_ids_may_be_of_any_integers(dtype: Any) -> None:
    wanted = gpt2().generate([[5, 6], [7, 8]], max_new_tokens=3)
    ids = np.array([[5, 6], [7, 8]], dtype=dtype)
    rows: list[Any] = [
        ids, ids[:, ::-1][:, ::-1], list(ids), map(list, ids.tolist()),
        [torch.tensor([5, 6]), torch.tensor([7, 8])], (iter(row) for row in ids.tolist()),
    ]  # fmt: skip
    if dtype in (np.int64, np.uint64, np.uint16, np.int8):
        rows.append(torch.from_numpy(ids))
    for given in rows:
        assert torch.equal(gpt2().generate(given, max_new_tokens=3), wanted)


def test_ids_may_be_a_negated_view() -> None:
    wanted = gpt2().generate([[5, 6]], max_new_tokens=3)
    ids = torch._neg_view(torch.tensor([[-5, -6]]))
    assert torch.equal(gpt2().generate(ids, max_new_tokens=3), wanted)
    assert torch.equal(gpt2().generate([ids[0]], max_new_tokens=3), wanted)
    ((_, found),) = gpt2().generate_each(ids, max_new_tokens=3)
    assert torch.equal(found.reshape(wanted.shape), wanted)
    wanted = load("bart-numbers").generate([[5, 6]])
    assert torch.equal(load("bart-numbers").generate(ids), wanted)


MASKS: dict[str, Any] = {
    "twos": torch.tensor([[1, 2]]), "negative": torch.tensor([[-1, 1]]), "half": [[0.5, 1.0]],
    "nan": torch.tensor([[float("nan"), 1.0]]), "infinite": [[float("inf"), 1.0]],
    "complex": torch.tensor([[1j, 1]]), "meta": torch.ones(1, 2, device="meta"),
    "sparse": torch.ones(1, 2).to_sparse(), "text": "11", "strings": [["1", "1"]],
    "nothing": [[None, 1]], "ragged": [[1], [1, 1]], "number": 1, "flat": torch.ones(2),
    "deep": torch.ones(1, 1, 2), "object": object(), "dictionary": {}, "empty": [],
    "huge": [[2**70, 1]], "nested": torch.nested.nested_tensor([torch.ones(2)]),
    "float8": torch.ones(1, 2).to(torch.float8_e4m3fn),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", MASKS)
def test_masks_of_other_kinds_are_refused(case: str) -> None:
    with pytest.raises(ValueError, match="attention_mask"):
        gpt2().generate([[5, 6]], attention_mask=MASKS[case])
    with pytest.raises(ValueError, match="attention_mask"):
        load("bart-numbers").generate([[5, 6]], attention_mask=MASKS[case])
    if case not in ("flat", "deep", "number", "empty"):
        with pytest.raises(ValueError, match="decoder_attention_mask"):
            load("bart-numbers").generate([[5, 6]], decoder_attention_mask=MASKS[case])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.uint64, torch.half, torch.double])
def test_masks_may_be_of_any_numbers(dtype: torch.dtype) -> None:
    ids, mask = torch.tensor([[1, 5], [6, 7]]), torch.tensor([[0, 1], [1, 1]])
    wanted = gpt2().generate(ids, mask, max_new_tokens=3)
    assert torch.equal(gpt2().generate(ids, mask.to(dtype), max_new_tokens=3), wanted)


def test_inputs_of_generate_each_are_told_by_their_place() -> None:
    for inputs in (
        None,
        5,
        "ab",
        {"a": [5]},
        {5},
        DataFrame(),
        iter([[5]]),
        b"ab",
        torch.tensor(5),
    ):
        with pytest.raises(ValueError, match=r"^inputs "):
            gpt2().generate_each(inputs)  # type: ignore[arg-type]
    for fault in (
        None,
        [],
        [None],
        "ab",
        [10**6],
        [5.5],
        torch.ones(2),
        torch.ones(2, device="meta"),
    ):
        with pytest.raises(ValueError, match=r"^inputs\[1\]: "):
            gpt2().generate_each([[5], fault])  # type: ignore[list-item]


class TestArguments:
    FAULTS: ClassVar[dict[str, tuple[dict[str, Any], str]]] = {
        "class of processors": ({"logits_processor": torch.nn.Linear}, "the class Linear"),
        "module": ({"logits_processor": torch.nn.Identity()}, "cannot be called with"),
        "one argument": ({"logits_processor": lambda ids: ids}, "cannot be called with"),
        "set of them": ({"logits_processor": {len}}, "must hold callables"),
        "criterion": ({"stopping_criteria": lambda: True}, "cannot be called with"),
        "prefix": ({"prefix_allowed_tokens_fn": lambda ids: [5]}, "cannot be called with"),
        "class of streamers": ({"streamer": io.StringIO}, "streamer is the class StringIO"),
        "put is no function": (
            {"streamer": type("S", (), {"put": 5, "end": 5})()}, "must have put and end"
        ),
        "twice": ({"inputs": [[5, 6]]}, "another name of input_ids"),
        "segments": ({"token_type_ids": [[0, 0]]}, "token_type_ids=.* GPT-2 would add"),
        "config as path": ({"generation_config": Path("x")}, "generation_config must be"),
        "config as class": (
            {"generation_config": tritonseq.GenerationConfig}, "generation_config must be"
        ),
        "truth": ({"max_new_tokens": True}, "max_new_tokens must be an integer"),
        "float": ({"max_new_tokens": 3.0}, "max_new_tokens must be an integer"),
        "no value": ({"max_new_tokens": torch.ones((), device="meta")}, "max_new_tokens"),
        "slots": ({"slots": 3}, "slots"),
        "number without value": (
            {"temperature": torch.ones((), device="meta"), "do_sample": True}, "temperature"
        ),
        "list without values": (
            {"suppress_tokens": torch.ones(2, device="meta").long()}, "suppress_tokens"
        ),
        "key": ({"generation_config": {5: 3}}, "generation_config has the key 5"),
    }  # fmt: skip

    @pytest.mark.parametrize("case", FAULTS)
    def test_they_are_named(self, case: str) -> None:
        arguments, message = self.FAULTS[case]
        with pytest.raises(ValueError, match=message):
            gpt2().generate([[5, 6]], **{"max_new_tokens": 3, **arguments})

    def test_a_dictionary_is_a_configuration_and_numbers_may_be_of_numpy(self) -> None:
        wanted = gpt2().generate([[5, 6]], max_new_tokens=3)
        config = {"max_new_tokens": 3}
        assert torch.equal(gpt2().generate([[5, 6]], generation_config=config), wanted)
        assert torch.equal(gpt2().generate([[5, 6]], max_new_tokens=np.int32(3)), wanted)

    @pytest.mark.parametrize(
        "change",
        [
            lambda scores: scores.long(), lambda scores: scores > 0, lambda scores: scores + 1j,
            lambda scores: scores.to("meta"), lambda scores: scores.to_sparse(),
            lambda scores: scores[:, :5], lambda scores: None, lambda scores: scores.numpy(),
        ],
    )  # fmt: skip
    def test_a_processor_returns_what_it_was_given(self, change: Any) -> None:
        with pytest.raises(ValueError, match="logits_processor"):
            gpt2().generate([[5, 6]], logits_processor=lambda ids, scores: change(scores))

    def test_scores_of_other_precision_are_taken(self) -> None:
        wanted = gpt2().generate([[5, 6]], max_new_tokens=3)
        found = gpt2().generate(
            [[5, 6]], max_new_tokens=3, logits_processor=lambda ids, scores: scores.double()
        )
        assert torch.equal(found, wanted)

    @pytest.mark.parametrize("verdict", [None, "no", 1, [0.5], object(), torch.ones(7).bool()])
    def test_a_criterion_returns_truths(self, verdict: Any) -> None:
        with pytest.raises(ValueError, match="stopping criterion"):
            gpt2().generate([[5, 6]], stopping_criteria=lambda ids, scores: verdict)
