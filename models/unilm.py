"""UniLM and what is fine-tuned with s2s-ft: UniLM 1, 1.2 and 2, MiniLM, BERT and RoBERTa.

Dong et al., "Unified Language Model Pre-training for Natural Language Understanding and
Generation", 2019; Bao et al., "UniLMv2", 2020, and "s2s-ft", 2021. One post-norm BERT is encoder
and decoder at once: the source sees all of itself, a token of the target sees the source and the
target up to itself. What comes next is asked for by a [MASK] behind the last token, which is
forgotten as soon as it has answered.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from tritonseq.kernels import decode_attention, embed
from tritonseq.memory.kv_cache import KVCache

from .attention import attend_and_append, attend_within, store
from .config_checks import Layers, Size, check_number, check_sizes, check_types
from .feed_forward import FeedForward, activation
from .layers import Embedding, Head, LayerNorm, Linear, ResidualStream, empty_parameter
from .network import Network, TensorSpec, match
from .positions import RelativeBias, check_distance
from .varlen import varlen_batches

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tritonseq.memory.kv_cache import Sizes

    from .varlen import VarlenBatch


@dataclass(frozen=True)
class UniLMConfig:
    """What the network computes. Sizes have BERT's names; a loader settles the rest."""

    vocab_size: int = 28996
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    # Both decoders of UniLM have this built in, whatever config.json says.
    layer_norm_eps: float = 1e-5
    # UniLM 2: buckets of a bias by distance, 0 for none.
    rel_pos_bins: int = 0
    max_rel_pos: int = 0
    # The types of the first token of a source, of the others, and of the target.
    first_type_id: int = 0
    source_type_id: int = 0
    target_type_id: int = 1
    mask_token_id: int = 103
    # Models that were tuned to tell the next token from the last one, without a [MASK]. Their
    # targets start with a token that is no part of the output.
    pos_shift: bool = False
    start_token_id: int = 102

    def __post_init__(self) -> None:
        check_sizes(
            self, "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "intermediate_size", "max_position_embeddings",
        )  # fmt: skip
        check_number(self, "layer_norm_eps")
        for name in ("type_vocab_size", "rel_pos_bins", "max_rel_pos"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"config.json: {name} must be 0 or more, not {value!r}")
        check_types(self)
        activation(self.hidden_act)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"config.json: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        bins = self.rel_pos_bins
        check_distance("max_rel_pos", self.max_rel_pos)
        if bins and (bins % 2 or bins < 4 or self.max_rel_pos <= bins // 4):
            raise ValueError(
                f"config.json: rel_pos_bins {bins} must be even and at least 4, and max_rel_pos "
                f"{self.max_rel_pos} more than a quarter of it"
            )
        for name in ("first_type_id", "source_type_id", "target_type_id"):
            self._check_id(name, self.type_vocab_size, "token types")
        self._check_id("mask_token_id", self.vocab_size, "tokens")
        if self.pos_shift:
            self._check_id("start_token_id", self.vocab_size, "tokens")

    def _check_id(self, name: str, count: int, things: str) -> None:
        value = getattr(self, name)
        if count and (type(value) is not int or not 0 <= value < count):
            raise ValueError(f"config.json: {name} is {value!r}, and there are {count} {things}")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> UniLMConfig:
        """Read the keys that matter."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in config.items() if key in known})

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def rows(self) -> int:
        """Rows of a beam in a step: its newest token, and the [MASK] behind it if it needs one."""
        return 1 if self.pos_shift else 2


class Attention(nn.Module):
    """The source attends to itself, the target to the source and to its own lineage."""

    def __init__(self, config: UniLMConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.layer = layer
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.scale = self.head_dim**-0.5
        self.rows = config.rows
        # Two products, because the last layer wants queries of fewer rows than keys.
        self.query = Linear(width, width, packed=True)
        self.kv = Linear(width, 2 * width, packed=True)
        self.out = Linear(width, width, packed=True, fp32_output=True)

    def store(self, x: Tensor, batch: VarlenBatch, cache: KVCache) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of packed sources, `x: [N, d]`; returns them, `[N, H, D]`."""
        key, value = self.kv(x).view(-1, 2, self.heads, self.head_dim).unbind(1)
        for part, new in zip(cache.source(self.layer), (key, value), strict=True):
            store(new, batch, part)
        return key, value

    def read(self, x: Tensor, batch: VarlenBatch, cache: KVCache, bias: Tensor | None) -> Tensor:
        """Attend within sources and keep their keys and values; `bias` as in `attend_within`."""
        key, value = self.store(x, batch, cache)
        query = self.query(x).view_as(key)
        return attend_within(query, key, value, batch, self.scale, bias)

    def begin(self, x: Tensor, cache: KVCache, *, keep: bool) -> Tensor:
        """Attend for the first row of every target, `x: [B, d]`.

        With `keep`, its key and value take the place behind the source.
        """
        shape = (x.shape[0], 1, 1, self.heads, self.head_dim)
        key, value = (part.view(shape) for part in self.kv(x).chunk(2, dim=1))
        keys, values = cache.source(self.layer)
        attended = decode_attention(
            self.query(x).view(shape),
            key,
            value,
            source_key=keys,
            source_value=values,
            source_len=cache.source_len,
            bias=cache.bias,
            scale=self.scale,
        )
        if keep:
            sample = torch.arange(x.shape[0], device=x.device)
            for part, new in ((keys, key), (values, value)):
                part[sample, :, cache.source_len] = new[:, 0, 0]
        return attended.flatten(1)

    def step(self, x: Tensor, asked: Tensor, lineage: Tensor | None, cache: KVCache) -> Tensor:
        """Attend for the newest rows of every beam, `x: [B * K * N, d]`; the first is appended.

        `asked [B * K * Q, d]` are the last `Q` of each beam's rows, those whose output is wanted.
        """
        shape = (cache.step.shape[0], -1, self.rows, 2, self.heads, self.head_dim)
        key, value = self.kv(x).view(shape).unbind(3)
        query = self.query(asked).view(*key.shape[:2], -1, self.heads, self.head_dim)
        attended = attend_and_append(
            query, key, value, cache, self.layer, lineage, scale=self.scale, bias=cache.bias
        )
        return attended.view(asked.shape[0], -1)


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream and then normalised."""

    def __init__(self, config: UniLMConfig, layer: int) -> None:
        super().__init__()
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.attention = Attention(config, layer)
        self.attention_norm = LayerNorm(width, epsilon)
        self.feed_forward = FeedForward(width, config.intermediate_size, config.hidden_act)
        self.feed_forward_norm = LayerNorm(width, epsilon)

    def read(
        self, stream: ResidualStream, batch: VarlenBatch, cache: KVCache, bias: Tensor | None
    ) -> None:
        self._add(stream, self.attention.read(stream.x, batch, cache, bias))

    def begin(self, stream: ResidualStream, cache: KVCache, *, keep: bool) -> None:
        self._add(stream, self.attention.begin(stream.x, cache, keep=keep))

    def step(
        self, stream: ResidualStream, asked: ResidualStream, lineage: Tensor | None, cache: KVCache
    ) -> None:
        """`asked` holds rows of the stream, or all of it, as in the attention; it is changed."""
        self._add(asked, self.attention.step(stream.x, asked.x, lineage, cache))

    def _add(self, stream: ResidualStream, attended: Tensor) -> None:
        stream.add(attended, self.attention.out, self.attention_norm)
        self.feed_forward(stream, self.feed_forward_norm)


class UniLM(Network):
    """The network: tokens and caches in, logits out. It knows nothing of search."""

    Config = UniLMConfig
    is_encoder_decoder = True
    is_prefix_lm = True
    shares_vocabulary = True
    # What upstream's decoders write unless told how much.
    default_new_tokens = 128

    def __init__(self, config: UniLMConfig) -> None:
        super().__init__()
        self.config = config
        width, positions = config.hidden_size, config.max_position_embeddings
        self.vocab_size = self.source_vocab_size = config.vocab_size
        self.max_positions = positions
        # One is for the first token of the target.
        self.max_source_positions = positions - 1
        self.words = Embedding(config.vocab_size, width)
        self.positions = Embedding(positions, width)
        self.types = Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.norm = LayerNorm(width, config.layer_norm_eps)
        self.relative = (
            RelativeBias(
                config.rel_pos_bins,
                config.max_rel_pos,
                config.num_attention_heads,
                is_bidirectional=True,
            )
            if config.rel_pos_bins
            else None
        )
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.transform = Linear(width, width, packed=True, fp32_output=True)
        self.transform_norm = LayerNorm(width, config.layer_norm_eps)
        self.act = activation(config.hidden_act)
        self.head = Head(config.vocab_size, width)
        self.head_bias = empty_parameter(config.vocab_size)

    def new_cache(self, sizes: Sizes, device: torch.device | None = None) -> KVCache:
        """Caches for sources of up to `sizes.source_length` tokens, and for targets."""
        # A start token stands behind the source, where all beams of a sample see it.
        length = sizes.source_length + self.config.pos_shift
        return KVCache.allocate(
            sizes._replace(source_length=length),
            layers=self.config.num_hidden_layers,
            heads=self.config.num_attention_heads,
            head_dim=self.config.head_dim,
            device=self.device if device is None else device,
            dtype=self.dtype,
            bias=None if self.relative is None else self.relative.causal(),
        )

    @torch.no_grad()
    def prefill(self, tokens: Tensor, lengths: Tensor, cache: KVCache) -> Tensor:
        """Read the sources, once per sample, and ask for the first token of each target.

        `tokens`: `[B, S]` int64, padded on the right; `lengths`: `[B]` int64, all at least 1;
        `cache` has room for `B` samples. Returns the logits `[B, V]` of the first tokens.
        """
        cache.source_len.copy_(lengths)
        cache.step.zero_()
        for batch in varlen_batches(tokens, lengths, padded=False):
            self._read(batch, cache)
        started = self.config.pos_shift
        first = self.config.start_token_id if started else self.config.mask_token_id
        stream = self._embed_target(torch.full_like(lengths, first), lengths)
        for block in self._blocks:
            block.begin(stream, cache, keep=started)
        if started:
            cache.source_len.add_(1)
        return self._logits(stream)

    @torch.no_grad()
    def step(self, tokens: Tensor, lineage: Tensor | None, cache: KVCache) -> Tensor:
        """Feed the newest token of every beam, and ask for the next.

        `tokens`: `[B, K]` int64; `lineage`: `[B, T, K]` int64, the slot of each generated position
        that each beam descends from, or None when beams never change places. Writes position
        `cache.step`, which the caller advances, and returns logits `[B, K, V]`.
        """
        rows, positions = tokens[:, :, None], cache.next_positions()
        if not self.config.pos_shift:
            mask = torch.full_like(rows, self.config.mask_token_id)
            rows = torch.cat((rows, mask), dim=2)
            offsets = torch.arange(2, device=rows.device).expand(rows.shape[1:])
            positions = (positions[:, None, None] + offsets).flatten()
        stream = self._embed_target(rows.flatten(), positions)
        *lower, last = self._blocks
        for block in lower:
            block.step(stream, stream, lineage, cache)
        asked = stream.at(slice(self.config.rows - 1, None, self.config.rows))
        last.step(stream, asked, lineage, cache)
        return self._logits(asked).unflatten(0, tokens.shape)

    def _read(self, batch: VarlenBatch, cache: KVCache) -> None:
        """Keep the keys and values of some packed sources in every layer."""
        bias = None if self.relative is None else self.relative.bidirectional(max(batch.lengths))
        stream = self._embed_source(batch)
        *lower, last = self._blocks
        for block in lower:
            block.read(stream, batch, cache, bias)
        last.attention.store(stream.x, batch, cache)

    @property
    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    def _embed_source(self, batch: VarlenBatch) -> ResidualStream:
        first, others = self.config.first_type_id, self.config.source_type_id
        types = (batch.positions == 0) * (first - others) + others
        x = self._embed(batch.tokens, batch.positions)
        normed = self.norm(x) if self.types is None else self.norm(x, self.types(types))
        return ResidualStream(normed, post_norm=True)

    def _embed_target(self, tokens: Tensor, positions: Tensor) -> ResidualStream:
        own = None if self.types is None else self.types.weight[self.config.target_type_id]
        return ResidualStream(self.norm(self._embed(tokens, positions, own)), post_norm=True)

    def _embed(self, tokens: Tensor, positions: Tensor, row: Tensor | None = None) -> Tensor:
        return embed(
            tokens,
            self.words.weight,
            positions=positions,
            position_table=self.positions.weight,
            row=row,
        )

    def _logits(self, stream: ResidualStream) -> Tensor:
        x = stream.read(self.transform, self.transform_norm, self.act)
        return ResidualStream(x).logits(self.head.weight, self.transform_norm, self.head_bias)

    @classmethod
    def tied(cls, config: UniLMConfig) -> tuple[tuple[str, ...], ...]:
        """Groups of parameters that are one tensor if the checkpoint does not tell them apart."""
        return (("words.weight", "head.weight"),)

    @classmethod
    def sizes(cls, names: Collection[str], config: UniLMConfig) -> list[Size | Layers]:
        """Where the weights show what the configuration says of sizes.

        `names` are here for the sake of other architectures, which have several for a tensor.
        """
        layer = "bert.encoder.layer"
        words, positions, types = (
            (_ABOVE[f"{table}.weight"],) for table in ("words", "positions", "types")
        )
        relative = (_ABOVE["relative.weight"],)
        return [
            Layers("num_hidden_layers", config.num_hidden_layers, layer),
            Size("hidden_size", config.hidden_size, 1, words),
            Size("vocab_size", config.vocab_size, 0, words),
            Size("max_position_embeddings", config.max_position_embeddings, 0, positions),
            Size("type_vocab_size", config.type_vocab_size, 0, types),
            Size("num_attention_heads", config.num_attention_heads, 0, relative),
            Size(
                "intermediate_size",
                config.intermediate_size,
                0,
                (f"{layer}.0.intermediate.dense.weight",),
            ),
        ]

    @classmethod
    def tensor_specs(cls, names: Collection[str], config: UniLMConfig) -> dict[str, TensorSpec]:
        """Match every parameter to the tensors of a checkpoint that has BERT's names.

        Raises ValueError that names what is missing or left over.
        """
        wanted = {name: _source(name) for name, _ in cls(config).named_parameters()}
        if _OWN_HEAD in names:
            wanted["head.weight"] = TensorSpec((_OWN_HEAD,))
        return match(wanted, names, ignorable=lambda _: False)


_EMBEDDINGS = "bert.embeddings"
_HEAD = "cls.predictions"
_OWN_HEAD = f"{_HEAD}.decoder.weight"
_ABOVE = {
    "words.weight": f"{_EMBEDDINGS}.word_embeddings.weight",
    "positions.weight": f"{_EMBEDDINGS}.position_embeddings.weight",
    "types.weight": f"{_EMBEDDINGS}.token_type_embeddings.weight",
    "norm": f"{_EMBEDDINGS}.LayerNorm",
    "relative.weight": "bert.rel_pos_bias.weight",
    "transform": f"{_HEAD}.transform.dense",
    "transform_norm": f"{_HEAD}.transform.LayerNorm",
    # The head is the table of words, unless it has one of its own.
    "head.weight": f"{_EMBEDDINGS}.word_embeddings.weight",
    "head_bias": f"{_HEAD}.bias",
}
_WITHIN = {
    "attention.query": ("attention.self.query",),
    "attention.kv": ("attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "feed_forward.fc1": ("intermediate.dense",),
    "feed_forward.fc2": ("output.dense",),
    "feed_forward_norm": ("output.LayerNorm",),
}


def _source(parameter: str) -> TensorSpec:
    """The tensors behind a parameter."""
    if parameter in _ABOVE:
        return TensorSpec((_ABOVE[parameter],), transpose=parameter == "relative.weight")
    owner, _, leaf = parameter.rpartition(".")
    transpose = leaf == "weight" and not owner.endswith("norm")
    if owner in _ABOVE:
        return TensorSpec((f"{_ABOVE[owner]}.{leaf}",), transpose=transpose)
    _, layer, part = owner.split(".", 2)
    at = f"bert.encoder.layer.{layer}"
    return TensorSpec(
        tuple(f"{at}.{tensor}.{leaf}" for tensor in _WITHIN[part]), transpose=transpose
    )
