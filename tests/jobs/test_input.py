"""The input of a job: every line becomes a sample or a fault, whatever bytes it is made of."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import threading
import tracemalloc
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from tritonseq.errors import JobFailed
from tritonseq.jobs.input import InputFile

if TYPE_CHECKING:
    from pathlib import Path

    from tritonseq.stages.sample import Sample


def read(data: bytes, **options: Any) -> list[Sample]:
    return list(InputFile("-", stream=io.BytesIO(data), **options))


def read_json(*lines: str, **options: Any) -> list[Sample]:
    return read("\n".join(lines).encode(), format="json", **options)


def only(samples: list[Sample]) -> Sample:
    (sample,) = samples
    return sample


PIECES = (
    b"\n",
    b"\n",
    b"\r\n",
    b"\r",
    b"a",
    b"word ",
    b"\xc3\xa4",
    b"\xff",
    b"\0",
    b"\xe2\x80\xa8",
)
PIECES += (b"\x0b\x0c\x1c\x85"[:3], b"\xef\xbb\xbf", b" ", b"\t", b"\xf0\x9f\x98", b"long" * 9)


def naive(data: bytes, longest: int) -> list[tuple[int, str | None]]:
    """Checksum and text of each line; None where it is too long or no UTF-8."""
    lines = data.split(b"\n")
    ended = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    result: list[tuple[int, str | None]] = []
    for number, line in enumerate(ended):
        body = line[:-1] if line.endswith(b"\n") else line
        body = body[:-1] if body.endswith(b"\r") else body
        try:
            text = body.decode() if len(body) <= longest else None
        except UnicodeDecodeError:
            text = None
        if text is not None and number == 0 and text.startswith("\ufeff"):
            text = text[1:]
        result.append((zlib.crc32(b"".join(ended[: number + 1])), text))
    return result


def random_bytes(rng: random.Random) -> bytes:
    return b"".join(rng.choices(PIECES, k=rng.randrange(60)))


@pytest.mark.parametrize("seed", range(300))
def test_any_bytes_are_read_as_their_definition_says(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    data, longest = random_bytes(rng), rng.choice([1, 5, 30, 1000])
    path = tmp_path / "input"
    members = [data[: len(data) // 3], data[len(data) // 3 :]]
    path.write_bytes(b"".join(map(gzip.compress, members)) if seed % 2 else data)
    source = InputFile(path, longest=longest, copies=2)
    samples = list(source)
    expected = naive(data, longest)
    assert [sample.number for sample in samples] == list(range(len(expected)))
    assert [(sample.digest, sample.text) for sample in samples] == expected
    assert source.count_lines() == (None if seed % 2 else len(expected))
    for sample in samples:
        blank = sample.text is not None and not sample.text.strip()
        assert sample.completion.texts == (["", ""] if blank else None)
        assert (sample.completion.fault is None) == (sample.text is not None)


@pytest.mark.parametrize("seed", range(100))
def test_skipping_goes_on_where_reading_stopped(seed: int) -> None:
    rng = random.Random(seed)
    data, longest = random_bytes(rng), rng.choice([3, 1000])
    samples = read(data, longest=longest)
    done = rng.randint(0, len(samples))
    source = InputFile("-", stream=io.BytesIO(data), longest=longest)
    source.skip(done, samples[done - 1].digest if done else 0)
    assert list(source) == samples[done:]


def test_skipping_refuses_another_input() -> None:
    digest = read(b"a\nb\n")[-1].digest
    cases = {b"a\n": "1 are left", b"a\nB\n": "first 2 lines are others", b"a\nb": "others"}
    for data, message in cases.items():
        with pytest.raises(ValueError, match=rf"stdin is not what .*{message}.*--overwrite"):
            InputFile("-", stream=io.BytesIO(data)).skip(2, digest)
    grown = InputFile("-", stream=io.BytesIO(b"a\nb\nc"))
    grown.skip(2, digest)
    assert only(list(grown)).text == "c"


def test_a_limit_counts_from_the_first_line() -> None:
    data = b"a\n\nc\nd"
    assert [sample.text for sample in read(data, limit=3)] == ["a", "", "c"]
    assert len(read(data, limit=9)) == 4
    source = InputFile("-", stream=io.BytesIO(data), limit=3)
    source.skip(2, zlib.crc32(b"a\n\n"))
    assert only(list(source)).text == "c"
    source = InputFile("-", stream=io.BytesIO(data), limit=1)
    source.skip(2, zlib.crc32(b"a\n\n"))
    assert list(source) == []
    with pytest.raises(ValueError, match="limit is 0 lines"):
        read(data, limit=0)


@pytest.mark.parametrize(
    ("data", "limit", "count"),
    [(b"", None, 0), (b"a", None, 1), (b"\n\n", None, 2), (b"a\nb", None, 2), (b"a\nb", 1, 1)],
)
def test_lines_are_counted_before_they_are_read(
    data: bytes, limit: int | None, count: int, tmp_path: Path
) -> None:
    (tmp_path / "input").write_bytes(data)
    source = InputFile(tmp_path / "input", limit=limit)
    assert source.count_lines() == count == len(list(source))


def test_faults_of_text_say_where() -> None:
    first, second, third = read(b"caf\xe9 ole\nabcdef\nab\0c", longest=8)
    wanted = "invalid UTF-8: byte 4 of the line, 0xe9 (invalid continuation byte)"
    assert first.completion.fault == wanted
    assert (second.text, third.text) == ("abcdef", "ab\0c")
    fault = only(read(b"abcdef", longest=5)).completion.fault
    assert fault == "the line has more than 5 bytes: split it"


def test_a_line_without_end_takes_no_memory() -> None:
    class Endless(io.RawIOBase):
        left = 200 << 20

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            count = min(len(buffer), self.left)
            self.left -= count
            buffer[:count] = b"x" * count
            return count

    tracemalloc.start()
    stream: Any = Endless()
    sample = only(list(InputFile("-", stream=stream, longest=1000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "more than 1,000 bytes" in (sample.completion.fault or "")
    assert peak < 8 << 20


def test_objects_carry_their_other_fields_in_order() -> None:
    line = '{"b": 1.5, "source": "a text", "id": "x", "a": [null, {"c": "\\ud800"}]}'
    sample = only(read_json(line, id_field="id"))
    assert (sample.text, sample.completion.fault) == ("a text", None)
    assert list(sample.fields.items()) == [("b", 1.5), ("id", "x"), ("a", [None, {"c": "\ud800"}])]
    kept = only(read_json(line, keep_source=True))
    assert list(kept.fields) == ["b", "source", "id", "a"]
    assert only(read_json('{"source": ["a", "b c"]}')).text == ["a", "b c"]
    assert only(read_json('{"source": "a  b"}', tokenized=True)).text == ["a", "b"]
    assert only(read(b" a  b \r\n", tokenized=True)).text == ["a", "b"]
    assert only(read('\ufeff{"source": "a"}'.encode(), format="json")).text == "a"


@pytest.mark.parametrize(
    "line", ["", "  ", '{"source": ""}', '{"source": " \\n"}', '{"source": []}']
)
def test_blank_sources_are_done(line: str) -> None:
    sample = read_json(line, '{"source": "a"}', copies=3)[0]
    assert sample.completion.texts == ["", "", ""] and sample.completion.fault is None


def test_copies_may_be_known_late() -> None:
    source = InputFile("-", stream=io.BytesIO(b"\n"))
    source.copies = 2
    assert only(list(source)).completion.texts == ["", ""]


FAULTS = {
    '{"source": "a"': "invalid JSON: Expecting ',' delimiter at column 15",
    "[1]": "invalid JSON: the line holds a list with a number, not an object",
    '"a"': "invalid JSON: the line holds a text, not an object",
    "{}": "there is no field 'source', and the object is empty",
    '{"a": 1, "b": 2}': "there is no field 'source', only 'a', 'b'",
    '{"source": 1, "id": 2}': "the field 'source' holds a number: it must be a text or a list of",
    '{"source": [["a"]], "id": 2}': "the field 'source' holds a list with a list: it must be",
    '{"source": null, "id": 2}': "the field 'source' holds null: it must be",
    '{"source": "\\ud83d", "id": 2}': "the field 'source' holds half a surrogate pair, \\ud83d,",
    '{"source": ["a\\udc00"], "id": 2}': "the field 'source' holds half a surrogate pair, \\udc00",
    '{"source": "a"}': "there is no field 'id' (id), only 'source'",
    '{"source": "a", "id": 1, "output": 1}': "there is a field 'output' already: choose another",
    '{"source": "a", "n": ' + "1" * 5000 + "}": "invalid JSON: Exceeds the limit",
    "[" * 200_000: "invalid JSON: it is nested more than 200 deep",
    '{"source": "a", "n": '
    + "[" * 200
    + "]" * 200
    + "}": "invalid JSON: it is nested more than 200",
}


@pytest.mark.parametrize("line", FAULTS, ids=lambda line: line[:30])
def test_a_faulty_object_is_named_and_spoils_no_neighbour(line: str) -> None:
    good = '{"source": "a", "id": 0}'
    before, sample, after = read_json(good, line, good, id_field="id", taken=("output",))
    assert before.text == after.text == "a"
    assert (sample.completion.fault or "").startswith(FAULTS[line])
    assert sample.completion.texts is None and "output" not in sample.fields


def test_what_is_nested_less_deep_is_carried() -> None:
    line = '{"source": "a", "n": ' + "[" * 199 + "]" * 199 + ', "m": [' + "[]," * 300 + "1]}"
    sample = only(read_json(line, keep_source=True))
    assert sample.completion.fault is None and sample.fields == json.loads(line)


def test_the_output_may_take_the_place_of_the_source() -> None:
    line = '{"text": "a"}'
    assert only(read_json(line, source_field="text", taken=("text",))).completion.fault is None
    kept = only(read_json(line, source_field="text", taken=("text",), keep_source=True))
    assert "already" in (kept.completion.fault or "")


def test_lines_carry_their_number() -> None:
    samples = read(b"a\nb\n", keep_source=True, tokenized=True)
    assert [s.fields for s in samples] == [{"line": 1, "source": "a"}, {"line": 2, "source": "b"}]
    with pytest.raises(ValueError, match="'line' holds the number"):
        read(b"a", taken=("line",))


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jsonl", "json"),
        ("a.JSON.gz", "json"),
        ("a.ndjson", "json"),
        ("a.txt", "lines"),
        ("json", "lines"),
        ("a.jsonl.bak", "lines"),
    ],
)
def test_the_name_tells_the_format(name: str, format: str, tmp_path: Path) -> None:
    data = json.dumps({"source": "a"}).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    source = InputFile(tmp_path / name)
    assert source.format == format
    assert only(list(source)).text == ("a" if format == "json" else data.decode())
    assert InputFile(tmp_path / name, format="lines").format == "lines"


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_gzip_that_is_cut_short_ends_the_job(cut: int, tmp_path: Path) -> None:
    rng = random.Random(0)
    lines = [f"{rng.random()}\n".encode() for _ in range(3000)]
    data = gzip.compress(b"".join(lines))
    (tmp_path / "input.gz").write_bytes(data[: -cut * len(data) // 61])
    with pytest.raises(
        JobFailed, match=r"input.gz cannot be read further than line \d+ .*--resume"
    ):
        for sample in InputFile(tmp_path / "input.gz"):
            assert sample.text == lines[sample.number].decode().rstrip("\n")
    with pytest.raises(JobFailed, match=r"further than line"):
        InputFile(tmp_path / "input.gz").skip(3000, zlib.crc32(b"".join(lines)))


def test_a_gzip_that_is_damaged_ends_the_job(tmp_path: Path) -> None:
    data = gzip.compress(b"a line\n" * 1000)
    failures = 0
    for place in range(10, len(data)):
        path = tmp_path / "input.gz"
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            assert len(list(InputFile(path))) == 1000
        except JobFailed:
            failures += 1
    assert failures == len(data) - 10


def test_most_lines_before_a_cut_are_read(tmp_path: Path) -> None:
    rng = random.Random(0)
    data = gzip.compress("".join(f"{rng.random()}\n" for _ in range(100_000)).encode())
    (tmp_path / "input.gz").write_bytes(data[: len(data) // 2])
    count = 0
    with pytest.raises(JobFailed):
        for sample in InputFile(tmp_path / "input.gz"):
            count = sample.number
    assert 40_000 < count < 60_000


def test_what_stands_before_a_cut_is_read(tmp_path: Path) -> None:
    lines = [f"line {number}\n".encode() for number in range(100)]
    data = gzip.compress(b"".join(lines))
    (tmp_path / "input.gz").write_bytes(data[:-4])
    found = []
    with pytest.raises(JobFailed, match="further than line 100 "):
        for sample in InputFile(tmp_path / "input.gz"):
            found.append(sample.text)
    assert found == [line.decode().rstrip("\n") for line in lines]


@pytest.mark.parametrize("name", ["input.txt", "input.gz"])
def test_a_file_that_is_cut_short_while_it_is_read_is_no_end(name: str, tmp_path: Path) -> None:
    lines = "".join(f"{random.random()}\n" for _ in range(20_000)).encode()
    path = tmp_path / name
    members = [lines[at : at + 20_000] for at in range(0, len(lines), 20_000)]
    packed = [gzip.compress(member) for member in members]
    path.write_bytes(b"".join(packed) if name.endswith(".gz") else lines)
    size = path.stat().st_size
    samples = iter(InputFile(path))
    next(samples)
    # Between two members, where a gzip file may well end.
    os.truncate(path, len(b"".join(packed[:-1])) if name.endswith(".gz") else 0)
    with pytest.raises(JobFailed, match=f"it had {size} bytes, and ends after .*--resume"):
        list(samples)
    # One that grows is read as far as it goes.
    path = tmp_path / "grows.txt"
    path.write_bytes(b"a\n")
    samples = iter(InputFile(path))
    with path.open("ab") as file:
        file.write(b"b\n")
    assert [sample.text for sample in samples] == ["a", "b"]


def test_what_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none cannot be read: No such file"):
        InputFile(tmp_path / "none")
    with pytest.raises(ValueError, match="is a folder"):
        InputFile(tmp_path)
    (tmp_path / "text.gz").write_bytes(b"plain")
    with pytest.raises(ValueError, match=r"no gzip file: drop the \.gz"):
        InputFile(tmp_path / "text.gz")
    (tmp_path / "wide.txt").write_bytes("wide".encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-16: convert"):
        InputFile(tmp_path / "wide.txt")
    with pytest.raises(ValueError, match="the format is 'csv'"):
        InputFile(tmp_path / "text.gz", format="csv")
    with pytest.raises(ValueError, match="have no field 'id'"):
        InputFile("-", stream=io.BytesIO(), id_field="id")


def test_a_field_of_languages_that_is_named_and_not_there_is_warned_of(tmp_path: Path) -> None:
    """Lines may say nothing, and so it is no fault; but it may be a slip."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"source": "a", "to": "fr"}\n{"source": "b"}\n')
    with pytest.warns(
        UserWarning, match=r"no field 'too' \(--tgt-lang-field\), only 'source', 'to'"
    ):
        InputFile(path, tgt_lang_field="too").look()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        InputFile(path, tgt_lang_field="to").look()
        InputFile(path).look()


def test_a_file_without_permission_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0)
    tmp_path.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match=r"secret cannot be read: Permission denied"):
            InputFile(path)
    finally:
        os.seteuid(user)


def test_a_named_pipe_is_read_once_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "pipe.gz"
    os.mkfifo(path)
    source = InputFile(path)
    assert source.count_lines() is None
    thread = threading.Thread(target=path.write_bytes, args=(gzip.compress(b"a\nb"),))
    thread.start()
    assert [sample.text for sample in source] == ["a", "b"]
    thread.join()
