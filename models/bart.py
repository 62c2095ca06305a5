"""BART and the models built like it: DistilBART, mBART, mBART-50, Pegasus and Marian (OPUS-MT).

Lewis et al., "BART", 2020; Liu et al., "Multilingual Denoising Pre-training for Neural Machine
Translation", 2020; Zhang et al., "PEGASUS", 2020; Junczys-Dowmunt et al., "Marian", 2018. They
differ in where the norms stand and where positions come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tritonseq.kernels import embed

from .attention import CrossAttention, DecoderAttention, EncoderAttention
from .config_checks import Layers, Size, check_sizes, check_types, own_names, refuse_large_table
from .encoder_decoder import DecoderBlock, EncoderBlock, EncoderDecoder
from .feed_forward import FeedForward, activation
from .layers import Embedding, Head, LayerNorm, ResidualStream, empty_parameter
from .network import TensorSpec, match

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from .varlen import VarlenBatch


@dataclass(frozen=True)
class BartConfig:
    """The keys of config.json that say what the network computes; their names are kept."""

    vocab_size: int = 50265
    decoder_vocab_size: int = 50265
    max_position_embeddings: int = 1024
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4096
    decoder_layers: int = 12
    decoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4096
    activation_function: str = "gelu"
    scale_embedding: bool = False
    tie_word_embeddings: bool = True
    # Whether encoder and decoder have one table of tokens.
    share_encoder_decoder_embeddings: bool = True
    # What follows from the model type. Whether norms stand before each part, with one at the end
    # of each side, rather than behind each part.
    pre_norm: bool = False
    # Whether there is a norm behind the sum of embeddings.
    embedding_norm: bool = True
    # Whether positions are learnt, rather than sines and cosines.
    learned_positions: bool = True

    def __post_init__(self) -> None:
        check_sizes(
            self, "vocab_size", "decoder_vocab_size", "max_position_embeddings", "d_model",
            "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "decoder_layers",
            "decoder_attention_heads", "decoder_ffn_dim",
        )  # fmt: skip
        check_types(self)
        activation(self.activation_function)
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.d_model % getattr(self, name):
                raise ValueError(
                    f"config.json: d_model {self.d_model} is not a multiple of {name} "
                    f"{getattr(self, name)}"
                )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> BartConfig:
        """Read the keys that matter, and what the model type says of the others."""
        general = {
            "hidden_size": "d_model",
            "num_hidden_layers": "encoder_layers",
            "num_attention_heads": "encoder_attention_heads",
        }
        named = own_names(config, general)
        variant = _VARIANTS[config.get("model_type", "bart")]
        known = {field.name for field in fields(cls)} - set(_STRUCTURE)
        stated = {key: named[key] for key in known if named.get(key) is not None}
        stated = {"vocab_size": variant.get("vocab_size", cls.vocab_size)} | stated
        if config.get("model_type") != "marian" or "decoder_vocab_size" not in stated:
            stated["decoder_vocab_size"] = stated["vocab_size"]
        return cls(**{**variant, **stated})


_STRUCTURE = ("pre_norm", "embedding_norm", "learned_positions")
_VARIANTS: dict[str, dict[str, Any]] = {
    "bart": {},
    "mbart": {"pre_norm": True},
    "pegasus": {"pre_norm": True, "embedding_norm": False, "learned_positions": False},
    "marian": {"embedding_norm": False, "learned_positions": False, "vocab_size": 58101},
}

# Learnt positions start behind two rows that fairseq kept for padding.
LEARNED_OFFSET = 2
NORM_EPSILON = 1e-5


class Positions(nn.Module):
    """A table of positions, learnt or of sines and cosines."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.offset = LEARNED_OFFSET if config.learned_positions else 0
        self.weight = empty_parameter(config.max_position_embeddings + self.offset, config.d_model)

    @property
    def table(self) -> Tensor:
        """The rows of position 0 and all after it."""
        return self.weight[self.offset :]


