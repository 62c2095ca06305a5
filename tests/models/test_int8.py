"""Int8 weights on the CPU: exact products, the same rule in every family, and copies to the bit."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import networks
import pytest
import real
import torch
from commands import Job
from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

import tritonseq
from tritonseq.checkpoint.devices import resolve_dtype
from tritonseq.cli.main import main
from tritonseq.demo.run import CHECKPOINTS, EMBEDDED, EmbeddedCheckpoint, answer
from tritonseq.jobs.writer import JournaledFile
from tritonseq.kernels import private_torch
from tritonseq.models.layers import Head, Linear
from tritonseq.models.matmul import Int8, dense, is_int8, nbytes, packed_matmul, shape_of

if TYPE_CHECKING:
    from pathlib import Path

    from tritonseq.jobs.journal import State

pytestmark = [
    pytest.mark.filterwarnings('ignore:with search="unilm", no effect of'),
    pytest.mark.skipif(not private_torch.int8_row_max(), reason="no exact products here"),
]

EVERY = pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.name)
CPU = torch.device("cpu")
IDS = [[7, 12, 9, 30, 11], [8, 8, 21, 14, 6]]


def by_definition(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The product of `x [N, in]` and `weight [out, in]` in integers, times the scales."""
    tiny = torch.finfo(torch.float32).tiny
    row_scales = (x.abs().amax(1, keepdim=True) / private_torch.int8_row_max()).clamp_min(tiny)
    peaks = (weight.abs().amax(1) / 127).clamp_min(tiny).double()
    unit = 2.0 ** (torch.floor(torch.log2(peaks)) - 16)
    scales = (torch.ceil(peaks / unit) * unit).float()
    q_x = (x / row_scales).round().long()
    q_weight = (weight / scales[:, None]).round().long()
    # In float64, which holds these sums exactly, since products of integers are a slow loop.
    sums = q_x.double() @ q_weight.double().t()
    return sums.float() * scales * row_scales


@pytest.mark.parametrize("outputs", [1, 5, 50257])
@pytest.mark.parametrize("inputs", [1, 3, 768])
def test_products_equal_their_definition_to_the_bit(inputs: int, outputs: int) -> None:
    weight = torch.randn(outputs, inputs) * torch.rand(outputs, 1)
    weight[outputs // 2] = 0.0
    packed = Int8.of(weight, is_transposed=False)
    assert shape_of(packed) == weight.shape
    assert nbytes(packed) == weight.numel() + 4 * outputs
    for rows in (1, 2, 3, 17, 64, 256)[: 6 if outputs < 100 else 4]:
        x = torch.randn(rows, inputs) * torch.rand(rows, 1)
        x[rows // 2] = 0.0
        assert torch.equal(packed_matmul(x, packed, None), by_definition(x, weight))


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    packed, x = Int8.of(torch.randn(300, 768), is_transposed=False), torch.randn(70, 768)
    x[3] *= 1e6
    together = packed_matmul(x, packed, torch.ones(300))
    for row in range(0, 70, 9):
        assert torch.equal(
            packed_matmul(x[row : row + 1], packed, torch.ones(300))[0], together[row]
        )


def test_rows_that_are_no_numbers_stay_so() -> None:
    packed, x = Int8.of(torch.randn(30, 20), is_transposed=False), torch.randn(4, 20)
    clean = packed_matmul(x, packed, None)
    x[1, 3], x[2, 5] = torch.nan, -torch.inf
    found = packed_matmul(x, packed, None)
    assert bool(found[1:3].isnan().all())
    assert torch.equal(found[::3], clean[::3])


@pytest.mark.parametrize("is_transposed", [False, True])
def test_dense_values_come_back_to_the_bit(is_transposed: bool) -> None:
    """Of weights of any magnitude, and of zeros."""
    weight = torch.randn(40, 24) * 10.0 ** torch.randint(-39, 36, (40, 1))
    weight[7] = 0.0
    packed = Int8.of(weight.t() if is_transposed else weight, is_transposed=is_transposed)
    values = dense(packed)
    assert values.shape == ((24, 40) if is_transposed else (40, 24)) == tuple(shape_of(packed))
    again = packed.again(values)
    assert is_int8(again) and torch.equal(dense(again), values)
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert is_int8(twin) and torch.equal(dense(twin), values)
    oriented = values.t() if is_transposed else values
    error = (oriented - weight).abs() / weight.abs().amax(1, keepdim=True).clamp_min(1e-30)
    assert float(error.max()) <= 0.51 / 127


@EVERY
def test_which_weights_are_int8(checkpoint: EmbeddedCheckpoint) -> None:
    """Those of every linear map and head, however it is tied; and no other."""
    model = tritonseq.load(checkpoint.folder, device="cpu", dtype="int8")
    network = model.decoder
    wanted = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, (Linear, Head))
    } | ({"lm_head"} if checkpoint.name == "gpt2-words" else set())
    named = dict(network.named_parameters(remove_duplicate=False))
    assert {name for name, weight in named.items() if is_int8(weight)} == wanted
    assert {weight.dtype for name, weight in named.items() if name not in wanted} == {torch.float32}
    assert (model.dtype, network.dtype) == (torch.int8, torch.float32)
    assert "torch.int8" in repr(model)
    assert not network.broken_weights()


