"""What an input holds is understood or refused by name; what is carried keeps its bytes."""

from __future__ import annotations

import gzip
import io
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from tritonseq.errors import JobFailed
from tritonseq.jobs.formats import format_of
from tritonseq.jobs.input import InputFile
from tritonseq.jobs.lines import Formatter, Members, encode_object

if TYPE_CHECKING:
    from pathlib import Path

    from tritonseq.stages.sample import Sample


def source(data: bytes, **options: Any) -> InputFile:
    return InputFile("-", stream=io.BytesIO(data), **options)


def only(line: str, **options: Any) -> Sample:
    (sample,) = source(line.encode(), format="json", **options)
    return sample


# What is carried through

CARRIED = [
    '"a": 1.0',
    '"a":1e400',
    '"a" : -0',
    '"a": 12345678901234567890123',
    '"a": 0.1000000000000000055511151231257827',
    '"a": 1E+2',
    '"a": "\\u00e9 é \\/ / \\ud83d\\ude00 😀"',
    '"a": "\\ud800"',
    '"a": "\\u0000\\b\\f"',
    '"a": "\u2028\u2029\x7f\x85"',
    '"a":  {"b" :[ 1 ,2 ],"b":{}}',
    '"\\u0061": 1',
    '"a": 1, "b": 2,  "a": 3',
    '"": null',
    '"a": NaN, "b": -Infinity',
    '"a": "\\" , \\"source\\": 1"',
    '"a":[' + "[]," * 30 + "{}]",
]


@pytest.mark.parametrize("members", CARRIED)
@pytest.mark.parametrize("place", ['{%s, "source": "x"}', '{"source": "x",%s}', "{ %s}"])
def test_what_is_carried_keeps_its_bytes(members: str, place: str) -> None:
    sample = only(place.replace("%s", members), keep_source=True)
    sample.reject("whether it is one or not")
    written = Formatter("json").output(sample).decode()
    assert members in written and written.endswith(', "output": ""}\n')
    json.loads(written)


