"""T5 and its family: T5 v1.0 and v1.1, Flan-T5, ByT5, mT5 and UMT5.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
2020. Pre-norm blocks without biases or positions: attention scores get a bias by distance instead,
and are not scaled.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .attention import CrossAttention, DecoderAttention, EncoderAttention
from .config_checks import (
    Layers,
    Size,
    check_flag,
    check_number,
    check_sizes,
    check_types,
    own_names,
)
from .encoder_decoder import DecoderBlock, EncoderBlock, EncoderDecoder
from .feed_forward import activation
from .layers import Embedding, Head, Linear, ResidualStream, RMSNorm
from .network import TensorSpec, match
from .relative_bias import RelativeBias, check_buckets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from .layers import Norm
    from .varlen import VarlenBatch


@dataclass(frozen=True)
class T5Config:
    """The keys of config.json that say what the network computes; their names are kept."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    # What is in between the maps of a feed-forward, and whether it is gated. These count where
    # they are stated, whatever feed_forward_proj says, as in transformers.
    dense_act_fn: str | None = None
    is_gated_act: bool | None = None
    # Whether the decoder's states are divided by sqrt(d_model) before the head.
    scale_decoder_outputs: bool = True
    # Whether every layer has a table of its own, rather than the first layer's.
    bias_per_layer: bool = False

    def __post_init__(self) -> None:
        check_sizes(
            self, "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers",
            "num_heads", "relative_attention_num_buckets", "relative_attention_max_distance",
        )  # fmt: skip
        check_number(self, "layer_norm_epsilon")
        check_types(self)
        check_buckets(self, "relative_attention_num_buckets", "relative_attention_max_distance")
        parts = self.feed_forward_proj.split("-")
        if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
            raise ValueError(
                f"config.json: feed_forward_proj {self.feed_forward_proj!r} must be the name of an "
                "activation function, or gated- and such a name"
            )
        activation(self.activation_name)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> T5Config:
        """Read the keys that matter, with the defaults of the model type."""
        general = {
            "hidden_size": "d_model",
            "num_attention_heads": "num_heads",
            "num_hidden_layers": "num_layers",
            "head_dim": "d_kv",
        }
        variant = _VARIANTS[config.get("model_type", "t5")]
        tied = check_flag(config, "tie_word_embeddings")
        named = own_names(config, general)
        if named.get("num_decoder_layers") is None:
            # As many as T5's own name says, where a general one says otherwise.
            layers = named.get("num_layers", variant["num_layers"])
            named["num_decoder_layers"] = config.get("num_layers", layers)
        if config.get("model_type") == "mt5":
            named["scale_decoder_outputs"] = False
        elif "scale_decoder_outputs" not in named:
            # T5 v1.0 ties the head to the embedding and scales; v1.1 does neither.
            named["scale_decoder_outputs"] = tied or config.get("tie_word_embeddings") is None
        known = {field.name for field in fields(cls)}
        own = {key: value for key, value in named.items() if key in known}
        return cls(**{**variant, **own})

    @property
    def is_gated(self) -> bool:
        if self.is_gated_act is not None:
            return self.is_gated_act
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation_name(self) -> str:
        if self.dense_act_fn is not None:
            return self.dense_act_fn
        name = self.feed_forward_proj.rpartition("-")[2]
        # What T5 v1.1 calls gated GELU is the tanh approximation.
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else name


# What config.json may leave out, where it is not as in T5.
_MULTILINGUAL: dict[str, Any] = {
    "vocab_size": 250112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "t5": {"num_layers": 6},
    "mt5": _MULTILINGUAL,
    "umt5": {**_MULTILINGUAL, "bias_per_layer": True},
}


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, or three with a gate."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.is_gated = config.is_gated
        inner = config.d_ff * (2 if config.is_gated else 1)
        self.wi = Linear(config.d_model, inner, bias=False, packed=True, fp32_output=True)
        self.wo = Linear(config.d_ff, config.d_model, bias=False, packed=True, fp32_output=True)
        self.act = activation(config.activation_name)

    def forward(self, stream: ResidualStream, norm: Norm) -> None:
        """Read the stream by the norm of this part, and add to it."""
        if self.is_gated:
            gate, linear = stream.read(self.wi, norm).chunk(2, dim=-1)
            inner = self.act(gate, linear)
        else:
            inner = stream.read(self.wi, norm, self.act)
        stream.add(inner, self.wo, norm)


