"""ProphetNet and XLM-ProphetNet, which were trained to tell several next tokens at once.

Qi et al., "ProphetNet: Predicting Future N-gram for Sequence-to-Sequence Pre-training", 2020.
Encoder and decoder are post-norm and alike BART's, but for what the decoder asks with. Beside the
main stream of tokens there are predicting streams: the first asks for the next token, another one
for the token after it, and so on. No stream sees another predicting stream, and no token is chosen
by any but the first: so a beam has two rows, its newest token, whose keys and values are kept, and
the row that asks what comes next, which is forgotten as soon as it has answered.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritonseq.kernels import embed

from .attention import CrossAttention, EncoderAttention, attend_and_append
from .config_checks import Layers, Size, check_sizes, check_types, own_names
from .encoder_decoder import EncoderBlock, EncoderDecoder
from .feed_forward import FeedForward, activation
from .layers import Embedding, Head, LayerNorm, Linear, ResidualStream
from .network import TensorSpec, match
from .relative_bias import bucket, check_buckets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from tritonseq.memory.kv_cache import EncoderDecoderCache

    from .varlen import VarlenBatch


# No key of config.json names it.
NORM_EPSILON = 1e-5

ROWS = 2
"""Of a beam in a step: that of the main stream and the predicting one."""


@dataclass(frozen=True)
class ProphetNetConfig:
    """The keys of config.json that say what the network computes; their names are kept."""

    vocab_size: int = 30522
    hidden_size: int = 1024
    max_position_embeddings: int = 512
    num_encoder_layers: int = 12
    num_encoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4096
    num_decoder_layers: int = 12
    num_decoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4096
    activation_function: str = "gelu"
    # Predicting streams, each with an embedding of its own.
    ngram: int = 2
    num_buckets: int = 32
    relative_max_distance: int = 128
    add_cross_attention: bool = True
    # Positions count from the one behind it.
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        check_sizes(
            self, "vocab_size", "hidden_size", "max_position_embeddings", "num_encoder_layers",
            "num_encoder_attention_heads", "encoder_ffn_dim", "num_decoder_layers",
            "num_decoder_attention_heads", "decoder_ffn_dim", "ngram", "num_buckets",
            "relative_max_distance",
        )  # fmt: skip
        check_types(self)
        activation(self.activation_function)
        check_buckets(self, "num_buckets", "relative_max_distance")
        for name in ("num_encoder_attention_heads", "num_decoder_attention_heads"):
            if self.hidden_size % getattr(self, name):
                raise ValueError(
                    f"config.json: hidden_size {self.hidden_size} is not a multiple of {name} "
                    f"{getattr(self, name)}"
                )
        if self.max_position_embeddings < 3:
            raise ValueError(
                f"config.json: max_position_embeddings is {self.max_position_embeddings}, and "
                "asking for the first token of a target takes the position of row 2"
            )
        if self.pad_token_id != 0:
            raise ValueError(
                f"config.json: pad_token_id is {self.pad_token_id}, and the positions of a "
                "ProphetNet start behind it: only 0 is supported (in generation_config.json and "
                "as an option of generate it may be another)"
            )
        if not self.add_cross_attention:
            raise ValueError(
                "config.json: add_cross_attention is False, and every layer of the decoder reads "
                "the source here: only true is supported"
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ProphetNetConfig:
        """Read the keys that matter. `num_hidden_layers` means nothing, as in transformers."""
        for name in config.get("architectures") or ():
            if name not in _HEADS:
                raise ValueError(
                    f"config.json: architectures names {name}, which is no encoder-decoder model "
                    f"with a head that generates: {' and '.join(_HEADS[:2])} are supported"
                )
        named = own_names(config, {"num_attention_heads": "num_encoder_attention_heads"})
        known = {field.name for field in fields(cls)}
        own = {key: named[key] for key in known & named.keys()}
        return cls(**{key: x for key, x in own.items() if x is not None or key == "pad_token_id"})


_HEADS = (
    "ProphetNetForConditionalGeneration",
    "XLMProphetNetForConditionalGeneration",
    "ProphetNetModel",
    "XLMProphetNetModel",
)


class NgramAttention(nn.Module):
    """Every beam attends to the decoder's prompt and to its lineage, with both of its rows.

    Scores have a bias by the distance of a key, which the asking row says for every bucket.
    """

    def __init__(self, config: ProphetNetConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.layer = layer
        self.heads = config.num_decoder_attention_heads
        self.head_dim = width // self.heads
        self.buckets = config.num_buckets
        self.scale = self.head_dim**-0.5
        # Two products, because the last layer wants queries of fewer rows than keys. With every
        # query comes its bias.
        self.query = Linear(width, width + self.buckets * self.heads, packed=True)
        self.kv = Linear(width, 2 * width, packed=True)
        self.out = Linear(width, width, packed=True, fp32_output=True)

    def prefill(self, x: Tensor, asked: Tensor, cache: EncoderDecoderCache) -> Tensor:
        """Read prompts of `P` tokens, `x: [B * (P + 1), d]`, the predicting row behind them.

        `asked [B * Q, d]` are the last `Q` of each sample's rows. Keys and values of the prompt are
        stored. Returns `[B * Q, d]`.
        """
        keys, values = cache.own.source(self.layer)
        samples, _, length, _ = keys.shape
        kv = self.kv(x).view(samples, length + 1, 2, self.heads, self.head_dim)
        key, value = kv.permute(2, 0, 3, 1, 4)
        keys.copy_(key[:, :, :length])
        values.copy_(value[:, :, :length])
        query, bias = self._ask(asked, samples, length + 1, cache)  # [B, Q, H, ...]
        query, bias = query.transpose(1, 2), bias.transpose(1, 2)
        place = torch.arange(length + 1, device=x.device)
        distance = place[-query.shape[2] :, None] - place
        near = distance.clamp(0, bias.shape[3] - 1).expand(*bias.shape[:3], -1)
        mask = bias.gather(3, near).masked_fill(distance < 0, -torch.inf).to(x.dtype)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=self.scale
        )
        return attended.transpose(1, 2).reshape(asked.shape[0], -1)

    def step(
        self, x: Tensor, asked: Tensor, lineage: Tensor | None, cache: EncoderDecoderCache
    ) -> Tensor:
        """Attend for the newest rows of every beam, `x: [B * K * 2, d]`; the first is appended.

        `asked [B * K * Q, d]` are the last `Q` of each beam's rows. Returns the same shape.
        """
        own = cache.own
        shape = (own.step.shape[0], -1, ROWS, 2, self.heads, self.head_dim)
        key, value = self.kv(x).view(shape).unbind(3)
        # A key is no farther than the first token of the prompt from the row behind the target.
        reach = own.source_length + own.target_length + 1
        query, bias = self._ask(asked, shape[0], reach, cache)
        query, bias = (part.unflatten(1, (key.shape[1], -1)) for part in (query, bias))
        attended = attend_and_append(
            query, key, value, own, self.layer, lineage, scale=self.scale, bias=bias
        )
        return attended.view(asked.shape[0], -1)

    def _ask(
        self, x: Tensor, samples: int, reach: int, cache: EncoderDecoderCache
    ) -> tuple[Tensor, Tensor]:
        """Queries `[B, Q, H, D]` of rows `x: [B * Q, d]`, and their bias `[B, Q, H, N]` float32.

        `N` is enough for `reach` distances.
        """
        buckets = cache.bias[self.layer]
        assert buckets is not None
        widths = [self.heads * self.head_dim, self.buckets * self.heads]
        query, bias = self.query(x).unflatten(0, (samples, -1)).split(widths, dim=2)
        by_head = bias.unflatten(2, (self.buckets, self.heads)).transpose(2, 3).float()
        by_distance = by_head.index_select(3, buckets[:reach])
        return query.unflatten(2, (self.heads, self.head_dim)), by_distance


class NgramBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward of both rows of every beam."""

    def __init__(self, config: ProphetNetConfig, norm: Callable[[], LayerNorm], layer: int) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_decoder_attention_heads
        size = width // heads
        self.attention = NgramAttention(config, layer)
        self.attention_norm = norm()
        self.cross = CrossAttention(layer, width, heads, size, scale=size**-0.5, has_bias=True)
        self.cross_norm = norm()
        self.feed_forward = FeedForward(width, config.decoder_ffn_dim, config.activation_function)
        self.feed_forward_norm = norm()

    def prefill(
        self, stream: ResidualStream, asked: ResidualStream, cache: EncoderDecoderCache
    ) -> None:
        """`asked` holds rows of the stream, or all of it, as in the attention; it is changed."""
        self._add(asked, self.attention.prefill(stream.x, asked.x, cache), cache)

    def step(
        self,
        stream: ResidualStream,
        asked: ResidualStream,
        lineage: Tensor | None,
        cache: EncoderDecoderCache,
    ) -> None:
        """The same for the newest rows of every beam."""
        self._add(asked, self.attention.step(stream.x, asked.x, lineage, cache), cache)

    def _add(self, stream: ResidualStream, attended: Tensor, cache: EncoderDecoderCache) -> None:
        stream.add(attended, self.attention.out, self.attention_norm)
        self.cross(stream, self.cross_norm, cache)
        self.feed_forward(stream, self.feed_forward_norm)