def random_json(rng: random.Random, depth: int = 3) -> str:
    """A value in any of its spellings."""
    space = rng.choice(["", " ", "  ", "\t"])
    kind = rng.randrange(6 if depth else 4)
    if kind == 0:
        return rng.choice(["0", "-0", "1.50", "1e5", "1E-07", "-12345678901234567890", "1e999"])
    if kind == 1:
        return rng.choice(["true", "false", "null", "NaN"])
    if kind < 4:
        parts = [
            "a",
            "\\n",
            "\\u00e9",
            "é",
            "\\/",
            "/",
            "\\\\",
            '\\"',
            "{",
            "}",
            ",",
            ":",
            "\\udc00",
        ]
        return '"' + "".join(rng.choices(parts, k=rng.randrange(6))) + '"'
    inner = [random_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 4:
        return "[" + space + f"{space},{space}".join(inner) + space + "]"
    return "{" + ", ".join(f'"{rng.choice("ab")}"{space}:{space}{value}' for value in inner) + "}"


@pytest.mark.parametrize("seed", range(40))
def test_members_are_where_the_parser_sees_them(seed: int) -> None:
    rng = random.Random(seed)
    names = [rng.choice(["a", "b", "a.b", "", "\\u0061", "s"]) for _ in range(rng.randrange(6))]
    space = rng.choice(["", " ", "\r", "\t "])
    values = [random_json(rng) for _ in names]
    parts = [f'"{name}"{space}:{space}{value}' for name, value in zip(names, values, strict=True)]
    text = space + "{" + space + f"{space},{space}".join(parts) + space + "}" + space
    members = Members(text)
    pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    assert list(members.names) == [name for name, _ in pairs]
    assert json.dumps(dict(members)) == json.dumps(json.loads(text))
    for name in {name for name, _ in pairs}:
        if members.names.count(name) == 1:
            place = members.names.index(name)
            assert members.raw(name) == values[place]
        kept = json.loads("{" + Members(text, {name}).carried + "}", object_pairs_hook=list)
        assert repr(kept) == repr([pair for pair in pairs if pair[0] != name])
    assert encode_object(members, {"o": 1}).decode().count("\n") == 1


def test_a_name_with_dots_leads_into_objects() -> None:
    line = '{"translation": {"en": "a", "de": "b", "n": 1.0}, "id": 7}'
    sample = only(line, source_field="translation.en", id_field="id")
    assert sample.text == "a"
    # What the source lies in stays whole.
    sample.finish(["x"])
    wanted = line[:-1] + ', "output": "x"}\n'
    assert Formatter("json").output(sample).decode() == wanted
    flat = only('{"a.b": "flat", "a": {"b": "deep"}}', source_field="a.b")
    assert flat.text == "flat"
    assert only('{"a": {"b": {"c": "x"}}}', source_field="a.b.c").text == "x"
    for bad in ('{"a": {}}', '{"a": "b"}', '{"a": [{"b": "x"}]}', "{}"):
        assert "there is no field 'a.b'" in str(only(bad, source_field="a.b").completion.fault)
    named = only('{"meta": {"id": 1.0}, "source": 3}', id_field="meta.id")
    rejection = Formatter("json", id_field="meta.id").rejection(named).decode()
    assert '"id": 1.0, "reason": "the field \'source\' holds a number' in rejection


def test_a_source_or_an_id_that_comes_twice_is_rejected() -> None:
    fault = only('{"source": "a", "source": "b"}').completion.fault
    assert fault == "the field 'source' is there 2 times: leave one"
    twice = only('{"id": 1, "id": 2, "source": "b"}', id_field="id")
    assert twice.completion.fault == "the field 'id' is there 2 times: leave one"
    assert b'"id"' not in Formatter("json", id_field="id").rejection(twice)


# What an input is taken for


@pytest.mark.parametrize(
    ("name", "given", "format"),
    [
        ("a.jsonlines", None, "json"),
        ("a.NDJSON.GZ", None, "json"),
        ("/dev/fd/63", None, "lines"),
        ("-", None, "lines"),
        ("a.csv", "lines", "lines"),
        ("a", "jsonl", "json"),
        ("a.jsonl", "text", "lines"),
    ],
)
def test_names_and_words_for_formats(name: str, given: str | None, format: str) -> None:
    assert format_of(name, given) == format_of(name, given, is_read=True) == format
    assert format_of("-", has_fields=True) == "json"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a b.csv", "cat 'a b.csv' | python -c 'import csv"),
        ("a.tsv.gz", "gzip -dc a.tsv.gz | python -c 'import csv"),
        ("a.parquet", "read_parquet"),
        ("a.jsonl.bz2", "bzip2 -dc a.jsonl.bz2 | tritonseq generate MODEL - OUTPUT"),
        ("a.zip", "unzip -p a.zip"),
        ("a.txt.xz", "xz -dc"),
        ("a.zst", "zstd -dc"),
        ("a.xlsx", "read_excel"),
        ("a.html", "pandoc -t plain a.html"),
        ("a.xml.gz", "out of the tags"),
        ("a.rtf", "pandoc"),
        ("a.yml", "yaml.safe_load"),
    ],
)
def test_a_name_of_another_kind_is_refused_with_the_way_to_convert_it(
    name: str, remedy: str, tmp_path: Path
) -> None:
    for fields in (False, True):
        with pytest.raises(ValueError, match="which is not read") as refusal:
            format_of(name, is_read=True, has_fields=fields)
        assert remedy in str(refusal.value)
    if not name.startswith(("a.tsv", "a.html", "a.xml", "a.rtf", "a.yml")):
        with pytest.raises(ValueError, match="cannot be written: name it"):
            format_of(name)


def test_the_remedy_for_a_packed_file_unpacks_it(tmp_path: Path) -> None:
    path = tmp_path / "my cat x.txt.gz"
    path.write_bytes(gzip.compress(b'[{"a": 1},\n {"a": 2}]\n'))
    with pytest.raises(ValueError, match="holds a JSON array") as refusal:
        InputFile(path).look()
    quoted = f"'{path}'"
    assert f"of it: gzip -dc {quoted} | python -c 'import json" in str(refusal.value)
    assert f"< {quoted}" not in str(refusal.value)


MAGIC = {
    b"PK\x03\x04rest": "is zip",
    b"BZh91AY&SYrest": "is bzip2",
    b"\xfd7zXZ\0rest": "is xz",
    b"\x28\xb5\x2f\xfdrest": "is Zstandard",
    b"PAR1\x15\x04rest": "is Parquet",
    b"%PDF-1.7": "is PDF",
    b"\x80\x04\x95": "is pickle",
    "wide".encode("utf-16"): "is UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`",
    "wide".encode("utf-32"): "is UTF-32",
    "no mark at all here".encode("utf-16-le"): "UTF-16 without a mark.*UTF-16LE",
    "no mark at all here".encode("utf-16-be"): "UTF-16 without a mark.*UTF-16BE",
    bytes(range(8)) * 3 + bytes(20): "is a binary file",
}


