"""At real widths, with weights in the layouts that they get there, every way gives the same."""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest
import real
import torch
from commands import Job
from real import LINES, Real

import tritonseq
from tritonseq.cli.main import main
from tritonseq.jobs.writer import JournaledFile
from tritonseq.models import matmul
from tritonseq.models.layers import Product
from tritonseq.models.matmul import is_packed, pays_to_pack

if TYPE_CHECKING:
    from pathlib import Path

    from tritonseq.jobs.journal import State

pytestmark = pytest.mark.filterwarnings('ignore:with search="unilm", no effect of')

DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "num_beams": 2}
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "num_beams": 1}
FLAGS = ("--max-new-tokens", "6", "--num-beams")
NEAR = 0.1
"""What bfloat16 may not tell apart, in standard deviations of the logits; a wrong token is some 4
below the best."""


# A vocabulary of 256,206 takes its time to be written.
EVERY = [
    pytest.param(name, marks=pytest.mark.long if name == "m2m_100" else ()) for name in real.SIZES
]


@pytest.fixture(scope="module", params=EVERY)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Real:
    return real.write(request.param, tmp_path_factory.mktemp(request.param))


def options_of(checkpoint: Real, dtype: str = "float32") -> dict[str, Any]:
    """Beams, but where `assert_same` must tell a near tie from a fault."""
    is_greedy = checkpoint.family == "unilm" or dtype == "bfloat16"
    return GREEDY if is_greedy else OPTIONS


def load(checkpoint: Real, dtype: str) -> tritonseq.Model:
    return tritonseq.load(checkpoint.folder, device="cpu", dtype=dtype)


def answers(checkpoint: Real, model: tritonseq.Model, dtype: str) -> list[str]:
    """One by one."""
    options = options_of(checkpoint, dtype)
    found = [model.generate([checkpoint.ids(line)], **options)[0].tolist() for line in LINES]
    return [checkpoint.text(ids, line) for ids, line in zip(found, LINES, strict=True)]


@lru_cache(maxsize=4)
def kept(checkpoint: Real, dtype: str) -> tuple[tritonseq.Model, list[str]]:
    """A model that no test changes, and its answers."""
    model = load(checkpoint, dtype)
    return model, answers(checkpoint, model, dtype)


def assert_same(checkpoint: Real, dtype: str, found: list[str], wanted: list[str]) -> None:
    """In bfloat16 batches of other shapes round otherwise: which of two tokens comes first may
    hang on that, if float32 finds them almost equal."""
    if dtype == "float32":
        assert found == wanted
    assert len(found) == len(wanted)
    for line, one, other in zip(LINES, found, wanted, strict=True):
        assert one == other or checkpoint.gap(line, one, other) < NEAR, (one, other)


@DTYPES
def test_weights_are_packed_where_this_machine_can(checkpoint: Real, dtype: str) -> None:
    """All but tied tables and GPT-2's: so nothing else here ever shrinks below the threshold."""
    network = kept(checkpoint, dtype)[0].decoder
    products = [module for module in network.modules() if isinstance(module, Product)]
    large = [product.weight for product in products if product.weight.numel() >= 2**18]
    assert len(large) >= 4
    if checkpoint.family == "gpt2":
        return
    can = pays_to_pack(torch.empty(512, 512, dtype=network.dtype))
    tied = [parameter for name, parameter in network.named_parameters() if is_table(name)]
    assert len(tied) == (2 if checkpoint.family == "unilm" else 1)
    for weight in large:
        assert is_packed(weight) == (can and all(weight is not table for table in tied))


def is_table(name: str) -> bool:
    """Is it what tokens are looked up in?"""
    return name.startswith(("words", "positions", "shared", "source.tokens"))


def test_ids_are_those_of_transformers(checkpoint: Real) -> None:
    """Those of UniLM by definition."""
    (model, _), options = kept(checkpoint, "float32"), options_of(checkpoint)
    for line in LINES:
        found = model.generate([checkpoint.ids(line)], **options)[0].tolist()
        assert found == checkpoint.continued(line, **options)


@DTYPES
def test_every_way_gives_the_same(checkpoint: Real, dtype: str, tmp_path: Path) -> None:
    (model, wanted), options = kept(checkpoint, dtype), options_of(checkpoint, dtype)
    assert len(set(wanted)) == len(LINES)

    def check(found: list[str]) -> None:
        assert_same(checkpoint, dtype, found, wanted)

    check(model.generate_text(LINES, **options))
    each = dict(model.generate_each([checkpoint.ids(line) for line in LINES], slots=2, **options))
    found = [each[place][0].tolist() for place in range(len(LINES))]
    check([checkpoint.text(*pair) for pair in zip(found, LINES, strict=True)])
    check([result.text for result in tritonseq.pipeline(model, LINES, **options)])
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("\n".join(LINES) + "\n")
    flags = (*FLAGS, str(options["num_beams"]), "--dtype", dtype)
    assert main(Job(checkpoint.folder, source, output, flags).arguments()) == 0
    # A job writes what it continues as well.
    before = LINES if checkpoint.family == "gpt2" else [""] * len(LINES)
    written = output.read_text().splitlines()
    assert all(map(str.startswith, written, before))
    check([text[len(line) :] for line, text in zip(before, written, strict=True)])


@DTYPES
def test_copies_and_pickles_answer_the_same(checkpoint: Real, dtype: str) -> None:
    (model, _), options = kept(checkpoint, dtype), options_of(checkpoint, dtype)
    wanted = model.generate_text(LINES, **options)
    by_folder = pickle.dumps(model)
    assert len(by_folder) < 10_000
    assert pickle.loads(by_folder).generate_text(LINES, **options) == wanted
    twin = copy.deepcopy(model)
    assert [is_packed(weight) for weight in twin.decoder.parameters()] == [
        is_packed(weight) for weight in model.decoder.parameters()
    ]
    assert twin.generate_text(LINES, **options) == wanted