def _encoder_block(config: T5Config, norm: Callable[[], RMSNorm], layer: int) -> EncoderBlock:
    sizes = (config.d_model, config.num_heads, config.d_kv)
    return EncoderBlock(
        EncoderAttention(*sizes, scale=1.0, has_bias=False),
        FeedForward(config),
        norm,
        _relative(config, layer, is_bidirectional=True),
    )


def _decoder_block(config: T5Config, norm: Callable[[], RMSNorm], layer: int) -> DecoderBlock:
    sizes = (layer, config.d_model, config.num_heads, config.d_kv)
    return DecoderBlock(
        DecoderAttention(*sizes, scale=1.0, has_bias=False),
        CrossAttention(*sizes, scale=1.0, has_bias=False),
        FeedForward(config),
        norm,
        _relative(config, layer, is_bidirectional=False),
    )


def _relative(config: T5Config, layer: int, *, is_bidirectional: bool) -> RelativeBias | None:
    if layer > 0 and not config.bias_per_layer:
        return None
    return RelativeBias(
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
        config.num_heads,
        is_bidirectional=is_bidirectional,
    )


class T5(EncoderDecoder):
    """The network: tokens and caches in, logits out. It knows nothing of search.

    Weights in float16 run beside a residual stream in float32, because T5's own grows beyond what
    float16 can hold.
    """

    Config = T5Config
    TRAINED_IN_BFLOAT16 = True

    shares_vocabulary = True
    max_positions = None
    max_source_positions = None

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = self.source_vocab_size = config.vocab_size
        self.heads, self.head_dim = config.num_heads, config.d_kv
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.target = Embedding(config.vocab_size, config.d_model)
        norm = partial(RMSNorm, config.d_model, config.layer_norm_epsilon)
        self.encoder = nn.ModuleList(
            _encoder_block(config, norm, layer) for layer in range(config.num_layers)
        )
        self.encoder_norm = norm()
        self.decoder = nn.ModuleList(
            _decoder_block(config, norm, layer) for layer in range(config.num_decoder_layers)
        )
        self.decoder_norm = norm()
        self.lm_head = Head(config.vocab_size, config.d_model)

    def embed_source(self, batch: VarlenBatch) -> ResidualStream:
        return ResidualStream(self.shared(batch.tokens), in_fp32=True)

    def embed_target(self, tokens: Tensor, positions: Tensor) -> ResidualStream:
        return ResidualStream(self.target(tokens), in_fp32=True)

    def logits(self, stream: ResidualStream) -> Tensor:
        if not self.config.scale_decoder_outputs:
            return stream.logits(self.lm_head.weight, self.decoder_norm)
        return self.lm_head(stream.normed(self.decoder_norm) * self.config.d_model**-0.5)

    @classmethod
    def tied(cls, config: T5Config) -> tuple[tuple[str, ...], ...]:
        """Groups of parameters that are one tensor if the checkpoint does not tell them apart."""
        return (("shared.weight", "target.weight", "lm_head.weight"),)

    @classmethod
    def sizes(cls, names: Collection[str], config: T5Config) -> list[Size | Layers]:
        """Where the weights show what the configuration says of sizes."""
        sides = ("encoder", "decoder")
        tables = ("shared.weight", *(f"{side}.embed_tokens.weight" for side in sides))
        inner, first = config.num_heads * config.d_kv, "block.0.layer"
        found: list[Size | Layers] = [
            Layers("num_layers", config.num_layers, "encoder.block"),
            Layers("num_decoder_layers", config.num_decoder_layers, "decoder.block"),
            Size("vocab_size", config.vocab_size, 0, (*tables, "lm_head.weight")),
            Size("d_model", config.d_model, 1, (*tables, "lm_head.weight")),
        ]
        for side, last in zip(sides, (1, 2), strict=True):
            attention, mlp = (
                f"{side}.{first}.0.SelfAttention",
                f"{side}.{first}.{last}.DenseReluDense",
            )
            bias = (f"{attention}.relative_attention_bias.weight",)
            found += [
                Size(
                    "relative_attention_num_buckets", config.relative_attention_num_buckets, 0, bias
                ),
                Size("num_heads", config.num_heads, 1, bias),
                Size("num_heads and d_kv", inner, 0, (f"{attention}.q.weight",)),
                Size("d_ff", config.d_ff, 1, (f"{mlp}.wo.weight",)),
            ]
        return found

    @classmethod
    def tensor_specs(cls, names: Collection[str], config: T5Config) -> dict[str, TensorSpec]:
        """Match every parameter to the tensors of the checkpoint.

        Checkpoints repeat the embedding as `encoder.embed_tokens`, `decoder.embed_tokens` and
        `lm_head`, or leave any of them out. Some carry a relative bias of the cross-attention,
        which nothing reads. Raises ValueError that names what is missing or left over.
        """
        wanted = {name: _source(name, config) for name, _ in cls(config).named_parameters()}
        embeddings = {
            "shared.weight": ("encoder.embed_tokens.weight", "shared.weight"),
            "target.weight": ("decoder.embed_tokens.weight", "shared.weight"),
            "lm_head.weight": ("lm_head.weight", "shared.weight"),
        }
        everywhere = ["shared.weight", *(first for first, _ in embeddings.values())]
        for parameter, preferred in embeddings.items():
            found = (name for name in (*preferred, *everywhere) if name in names)
            wanted[parameter] = TensorSpec((next(found, "shared.weight"),))
        return match(wanted, names, ignorable=_IGNORABLE.__contains__)


