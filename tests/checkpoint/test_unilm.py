"""UniLM checkpoints of every family come into one form, or are refused with the remedy."""

from __future__ import annotations

import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from folders import write
from torch import Tensor
from walk import begin

import tritonseq
from tritonseq.checkpoint.loader import load_checkpoint, read_generation
from tritonseq.checkpoint.unilm import translate
from tritonseq.checkpoint.unilm_family import is_unilm, variant_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    State = dict[str, Tensor]

# No two sizes agree, and no published id is beyond the vocabulary.
VOCAB, WIDTH, INNER, POSITIONS = 110, 8, 12, 7
SHAPE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
}
# What Google's converted files and version 1 have beside their weights.
PLAIN = {**SHAPE, "vocab_size": VOCAB, "max_position_embeddings": 512, "type_vocab_size": 2}
# And what s2s-ft writes with transformers.
SAVED = {
    **PLAIN,
    "model_type": "bert",
    "architectures": ["BertForSequenceToSequenceWithPseudoMask"],
    "layer_norm_eps": 1e-12,
    "source_type_id": 0,
    "target_type_id": 1,
    "rel_pos_bins": 0,
    "max_rel_pos": 0,
    "max_length": 20,
    "num_beams": 1,
    "length_penalty": 1.0,
    "pad_token_id": 0,
}

WORDS = "bert.embeddings.word_embeddings.weight"
ROWS = "bert.embeddings.position_embeddings.weight"
TYPES = "bert.embeddings.token_type_embeddings.weight"
HEAD = "cls.predictions.transform"
OWN_HEAD = "cls.predictions.decoder.weight"
QUERY = "bert.encoder.layer.1.attention.self.query"


