"""`source_cache="states"`: the answers of the usual cache, in the memory that arithmetic says."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest
import seq2seq
import tiny
import torch
from launches import as_on_gpu

import tritonseq
from tritonseq.demo.run import EMBEDDED
from tritonseq.engine.pool import EnginePool
from tritonseq.engine.request import Request
from tritonseq.memory.kv_cache import Sizes
from tritonseq.models.bart import Bart, BartConfig
from tritonseq.models.matmul import is_packed
from tritonseq.options.config import GenerationConfig
from tritonseq.stages import batch_size
from tritonseq.stages.batch_size import Sizing
from tritonseq.stages.run_options import RunOptions

if TYPE_CHECKING:
    from pathlib import Path

GRID: dict[str, dict[str, Any]] = {
    "plain": {},
    "bans": {"no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 2, "min_new_tokens": 4},
    "summary": {
        "length_penalty": 2.0, "min_length": 5, "no_repeat_ngram_size": 3,
        "forced_bos_token_id": 6, "early_stopping": True,
    },
    "begun": {"decoder_input_ids": torch.tensor([[9, 10, 11]] * 4)},
    "two-ends": {"eos_token_id": [11, 12]},
}  # fmt: skip
SEEDS = {"t5": 1, "t5-v1.1": 8, "mt5": 3, "umt5": 3, "bart": 3, "mbart": 2, "pegasus": 4}


@cache
def models(family: str) -> tiny.Pair:
    theirs = seq2seq.hf_model(family, SEEDS.get(family, 1))
    return tiny.Pair(theirs, tritonseq.from_transformers(theirs, source_cache="states"))


def sources_of(family: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of 1 to 7 tokens."""
    pad = int(models(family).theirs.generation_config.pad_token_id)
    return seq2seq.sources(4, 7, pad=pad, seed=seed, ragged=True)


def compare(family: str, seed: int = 12, **options: Any) -> None:
    pair, (ids, mask) = models(family), sources_of(family, seed)
    options = {"max_new_tokens": 12} | options
    theirs = partial(tiny.theirs, pair.theirs, ids, mask, **options)
    seq2seq.assert_same(tiny.ours(pair.ours, ids, mask, hf_exact=True, **options), theirs(), theirs)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("family", seq2seq.FAMILIES)
def test_ids_are_those_of_transformers(family: str, beams: int) -> None:
    name = "summary" if beams > 1 else "plain"
    compare(family, num_beams=beams, num_return_sequences=min(beams, 2), **GRID[name])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beams", [1, 3, 20])
@pytest.mark.parametrize("name", GRID)
@pytest.mark.parametrize("family", seq2seq.FAMILIES)
def test_so_they_are_over_the_grid(family: str, name: str, beams: int, seed: int) -> None:
    compare(family, seed, num_beams=beams, num_return_sequences=min(beams, 3), **GRID[name])


@pytest.mark.parametrize("path", [None, pytest.param("gpu", marks=pytest.mark.long)])
def test_samples_that_come_and_go_find_what_they_find_alone(path: str | None) -> None:
    """Slots that are filled again hold states of other lengths, and stages copy them."""
    model = models("bart").ours
    draw = torch.Generator().manual_seed(4)
    lengths = torch.randint(1, 14, (11,), generator=draw).tolist()
    inputs = [torch.randint(5, 60, (n,), generator=draw) for n in lengths]
    ends = {"eos_token_id": list(range(2, 61, 6)), "pad_token_id": 1}
    options = {"num_beams": 3, "max_new_tokens": 9, **ends}
    if path == "gpu":
        # Kernels take the interpreter long.
        inputs, options["max_new_tokens"] = inputs[:5], 4
    with as_on_gpu() if path == "gpu" else nullcontext():
        found = dict(model.generate_each(inputs, slots=3, **options))
    for place, ids in enumerate(inputs):
        assert torch.equal(found[place], model.generate(ids[None], **options)), place


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_real_width(dtype: str, tmp_path: Path) -> None:
    """A layer of BART-large on each side, packed where this machine can."""
    theirs = seq2seq.hf_model(
        "bart", 3, vocab_size=400, d_model=1024, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=16, decoder_attention_heads=16, encoder_ffn_dim=512,
        decoder_ffn_dim=512,
    )  # fmt: skip
    theirs.save_pretrained(tmp_path)
    usual, own = (
        tritonseq.load(tmp_path, device="cpu", dtype=dtype, source_cache=kind)
        for kind in ("projected", "states")
    )
    ids, mask = seq2seq.sources(2, 20, pad=1, seed=3, ragged=True, vocab=400)
    options = {"num_beams": 2, "max_new_tokens": 4}
    block, usual_block = own.decoder.decoder[0], usual.decoder.decoder[0]
    assert is_packed(block.cross.query.weight) == is_packed(usual_block.cross.query.weight)
    if dtype == "float32":
        again = partial(tiny.theirs, theirs, ids, mask, **options)
        seq2seq.assert_same(tiny.ours(own, ids, mask, hf_exact=True, **options), again(), again)
    else:
        exact = tritonseq.from_transformers(theirs)
        wanted, found, other = (
            tiny.ours(model, ids, mask, **options).logits[0] for model in (exact, own, usual)
        )
        # No further from the truth than the usual cache in the same dtype, within chance.
        assert (found - wanted).norm() < 1.3 * (other - wanted).norm() < 0.03 * wanted.norm()
    for twin in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert twin.source_cache == "states"
        assert torch.equal(twin.generate(ids, mask, **options), own.generate(ids, mask, **options))