@DTYPES
def test_models_of_transformers(checkpoint: Real, dtype: str) -> None:
    if checkpoint.family == "unilm":
        return  # transformers has none
    theirs = copy.deepcopy(checkpoint.model).to(getattr(torch, dtype))
    _, wanted = kept(checkpoint, dtype)
    model = tritonseq.from_transformers(theirs)
    assert answers(checkpoint, model, dtype) == wanted
    assert answers(checkpoint, pickle.loads(pickle.dumps(model)), dtype) == wanted


def test_the_checksum_is_of_values(checkpoint: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of layouts and dtypes; and no value changes without it."""
    half, full = load(checkpoint, "bfloat16").decoder, load(checkpoint, "float32").decoder
    told = half.checksum()
    assert half.float().checksum() == told
    monkeypatch.setattr(matmul, "PACKED_FROM", 2**60)
    plain = load(checkpoint, "float32").decoder
    assert not any(map(is_packed, plain.parameters()))
    assert plain.checksum() == full.checksum() != told
    draw = random.Random(0)
    for parameter in plain.parameters():
        told_of_it, place = matmul.checksum(parameter), tuple(map(draw.randrange, parameter.shape))
        with torch.no_grad():
            parameter[place] = parameter[place] * 1.01 + 1e-3
        assert matmul.checksum(parameter) != told_of_it
    assert full.to(torch.bfloat16).checksum() == told


class Preempted(BaseException):
    """The process is gone."""


def stop_twice(job: Job, patch: pytest.MonkeyPatch) -> None:
    """Each time as soon as anything new is durable."""
    record = JournaledFile.record

    def record_and_die(files: JournaledFile, state: State) -> None:
        record(files, state)
        raise Preempted

    patch.setattr(JournaledFile, "record", record_and_die)
    for _ in range(2):
        before = job.lines
        with pytest.raises(Preempted):
            main(job.arguments("--resume"))
        assert job.lines > before


@pytest.mark.parametrize("checkpoint", ["t5"], indirect=True)
def test_a_job_in_half_precision_goes_on_to_the_same_bytes(
    checkpoint: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the last bits depend on the shapes of batches: those stay, whatever came between."""
    draw = random.Random(1)
    lines = [" ".join(f"w{draw.randrange(10, 2000)}" for _ in range(n % 13 + 1)) for n in range(20)]
    source = tmp_path / "in.txt"
    source.write_text("\n".join(lines) + "\n")
    flags = ("--max-new-tokens", "8", "--num-beams", "4", "--dtype", "bfloat16")
    job = Job(
        checkpoint.folder, source, tmp_path / "job" / "out.txt", (*flags, "--batch-size", "4")
    )
    calm = replace(job, output=tmp_path / "out.txt")
    job.output.parent.mkdir()
    assert main(calm.arguments("--window", "64")) == 0
    with monkeypatch.context() as patch:
        stop_twice(job, patch)
    assert main(job.arguments("--resume", "--window", "16")) == 0
    assert job.output.read_bytes() == calm.output.read_bytes()


@pytest.mark.parametrize("checkpoint", ["bart"], indirect=True)
def test_what_forms_batches_is_asked_for_again_in_half_precision(
    checkpoint: Real,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = {"float32": (0, False), "bfloat16": (2, True)}
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("\n".join(LINES) + "\n")
    for dtype in ("float32", "bfloat16"):
        flags = (*FLAGS, "2", "--dtype", dtype)
        job = Job(checkpoint.folder, source, output.with_suffix(f".{dtype}.txt"), flags)
        with monkeypatch.context() as patch:
            patch.setattr(JournaledFile, "finish", _preempt)
            with pytest.raises(Preempted):
                main(job.arguments())
        capsys.readouterr()
        code = main(job.arguments("--resume", "--batch-size", "2"))
        told = capsys.readouterr().err
        assert (code, "batch_size was 64 and is 2 now" in told) == wanted[dtype], told
    assert main(job.arguments("--resume", "--window", "2")) == 0


def _preempt(*_: object) -> None:
    raise Preempted


@pytest.mark.parametrize("checkpoint", ["bart"], indirect=True)
def test_processes_on_the_same_weights(checkpoint: Real, tmp_path: Path) -> None:
    _, wanted = kept(checkpoint, "bfloat16")
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("\n".join(LINES) + "\n")
    flags = (*FLAGS, "1", "--dtype", "bfloat16", "--devices", "cpu:2")
    code, messages = Job(checkpoint.folder, source, output, flags).start().finish()
    assert code == 0, messages
    assert_same(checkpoint, "bfloat16", output.read_text().splitlines(), wanted)


def test_a_live_model_that_is_changed_in_place_is_noticed(checkpoint: Real) -> None:
    """Where some of its weights are copies, it would be neither the old model nor the new one."""
    if checkpoint.family == "unilm":
        return  # transformers has none
    theirs = copy.deepcopy(checkpoint.model)
    model, ids = tritonseq.from_transformers(theirs), [checkpoint.ids(LINES[0])]
    kept = copy.deepcopy(model)
    before = model.generate(ids, **OPTIONS)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(0.5)
    if checkpoint.family == "gpt2":
        wanted = tritonseq.from_transformers(theirs).generate(ids, **OPTIONS)
        assert torch.equal(model.generate(ids, **OPTIONS), wanted)
    else:
        for use in (lambda: model.generate(ids, **OPTIONS), lambda: copy.deepcopy(model)):
            with pytest.raises(ValueError, match=r"in place.*call tritonseq\.from"):
                use()
    assert torch.equal(kept.generate(ids, **OPTIONS), before)