@EVERY
def test_as_many_problems_are_answered_right(checkpoint: EmbeddedCheckpoint) -> None:
    """Within half a point; and ids do not depend on the size of batches."""
    full, model = (
        tritonseq.load(checkpoint.folder, device="cpu", dtype=dtype)
        for dtype in ("float32", "int8")
    )
    problems = list(islice(checkpoint.problems(seed=99, unseen=True), 200))
    for mode in checkpoint.modes:
        right, wanted = (sum(answer(m, problems, mode.options).right) for m in (model, full))
        assert right >= wanted - 1
    texts = [problem.prompt for problem in problems[:24]]
    for beams in (1, 4):
        options = {"num_beams": beams, "max_new_tokens": 16}
        wanted_texts = model.generate_text(texts, batch_size=64, **options)
        assert model.generate_text(texts, batch_size=1, **options) == wanted_texts
        piped = tritonseq.pipeline(model, texts, batch_size=7, **options)
        assert [result.text for result in piped] == wanted_texts


@EVERY
def test_copies_pickles_and_states(checkpoint: EmbeddedCheckpoint) -> None:
    model = tritonseq.load(checkpoint.folder, device="cpu", dtype="int8")
    told, wanted = model.decoder.checksum(), model.generate(IDS).tolist()
    assert len(pickle.dumps(model)) < 10_000
    by_weights = copy.copy(model)
    by_weights._origin = None
    for sender in (model, by_weights):
        for twin in (copy.deepcopy(sender), pickle.loads(pickle.dumps(sender))):
            assert (twin.dtype, twin.decoder.checksum()) == (torch.int8, told)
            assert twin.generate(IDS).tolist() == wanted
    state = {key: value.clone() for key, value in model.decoder.state_dict().items()}
    assert {value.dtype for value in state.values()} == {torch.float32}
    model.decoder.load_state_dict({key: torch.zeros_like(value) for key, value in state.items()})
    assert model.decoder.checksum() != told
    model.decoder.load_state_dict(state)
    model.decoder.float().to("cpu")
    assert (model.dtype, model.decoder.checksum()) == (torch.int8, told)
    assert model.generate(IDS).tolist() == wanted
    assert model.decoder.bfloat16().weights_dtype == torch.bfloat16
    model.generate(IDS)