@pytest.mark.parametrize("data", MAGIC)
@pytest.mark.parametrize("packed", [False, True])
def test_bytes_of_another_kind_are_refused_before_anything_runs(
    data: bytes, packed: bool, tmp_path: Path
) -> None:
    data_there = gzip.compress(data) if packed else data
    (tmp_path / "in.txt").write_bytes(data_there)
    with pytest.raises(ValueError, match=MAGIC[data]):
        InputFile(tmp_path / "in.txt").look()
    with pytest.raises(ValueError, match=MAGIC[data]):
        source(data_there).look()


JSON = '{"source": "a"}\n'
SHAPES: list[tuple[str, dict[str, Any], str | None]] = [
    (JSON * 3, {}, "holds JSON objects: pass --input-format json"),
    (JSON.strip(), {}, "holds JSON objects"),
    ("\ufeff\n" + JSON, {}, "holds JSON objects"),
    (JSON + "{broken\n" + JSON, {}, "holds JSON objects"),
    ('{"source": "' + "x" * 70_000, {}, "holds JSON objects"),
    (JSON * 3, {"format": "lines"}, None),
    (JSON + "a text\nanother\n", {}, None),
    ("a text\n" + JSON, {}, None),
    ("a text\nanother\n" + JSON * 3, {}, None),
    ("a title\n" + JSON * 2, {}, "holds JSON objects"),
    ('["a", "b"]', {}, "JSON array: make JSON lines .*json.dumps"),
    ('["a", "b"]\n', {"has_fields": False, "format": "lines"}, None),
    ('["' + "x" * 70_000 + '", "', {}, None),
    ('["a", "' + "x" * 70_000, {}, "holds a JSON array"),
    ('[\n "a",\n "b"\n]\n', {}, "holds a JSON array"),
    ('["a", "b"]\n["c"]\n', {}, "holds JSON lists: make an object of each line"),
    ('["a", "b"]\nc\n', {}, None),
    ("[1]\n[2]\n", {}, None),
    ("[\nan open bracket\n", {}, None),
    ('"a"\n"b"\n', {}, None),
    ('"a \\"b\\""\n"c"\n', {}, "holds JSON strings"),
    ('"Hello," he said.\n"Yes."\n', {}, None),
    ('{"a": 1} is JSON.\n{"b": 2} too.\n', {}, None),
    (JSON.strip() * 2 + "\n", {}, "several JSON objects in a line: .*jq -c"),
    (JSON.strip() * 2, {"format": "json"}, "several JSON objects in a line"),
    ('{"a":"b"},\n{"a":"c"}\n', {}, "a comma behind each: remove them by sed"),
    ('{"source":"b"},\n{"source":"c"},\n', {"format": "json"}, "a comma behind each"),
    ('{"source":"b"},\n' + JSON * 3, {"format": "json"}, None),
    ("{'text': 'a'}\n{'text': \"it's\"}\n", {}, "as Python prints them: .*ast.literal_eval"),
    ("{'tis the season\n", {}, None),
    (
        '{"text": "a", "id": 1}\n' * 2,
        {"format": "json"},
        "no field 'source', only 'text', 'id': name another by --source-field",
    ),
    ('{"text": "a"}\n' + JSON, {"format": "json"}, None),
    ('{"a": {"b": "x"}}\n', {"format": "json", "source_field": "a.b"}, None),
    ('{"a": {"b": "x"}}\n', {"format": "json", "source_field": "a.c"}, "no field 'a.c', only 'a'"),
    (JSON, {"format": "json", "id_field": "id"}, "no field 'id', .*--id-field"),
    ("one\rtwo\rthree\r", {}, r"carriage returns: convert it by tr '\\r' '\\n' <"),
    ("one\rtwo", {"format": "lines"}, None),
    ("one\rtwo\n", {}, None),
    ("one\r", {}, None),
    ("id,text\n1,a\n", {}, "CSV with the columns 'id', 'text': make JSON lines"),
    ("id,text\n1,a", {"format": "lines"}, None),
    ('id,text\n1,"a, and b"\n2,c, and d\n3', {}, "is CSV"),
    ("review_id\ttext\n7\ta b, c\n", {}, 'is TSV .* delimiter=".t"'),
    ("id;text\n1;a\n", {}, "a table with ; between cells"),
    ("id | text\n1 | a\n", {}, "a table with | between cells".replace("|", "[|]")),
    ("review_id,text\n1,a\nb\nc\n", {}, None),
    ("Answer, please\nYes, now\n", {}, None),
    ("Question, answer\nNo, yes\n", {}, None),
    ("One, two\nthree, four\n", {}, None),
    ("a\tb\nc\td\n", {}, None),
    ("text\nmore\n", {}, None),
    ("text,label\n", {}, None),
    ('text,"label\n', {}, None),
    ("<!DOCTYPE html>\n<p>", {}, "is HTML, not plain text: .*pandoc"),
    ("\n <HTML lang='en'>\n", {}, "is HTML"),
    ('\ufeff<?xml version="1.0"?>\n', {}, "is XML"),
    ("{\\rtf1 a}\n", {}, "is RTF"),
    ("<html>\n", {"format": "lines"}, None),
    ("<b>bold</b> text\n<i>more</i>\n", {}, None),
    ("{x} braces\n[y]\n", {}, None),
    ('[{"source": "a"}]', {}, "holds a JSON array: make JSON lines"),
    ('[\n  {"source": "a"}\n]', {}, "holds a JSON array"),
    ('{\n  "source": "a"\n}', {}, "over several lines: put each object in one line: jq -c"),
    ("", {}, None),
    ("\n\n", {}, None),
    (JSON, {"format": "json"}, None),
    ("\n" + JSON, {"format": "json"}, None),
    ('{"source": "a"\n' + JSON, {"format": "json"}, None),
    ('{"source": "a"\n{"source": "b"\n', {"format": "json"}, None),
    ("[1]\n" + JSON, {"format": "json"}, None),
    ("no object\n" + JSON, {"format": "json"}, None),
    ("id,text\n1,a\n", {"has_fields": True}, "begins 'id,text'; lines of text have no field"),
    ("a text\n", {"format": "json"}, "is taken for JSON lines"),
    ('[{"source": "a"}, {"source": "b"}]\n', {"format": "json"}, "a JSON array, not an object"),
    ('[\n{"source": "a"},\n{"source": "b"}\n]\n', {"format": "json"}, "holds a JSON array"),
    ('{\n  "source": "a"\n}\n', {"format": "json"}, "over several lines"),
    ('{"source": "a",\n "id": 1}\n', {"format": "json"}, "over several lines"),
    ("[" * 100_000, {"format": "json"}, "holds a JSON array"),
    ('{"a":' * 50_000 + "\n", {}, "holds JSON objects"),
    ('{"a": broken\n', {}, None),
]


