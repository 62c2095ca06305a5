"""Weights load however they were saved: as parameters, under wrappers, with other heads."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import folders
import networks
import pytest
import tiny
import torch
import transformers
from torch import Tensor, nn

import tritonseq
from tritonseq.checkpoint.loader import load_checkpoint
from tritonseq.models import matmul

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    State = dict[str, Tensor]

FAMILIES = (
    "gpt2",
    "t5",
    "mt5",
    "umt5",
    "bart",
    "mbart",
    "pegasus",
    "marian",
    "prophetnet",
    "unilm",
)
# Beyond the size from which weights are packed on the CPU.
WIDE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 384, "n_head": 6, "n_layer": 1},
    "t5": {"d_model": 512, "d_ff": 1024, "num_layers": 1},
    "bart": {"d_model": 512, "encoder_attention_heads": 8, "decoder_attention_heads": 8},
    "unilm": {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8},
}


def model_of(family: str, **sizes: Any) -> Any:
    if family == "gpt2":
        return tiny.hf_gpt2(**sizes)
    if family != "unilm":
        return networks.network(family, **sizes)
    config = {
        "vocab_size": 110,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "max_position_embeddings": 32,
    }
    model = transformers.BertForMaskedLM(transformers.BertConfig(**(config | sizes))).eval()
    networks.randomise(model)
    return model


def write(folder: Path, model: Any, state: Mapping[str, Any]) -> Path:
    config = model.config.to_dict()
    if config["model_type"] == "bert":
        config |= {"model_type": "unilm", "source_type_id": 0, "target_type_id": 1}
    return folders.write(folder, state, config)


def dense(folder: Path) -> dict[str, Any]:
    """What every weight of the loaded network is worth."""
    decoder = load_checkpoint(folder, device="cpu").decoder
    found = {}
    for name, weight in decoder.named_parameters():
        assert not weight.requires_grad
        found[name] = matmul.dense(weight).clone()
    return found


def assert_loads_alike(tmp_path: Path, model: Any, state: Mapping[str, Any]) -> None:
    wanted = dense(write(tmp_path / "plain", model, model.state_dict()))
    found = dense(write(tmp_path / "other", model, state))
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight), name


def parameters(model: Any, *, remove_duplicate: bool) -> State:
    """What a training loop may save; the bias of BART's logits is none of them."""
    own = dict(model.named_parameters(remove_duplicate=remove_duplicate))
    return own | {n: t for n, t in model.named_buffers() if n == "final_logits_bias"}