@pytest.mark.parametrize("model_type", [*networks.SIZES, *networks.OTHER_SIZES])
def test_models_of_transformers(model_type: str) -> None:
    theirs = networks.network(model_type)
    model = tritonseq.from_transformers(theirs, dtype="int8")
    assert model.dtype == torch.int8
    assert tritonseq.from_transformers(theirs).dtype == torch.float32
    assert tritonseq.from_transformers(theirs, dtype="bfloat16").dtype == torch.bfloat16
    options = {"max_new_tokens": 5, "decoder_start_token_id": 0}
    twin = pickle.loads(pickle.dumps(model))
    assert twin.generate(IDS, **options).tolist() == model.generate(IDS, **options).tolist()


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_real_widths_from_the_command_line(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(real.SIZES, family, {**real.SIZES[family], "vocab_size": 50265})
    checkpoint = real.write(family, tmp_path / "model")
    model = tritonseq.load(checkpoint.folder, device="cpu", dtype="int8")
    wanted = model.generate_text(real.LINES, max_new_tokens=6, num_beams=2)
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("\n".join(real.LINES) + "\n")
    flags = ("--max-new-tokens", "6", "--num-beams", "2", "--dtype", "int8")
    assert main(Job(checkpoint.folder, source, output, flags).arguments()) == 0
    before = real.LINES if family == "gpt2" else [""] * len(wanted)
    written = [line + text for line, text in zip(before, wanted, strict=True)]
    assert output.read_text() == "\n".join(written) + "\n"


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_logits_are_near_those_of_float64(family: str) -> None:
    """At real width, with the weights that transformers begins with: by the bits of rows.

    1 to 2 % with 8 bits, 2 to 5 % with 7; root mean square.
    """
    if family == "bart":
        config = BartConfig(vocab_size=50265, d_model=768, encoder_layers=1, decoder_layers=1)
        theirs, starts = BartForConditionalGeneration(config), {"decoder_input_ids": [[2]] * 2}
    else:
        theirs, starts = GPT2LMHeadModel(GPT2Config(n_layer=2)), {}
    theirs.eval()
    model, ids = tritonseq.from_transformers(theirs, dtype="int8"), torch.randint(10, 9000, (2, 20))
    options: dict[str, Any] = {"output_logits": True, "return_dict_in_generate": True}
    if family == "bart":
        options["decoder_start_token_id"] = 2
    found = model.generate(ids, max_new_tokens=1, **options).logits[0]
    given = {name: torch.tensor(rows) for name, rows in starts.items()}
    with torch.no_grad():
        wanted = theirs.double()(ids, **given).logits[:, -1]
    error = (found - wanted).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt()
    assert 1e-4 < float(error) < (0.03 if private_torch.int8_row_max() == 127 else 0.06)


def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    texts = [f"{n} apples" for n in range(6)]
    source.write_text("\n".join(texts) + "\n")
    job = Job(EMBEDDED / "bart-numbers", source, output, ("--dtype", "int8", "--devices", "cpu:2"))
    code, messages = job.start().finish()
    assert code == 0, messages
    model = tritonseq.load(EMBEDDED / "bart-numbers", device="cpu", dtype="int8")
    assert output.read_text().splitlines() == model.generate_text(texts)


class Preempted(BaseException):
    """The process is gone."""


def test_a_job_goes_on_in_its_dtype_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in.txt"
    source.write_text("".join(f"{n} apples and {n * n} pears\n" for n in range(20)))
    flags = ("--dtype", "int8", "--batch-size", "4")
    job = Job(EMBEDDED / "bart-numbers", source, tmp_path / "job.txt", flags)
    calm = replace(job, output=tmp_path / "calm.txt")
    assert main(calm.arguments()) == 0
    record = JournaledFile.record

    def record_and_die(files: JournaledFile, state: State) -> None:
        record(files, state)
        if job.lines:
            raise Preempted

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(JournaledFile, "record", record_and_die)
        main(job.arguments())
    capsys.readouterr()
    other = replace(job, flags=("--dtype", "float32", "--batch-size", "4"))
    assert main(other.arguments("--resume")) != 0
    assert "dtype" in capsys.readouterr().err
    assert main(job.arguments("--resume", "--window", "7")) == 0
    assert job.output.read_bytes() == calm.output.read_bytes()


def test_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_dtype(torch.int8, {}, CPU) == torch.int8
    pickled = pickle.dumps(Int8.of(torch.ones(2, 3), is_transposed=False))
    monkeypatch.setattr(private_torch, "int8_row_max", lambda: 0)
    with pytest.raises(ValueError, match="dtype 'int8' needs a torch with oneDNN"):
        pickle.loads(pickled)
    with pytest.raises(ValueError, match=r"AVX2 or more.*say dtype='bfloat16' or 'float32'"):
        tritonseq.load(EMBEDDED / "bart-numbers", device="cpu", dtype="int8")


@pytest.mark.parametrize(("bits", "row_max"), [(32, 127), (16, 63), (15, 0)])
def test_saturation_is_noticed(monkeypatch: pytest.MonkeyPatch, bits: int, row_max: int) -> None:
    """Sums of pairs in 16 bits, as without VNNI, leave 7 bits to rows; less is refused."""

    def saturated(
        x: torch.Tensor, _: float, zero: int, weight: torch.Tensor, *__: Any
    ) -> torch.Tensor:
        q_weight = weight.to_dense().int()
        pairs = x.int()[:, :, None] * q_weight[None]
        sums = pairs.unflatten(1, (-1, 2)).sum(2).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return (sums.sum(1) - zero * q_weight.sum(0)).float()

    private_torch.int8_row_max.cache_clear()
    monkeypatch.setattr(private_torch, "_POINTWISE_INT8", saturated)
    assert private_torch.int8_row_max() == row_max
    private_torch.int8_row_max.cache_clear()
