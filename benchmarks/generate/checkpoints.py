"""Checkpoints of real shapes with random weights, written as those of real weights are.

GPT-2 124M as it is initialised. The others are initialised so that they repeat one token for
ever, whatever the source, and equal ids would prove little: there the logits are spread, and
freed from the newest token's embedding, by scaling a few weights. UniLM, which transformers does
not have, comes from `s2s_folder.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from generate.s2s_folder import write_folder
from generate.workloads import SEED

if TYPE_CHECKING:
    from pathlib import Path

# Without an end token every run takes all its steps.
ENDLESS = {
    "eos_token_id": None,
    "forced_eos_token_id": None,
    "forced_bos_token_id": None,
}


class ModelShape(NamedTuple):
    """The sizes that the caches depend on."""

    layers: int
    width: int
    vocabulary: int


SHAPES = {
    "gpt2": ModelShape(12, 768, 50257),
    "bart": ModelShape(12, 1024, 50265),
    "t5": ModelShape(12, 768, 32128),
    "opus-mt": ModelShape(6, 512, 58101),
    "nllb": ModelShape(12, 1024, 256206),
    "prophetnet": ModelShape(12, 1024, 30522),
    "unilm": ModelShape(12, 768, 28996),
}
# UniLM's special tokens end at 103.
TINY = dict.fromkeys(SHAPES, ModelShape(2, 64, 97)) | {"unilm": ModelShape(2, 64, 197)}


def quiet_transformers() -> Any:
    """transformers without its comments on options and its bars between our figures."""
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return transformers


def shape_of(model: str, tiny: bool = False) -> ModelShape:
    """The shape of a model of `SHAPES`; the heads of all of them have size 64."""
    return (TINY if tiny else SHAPES)[model]


def write_checkpoint(model: str, folder: Path, *, tiny: bool = False) -> int:
    """Write config.json and float32 weights to the folder; returns the bytes of the weights."""
    torch.manual_seed(SEED)
    if model == "unilm":
        return write_folder(folder, shape_of(model, tiny))
    network = BUILDERS[model](quiet_transformers(), shape_of(model, tiny))
    network.save_pretrained(folder)
    return sum(parameter.nbytes for parameter in network.parameters())


def build_gpt2(transformers: Any, shape: ModelShape) -> Any:
    """GPT-2 (124M)."""
    config = transformers.GPT2Config(
        vocab_size=shape.vocabulary,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.width // 64,
        eos_token_id=None,
        bos_token_id=None,
    )
    return transformers.GPT2LMHeadModel(config)


def build_bart(transformers: Any, shape: ModelShape) -> Any:
    """BART-large: positions weigh four times what they do, logits spread threefold."""
    # The last two as in the original config.json; CTranslate2's converter asks for them.
    config = transformers.BartConfig(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        normalize_before=False,
        normalize_embedding=True,
        **_both_sides(shape),
        **ENDLESS,
    )
    network = transformers.BartForConditionalGeneration(config)
    decoder = network.model.decoder
    with torch.no_grad():
        decoder.embed_positions.weight.mul_(4.0)
        decoder.layers[-1].final_layer_norm.weight.mul_(3.0)
    return network


def build_t5(transformers: Any, shape: ModelShape) -> Any:
    """T5-base, version 1.0: embeddings a twentieth of what they are, logits spread threefold."""
    config = transformers.T5Config(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        d_kv=64,
        d_ff=4 * shape.width,
        num_layers=shape.layers,
        num_heads=shape.width // 64,
        decoder_start_token_id=0,
        **ENDLESS,
    )
    network = transformers.T5ForConditionalGeneration(config)
    with torch.no_grad():
        network.shared.weight.mul_(0.05)
        network.decoder.final_layer_norm.weight.mul_(60.0)
    return network


def build_opus_mt(transformers: Any, shape: ModelShape) -> Any:
    """OPUS-MT, whose pad token is the last and the start; embeddings a tenth of what they are."""
    pad = shape.vocabulary - 1
    config = transformers.MarianConfig(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        max_position_embeddings=512,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        **_both_sides(shape),
        **ENDLESS,
    )
    network = transformers.MarianMTModel(config)
    network.generation_config.bad_words_ids = [[pad]]
    with torch.no_grad():
        network.model.shared.weight.mul_(0.1)
        network.model.decoder.layers[-1].final_layer_norm.weight.mul_(30.0)
    return network


def build_nllb(transformers: Any, shape: ModelShape) -> Any:
    """NLLB-200-distilled-600M: embeddings a tenth of what they are, logits spread threefold."""
    config = transformers.M2M100Config(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        activation_function="relu",
        scale_embedding=True,
        decoder_start_token_id=2,
        **_both_sides(shape),
        **ENDLESS,
    )
    network = transformers.M2M100ForConditionalGeneration(config)
    with torch.no_grad():
        network.model.shared.weight.mul_(0.1)
        network.model.decoder.layer_norm.weight.mul_(30.0)
    return network


def build_prophetnet(transformers: Any, shape: ModelShape) -> Any:
    """ProphetNet-large: positions weigh four times what they do, logits spread threefold."""
    config = transformers.ProphetNetConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_encoder_layers=shape.layers,
        num_decoder_layers=shape.layers,
        num_encoder_attention_heads=shape.width // 64,
        num_decoder_attention_heads=shape.width // 64,
        encoder_ffn_dim=4 * shape.width,
        decoder_ffn_dim=4 * shape.width,
        bos_token_id=None,
        decoder_start_token_id=0,
        eos_token_id=None,
    )
    network = transformers.ProphetNetForConditionalGeneration(config)
    decoder = network.prophetnet.decoder
    with torch.no_grad():
        decoder.position_embeddings.weight.mul_(4.0)
        decoder.layers[-1].feed_forward_layer_norm.weight.mul_(3.0)
    return network


def _both_sides(shape: ModelShape) -> dict[str, int]:
    """The sizes of encoder and decoder in the names of BART's family."""
    sizes = {
        "layers": shape.layers,
        "attention_heads": shape.width // 64,
        "ffn_dim": 4 * shape.width,
    }
    return {
        f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()
    }


BUILDERS = {
    "gpt2": build_gpt2,
    "bart": build_bart,
    "t5": build_t5,
    "opus-mt": build_opus_mt,
    "nllb": build_nllb,
    "prophetnet": build_prophetnet,
}
