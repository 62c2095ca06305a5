"""BART and the models built like it, from mBART to NLLB-200.

Lewis et al., "BART", 2020; Liu et al., "Multilingual Denoising Pre-training for Neural Machine
Translation", 2020; Zhang et al., "PEGASUS", 2020; Junczys-Dowmunt et al., "Marian", 2018; Fan et
al., "Beyond English-Centric Multilingual Machine Translation" (M2M100), 2020; NLLB Team, "No
Language Left Behind", 2022; Ng et al., "Facebook FAIR's WMT19 News Translation Task Submission"
(FSMT), 2019; Tang et al., "MVP", 2022; Ahmad et al., "Unified Pre-training for Program
Understanding and Generation" (PLBART), 2021; Roller et al., "Recipes for building an open-domain
chatbot" (Blenderbot), 2020. They differ in where the norms stand, where positions come from, and
what is in the head: `LAYOUTS` has it all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tritonseq.kernels import embed

from .attention import CrossAttention, DecoderAttention, EncoderAttention
from .config_checks import (
    Layers,
    Size,
    check_flag,
    check_sizes,
    check_types,
    own_names,
    refuse_large_table,
)
from .encoder_decoder import DecoderBlock, EncoderBlock, EncoderDecoder
from .feed_forward import FeedForward, activation
from .layers import Embedding, Head, LayerNorm, ResidualStream, empty_parameter
from .network import TensorSpec, match
from .positions import (
    FairseqSines,
    LearnedPositions,
    M2MSines,
    OffsetPositions,
    Positions,
    Sines,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from .varlen import VarlenBatch


@dataclass(frozen=True)
class Layout:
    """What the model type says, whatever config.json does."""

    pre_norm: bool = False
    """Whether norms stand before each part, with one at the end of each side, rather than behind
    each part."""
    embedding_norm: bool = True
    """Whether there is a norm behind the sum of embeddings."""
    positions: type[Positions] = OffsetPositions
    logits_bias: bool = True
    head: str = "lm_head"
    """What checkpoints call it; FSMT's is a part of the decoder."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Of keys that config.json may leave out, where they are not BART's."""


LAYOUTS = {
    "bart": Layout(),
    "mvp": Layout(defaults={"vocab_size": 50267}),
    "plbart": Layout(
        defaults={
            "vocab_size": 50005, "d_model": 768, "encoder_layers": 6, "decoder_layers": 6,
            "encoder_attention_heads": 12, "decoder_attention_heads": 12, "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072, "scale_embedding": True,
        }
    ),
    "mbart": Layout(pre_norm=True),
    "blenderbot": Layout(
        pre_norm=True,
        embedding_norm=False,
        positions=LearnedPositions,
        defaults={
            "vocab_size": 8008, "max_position_embeddings": 128, "d_model": 2560,
            "encoder_layers": 2, "decoder_layers": 24, "encoder_attention_heads": 32,
            "decoder_attention_heads": 32, "encoder_ffn_dim": 10240, "decoder_ffn_dim": 10240,
        },
    ),
    "pegasus": Layout(pre_norm=True, embedding_norm=False, positions=Sines),
    "m2m_100": Layout(
        pre_norm=True,
        embedding_norm=False,
        positions=M2MSines,
        logits_bias=False,
        defaults={"vocab_size": 128112, "activation_function": "relu", "scale_embedding": True},
    ),
    "marian": Layout(embedding_norm=False, positions=Sines, defaults={"vocab_size": 58101}),
    "fsmt": Layout(
        embedding_norm=False,
        positions=FairseqSines,
        logits_bias=False,
        head="decoder.output_projection",
        defaults={
            "src_vocab_size": 42024, "tgt_vocab_size": 42024, "activation_function": "relu",
            "scale_embedding": True, "tie_word_embeddings": False,
        },
    ),
}  # fmt: skip

NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class BartConfig:
    """The keys of config.json that say what the network computes; their names are kept.

    But for FSMT's `src_vocab_size` and `tgt_vocab_size`, which are the first two here.
    """

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
    # None where the positions of pads are those of any token.
    pad_token_id: int | None = None
    model_type: str = "bart"

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
        if self.d_model < self.layout.positions.least_width:
            raise ValueError(
                f"config.json: d_model is {self.d_model}, and the sines of a {self.model_type} "
                f"need {self.layout.positions.least_width} channels at least"
            )
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"config.json: pad_token_id is {self.pad_token_id}, which is no token of a "
                f"vocabulary of {self.vocab_size}, and a {self.model_type} counts positions by it"
            )

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.model_type]

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> BartConfig:
        """Read the keys that matter, and what the model type says of the others."""
        general = {
            "hidden_size": "d_model",
            "num_hidden_layers": "encoder_layers",
            "num_attention_heads": "encoder_attention_heads",
        }
        model_type = config.get("model_type", "bart")
        layout = LAYOUTS[model_type]
        if model_type == "fsmt":
            general["vocab_size"] = "tgt_vocab_size"
        if check_flag(config, "use_prompt"):
            raise ValueError(
                "config.json: use_prompt is true: prompts of MVP, learnt keys and values in every "
                "attention, are not supported; use a checkpoint without them, such as RUCAIBox/mvp"
            )
        named = own_names(config, general)
        stated = {
            **layout.defaults,
            **{key: value for key, value in named.items() if value is not None},
        }
        if model_type == "fsmt":
            stated |= _of_two_vocabularies(stated)
        elif model_type != "marian" or "decoder_vocab_size" not in stated:
            stated["decoder_vocab_size"] = stated.get("vocab_size", cls.vocab_size)
        pad = stated.get("pad_token_id", 1) if layout.positions.counts_from_pad else None
        known = {own.name: stated[own.name] for own in fields(cls) if own.name in stated}
        return cls(**{**known, "pad_token_id": pad, "model_type": model_type})


def _of_two_vocabularies(stated: Mapping[str, Any]) -> dict[str, Any]:
    """What the fields of a `BartConfig` are for an FSMT."""
    source, target = stated["src_vocab_size"], stated["tgt_vocab_size"]
    check_sizes(SimpleNamespace(**stated), "src_vocab_size", "tgt_vocab_size")
    shares = check_flag(stated, "tie_word_embeddings")
    if shares and source != target:
        raise ValueError(
            f"config.json: tie_word_embeddings is true, which makes one table of both, and "
            f"src_vocab_size is {source}, tgt_vocab_size {target}: they must be equal for it"
        )
    return {
        "vocab_size": source,
        "decoder_vocab_size": target,
        "share_encoder_decoder_embeddings": shares,
    }


class Embeddings(nn.Module):
    """Tokens and positions, summed."""

    def __init__(self, config: BartConfig, vocab_size: int) -> None:
        super().__init__()
        layout = config.layout
        self.tokens = Embedding(vocab_size, config.d_model)
        self.positions = layout.positions(
            config.max_position_embeddings, config.d_model, config.pad_token_id
        )
        self.norm = LayerNorm(config.d_model, NORM_EPSILON) if layout.embedding_norm else None
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.pre_norm = layout.pre_norm

    def forward(self, tokens: Tensor, rows: Tensor) -> ResidualStream:
        """A stream `[N, d]` of tokens `[N]` and the rows of their positions, `[N]` or `[P]`."""
        x = embed(
            tokens,
            self.tokens.weight,
            scale=self.scale,
            positions=rows,
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
        self.encoder_norm = norm() if config.layout.pre_norm else None
        self.decoder_norm = norm() if config.layout.pre_norm else None
        self.lm_head = Head(self.vocab_size, config.d_model)
        has_bias = config.layout.logits_bias
        self.final_logits_bias = empty_parameter(1, self.vocab_size) if has_bias else None

    def embed_source(self, batch: VarlenBatch) -> ResidualStream:
        rows = self.source.positions.of_source(batch.tokens, batch.positions)
        return self.source(batch.tokens, rows)

    def embed_target(self, tokens: Tensor, positions: Tensor) -> ResidualStream:
        return self.target(tokens, self.target.positions.of_target(tokens, positions))

    def logits(self, stream: ResidualStream) -> Tensor:
        bias = None if self.final_logits_bias is None else self.final_logits_bias[0]
        return stream.logits(self.lm_head.weight, self.decoder_norm, bias)

    def computed(self, name: str) -> Tensor:
        """The value of a parameter that the checkpoint leaves out."""
        if name == "final_logits_bias":
            return torch.zeros(1, self.vocab_size)
        return (self.source if name.startswith("source.") else self.target).positions.computed()

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
        keys = ["vocab_size", "vocab_size"]
        if config.model_type == "fsmt":
            keys = ["src_vocab_size", "tgt_vocab_size"]
        elif not config.share_encoder_decoder_embeddings:
            keys = ["vocab_size", "decoder_vocab_size"]
        shares = config.share_encoder_decoder_embeddings
        target = config.vocab_size if shares else config.decoder_vocab_size
        found: list[Size | Layers] = [
            Size("d_model", config.d_model, 1, own["source"]),
            Size(keys[0], config.vocab_size, 0, own["source"]),
            Size(keys[1], target, 0, own["target"]),
        ]
        kind = config.layout.positions
        rows = kind.first_row(config.pad_token_id) + config.max_position_embeddings
        widths = {"encoder": config.encoder_ffn_dim, "decoder": config.decoder_ffn_dim}
        counts = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
        for side, width in widths.items():
            positions = f"{prefix}{side}.embed_positions.weight"
            if kind.is_stored is False or (kind.is_stored is None and positions not in names):
                refuse_large_table("max_position_embeddings", rows, config.d_model)
            else:
                found.append(Size("max_position_embeddings", rows, 0, (positions,)))
            found += [
                Layers(f"{side}_layers", counts[side], f"{prefix}{side}.layers"),
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
        tables = ("source.positions.weight", "target.positions.weight")
        is_stored = config.layout.positions.is_stored
        for name in ("final_logits_bias", *(() if is_stored else tables)):
            if name in wanted and (is_stored is False or wanted[name].names[0] not in names):
                del wanted[name]
        return match(wanted, names, ignorable=lambda name: _ignorable(name, config, prefix))


class MBart(Bart):
    """Starts with the token of a language, which the caller names."""


class M2M100(Bart):
    """NLLB-200, M2M100 and SMaLL-100. Starts with the end token.

    transformers has no limit to positions, which are computed: here it is
    `max_position_embeddings`, which may be raised while loading.
    """


class FSMT(Bart):
    """fairseq's models of WMT16 and WMT19, with a vocabulary each for source and target.

    The limit to positions is that of `M2M100`.
    """

    # transformers reads a prompt that is longer without a causal mask.
    longest_exact_prompt = 1


class Mvp(Bart):
    """A BART of its own training."""


class PLBart(Bart):
    """A BART for source code."""


class Blenderbot(Bart):
    """Its own parts in mBART's order."""


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
    has_own_head = config.layout.head == "lm_head"
    head = "lm_head.weight" if has_own_head else f"{prefix}{config.layout.head}.weight"
    order: dict[str, tuple[str, ...]] = {
        "source.tokens.weight": (encoder, shared),
        "target.tokens.weight": (decoder, shared),
        "lm_head.weight": (head,),
    }
    if config.share_encoder_decoder_embeddings:
        also = (head,) if config.tie_word_embeddings else ()
        everywhere = (shared, *also, decoder, encoder)
        order = {name: (*own, *everywhere) for name, own in order.items()}
    else:
        order["lm_head.weight"] += (decoder,)
    if has_own_head and not config.tie_word_embeddings:
        order["lm_head.weight"] = (head,)
    return {
        name: TensorSpec((next((own for own in own_names if own in names), own_names[0]),))
        for name, own_names in order.items()
    }


def _ignorable(name: str, config: BartConfig, prefix: str) -> bool:
    own = ["version"]
    if config.layout.positions.is_stored is False:
        own += ["embed_positions.weight", "embed_positions.weights"]
    sides = (f"{prefix}encoder", f"{prefix}decoder")
    return name in (f"{prefix}shared.weight", *(f"{s}.{part}" for s in sides for part in own))


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