class SideEmbeddings(nn.Module):
    """The tables of one side: tokens, positions, and the norm of their sum."""

    def __init__(self, config: ProphetNetConfig) -> None:
        super().__init__()
        self.tokens = Embedding(config.vocab_size, config.hidden_size)
        self.positions = Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, NORM_EPSILON)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """`[N, d]`, before the norm; row 0 of the positions belongs to padding."""
        table = self.positions.weight[1:]
        return embed(tokens, self.tokens.weight, positions=positions, position_table=table)


class ProphetNet(EncoderDecoder):
    """The network: tokens and caches in, logits out. It knows nothing of search."""

    Config = ProphetNetConfig
    rows = ROWS

    shares_vocabulary = True
    # Behind the last position all tokens of a source share it.
    max_source_positions = None
    # transformers mixes up the heads and positions of a prompt that is longer.
    longest_exact_prompt = 1

    def __init__(self, config: ProphetNetConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = self.source_vocab_size = config.vocab_size
        # The first one is that of padding, and what comes next is asked for one further on.
        self.max_positions = config.max_position_embeddings - 2
        self.heads = config.num_decoder_attention_heads
        self.head_dim = config.hidden_size // self.heads
        self.source = SideEmbeddings(config)
        self.target = SideEmbeddings(config)
        self.ngrams = Embedding(config.ngram, config.hidden_size)
        norm = partial(LayerNorm, config.hidden_size, NORM_EPSILON)
        self.encoder = nn.ModuleList(
            _encoder_block(config, norm) for _ in range(config.num_encoder_layers)
        )
        self.encoder_norm = None
        self.decoder = nn.ModuleList(
            NgramBlock(config, norm, layer) for layer in range(config.num_decoder_layers)
        )
        self.lm_head = Head(config.vocab_size, config.hidden_size)

    def embed_source(self, batch: VarlenBatch) -> ResidualStream:
        positions = batch.positions.clamp(max=self.config.max_position_embeddings - 2)
        x = self.source(batch.tokens, positions)
        return ResidualStream(self.source.norm(x), post_norm=True)

    def logits(self, stream: ResidualStream) -> Tensor:
        return stream.logits(self.lm_head.weight, None)

    def biases(self) -> list[Tensor | None]:
        """Per layer, the bucket of each distance, `[N]` int64: the same for all."""
        config = self.config
        distance = torch.arange(config.relative_max_distance + 1, device=self.device)
        buckets = bucket(
            -distance, config.num_buckets, config.relative_max_distance, is_bidirectional=False
        )
        return [buckets] * config.num_decoder_layers

    @torch.no_grad()
    def prefill(
        self, tokens: Tensor, lengths: Tensor, cache: EncoderDecoderCache, *, prompt: Tensor
    ) -> Tensor:
        """As of every `EncoderDecoder`, with the predicting row behind the prompt."""
        self.read(tokens, lengths, cache, prompt)
        samples, length = prompt.shape
        places = torch.arange(length, device=prompt.device)
        main = self.target(prompt.flatten(), places.expand_as(prompt).flatten())
        asking = self._asking(places[-1:]).expand(samples, 1, -1)
        rows = torch.cat((main.unflatten(0, prompt.shape), asking), dim=1).flatten(0, 1)
        stream = ResidualStream(self.target.norm(rows), post_norm=True)
        *lower, last = self._ngram_blocks
        for block in lower:
            block.prefill(stream, stream, cache)
        asked = stream.at(slice(length, None, length + 1))
        last.prefill(stream, asked, cache)
        return self.logits(asked)

    @torch.no_grad()
    def step(self, tokens: Tensor, lineage: Tensor | None, cache: EncoderDecoderCache) -> Tensor:
        """As of every `EncoderDecoder`, with the predicting row behind every token."""
        places = cache.own.next_positions()
        main = self.target(tokens.flatten(), places).unflatten(0, tokens.shape)
        asking = self._asking(places)[:, None].expand_as(main)
        rows = torch.stack((main, asking), dim=2).flatten(0, 2)
        stream = ResidualStream(self.target.norm(rows), post_norm=True)
        *lower, last = self._ngram_blocks
        for block in lower:
            block.step(stream, stream, lineage, cache)
        asked = stream.at(slice(ROWS - 1, None, ROWS))
        last.step(stream, asked, lineage, cache)
        return self.logits(asked).unflatten(0, tokens.shape)

    def _asking(self, places: Tensor) -> Tensor:
        """The predicting rows `[N, d]` behind tokens at `places [N]`, before the norm."""
        # Upstream counts streams from 1 and rows from 0: the first stream has the last row.
        return embed(places, self.target.positions.weight[2:], row=self.ngrams.weight[-1])

    @property
    def _ngram_blocks(self) -> list[NgramBlock]:
        return cast("list[NgramBlock]", list(self.decoder))

    @classmethod
    def tied(cls, config: ProphetNetConfig) -> tuple[tuple[str, ...], ...]:
        """Groups of parameters that are one tensor if the checkpoint does not tell them apart."""
        return (("source.tokens.weight", "target.tokens.weight", "lm_head.weight"),)

    @classmethod
    def sizes(cls, names: Collection[str], config: ProphetNetConfig) -> list[Size | Layers]:
        """Where the weights show what the configuration says of sizes."""
        prefix = _prefix(names)
        words = tuple(f"{prefix}{side}word_embeddings.weight" for side in ("", *_SIDES))
        relative = f"{prefix}decoder.layers.0.self_attn.relative_pos_embeddings.weight"
        biases = config.num_buckets * config.num_decoder_attention_heads
        found: list[Size | Layers] = [
            Size("vocab_size", config.vocab_size, 0, words),
            Size("hidden_size", config.hidden_size, 1, words),
            Size("ngram", config.ngram, 0, (f"{prefix}decoder.ngram_embeddings.weight",)),
            Size("num_buckets and num_decoder_attention_heads", biases, 0, (relative,)),
        ]
        for side in _SIDES:
            name = side.removesuffix(".")
            positions = (f"{prefix}{side}position_embeddings.weight",)
            inner = (f"{prefix}{side}layers.0.feed_forward.intermediate.weight",)
            found += [
                Layers(
                    f"num_{name}_layers",
                    getattr(config, f"num_{name}_layers"),
                    f"{prefix}{side}layers",
                ),
                Size("max_position_embeddings", config.max_position_embeddings, 0, positions),
                Size(f"{name}_ffn_dim", getattr(config, f"{name}_ffn_dim"), 0, inner),
            ]
        return found

    @classmethod
    def tensor_specs(
        cls, names: Collection[str], config: ProphetNetConfig
    ) -> dict[str, TensorSpec]:
        """Match every parameter to the tensors of the checkpoint.

        Checkpoints name their tensors with or without a leading `prophetnet.`, and the embedding by
        one or more of four names. Raises ValueError that names what is missing or left over.
        """
        prefix = _prefix(names)
        shared = f"{prefix}word_embeddings.weight"
        source, target = (f"{prefix}{side}word_embeddings.weight" for side in _SIDES)
        wanted = {name: _source(name, prefix, config) for name, _ in cls(config).named_parameters()}
        for parameter, own in (
            ("source.tokens.weight", source),
            ("target.tokens.weight", target),
            ("lm_head.weight", "lm_head.weight"),
        ):
            found = (name for name in (own, shared, target, source) if name in names)
            wanted[parameter] = TensorSpec((next(found, shared),))
        return match(wanted, names, ignorable=(shared, source, target).__contains__)


def _encoder_block(config: ProphetNetConfig, norm: Callable[[], LayerNorm]) -> EncoderBlock:
    width, heads = config.hidden_size, config.num_encoder_attention_heads
    size = width // heads
    return EncoderBlock(
        EncoderAttention(width, heads, size, scale=size**-0.5, has_bias=True),
        FeedForward(width, config.encoder_ffn_dim, config.activation_function),
        norm,
    )


_SIDES = ("encoder.", "decoder.")
_ABOVE = {
    "source.positions": "encoder.position_embeddings",
    "source.norm": "encoder.embeddings_layer_norm",
    "target.positions": "decoder.position_embeddings",
    "target.norm": "decoder.embeddings_layer_norm",
    "ngrams": "decoder.ngram_embeddings",
}
_WITHIN = {
    "attention.qkv": ("self_attn.query_proj", "self_attn.key_proj", "self_attn.value_proj"),
    "attention.query": ("self_attn.query_proj", "self_attn.relative_pos_embeddings"),
    "attention.kv": ("self_attn.key_proj", "self_attn.value_proj"),
    "attention.out": ("self_attn.out_proj",),
    "attention_norm": ("self_attn_layer_norm",),
    "cross.query": ("cross_attn.query_proj",),
    "cross.kv": ("cross_attn.key_proj", "cross_attn.value_proj"),
    "cross.out": ("cross_attn.out_proj",),
    "cross_norm": ("cross_attn_layer_norm",),
    "feed_forward.act": ("feed_forward.activation_fn",),
    "feed_forward.fc1": ("feed_forward.intermediate",),
    "feed_forward.fc2": ("feed_forward.output",),
    "feed_forward_norm": ("feed_forward_layer_norm",),
}


def _prefix(names: Collection[str]) -> str:
    return "prophetnet." if any(name.startswith("prophetnet.") for name in names) else ""


def _source(parameter: str, prefix: str, config: ProphetNetConfig) -> TensorSpec:
    """The tensors behind a parameter; those of the tables of tokens are settled elsewhere."""
    owner, _, leaf = parameter.rpartition(".")
    if owner in _ABOVE:
        return TensorSpec((f"{prefix}{_ABOVE[owner]}.{leaf}",))
    side, _, rest = owner.partition(".")
    layer, _, part = rest.partition(".")
    if part not in _WITHIN:
        return TensorSpec((parameter,))
    names = tuple(f"{prefix}{side}.layers.{layer}.{tensor}.{leaf}" for tensor in _WITHIN[part])
    widths: tuple[int, ...] = ()
    if part == "attention.query":
        widths = (config.hidden_size, config.num_buckets * config.num_decoder_attention_heads)
    transpose = leaf == "weight" and not part.endswith(("norm", "act"))
    return TensorSpec(names, transpose=transpose, widths=widths)