FORMS: dict[str, Callable[[Any], Mapping[str, Any]]] = {
    "parameters": lambda m: parameters(m, remove_duplicate=False),
    "unique parameters": lambda m: parameters(m, remove_duplicate=True),
    "kept for training": lambda m: m.state_dict(keep_vars=True),
    "transposed": lambda m: {
        n: t.t().contiguous().t() if t.dim() == 2 else t for n, t in m.state_dict().items()
    },
    "views": lambda m: {
        n: torch.stack((t, t))[1] if t.is_floating_point() else t for n, t in m.state_dict().items()
    },
    "mixed dtypes": lambda m: {
        n: t.double() if "bias" in n and t.is_floating_point() else t
        for n, t in m.state_dict().items()
    },
    "module.": lambda m: nn.DataParallel(m).state_dict(),
    "_orig_mod.": lambda m: torch.compile(m).state_dict(),
    "model.": lambda m: {f"model.{n}": t for n, t in m.state_dict().items()},
    "module._orig_mod.": lambda m: nn.DataParallel(torch.compile(m)).state_dict(),
    "pretrained_model.": lambda m: {f"pretrained_model.{n}": t for n, t in m.state_dict().items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_forms_of_a_state(tmp_path: Path, family: str, form: str) -> None:
    model = model_of(family)
    assert_loads_alike(tmp_path, model, FORMS[form](model))


@pytest.mark.parametrize(("family", "body"), [("gpt2", "transformer"), ("bart", "model")])
def test_the_name_of_a_body_is_no_wrapper(tmp_path: Path, family: str, body: str) -> None:
    """What is missing bears its name in the file, and a bare body under a wrapper loads."""
    model = model_of(family)
    state = {n: t for n, t in model.state_dict().items() if n.startswith(f"{body}.")}
    del state[next(name for name in state if name.endswith("fc1.bias") or "c_fc.b" in name)]
    with pytest.raises(ValueError, match=rf"missing: {body}\.\S*bias$"):
        tritonseq.load(write(tmp_path / "less", model, state))
    whole = {f"module.{n}": t for n, t in model.state_dict().items() if n.startswith(f"{body}.")}
    assert dense(write(tmp_path / "body", model, whole))


@pytest.mark.parametrize("family", WIDE)
def test_parameters_of_real_width(tmp_path: Path, family: str) -> None:
    model = model_of(family, **WIDE[family])
    assert_loads_alike(tmp_path, model, parameters(model, remove_duplicate=True))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(32, dtype=torch.complex64), "Tensor of torch.complex64"),
        (torch.ones(32, dtype=torch.bool), "Tensor of torch.bool"),
        (torch.ones(32, dtype=torch.int64), "Tensor of torch.int64"),
        (torch.ones(32).to_sparse(), "a sparse_coo Tensor"),
        (torch.ones(32, device="meta"), "a meta Tensor"),
    ],
)
def test_tensors_that_are_no_plain_numbers(tmp_path: Path, tensor: Tensor, message: str) -> None:
    model = tiny.hf_gpt2()
    name = "transformer.ln_f.bias"
    with pytest.raises(ValueError, match=rf"{name}'? is .*{message}.*plain (float )?weights"):
        tritonseq.load(write(tmp_path, model, {**model.state_dict(), name: tensor}))


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_table_within_a_table(tmp_path: Path, key: str) -> None:
    """Lightning and training loops keep the weights beside other things."""
    model = tiny.hf_gpt2()
    folder = write(tmp_path, model, {"epoch": 3, key: model.state_dict()})
    message = rf"'(epoch|{key})' is a \w+, not a tensor: save the table of tensors alone"
    with pytest.raises(ValueError, match=message):
        tritonseq.load(folder)


HEADS = {
    "gpt2": (
        "v_head.summary.weight",
        "v_head.summary.bias",
        "multiple_choice_head.summary.weight",
        "score.weight",
        "classifier.weight",
        "qa_outputs.weight",
    ),
    "t5": (
        "classification_head.dense.weight",
        "classification_head.out_proj.bias",
        "qa_outputs.weight",
        "classifier.bias",
        "v_head.summary.weight",
    ),
    "bart": ("classification_head.dense.weight", "qa_outputs.bias", "v_head.summary.weight"),
    "unilm": ("classifier.weight", "qa_outputs.weight"),
}