def sinusoids(length: int, width: int) -> Tensor:
    """`[length, width]`: sines in the first half of the channels, cosines in the second.

    Vaswani et al., 2017, with the channels sorted. In float64 until the end, so that the result
    is the nearest float32.
    """
    channel = torch.arange(0, width, 2, dtype=torch.float64)
    angle = torch.arange(length, dtype=torch.float64)[:, None] / 10000 ** (channel / width)
    cosines = angle[:, : width // 2].cos()
    return torch.cat((angle.sin(), cosines), dim=1).float()


class Embeddings(nn.Module):
    """Tokens and positions, summed."""

    def __init__(self, config: BartConfig, vocab_size: int) -> None:
        super().__init__()
        self.tokens = Embedding(vocab_size, config.d_model)
        self.positions = Positions(config)
        self.norm = LayerNorm(config.d_model, NORM_EPSILON) if config.embedding_norm else None
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.pre_norm = config.pre_norm

    def forward(self, tokens: Tensor, positions: Tensor) -> ResidualStream:
        x = embed(
            tokens,
            self.tokens.weight,
            scale=self.scale,
            positions=positions,
            position_table=self.positions.table,
        )
        x = x if self.norm is None else self.norm(x)
        return ResidualStream(x, post_norm=not self.pre_norm, in_fp32=self.pre_norm)


def _encoder_block(config: BartConfig, norm: Callable[[], LayerNorm]) -> EncoderBlock:
    width, heads = config.d_model, config.encoder_attention_heads
    size, scale = width // heads, (width // heads) ** -0.5
    return EncoderBlock(
        EncoderAttention(width, heads, size, scale=scale, has_bias=True),
        FeedForward(width, config.encoder_ffn_dim, config.activation_function),
        norm,
    )


def _decoder_block(config: BartConfig, norm: Callable[[], LayerNorm], layer: int) -> DecoderBlock:
    width, heads = config.d_model, config.decoder_attention_heads
    sizes, scale = (layer, width, heads, width // heads), (width // heads) ** -0.5
    return DecoderBlock(
        DecoderAttention(*sizes, scale=scale, has_bias=True),
        CrossAttention(*sizes, scale=scale, has_bias=True),
        FeedForward(width, config.decoder_ffn_dim, config.activation_function),
        norm,
    )


class Bart(EncoderDecoder):
    """The network: tokens and caches in, logits out. It knows nothing of search."""

    Config = BartConfig

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.config = config
        self.source_vocab_size = config.vocab_size
        self.shares_vocabulary = config.share_encoder_decoder_embeddings
        self.vocab_size = config.vocab_size if self.shares_vocabulary else config.decoder_vocab_size
        self.max_positions = self.max_source_positions = config.max_position_embeddings
        self.heads = config.decoder_attention_heads
        self.head_dim = config.d_model // self.heads
        self.source = Embeddings(config, self.source_vocab_size)
        self.target = Embeddings(config, self.vocab_size)
        norm = partial(LayerNorm, config.d_model, NORM_EPSILON)
        self.encoder = nn.ModuleList(
            _encoder_block(config, norm) for _ in range(config.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            _decoder_block(config, norm, layer) for layer in range(config.decoder_layers)
        )
        self.encoder_norm = norm() if config.pre_norm else None
        self.decoder_norm = norm() if config.pre_norm else None
        self.lm_head = Head(self.vocab_size, config.d_model)
        self.final_logits_bias = empty_parameter(1, self.vocab_size)

    def embed_source(self, batch: VarlenBatch) -> ResidualStream:
        return self.source(batch.tokens, batch.positions)

    def embed_target(self, tokens: Tensor, positions: Tensor) -> ResidualStream:
        return self.target(tokens, positions)

    def logits(self, stream: ResidualStream) -> Tensor:
        return stream.logits(self.lm_head.weight, self.decoder_norm, self.final_logits_bias[0])

    def computed(self, name: str) -> Tensor:
        """The value of a parameter that the checkpoint leaves out."""
        if name == "final_logits_bias":
            return torch.zeros(1, self.vocab_size)
        # Refused already, but for networks that were not compared with weights.
        refuse_large_table(
            "max_position_embeddings", self.config.max_position_embeddings, self.config.d_model
        )
        return sinusoids(self.config.max_position_embeddings, self.config.d_model)

    @classmethod
    def tied(cls, config: BartConfig) -> tuple[tuple[str, ...], ...]:
        """Groups of parameters that are one tensor if the checkpoint does not tell them apart."""
        group = ("source.tokens.weight", "target.tokens.weight", "lm_head.weight")
        return (group if config.share_encoder_decoder_embeddings else group[1:],)

    @classmethod
    def sizes(cls, names: Collection[str], config: BartConfig) -> list[Size | Layers]:
        """Where the weights show what the configuration says of sizes.

        Raises ValueError for positions that are not shown and too many to be computed.
        """
        prefix = _prefix(names)
        tables = _embeddings(names, config, prefix)
        own = {side: tables[f"{side}.tokens.weight"].names for side in ("source", "target")}
        has_own = not config.share_encoder_decoder_embeddings
        target = ("decoder_vocab_size", config.decoder_vocab_size)
        found: list[Size | Layers] = [
            Size("d_model", config.d_model, 1, own["source"]),
            Size("vocab_size", config.vocab_size, 0, own["source"]),
            Size(*(target if has_own else ("vocab_size", config.vocab_size)), 0, own["target"]),
        ]
        offset = LEARNED_OFFSET if config.learned_positions else 0
        widths = {"encoder": config.encoder_ffn_dim, "decoder": config.decoder_ffn_dim}
        counts = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
        for side, width in widths.items():
            positions = f"{prefix}{side}.embed_positions.weight"
            if not config.learned_positions and positions not in names:
                refuse_large_table(
                    "max_position_embeddings", config.max_position_embeddings, config.d_model
                )
            key, count = "max_position_embeddings", config.max_position_embeddings + offset
            found += [
                Layers(f"{side}_layers", counts[side], f"{prefix}{side}.layers"),
                Size(key, count, 0, (positions,)),
                Size(f"{side}_ffn_dim", width, 0, (f"{prefix}{side}.layers.0.fc1.weight",)),
            ]
        return found

    @classmethod
    def tensor_specs(cls, names: Collection[str], config: BartConfig) -> dict[str, TensorSpec]:
        """Match every parameter to the tensors of the checkpoint.

        Checkpoints name their tensors with or without a leading `model.`, and the embedding by
        one or more of four names. `final_logits_bias` and tables of sines may be left out. Raises
        ValueError that names what is missing or left over.
        """
        prefix = _prefix(names)
        wanted = {name: _source(name, prefix) for name, _ in cls(config).named_parameters()}
        wanted |= _embeddings(names, config, prefix)
        computed = ["final_logits_bias"]
        if not config.learned_positions:
            computed += ["source.positions.weight", "target.positions.weight"]
        for name in computed:
            if wanted[name].names[0] not in names:
                del wanted[name]
        return match(wanted, names, ignorable=lambda name: _ignorable(name, config, prefix))


class MBart(Bart):
    """Starts with the token of a language, which the caller names."""


class Pegasus(Bart):
    """Starts with the pad token."""


class Marian(Bart):
    """Starts with the pad token, the last of the default vocabulary."""


def _prefix(names: Collection[str]) -> str:
    return "model." if any(name.startswith("model.") for name in names) else ""


def _embeddings(names: Collection[str], config: BartConfig, prefix: str) -> dict[str, TensorSpec]:
    """The sources of the tables of tokens, by the first of their names that is there."""
    shared = f"{prefix}shared.weight"
    encoder, decoder = (f"{prefix}{side}.embed_tokens.weight" for side in ("encoder", "decoder"))
    order: dict[str, tuple[str, ...]] = {
        "source.tokens.weight": (encoder, shared),
        "target.tokens.weight": (decoder, shared),
        "lm_head.weight": ("lm_head.weight",),
    }
    if config.share_encoder_decoder_embeddings:
        head = ("lm_head.weight",) if config.tie_word_embeddings else ()
        everywhere = (shared, *head, decoder, encoder)
        order = {name: (*own, *everywhere) for name, own in order.items()}
    else:
        order["lm_head.weight"] += (decoder,)
    if not config.tie_word_embeddings:
        order["lm_head.weight"] = ("lm_head.weight",)
    return {
        name: TensorSpec((next((own for own in own_names if own in names), own_names[0]),))
        for name, own_names in order.items()
    }


def _ignorable(name: str, config: BartConfig, prefix: str) -> bool:
    if name == f"{prefix}shared.weight":
        return True
    return name in (f"{prefix}encoder.version", f"{prefix}decoder.version")


def _source(parameter: str, prefix: str) -> TensorSpec:
    """The tensors behind a parameter; those of the tables of tokens are settled elsewhere."""
    owner, _, leaf = parameter.rpartition(".")
    if not owner:
        return TensorSpec((parameter,))
    side, _, rest = owner.partition(".")
    if side in ("source", "target"):
        half = "encoder" if side == "source" else "decoder"
        own = {
            "positions": "embed_positions",
            "norm": "layernorm_embedding",
            "tokens": "embed_tokens",
        }
        return TensorSpec((f"{prefix}{half}.{own[rest]}.{leaf}",))
    if side in ("encoder_norm", "decoder_norm"):
        return TensorSpec((f"{prefix}{side.removesuffix('_norm')}.layer_norm.{leaf}",))
    if side == "lm_head":
        return TensorSpec((parameter,))
    layer, _, part = rest.partition(".")
    parts = {
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.out": ("self_attn.out_proj",),
        "attention_norm": ("self_attn_layer_norm",),
        "cross.query": ("encoder_attn.q_proj",),
        "cross.kv": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
        "cross.out": ("encoder_attn.out_proj",),
        "cross_norm": ("encoder_attn_layer_norm",),
        "feed_forward.act": ("activation_fn",),
        "feed_forward.fc1": ("fc1",),
        "feed_forward.fc2": ("fc2",),
        "feed_forward_norm": ("final_layer_norm",),
    }
    names = tuple(f"{prefix}{side}.layers.{layer}.{tensor}.{leaf}" for tensor in parts[part])
    return TensorSpec(names, transpose=leaf == "weight" and not part.endswith(("norm", "act")))