@pytest.mark.parametrize(("text", "options", "refusal"), SHAPES)
def test_the_first_lines_must_be_what_they_are_taken_for(
    text: str, options: dict[str, Any], refusal: str | None, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(gzip.compress(text.encode()))
    for each in (source(text.encode(), **options), InputFile(tmp_path / "in", **options)):
        if refusal is None:
            each.look()
            assert len(list(each)) == text.count("\n") + (not text.endswith("\n") and text != "")
        else:
            with pytest.raises(ValueError, match=refusal):
                each.look()


def test_any_is_what_the_first_line_says() -> None:
    """As in UniLM's command, where only texts may be tokens with spaces between them."""
    objects = source(b'\n{"src": "a  b"}\n', format="any", source_field="src", tokenized=True)
    objects.look()
    assert [sample.text for sample in objects] == ["", "a  b"]
    assert objects.settings["input_format"] == "json"
    texts = source(b"a  b\n", format="any", source_field="src", tokenized=True)
    texts.look()
    assert [sample.text for sample in texts] == [["a", "b"]]
    assert texts.settings["input_format"] == "lines"


# Compressed inputs


def test_members_of_a_gzip_are_one_text(tmp_path: Path) -> None:
    data = gzip.compress(b"a\nb") + gzip.compress(b"") + gzip.compress(b"c\n") + b"\0" * 9
    (tmp_path / "in.gz").write_bytes(data)
    reading = InputFile(tmp_path / "in.gz")
    reading.look()
    assert [sample.text for sample in reading] == ["a", "bc"]


@pytest.mark.parametrize("tail", [b"garbage", b"\x1f\x8b", gzip.compress(b"c\n", mtime=0)[:-3]])
def test_what_follows_a_gzip_and_is_none_ends_the_job(tail: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.gz").write_bytes(gzip.compress(b"a\nb\n") + tail)
    for reading in (InputFile(tmp_path / "in.gz"), source((tmp_path / "in.gz").read_bytes())):
        reading.look()
        with pytest.raises(JobFailed, match=r"cannot be read further than line \d"):
            list(reading)


def test_an_empty_file_is_no_gzip(tmp_path: Path) -> None:
    (tmp_path / "in.gz").touch()
    with pytest.raises(ValueError, match=r"no gzip file: drop the \.gz"):
        InputFile(tmp_path / "in.gz")
    (tmp_path / "in.gz").write_bytes(gzip.compress(b""))
    reading = InputFile(tmp_path / "in.gz")
    reading.look()
    assert list(reading) == []