def standard(types: int = 2, positions: int = POSITIONS) -> State:
    """Every tensor that the network reads, under the names of BERT in transformers."""
    shapes: dict[str, tuple[int, ...]] = {WORDS: (VOCAB, WIDTH), ROWS: (positions, WIDTH)}
    if types:
        shapes[TYPES] = (types, WIDTH)
    square = ["attention.self.query", "attention.self.key", "attention.self.value"]
    linear = [(f"{part}", WIDTH, WIDTH) for part in [*square, "attention.output.dense"]]
    linear += [("intermediate.dense", INNER, WIDTH), ("output.dense", WIDTH, INNER)]
    norms = ["bert.embeddings.LayerNorm", f"{HEAD}.LayerNorm"]
    for i in range(2):
        layer = f"bert.encoder.layer.{i}"
        for part, outputs, inputs in linear:
            shapes |= {f"{layer}.{part}.weight": (outputs, inputs)}
            shapes |= {f"{layer}.{part}.bias": (outputs,)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for norm in norms:
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    shapes |= {f"{HEAD}.dense.weight": (WIDTH, WIDTH), f"{HEAD}.dense.bias": (WIDTH,)}
    shapes["cls.predictions.bias"] = (VOCAB,)
    torch.manual_seed(types)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


class Memory:
    """A reader of a state in memory that notes what is read."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        self.seen: list[str] = []

    def read(self, name: str) -> Tensor:
        self.seen.append(name)
        return self.state[name]


def brought(
    state: State, config: Mapping[str, Any] = SAVED, tokenizer: Path | None = None, **changes: Any
) -> tuple[dict[str, Any], State]:
    """The configuration and the tensors after `translate`; shapes are as announced."""
    network, view = translate(config, changes, Memory(state), tokenizer=tokenizer)
    tensors = {name: view.read(name) for name in view.shapes}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == view.shapes
    return network, tensors


def settled(config: Mapping[str, Any] = SAVED, *, types: int = 2, **changes: Any) -> dict[str, Any]:
    return brought(standard(types), config, **changes)[0]


def assert_same(actual: State, wanted: State) -> None:
    assert actual.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(actual[name], tensor), name


def renamed(state: State, *pairs: tuple[str, str]) -> State:
    for old, new in pairs:
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    return state


def saved(state: State) -> State:
    """As s2s-ft saves: the tied head under a name of its own, the smoothing of labels."""
    one_hot = torch.zeros(1, VOCAB)
    return {
        **state,
        "cls.predictions.decoder_weight": state[WORDS].clone(),
        "crit_mask_lm_smoothed.one_hot": one_hot,
    }


def first_version(state: State) -> State:
    """As version 1 saves, with all that it trains beside the network."""
    extras = {
        "bert.pooler.dense.weight": (WIDTH, WIDTH),
        "bert.pooler.dense.bias": (WIDTH,),
        "cls.seq_relationship.weight": (2, WIDTH),
        "cls.seq_relationship.bias": (2,),
        "cls2.predictions.bias": (VOCAB,),
        "secondary_pred_proj.weight": (3, 3),
        "crit_pair_rel.rel_emb.weight": (3, 3),
    }
    trained = {name: torch.randn(shape) for name, shape in extras.items()}
    return {**state, **trained, OWN_HEAD: state[WORDS].clone()}


def port(state: State) -> State:
    """As the ports to transformers save."""
    return {
        **state,
        "cls.predictions.decoder.weight": state[WORDS].clone(),
        "cls.predictions.decoder.bias": state["cls.predictions.bias"].clone(),
        "bert.embeddings.position_ids": torch.arange(POSITIONS)[None],
    }


def old_norms(state: State) -> State:
    return renamed(state, ("LayerNorm.weight", "LayerNorm.gamma"), ("Norm.bias", "Norm.beta"))


def head_without_words(state: State) -> State:
    """What is left where a writer keeps one of two tensors that are the same."""
    state = {**state, "cls.predictions.decoder_weight": state[WORDS]}
    state["cls.predictions.decoder.bias"] = state.pop("cls.predictions.bias")
    del state[WORDS]
    return state


@pytest.mark.parametrize(
    "layout",
    [
        dict,
        saved,
        first_version,
        port,
        old_norms,
        head_without_words,
        lambda state: renamed(state, ("bert.", "")),
        lambda state: renamed(state, ("bert.", "electra.")),
    ],
    ids=["plain", "s2s", "v1", "port", "gamma", "no words", "bare", "electra"],
)
def test_names(layout: Callable[[State], State]) -> None:
    state = standard()
    tensors = brought(layout(dict(state)))[1]
    # A head that is written out stays, for the loader to compare.
    assert torch.equal(tensors.pop(OWN_HEAD, state[WORDS]), state[WORDS])
    assert_same(tensors, state)


def test_roberta() -> None:
    """Two rows of positions less, no types, and another name for the head."""
    state = standard(types=0)
    raw = renamed(
        state,
        (f"{HEAD}.LayerNorm", "lm_head.layer_norm"),
        (f"{HEAD}.dense", "lm_head.dense"),
        ("cls.predictions.bias", "lm_head.bias"),
        ("bert.", "roberta."),
    )
    raw["roberta.embeddings.token_type_embeddings.weight"] = torch.randn(1, WIDTH)
    raw["roberta.embeddings.position_ids"] = torch.arange(POSITIONS + 2)[None]
    raw["lm_head.decoder.weight"] = state[WORDS]
    padded = torch.cat((torch.randn(2, WIDTH), state[ROWS]))
    raw["roberta.embeddings.position_embeddings.weight"] = padded
    network, tensors = brought(raw, {**SHAPE, "model_type": "roberta"})
    assert_same(tensors, {**state, OWN_HEAD: state[WORDS]})
    assert (network["type_vocab_size"], network["max_position_embeddings"]) == (0, POSITIONS)


def fused(state: State) -> State:
    """One product for query, key and value, whose key has no bias; a bias of distances."""
    state = dict(state)
    for at in ("bert.encoder.layer.0.attention.self.", "bert.encoder.layer.1.attention.self."):
        parts = [state.pop(f"{at}{part}.weight") for part in ("query", "key", "value")]
        state[f"{at}qkv_linear.weight"] = torch.cat(parts)
        state[f"{at}q_bias"] = state.pop(f"{at}query.bias").view(1, 1, -1)
        state[f"{at}v_bias"] = state.pop(f"{at}value.bias").view(1, 1, -1)
        del state[f"{at}key.bias"]
    return state


def test_unilm_2() -> None:
    state = standard()
    for i in range(2):
        state[f"bert.encoder.layer.{i}.attention.self.key.bias"] = torch.zeros(WIDTH)
    bias = torch.randn(2, 32)
    raw = {**fused(state), "bert.encoder.rel_pos_bias.weight": bias}
    config = {**SAVED, "rel_pos_bins": 32, "max_rel_pos": 128}
    network, tensors = brought(raw, config)
    assert_same(tensors, {**state, "bert.rel_pos_bias.weight": bias})
    assert (network["rel_pos_bins"], network["max_rel_pos"]) == (32, 128)
    # Fine-tuned, it is saved under the names of BERT.
    tuned = brought(saved({**state, "bert.rel_pos_bias.weight": bias}), config)[1]
    assert_same(tuned, {**tensors, OWN_HEAD: state[WORDS]})


def test_a_fused_product_is_read_once() -> None:
    reader = Memory(fused(standard()))
    view = translate(SAVED, {}, reader)[1]
    for part in ("query", "key", "value"):
        view.read(f"bert.encoder.layer.1.attention.self.{part}.weight")
    assert reader.seen == ["bert.encoder.layer.1.attention.self.qkv_linear.weight"]


@pytest.mark.parametrize("count", [1, 6, 7, 8, 13, 14, 15, 40])
def test_positions_repeat_or_are_cut(count: int) -> None:
    state = standard()
    network, tensors = brought(state, max_position_embeddings=count)
    wanted = [state[ROWS][row % POSITIONS] for row in range(count)]
    assert torch.equal(tensors[ROWS], torch.stack(wanted))
    assert network["max_position_embeddings"] == count


@pytest.mark.parametrize(
    ("old", "new", "rows"),
    [
        (2, 2, [0, 1]),
        (2, 3, [0, 1, 0]),
        (2, 4, [0, 1, 0, 0]),
        (2, 6, [0, 1, 0, 0, 0, 1]),
        (2, 7, [0, 1, 0, 0, 0, 1, 1]),
        (3, 6, [0, 1, 0, 0, 0, 1]),
        # Whatever grows loses what it had learnt beyond two types.
        (6, 7, [0, 1, 0, 0, 0, 1, 1]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (6, 2, [0, 1]),
        (7, 6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_types_grow_or_are_cut(old: int, new: int, rows: list[int]) -> None:
    state = standard(old)
    used = {"source_type_id": 0, "target_type_id": 1}
    network, tensors = brought(state, PLAIN, type_vocab_size=new, **used)
    assert torch.equal(tensors[TYPES], state[TYPES][rows])
    assert network["type_vocab_size"] == new


def test_types_can_go() -> None:
    network, tensors = brought(standard(2), PLAIN, type_vocab_size=0)
    assert TYPES not in tensors
    assert network["type_vocab_size"] == 0


@pytest.mark.parametrize(("old", "new"), [(0, 2), (1, 6), (2, 5), (2, 8), (7, 8)])
def test_types_that_nothing_fills(old: int, new: int) -> None:
    with pytest.raises(ValueError, match=f"type_vocab_size {new}: .* has {old} token types"):
        settled(PLAIN, types=old, type_vocab_size=new)


def test_slices_of_tasks() -> None:
    """Relaxed projections and tables of positions hold four tasks; ours is the last."""
    state = standard(6)
    raw = dict(state)
    for name in [name for name in state if name.startswith(HEAD)]:
        others = [torch.randn_like(state[name]) for _ in range(3)]
        raw[name] = torch.cat([*others, state[name]])
    rows = [torch.randn_like(state[ROWS]) for _ in range(3)]
    raw[ROWS] = torch.cat([*rows, state[ROWS]], dim=1)
    assert_same(brought(raw, PLAIN)[1], state)
    # And what was cut out is then repeated.
    longer = brought(raw, PLAIN, max_position_embeddings=2 * POSITIONS)[1][ROWS]
    assert torch.equal(longer, state[ROWS].repeat(2, 1))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (ROWS, (POSITIONS, 3 * WIDTH)),
        (ROWS, (POSITIONS, 4 * WIDTH + 1)),
        (f"{HEAD}.dense.weight", (2 * WIDTH, WIDTH)),
        (f"{HEAD}.dense.bias", (WIDTH - 1,)),
        (f"{HEAD}.LayerNorm.weight", ()),
    ],
)
def test_sizes_that_are_no_slices(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{name} has shape .*neither one slice of {WIDTH}"):
        brought({**standard(), name: torch.randn(shape)})


OTHER_SPELLING = {**PLAIN, "model_type": "bert", "src_type_id": 4, "tgt_type_id": 5}


@pytest.mark.parametrize(
    ("types", "config", "changes", "wanted"),
    [
        # What so many types are used for, if nothing says; then what config.json says.
        (6, PLAIN, {}, (4, 4, 5)),
        (2, PLAIN, {}, (0, 0, 1)),
        (7, PLAIN, {}, (4, 6, 5)),
        (6, SAVED, {}, (0, 0, 1)),
        (6, OTHER_SPELLING, {}, (4, 4, 5)),
        (6, {**SAVED, "source_type_id": 2, "target_type_id": 3}, {}, (2, 2, 3)),
        (3, {**SAVED, "source_type_id": 2, "target_type_id": 0}, {}, (2, 2, 0)),
        # The flags of version 1.
        (2, PLAIN, {"new_segment_ids": True}, (4, 4, 5)),
        (2, SAVED, {"new_segment_ids": True}, (4, 4, 5)),
        (6, PLAIN, {"new_segment_ids": False}, (0, 0, 1)),
        (2, PLAIN, {"new_segment_ids": True, "s2s_add_segment": True}, (4, 6, 5)),
        (7, PLAIN, {"s2s_add_segment": True}, (4, 6, 5)),
        (
            2,
            PLAIN,
            {"new_segment_ids": True, "s2s_add_segment": True, "s2s_share_segment": True},
            (0, 1, 5),
        ),
        (6, PLAIN, {"s2s_share_segment": True}, (4, 4, 5)),
        # Which s2s-ft takes and does not heed.
        (2, SAVED, {"s2s_add_segment": True}, (0, 0, 1)),
        # What the caller says outright.
        (6, SAVED, {"source_type_id": 4, "target_type_id": 5}, (4, 4, 5)),
        (6, PLAIN, {"tgt_type_id": 3}, (4, 4, 3)),
        (2, PLAIN, {"new_segment_ids": True, "first_type_id": 1}, (1, 4, 5)),
        # Without a table there is nothing to choose.
        (0, SAVED, {}, (0, 0, 0)),
    ],
)
def test_type_ids(
    types: int, config: dict[str, Any], changes: dict[str, Any], wanted: tuple[int, int, int]
) -> None:
    network = settled(config, types=types, **changes)
    names = ("first_type_id", "source_type_id", "target_type_id")
    assert tuple(network[name] for name in names) == wanted


@pytest.mark.parametrize(
    ("types", "config", "changes", "message"),
    [
        (2, OTHER_SPELLING, {}, "source_type_id is 4, .* has 2 token types.*new_segment_ids=True"),
        (2, PLAIN, {"s2s_add_segment": True}, "first_type_id is 4, .* has 2 token types"),
        (6, PLAIN, {"target_type_id": 6}, "target_type_id is 6, .* has 6 token types"),
        (6, PLAIN, {"target_type_id": -1}, "target_type_id is -1: it must be an integer"),
        (6, PLAIN, {"source_type_id": "4"}, "source_type_id is '4': it must be an integer"),
        (3, PLAIN, {}, "has 3 token types, and nothing says which"),
        (1, PLAIN, {"source_type_id": 0}, "has 1 token types, and nothing says which"),
    ],
)
def test_types_that_are_not_there(
    types: int, config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settled(config, types=types, **changes)


def test_sizes_are_those_of_the_tensors() -> None:
    """config.json is often another's; the norms' epsilon is that of training."""
    network = settled({**SAVED, "vocab_size": 1, "type_vocab_size": 9}, types=6)
    assert network["vocab_size"] == VOCAB
    assert network["max_position_embeddings"] == POSITIONS
    assert network["type_vocab_size"] == 6
    assert network["layer_norm_eps"] == 1e-5
    assert settled(layer_norm_eps=1e-12)["layer_norm_eps"] == 1e-12
    assert settled(layer_norm_epsilon=1e-7)["layer_norm_eps"] == 1e-7


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (PLAIN, "v1"),
        (SAVED, "s2s"),
        ({**PLAIN, "layer_norm_epsilon": 1e-5, "label_smoothing": 0.0}, "v1"),
        ({**PLAIN, "src_type_id": 4}, "s2s"),
        ({**PLAIN, "target_type_id": 5}, "s2s"),
        ({**PLAIN, "model_type": "roberta"}, "s2s"),
        ({**PLAIN, "model_type": "unilm"}, "v1"),
        ({**PLAIN, "architectures": ["BertForSequenceToSequenceUniLMV1"]}, "s2s"),
        ({**PLAIN, "s2s_special_token": True, "pos_shift": True}, "v1"),
        ({**SAVED, "s2s_special_token": True, "s2s_add_segment": True}, "s2s"),
        ({**SAVED, "new_segment_ids": True}, "v1"),
        ({**SAVED, "new_segment_ids": False}, "s2s"),
        ({**SAVED, "variant": "v1"}, "v1"),
        ({**PLAIN, "variant": "s2s"}, "s2s"),
    ],
)
def test_variants(config: dict[str, Any], wanted: str) -> None:
    assert variant_of(config) == wanted
    assert settled(config, types=7)["variant"] == wanted


def write_vocabulary(folder: Path, *tokens: str, end: str = "\n", size: int = VOCAB) -> Path:
    """A vocab.txt that starts with `tokens` and holds `size` lines."""
    lines = [*tokens, *(f"word{i}" for i in range(size - len(tokens)))]
    (folder / "vocab.txt").write_bytes(end.join(lines).encode() + end.encode())
    return folder


def tokens_of(network: dict[str, Any]) -> tuple[int, ...]:
    names = ("mask_token_id", "eos_token_id", "pad_token_id", "start_token_id")
    return tuple(network[name] for name in names)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tokens_by_vocabulary(tmp_path: Path, end: str) -> None:
    """It wins over config.json; of two lines with one token, the later one counts."""
    names = ("[MASK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]", "[unused18]")
    write_vocabulary(tmp_path, *names, end=end)
    wrong = {"eos_token_id": 77, "pad_token_id": 78, "mask_token_id": 79}
    assert tokens_of(settled({**SAVED, **wrong}, tokenizer=tmp_path)) == (3, 2, 4, 2)
    assert tokens_of(settled({**PLAIN, **wrong}, tokenizer=tmp_path)) == (3, 2, 4, 5)
    write_vocabulary(tmp_path, *names, "[S2S_SOS]", end=end)
    assert tokens_of(settled(PLAIN, tokenizer=tmp_path)) == (3, 2, 4, 6)
    said = {"mask_token_id": 9, "eos_token_id": 8, "pad_token_id": 7, "start_token_id": 6}
    assert tokens_of(settled(PLAIN, tokenizer=tmp_path, **said)) == (9, 8, 7, 6)
    assert tokens_of(settled(tokenizer=tmp_path, eos_token_id=8)) == (3, 8, 4, 8)


def test_tokens_without_a_vocabulary(tmp_path: Path) -> None:
    assert tokens_of(settled(PLAIN)) == tokens_of(settled(PLAIN, tokenizer=tmp_path))
    assert tokens_of(settled(PLAIN)) == (103, 102, 0, 18)
    assert tokens_of(settled(SAVED)) == (103, 102, 0, 102)
    assert tokens_of(settled({**SAVED, "mask_token_id": 4, "eos_token_id": 5})) == (4, 5, 0, 5)
    # Of RoBERTa, whose pad token is not the one that s2s-ft writes into config.json.
    assert tokens_of(settled(SAVED, types=0)) == (VOCAB - 1, 2, 1, 2)


def test_tokens_of_other_files(tmp_path: Path) -> None:
    ids = {"<s>": 0, "<pad>": 4, "</s>": 5, "<mask>": 60}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    assert tokens_of(settled(types=0, tokenizer=tmp_path)) == (60, 5, 4, 5)
    (tmp_path / "vocab.json").unlink()
    added = [{"id": i, "content": t} for i, t in enumerate(("[PAD]", "[SEP]", "[MASK]"), start=7)]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert tokens_of(settled(tokenizer=tmp_path)) == (9, 8, 7, 8)


def test_tokens_that_are_not_there(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, "[PAD]", "[CLS]", "[SEP]")
    with pytest.raises(ValueError, match=r"has neither \[MASK\] nor <mask>: .* mask_token_id"):
        settled(tokenizer=tmp_path)
    assert settled(tokenizer=tmp_path, mask_token_id=5)["mask_token_id"] == 5
    write_vocabulary(tmp_path, *["word"] * 200, "[PAD]", "[SEP]", "[MASK]", size=300)
    with pytest.raises(ValueError, match=f"mask_token_id is 202, .* none of the {VOCAB} tokens"):
        settled(tokenizer=tmp_path)
    for wrong in (VOCAB, -1, True, "[SEP]", [5]):
        with pytest.raises(ValueError, match=r"eos_token_id is .*, which is none of the"):
            settled(eos_token_id=wrong)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({"hidden_act": "gelu"}, {}, "does not say hidden_size, num_hidden_layers, num_att"),
        ({**PLAIN, "num_qkv": 2}, {}, "num_qkv=2 is not supported"),
        (PLAIN, {"seg_emb": True}, "seg_emb=True is not supported"),
        (PLAIN, {"ffn_type": 1}, "ffn_type=1 is not supported"),
        (PLAIN, {"new_segment_ids": "yes"}, "new_segment_ids is 'yes': it must be True or False"),
        (PLAIN, {"pos_shift": 1}, "pos_shift is 1: it must be True or False"),
        (PLAIN, {"variant": "s2s-ft"}, "variant is 's2s-ft': it must be 'v1' or 's2s'"),
        (PLAIN, {"new_segment_id": True}, "'new_segment_id' is no key .* 'new_segment_ids'"),
        (PLAIN, {"source_typeid": 4}, "'source_typeid' is no key .* 'source_type_id'"),
        (PLAIN, {"max_position_embeddings": 0.5}, "max_position_embeddings is 0.5: it must be"),
    ],
)
def test_keys_at_fault(config: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settled(config, **changes)


def test_a_whole_configuration_may_be_passed() -> None:
    """Then its sizes are asked for, which are no others than those of the keys above."""
    pooler = {"pooler_num_attention_heads": 12, "pooler_type": "first_token_transform"}
    others = transformers.BertConfig(label_smoothing=0.0).to_dict() | pooler
    whole = {**others, **PLAIN, "bos_token_id": None, "eos_token_id": None}
    network = settled({}, types=6, **whole)
    assert (network["max_position_embeddings"], network["type_vocab_size"]) == (512, 2)
    assert tokens_of(network) == (103, 102, 0, 102)


def test_several_queries_per_head() -> None:
    state = {**standard(), f"{QUERY}.weight": torch.randn(2 * WIDTH, WIDTH)}
    with pytest.raises(ValueError, match=r"query\.weight has shape \[16, 8\].*num_qkv"):
        brought(state)


def answer(path: Path, **options: Any) -> Tensor:
    """The first logits of the network in `path` after a source."""
    decoder: Any = load_checkpoint(path, device="cpu", **options).decoder
    source = torch.tensor([[101, 5, 6, 102], [101, 7, 102, 0]])
    lengths = torch.tensor([4, 3])
    return begin(decoder, source, lengths, beams=1, target_length=2)[1]


BERT = {**PLAIN, "model_type": "bert", "architectures": ["BertForMaskedLM"]}


@pytest.mark.parametrize(
    ("state", "config"),
    [
        (lambda: saved(standard()), BERT),
        (lambda: fused(standard()), BERT),
        (lambda: standard(6), BERT),
        (lambda: {**standard(), ROWS: torch.randn(POSITIONS, 4 * WIDTH)}, BERT),
        (lambda: {**standard(), f"{HEAD}.dense.weight": torch.randn(4 * WIDTH, WIDTH)}, BERT),
        (lambda: old_norms(standard(6)), PLAIN),
        # Only version 1 has new names of norms and no model type.
        (lambda: first_version(standard()), PLAIN),
        (standard, SAVED),
        (standard, {**BERT, "src_type_id": 0}),
        (standard, {**BERT, "rel_pos_bins": 0}),
        (standard, {**PLAIN, "architectures": ["UnilmForSeq2Seq"]}),
        (standard, {**PLAIN, "model_type": "unilm"}),
        (lambda: standard(0), {**SAVED, "model_type": "xlm-roberta"}),
    ],
)
def test_recognised(state: Callable[[], State], config: dict[str, Any]) -> None:
    assert is_unilm(config, Memory(state()).shapes)


def headless() -> State:
    return {name: t for name, t in standard().items() if not name.startswith("cls.")}


@pytest.mark.parametrize(
    ("state", "config", "message"),
    [
        (standard, BERT, r'nothing in its files says .* model_type="unilm" \(--model-type unilm'),
        (lambda: old_norms(first_version(standard())), PLAIN, r'pass model_type="unilm"'),
        (headless, BERT, "no prediction head .* s2s-ft"),
        (headless, SAVED, "no prediction head .* s2s-ft"),
        (lambda: renamed(headless(), ("bert.", "")), PLAIN, "no prediction head .* s2s-ft"),
        (standard, {**BERT, "model_type": "deberta"}, "model_type 'deberta' is not supported"),
        (lambda: {"wte.weight": torch.ones(3, 3)}, {}, "model_type is None"),
        (
            lambda: {"wte.weight": torch.ones(3, 3)},
            {**PLAIN, "model_type": "unilm"},
            "no network like BERT's",
        ),
        (
            lambda: {k: t for k, t in standard(6).items() if k != f"{QUERY}.bias"},
            PLAIN,
            r"missing: bert\.encoder\.layer\.1\.attention\.self\.query\.bias",
        ),
        (
            lambda: {**standard(6), "bert.encoder.layer.2.output.dense.bias": torch.ones(WIDTH)},
            PLAIN,
            r"left over: bert\.encoder\.layer\.2\.output\.dense\.bias",
        ),
        (standard, {**SAVED, "num_attention_heads": 3}, "8 is not a multiple of num_attention"),
        (standard, {**SAVED, "intermediate_size": 9}, r"has shape \[12, 8\].* asks for \[9, 8\]"),
        (standard, {**SAVED, "quantization_config": {"bits": 4}}, "quantised checkpoints are not"),
        (standard, {**SAVED, "rel_pos_bins": 32, "max_rel_pos": 128}, "missing: bert.rel_pos_bias"),
        (
            lambda: {**standard(), WORDS: torch.ones(VOCAB, WIDTH, dtype=torch.int8)},
            SAVED,
            "only plain float weights",
        ),
    ],
)
def test_refused(
    tmp_path: Path, state: Callable[[], State], config: dict[str, Any], message: str
) -> None:
    write(tmp_path, state(), config)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path, device="cpu")


def test_another_vocabulary(tmp_path: Path) -> None:
    write(tmp_path, standard(), SAVED)
    with pytest.raises(
        ValueError, match=r"\[110, 8\], but config\.json asks for \[111, 8\] by vocab_size"
    ):
        load_checkpoint(tmp_path, overrides={"vocab_size": 111})


def test_model_type_of_the_caller(tmp_path: Path) -> None:
    """What nothing tells apart loads if the caller says what it is."""
    told = write(tmp_path / "bert", standard(), BERT)
    known = answer(write(tmp_path / "s2s", standard(), SAVED))
    assert torch.equal(answer(told, model_type="unilm"), known)
    assert torch.equal(answer(told, overrides={"model_type": "unilm"}), known)
    # Keys of s2s-ft say as much.
    assert torch.equal(answer(told, overrides={"source_type_id": 0}), known)
    swapped = answer(told, overrides={"source_type_id": 1, "target_type_id": 0})
    assert not torch.equal(swapped, known)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"zipped": False},
        {"weights": "model.safetensors"},
        {"weights": "cnndm.unilm1-base-cased.bin"},
        {"weights": "tuned.safetensors"},
        {"config": "bert_config.json"},
        {"weights": "model.3.bin", "config": "unilm1-base-cased-config.json"},
    ],
)
@pytest.mark.parametrize("layout", [first_version, lambda s: old_norms(saved(s)), fused])
def test_files_of_a_folder(
    tmp_path: Path, layout: Callable[[State], State], files: dict[str, Any]
) -> None:
    """Whatever they are called and however they were written, they give one network."""
    state = standard(6)
    for i in range(2):
        state[f"bert.encoder.layer.{i}.attention.self.key.bias"].zero_()
    wanted = answer(write(tmp_path / "plain", state, PLAIN))
    folder = write(tmp_path / "other", layout(state), PLAIN, **files)
    for name in ("optimizer.bin", "optim.3.bin", "sched.3.bin", "training_args.bin"):
        (folder / name).write_bytes(b"never opened")
    for name in ("generation_config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    assert torch.equal(answer(folder), wanted)
    assert torch.equal(answer(folder / files.get("weights", "pytorch_model.bin")), wanted)


def test_several_files(tmp_path: Path) -> None:
    """One of them is named; its configuration may bear its name or lie with the tokenizer."""
    state = standard(6)
    write(tmp_path, state, PLAIN, weights="model.1.bin")
    write(tmp_path, standard(7), PLAIN, weights="model.2.bin")
    with pytest.raises(ValueError, match=r"pass one of them: model\.1\.bin, model\.2\.bin"):
        load_checkpoint(tmp_path)
    wanted = answer(tmp_path / "model.1.bin")
    assert not torch.equal(answer(tmp_path / "model.2.bin"), wanted)
    shifted = {**PLAIN, "pos_shift": True}
    (tmp_path / "model.2-config.json").write_text(json.dumps(shifted))
    assert load_checkpoint(tmp_path / "model.2.bin").config["pos_shift"]
    assert not load_checkpoint(tmp_path / "model.1.bin").config["pos_shift"]
    (tmp_path / "config.json").unlink()
    (tmp_path / "other-config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no config\.json, and no single other file"):
        load_checkpoint(tmp_path / "model.1.bin")
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "bert_config.json").write_text(json.dumps(PLAIN))
    assert torch.equal(answer(tmp_path / "model.1.bin", tokenizer=archive), wanted)


def test_shards_without_an_index_are_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, standard(6), PLAIN, weights="pytorch_model-00001-of-00002.bin")
    with pytest.raises(ValueError, match=r"has no weights: neither model\.safetensors"):
        load_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_bare_file_that_wants_to_run_code(tmp_path: Path, kind: str) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    state: dict[str, Any] = {**standard(6), f"{QUERY}.bias": Attack()}
    write(tmp_path, {}, PLAIN)
    path = tmp_path / "model.bin"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ValueError, match=r"model\.bin is refused.*could run code.*safetensors"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match=r"model\.bin is refused"):
        tritonseq.load(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("layout", [dict, fused])
def test_half_precision_is_widened(tmp_path: Path, layout: Callable[[State], State]) -> None:
    """Published files hold float16 and say nothing of it; growing tables keeps every value."""
    half = {name: tensor.half() for name, tensor in layout(standard(2)).items()}
    folder = write(tmp_path / "half", half, PLAIN)
    full = {name: tensor.float() for name, tensor in half.items()}
    wide = write(tmp_path / "full", full, PLAIN)
    grown = {"new_segment_ids": True, "max_position_embeddings": 11}
    decoder = load_checkpoint(folder, device="cpu", overrides=grown, model_type="unilm").decoder
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.float32}
    options: dict[str, Any] = {"overrides": grown, "model_type": "unilm"}
    assert torch.equal(answer(folder, **options), answer(wide, **options))


def test_defaults_of_generation(tmp_path: Path) -> None:
    """Those of the decoders; transformers' own, which are in config.json, do not count."""
    write(tmp_path, standard(), SAVED)
    usual = {"search": "unilm", "length_penalty": 0.0, "eos_token_id": 102, "pad_token_id": 0}
    assert load_checkpoint(tmp_path).generation == {**usual, "min_new_tokens": 1}
    first = load_checkpoint(tmp_path, overrides={"variant": "v1", "eos_token_id": 9})
    assert first.generation == {**usual, "eos_token_id": 9}
    stated = {"num_beams": 5, "length_penalty": 0.7, "eos_token_id": [102, 7], "top_k": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(stated))
    network = load_checkpoint(tmp_path).config
    wanted = {**usual, "min_new_tokens": 1, **stated}
    del wanted["top_k"]
    assert read_generation(tmp_path, network) == load_checkpoint(tmp_path).generation == wanted
    changed = load_checkpoint(tmp_path, overrides={"eos_token_id": 9}).generation
    assert changed == {**wanted, "eos_token_id": 9}


def test_loading_a_file_with_a_tokenizer_elsewhere(tmp_path: Path) -> None:
    """Texts are framed as the checkpoint's decoder wants them, whatever lies with the tokenizer."""
    pytest.importorskip("tokenizers")
    folder = write(tmp_path / "tuned", saved(standard()), SAVED, weights="model.2.bin")
    vocabulary = tmp_path / "vocabulary"
    vocabulary.mkdir()
    write_vocabulary(vocabulary, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Word", "[S2S_CLS]")
    (vocabulary / "bert_config.json").write_text(json.dumps(PLAIN))
    path = folder / "model.2.bin"
    model = tritonseq.load(path, device="cpu", tokenizer=vocabulary)
    assert model.generation_config.eos_token_id == 3
    assert model.tokenizer.rows(["Word word9"]) == [[2, 5, 16, 3]]
    shifted = tritonseq.load(path, tokenizer=str(vocabulary), config={"pos_shift": True})
    assert shifted.tokenizer.rows(["Word word9"]) == [[2, 5, 16]]
    lower = tritonseq.load(path, tokenizer=vocabulary, config={"do_lower_case": True})
    assert lower.tokenizer.rows(["word Word9"]) == [[2, 1, 16, 3]]
    with pytest.raises(ValueError, match="no tokenizer"):
        _ = tritonseq.load(path).tokenizer