class Weightless(Bart):
    """BART-large without memory for its weights, as if it were on the CPU."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


SAMPLES, BEAMS, SOURCE, TARGET = 32, 4, 1024, 7
LAYERS, WIDTH, ITEM = 12, 1024, 4


@cache
def bart_large(source_cache: str) -> Request:
    network = Weightless(BartConfig())
    network.keep_of_sources(source_cache)
    config = GenerationConfig(
        num_beams=BEAMS, max_new_tokens=TARGET + 1, decoder_start_token_id=2, eos_token_id=2
    )
    return Request.of(network, config, EnginePool())


@pytest.mark.parametrize("source_cache", ["projected", "states"])
def test_the_plan_of_bart_large_is_what_is_allocated(source_cache: str) -> None:
    """32 x 4 beams, source 1,024: 3 GiB of keys and values, or 128 MiB of states."""
    request = bart_large(source_cache)
    plan = request.plan(SAMPLES, SOURCE, refilled=False)
    made = request.decoder.new_cache(Sizes(SAMPLES, BEAMS, SOURCE, TARGET, 1))
    assert made.nbytes == plan.source_cache + plan.target_cache
    assert made.source_nbytes == plan.source_cache
    state = SAMPLES * WIDTH * ITEM
    pairs = 2 * LAYERS * state
    of_sources = SOURCE * (state if source_cache == "states" else pairs)
    assert plan.source_cache == of_sources + pairs  # and the prompt of one token
    assert plan.target_cache == pairs * TARGET * BEAMS


def test_the_batch_that_fits_grows_by_what_states_save(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, own = (bart_large(kind) for kind in ("projected", "states"))
    most = batch_size.paying(own)
    need, own_need = (r.plan(most, SOURCE, refilled=True).total for r in (usual, own))
    # Half as many samples more are staged.
    saved = (2 * LAYERS - 1) * SOURCE * WIDTH * ITEM
    assert need - own_need == (most + most // 2) * saved
    for share in (0.03, 0.1, 0.4):
        room = int(share * need / batch_size.SHARE)
        monkeypatch.setattr(batch_size, "free_memory", lambda _, room=room: room)
        count, more = (Sizing(r, RunOptions(), print).count(SOURCE) for r in (usual, own))
        assert count == int(share * most)
        assert more == min(most, int(share * most * need / own_need))
        assert more >= 3 * count or more == most


@pytest.mark.parametrize("name", ["gpt2-words", "unilm-clock"])
def test_models_without_cross_attention_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"for models with cross-attention, and a \w+ has none"):
        tritonseq.load(EMBEDDED / name, device="cpu", source_cache="states")
    assert tritonseq.load(EMBEDDED / name, device="cpu").source_cache == "projected"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"source_cache": "state"}, "source_cache is 'state': say 'projected' or 'states'"),
        ({"source_cache": None}, "source_cache is None"),
        ({"source_cache": ["states"]}, "source_cache is"),
        ({"source_cache": "states", "dtype": "int8"}, "head by head.*dtype='bfloat16'"),
        ({"source_cache": "states", "dtype": torch.int8}, "head by head"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(how: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tritonseq.load(EMBEDDED / "bart-numbers", device="cpu", **how)
    with pytest.raises(ValueError, match=words):
        tritonseq.from_transformers(None, **how)


def test_where_it_is_said() -> None:
    """When a model is loaded: a call that says it is told so, and a pipeline that disagrees."""
    folder, texts = EMBEDDED / "bart-numbers", ["It is twelve miles from here to Oslo.", "", "9"]
    model = tritonseq.load(folder, device="cpu", source_cache="states")
    with pytest.raises(ValueError, match="source_cache is no generation option: say it to load"):
        model.generate([[5, 6]], source_cache="states")
    wanted = tritonseq.load(folder, device="cpu").generate_text(texts, num_beams=3)
    assert model.generate_text(texts, num_beams=3) == wanted
    for loadable, kind in ((model, None), (model, "states"), (str(folder), "states")):
        results = tritonseq.pipeline(loadable, texts, num_beams=3, source_cache=kind)
        assert [result.text for result in results] == wanted
    with pytest.raises(ValueError, match="is 'projected', and the model was loaded with 'states'"):
        tritonseq.pipeline(model, texts, source_cache="projected")
    with pytest.raises(ValueError, match="source_cache is 'sates'"):
        tritonseq.pipeline(str(folder), texts, source_cache="sates")