@pytest.mark.parametrize("family", HEADS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_heads_of_other_tasks_are_left_out_and_named_once(
    tmp_path: Path, family: str, prefix: str
) -> None:
    model = model_of(family)
    state = model.state_dict() | {name: torch.ones(3) for name in HEADS[family]}
    folder = write(tmp_path / "more", model, {prefix + n: t for n, t in state.items()})
    with pytest.warns(UserWarning, match="generation does not use these weights") as seen:
        assert_loads_alike(tmp_path, model, torch.load(folder / "pytorch_model.bin"))
    (told,) = (str(one.message) for one in seen)
    assert all(name in told for name in HEADS[family])


def test_what_every_bert_has_beside_its_network_is_not_mentioned(tmp_path: Path) -> None:
    model = model_of("unilm")
    names = ("bert.pooler.dense.weight", "bert.pooler.dense.bias", "cls.seq_relationship.weight")
    state = model.state_dict() | {name: torch.ones(3) for name in names}
    folder = write(tmp_path / "more", model, state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_loads_alike(tmp_path, model, torch.load(folder / "pytorch_model.bin"))


@pytest.mark.parametrize("family", HEADS)
def test_what_nobody_knows_is_left_over(tmp_path: Path, family: str) -> None:
    model = model_of(family)
    with pytest.raises(ValueError, match=r"left over: my_head\.weight"):
        tritonseq.load(
            write(tmp_path, model, {**model.state_dict(), "my_head.weight": torch.ones(3)})
        )


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("GPT2ForSequenceClassification", "gpt2"),
        ("GPT2DoubleHeadsModel", "gpt2"),
        ("GPT2ForTokenClassification", "gpt2"),
        ("GPT2ForQuestionAnswering", "gpt2"),
        ("T5ForSequenceClassification", "t5"),
        ("T5ForQuestionAnswering", "t5"),
        ("BartForSequenceClassification", "bart"),
        ("BartForQuestionAnswering", "bart"),
        ("MBartForSequenceClassification", "mbart"),
    ],
)
def test_what_transformers_saves_for_other_tasks(tmp_path: Path, kind: str, family: str) -> None:
    """The network below the head generates, as it does in transformers."""
    config = model_of(family).config
    model = getattr(transformers, kind)(config).eval()
    networks.randomise(model)
    model.save_pretrained(tmp_path)
    auto = transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM
    theirs = auto[family != "gpt2"].from_pretrained(tmp_path).eval()
    with pytest.warns(UserWarning, match="generation does not use these weights"):
        ours = tritonseq.load(tmp_path, device="cpu")
    ids = torch.randint(8, 45, (2, 6))
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 3}
    options |= {} if family == "gpt2" else {"decoder_start_token_id": 2}
    wanted = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(ours.generate(ids, **options), wanted)


def test_constants_and_masks_are_no_news(tmp_path: Path) -> None:
    """What training leaves in every file of a family is dropped without a word."""
    extras = {
        "gpt2": {"transformer.h.0.attn.bias": torch.ones(1), "transformer.h.0.attn.masked_bias": 0},
        "t5": {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": 0},
        "bart": {"model.encoder.version": 0, "model.decoder.version": 0},
        "unilm": {"bert.embeddings.position_ids": 0, "crit_mask_lm_smoothed.one_hot": 0},
    }
    for family, names in extras.items():
        model = model_of(family)
        state = model.state_dict() | {name: torch.ones(1) for name in names}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tritonseq.load(write(tmp_path / family, model, state), device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [12, 768])
def test_the_head_of_a_unilm_may_be_its_own(tmp_path: Path, width: int, dtype: torch.dtype) -> None:
    """The words are looked up in one table and told by the other."""
    sizes = {"hidden_size": width, "num_hidden_layers": 1, "vocab_size": 400}
    model = model_of("unilm", **sizes).to(dtype)
    own = "cls.predictions.decoder.weight"
    state = {**model.state_dict()}
    plain = load_checkpoint(write(tmp_path / "plain", model, state), dtype=dtype).decoder
    state[own] = state[own].flip(0)
    state["cls.predictions.bias"] = state["cls.predictions.bias"].flip(0)
    del state["cls.predictions.decoder.bias"]
    folder = write(tmp_path / "own", model, state)
    with pytest.warns(UserWarning, match=rf"word_embeddings\.weight and {own} differ"):
        flipped = load_checkpoint(folder, dtype=dtype).decoder
    logits = []
    for decoder in (plain, flipped):
        cache = decoder.new_cache(cache_sizes(), None)
        ids = torch.randint(5, 100, (1, 6), generator=torch.Generator().manual_seed(0))
        logits.append(decoder.prefill(ids, torch.tensor([6]), cache).float())
    torch.testing.assert_close(logits[0].flip(-1), logits[1], rtol=1e-2, atol=1e-2)
    assert logits[0].std() > 0.1


def cache_sizes() -> Any:
    from tritonseq.memory.kv_cache import Sizes

    return Sizes(samples=1, beams=1, source_length=6, target_length=2)