_IGNORABLE = frozenset(
    (
        "shared.weight",
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    )
)


def _source(parameter: str, config: T5Config) -> TensorSpec:
    """The tensors behind a parameter of a block, or a norm above the blocks."""
    side, _, rest = parameter.partition(".")
    if side in ("encoder_norm", "decoder_norm"):
        return TensorSpec((f"{side.removesuffix('_norm')}.final_layer_norm.weight",))
    if side not in ("encoder", "decoder"):
        return TensorSpec((parameter,))
    layer, _, part = rest.partition(".")
    feed_forward = 1 if side == "encoder" else 2
    at = f"{side}.block.{layer}.layer"
    if part.startswith("feed_forward.act."):
        own = part.removeprefix("feed_forward.")
        return TensorSpec((f"{at}.{feed_forward}.DenseReluDense.{own}",))
    gated = ("wi_0", "wi_1") if config.is_gated else ("wi",)
    parts: dict[str, tuple[int, tuple[str, ...]]] = {
        "attention_norm": (0, ("layer_norm",)),
        "attention.qkv": (0, ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v")),
        "attention.out": (0, ("SelfAttention.o",)),
        "relative": (0, ("SelfAttention.relative_attention_bias",)),
        "cross_norm": (1, ("layer_norm",)),
        "cross.query": (1, ("EncDecAttention.q",)),
        "cross.kv": (1, ("EncDecAttention.k", "EncDecAttention.v")),
        "cross.out": (1, ("EncDecAttention.o",)),
        "feed_forward_norm": (feed_forward, ("layer_norm",)),
        "feed_forward.wi": (feed_forward, tuple(f"DenseReluDense.{name}" for name in gated)),
        "feed_forward.wo": (feed_forward, ("DenseReluDense.wo",)),
    }
    owner = part.removesuffix(".weight")
    index, tensors = parts[owner]
    names = tuple(f"{at}.{index}.{tensor}.weight" for tensor in tensors)
    return TensorSpec(names, transpose="norm" not in owner and owner != "relative")
