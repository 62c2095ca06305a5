"""ProphetNet by its definition: from any prompt, at any length, and from its files."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import folders
import networks
import pytest
import seq2seq
import tiny
import torch
import transformers
from prophetnet import PlainProphetNet
from walk import begin, feed

import tritonseq
from tritonseq.models import model_class
from tritonseq.models.matmul import is_packed
from tritonseq.models.prophetnet import ProphetNetConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    State = dict[str, torch.Tensor]

SIZES = networks.PROPHETNET_SIZES
REAL: dict[str, Any] = {"num_encoder_layers": 1, "num_decoder_layers": 1}
"""All else is as in ProphetNet-large by default."""
OPTIONS: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 6}


def wild(**config: Any) -> Any:
    """A transformers model whose every weight is random."""
    return networks.network("prophetnet", **config)


class TestTheNetwork:
    @pytest.mark.parametrize("ngram", [1, 2, 3])
    def test_the_definition_is_that_of_transformers_from_one_start_token(self, ngram: int) -> None:
        # transformers' cache has as many layers as its encoder.
        model = wild(ngram=ngram, num_decoder_layers=2)
        (source,), _ = networks.sources([9])
        target = torch.randint(0, networks.VOCAB, (24,))
        wanted, cache = [], None
        for token in target:
            with torch.no_grad():
                said = model(
                    input_ids=source[None], decoder_input_ids=token.view(1, 1), cache=cache
                )
            cache = said.cache
            wanted.append(said.logits[0, 0])
        found = PlainProphetNet(model)(source[None], target[None]).logits[0]
        torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("beams", "prompt", "ngram"), [(1, 1, 2), (3, 2, 1), (3, 7, 3), (1, 7, 2)]
    )
    def test_prompts_of_any_length(self, beams: int, prompt: int, ngram: int) -> None:
        model = wild(ngram=ngram)
        ours = tritonseq.from_transformers(model).decoder
        networks.assert_same_walk(
            PlainProphetNet(model), ours, [7, 1, 12], prompt_length=prompt, beams=beams, seed=ngram
        )

    def test_distances_beyond_the_last_bucket_and_up_to_the_last_position(self) -> None:
        model = wild(max_position_embeddings=30)
        plain, ours = PlainProphetNet(model), tritonseq.from_transformers(model).decoder
        tokens, lengths = networks.sources([5])
        for prompt in (1, 16):
            target = torch.randint(0, networks.VOCAB, (1, ours.max_positions))
            cache, logits = begin(
                ours, tokens, lengths, prompt=target[:, :prompt], beams=1,
                target_length=ours.max_positions - prompt,
            )  # fmt: skip
            found = [logits[0]]
            for token in target[0, prompt:]:
                found.append(feed(ours, token.view(1, 1), None, cache)[0, 0])
            wanted = plain(tokens, target).logits[0, prompt - 1 :]
            torch.testing.assert_close(torch.stack(found), wanted, rtol=1e-4, atol=1e-3)

    def test_sources_beyond_the_last_position(self) -> None:
        """They share it, as in transformers."""
        pair = seq2seq.pair("prophetnet", seed=16, max_position_embeddings=20)
        ids, mask = seq2seq.sources(3, 45, pad=0, ragged=True, seed=2)
        options = {"num_beams": 3, "max_new_tokens": 8}
        other = tiny.theirs(pair.theirs, ids, mask, **options)
        tiny.assert_same(tiny.ours(pair.ours, ids, mask, **options), other)
        short = tiny.ours(pair.ours, ids[:, :19], mask[:, :19], **options)
        assert not torch.equal(short.sequences, other.sequences)

    def test_longer_prompts_by_definition_where_transformers_is_wrong(self) -> None:
        pair = seq2seq.pair("prophetnet", seed=16)
        plain = PlainProphetNet(pair.theirs)
        ids, _ = seq2seq.sources(2, 6, pad=0)
        begun = torch.tensor([[2, 9, 10, 30], [2, 8, 41, 7]])
        options = {"decoder_input_ids": begun, "max_new_tokens": 5, "eos_token_id": None}
        found = pair.ours.generate(ids, **options)
        wanted = begun
        for _ in range(5):
            best = plain(ids, wanted).logits[:, -1].argmax(1, keepdim=True)
            wanted = torch.cat((wanted, best), 1)
        assert torch.equal(found, wanted)
        assert not torch.equal(pair.theirs.generate(ids, **options), wanted)
        with pytest.raises(ValueError, match="start with 4 tokens: transformers reads more than 1"):
            pair.ours.generate(ids, decoder_input_ids=begun, hf_exact=True)
        pair.ours.generate(ids, decoder_input_ids=begun[:, :1], hf_exact=True)

    def test_targets_end_at_the_last_position(self) -> None:
        """One more token, and transformers has no row of its table to ask with."""
        pair = seq2seq.pair("prophetnet", seed=16, max_position_embeddings=12)
        ids, mask = seq2seq.sources(2, 4, pad=0)
        options = {"max_new_tokens": None, "eos_token_id": None}
        other = tiny.theirs(pair.theirs, ids, mask, max_length=11, **options)
        mine = tiny.ours(pair.ours, ids, mask, max_length=11, hf_exact=True, **options)
        tiny.assert_same(mine, other)
        with pytest.raises(IndexError):
            tiny.theirs(pair.theirs, ids, mask, max_length=12, **options)
        with pytest.warns(UserWarning, match="than the 10 positions of the model leave room for"):
            longer = pair.ours.generate(ids, mask, max_length=12, eos_token_id=None)
        assert torch.equal(longer, mine.sequences)
        begun = torch.full((2, 12), 7)
        with pytest.raises(ValueError, match="the prompt alone has 13 tokens, the model 10"):
            pair.ours.generate(ids, mask, decoder_input_ids=begun)


@pytest.fixture(scope="module")
def large() -> Any:
    default = transformers.ProphetNetConfig()
    keys = seq2seq.FAMILIES["prophetnet"].sizes.keys() - {"decoder_start_token_id"}
    sizes = {key: getattr(default, key) for key in keys}
    return seq2seq.hf_model("prophetnet", seed=1, **{**sizes, **REAL})


class TestRealWidth:
    """One layer a side of ProphetNet-large."""

    def test_ids_of_packed_weights_are_those_of_transformers(self, large: Any) -> None:
        ours = tritonseq.from_transformers(large)
        packed = {name for name, w in ours.decoder.named_parameters() if is_packed(w)}
        assert (
            not packed
            or {"decoder.0.attention.query.weight", "decoder.0.cross.kv.weight"} <= packed
        )
        ids, mask = seq2seq.sources(3, 9, pad=0, ragged=True, vocab=30522)
        other = tiny.theirs(large, ids, mask, num_return_sequences=2, **OPTIONS)
        options = {"num_return_sequences": 2, **OPTIONS}
        tiny.assert_same(tiny.ours(ours, ids, mask, hf_exact=True, **options), other)

    def test_bfloat16_errs_as_little_as_in_transformers(self, large: Any) -> None:
        half = copy.deepcopy(large).bfloat16()
        ours = tritonseq.from_transformers(half).decoder
        (source,), lengths = networks.sources([9])
        start = torch.tensor([[2]])
        exact = PlainProphetNet(large)(source[None], start).logits[0, -1]
        with torch.no_grad():
            said = half(input_ids=source[None], decoder_input_ids=start).logits[0, -1].float()
        _, found = begin(ours, source[None], lengths, prompt=start, beams=1, target_length=1)
        assert (found[0].float() - exact).abs().max() <= 2 * (said - exact).abs().max()


def bare(state: State) -> State:
    """As a ProphetNetModel has it: no head, and no prefix."""
    return {n.removeprefix("prophetnet."): t for n, t in state.items() if n != "lm_head.weight"}


def once(state: State) -> State:
    """As transformers 5 saves it: the table of tokens under one name."""
    copies = ("encoder.word_embeddings.weight", "decoder.word_embeddings.weight", "lm_head.weight")
    return {name: tensor for name, tensor in state.items() if not name.endswith(copies)}


LAYOUTS: dict[str, Callable[[State], State]] = {
    "four names": lambda state: state,
    "one name": once,
    "without a prefix": bare,
    "one name without a prefix": lambda state: once(bare(state)),
    "module.": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "of the decoder": lambda state: {
        n: t for n, t in state.items()
        if not n.endswith(".word_embeddings.weight") or ".decoder." in n
    },
}  # fmt: skip


class TestFiles:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("model_type", ["prophetnet", "xlm-prophetnet"])
    def test_layouts(self, tmp_path: Path, model_type: str, layout: str) -> None:
        model = wild()
        config = {**SIZES, "model_type": model_type, "num_hidden_layers": 12, "eps": 0.1}
        folders.write(tmp_path, LAYOUTS[layout](model.state_dict()), config)
        ours = tritonseq.load(tmp_path, device="cpu").decoder
        assert ours.source.tokens.weight is ours.target.tokens.weight is ours.lm_head.weight
        networks.assert_same_walk(PlainProphetNet(model), ours, [4, 6], prompt_length=2, beams=2)

    def test_a_head_of_its_own_counts(self, tmp_path: Path) -> None:
        model = wild()
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state["lm_head.weight"] = torch.randn_like(state["lm_head.weight"])
        config = {**SIZES, "model_type": "prophetnet"}
        folders.write(tmp_path, state, config)
        with pytest.warns(UserWarning, match="lm_head.weight differ"):
            ours = tritonseq.load(tmp_path, device="cpu").decoder
        plain = PlainProphetNet(model)
        plain.state["lm_head.weight"] = state["lm_head.weight"]
        networks.assert_same_walk(plain, ours, [4], beams=1)

    def test_defaults_are_those_of_transformers(self) -> None:
        default, own = transformers.ProphetNetConfig(), ProphetNetConfig.from_dict({})
        for name, value in vars(own).items():
            assert getattr(default, name) == value, name
        assert model_class("xlm-prophetnet") is model_class("prophetnet")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pad_token_id": 1}, "pad_token_id is 1, and the positions .* only 0 is supported"),
            ({"pad_token_id": None}, "pad_token_id is None"),
            ({"add_cross_attention": False}, "add_cross_attention is False"),
            ({"architectures": ["ProphetNetForCausalLM"]}, "names ProphetNetForCausalLM, which"),
            ({"architectures": ["XLMProphetNetDecoder"]}, "names XLMProphetNetDecoder, which"),
            ({"is_encoder_decoder": False}, "is_encoder_decoder is False"),
            ({"num_buckets": 3}, "num_buckets 3 must be at least 4"),
            ({"relative_max_distance": 4}, "relative_max_distance 4 more than half of it"),
            ({"hidden_size": 25}, "hidden_size 25 is not a multiple"),
            ({"ngram": 0}, "ngram must be a positive integer"),
            ({"ngram": 3}, "asks for .3, 24. by ngram"),
            ({"num_buckets": 10}, "by num_buckets and num_decoder_attention_heads"),
            ({"max_position_embeddings": 70}, "by max_position_embeddings"),
            ({"num_decoder_layers": 4}, "num_decoder_layers is 4, and the weights have 3"),
            ({"decoder_ffn_dim": 40}, "by decoder_ffn_dim"),
            ({"activation_function": "gelux"}, "'gelux' is not supported"),
        ],
    )
    def test_refused(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        config = {**SIZES, "model_type": "prophetnet", **change}
        folders.write(tmp_path, wild().state_dict(), config)
        with pytest.raises(ValueError, match=message):
            tritonseq.load(tmp_path, device="cpu")

    def test_a_decoder_alone_is_refused(self) -> None:
        settings = transformers.ProphetNetConfig(**SIZES)
        model = transformers.ProphetNetForCausalLM(settings)
        with pytest.raises(ValueError, match=r"is_encoder_decoder is False|holds no encoder"):
            tritonseq.from_transformers(model)

    def test_another_activation_in_a_live_model_is_refused(self) -> None:
        model = wild()
        model.prophetnet.decoder.layers[1].feed_forward.activation_fn = torch.nn.ReLU()
        with pytest.raises(ValueError, match="computes something else than"):
            tritonseq.from_transformers(model)
