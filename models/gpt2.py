"""GPT-2 and its family: distilgpt2, DialoGPT and everything else with `model_type` "gpt2".

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. Pre-norm blocks,
learned absolute positions, the head tied to the embedding unless the configuration or the weights
say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritonseq.kernels import decode_attention, embed
from tritonseq.memory.kv_cache import KVCache

from .attention import attend_and_append
from .config_checks import (
    Layers,
    Size,
    check_flag,
    check_number,
    check_sizes,
    check_types,
    own_names,
)
from .feed_forward import activation
from .layers import LayerNorm, Linear, ResidualStream, empty_parameter
from .network import Network, TensorSpec, match
from .varlen import varlen_batches

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tritonseq.memory.kv_cache import Sizes

    from .varlen import VarlenBatch


@dataclass(frozen=True)
class GPT2Config:
    """The keys of config.json that say what the network computes; their names are kept."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    # Scores are always accumulated in float32 here, so both values of this flag mean the same.
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
        if self.n_inner is not None:
            check_sizes(self, "n_inner")
        check_number(self, "layer_norm_epsilon")
        check_types(self)
        if self.n_embd % self.n_head:
            raise ValueError(
                f"config.json: n_embd {self.n_embd} is not a multiple of n_head {self.n_head}"
            )
        activation(self.activation_function)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> GPT2Config:
        """Read the keys that matter, by GPT-2's own names or by newer, general ones."""
        if check_flag(config, "add_cross_attention"):
            raise ValueError("config.json: add_cross_attention is not supported for gpt2")
        general = {
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
        }
        named = own_names(config, general)
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in named.items() if key in known})

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def inner(self) -> int:
        """The width within an MLP."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner


class Attention(nn.Module):
    """Self-attention over the prompt, stored once per sample, and what the beams have written."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.n_head
        self.head_dim = config.head_dim
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        scale = self.head_dim**-0.5 if config.scale_attn_weights else 1.0
        self.scale = scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale

    def prefill(
        self, stream: ResidualStream, norm: LayerNorm, batch: VarlenBatch, cache: KVCache
    ) -> None:
        """Attend within the packed prompts and store their keys and values."""
        query, key, value = self._split(batch.pad(stream.read(self.c_attn, norm)), 3)
        self._store(key, value, batch, cache)
        # Padding stands on the right, where the causal mask already hides it.
        attended = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self.scale
        )
        stream.add(batch.pack(attended.transpose(1, 2).flatten(2)), self.c_proj, norm)

    def prefill_last(
        self, stream: ResidualStream, norm: LayerNorm, batch: VarlenBatch, cache: KVCache
    ) -> ResidualStream:
        """Attend for the last token of each sample only: a stream `[b, d]`.

        The last layer needs no more: nothing above it reads the other positions.
        """
        x = stream.normed(norm)
        d = x.shape[1]
        key, value = self._split(batch.pad(self.c_attn.columns(x, d, 3 * d)), 2)
        self._store(key, value, batch, cache)
        query = self.c_attn.columns(x[batch.last], 0, d)
        attended = decode_attention(
            query.view(-1, 1, 1, self.heads, self.head_dim),
            source_key=key,
            source_value=value,
            source_len=batch.source_len,
            scale=self.scale,
        )
        last = stream.at(batch.last)
        last.add(attended.flatten(1), self.c_proj, norm)
        return last

    def step(
        self, stream: ResidualStream, norm: LayerNorm, lineage: Tensor | None, cache: KVCache
    ) -> None:
        """Attend for the newest token of every beam and append its key and value."""
        rows = stream.read(self.c_attn, norm)
        qkv = rows.view(cache.step.shape[0], -1, 1, 3, self.heads, self.head_dim)
        query, key, value = qkv.unbind(3)
        attended = attend_and_append(
            query, key, value, cache, self.layer, lineage, scale=self.scale
        )
        stream.add(attended.view(rows.shape[0], -1), self.c_proj, norm)

    def _split(self, rows: Tensor, parts: int) -> Tensor:
        """`[parts, b, H, S, D]` of padded rows `[b, S, parts * d]`."""
        return rows.unflatten(-1, (parts, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)

    def _store(self, key: Tensor, value: Tensor, batch: VarlenBatch, cache: KVCache) -> None:
        length = key.shape[2]
        for part, new in zip(cache.source(self.layer), (key, value), strict=True):
            part[batch.samples, :, :length] = new


class MLP(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        inner = config.inner
        self.c_fc = Linear(config.n_embd, inner)
        self.c_proj = Linear(inner, config.n_embd)
        self.act = activation(config.activation_function)

    def forward(self, stream: ResidualStream, norm: LayerNorm) -> None:
        """Read the stream by the norm of this part, and add to it."""
        stream.add(stream.read(self.c_fc, norm, self.act), self.c_proj, norm)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def prefill(self, stream: ResidualStream, batch: VarlenBatch, cache: KVCache) -> None:
        self.attn.prefill(stream, self.ln_1, batch, cache)
        self.mlp(stream, self.ln_2)

    def prefill_last(
        self, stream: ResidualStream, batch: VarlenBatch, cache: KVCache
    ) -> ResidualStream:
        """The stream of the last token of each sample."""
        last = self.attn.prefill_last(stream, self.ln_1, batch, cache)
        self.mlp(last, self.ln_2)
        return last

    def step(self, stream: ResidualStream, lineage: Tensor | None, cache: KVCache) -> None:
        self.attn.step(stream, self.ln_1, lineage, cache)
        self.mlp(stream, self.ln_2)


class GPT2(Network):
    """The network: tokens and caches in, logits out. It knows nothing of search."""

    Config = GPT2Config
    is_encoder_decoder = False
    is_prefix_lm = False

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_positions = config.n_positions
        self.wte = empty_parameter(config.vocab_size, config.n_embd)
        self.wpe = empty_parameter(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.lm_head = empty_parameter(config.vocab_size, config.n_embd)

    def new_cache(self, sizes: Sizes, device: torch.device | None = None) -> KVCache:
        """Caches for prompts of up to `sizes.source_length` tokens and what continues them."""
        return KVCache.allocate(
            sizes,
            layers=self.config.n_layer,
            heads=self.config.n_head,
            head_dim=self.config.head_dim,
            device=self.device if device is None else device,
            dtype=self.dtype,
        )

    @torch.no_grad()
    def prefill(self, tokens: Tensor, lengths: Tensor, cache: KVCache) -> Tensor:
        """Read the prompts, once per sample, into caches of `B` samples.

        `tokens`: `[B, S]` int64, padded on the right; `lengths`: `[B]` int64, all at least 1.
        Returns the logits `[B, V]` after the last token of each prompt.
        """
        cache.source_len.copy_(lengths)
        cache.step.zero_()
        groups = varlen_batches(tokens, lengths, padded=True)
        last = torch.cat([self._prefill_group(group, cache) for group in groups])
        return self._logits(ResidualStream(last))

    def _prefill_group(self, batch: VarlenBatch, cache: KVCache) -> Tensor:
        stream = self._embed(batch.tokens, batch.positions)
        *lower, last = self._blocks
        for block in lower:
            block.prefill(stream, batch, cache)
        return last.prefill_last(stream, batch, cache).settled()

    @torch.no_grad()
    def step(self, tokens: Tensor, lineage: Tensor | None, cache: KVCache) -> Tensor:
        """Feed the newest token of every beam.

        `tokens`: `[B, K]` int64; `lineage`: `[B, T, K]` int64, the slot of each generated position
        that each beam descends from, or None when beams never change places. Writes position
        `cache.step`, which the caller advances, and returns logits `[B, K, V]`.
        """
        stream = self._embed(tokens.flatten(), cache.step, cache.source_len)
        for block in self._blocks:
            block.step(stream, lineage, cache)
        return self._logits(stream).unflatten(0, tokens.shape)

    @property
    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.h))

    def _embed(
        self, tokens: Tensor, positions: Tensor, starts: Tensor | None = None
    ) -> ResidualStream:
        x = embed(tokens, self.wte, positions=positions, position_table=self.wpe, starts=starts)
        return ResidualStream(x)

    def _logits(self, stream: ResidualStream) -> Tensor:
        return stream.logits(self.lm_head, self.ln_f)

    def input_dim(self, name: str) -> int | None:
        """Which dimension of the parameter `name` is the input side of a matrix product."""
        # The head multiplies by its transpose; looking rows up is cheap in any layout.
        return 1 if name == "lm_head" else 0 if name.startswith("h.") else None

    @classmethod
    def tied(cls, config: GPT2Config) -> tuple[tuple[str, ...], ...]:
        """Groups of parameters that are one tensor if the checkpoint does not tell them apart."""
        return (("wte", "lm_head"),)

    @classmethod
    def sizes(cls, names: Collection[str], config: GPT2Config) -> list[Size | Layers]:
        """Where the weights show what the configuration says of sizes."""
        at = _prefix(names)
        tokens, positions = (f"{at}wte.weight", "lm_head.weight"), (f"{at}wpe.weight",)
        inner = config.inner
        return [
            Layers("n_layer", config.n_layer, f"{at}h"),
            Size("n_embd", config.n_embd, 1, positions),
            Size("n_positions", config.n_positions, 0, positions),
            Size("vocab_size", config.vocab_size, 0, tokens),
            Size("n_inner (4 times n_embd if null)", inner, 0, (f"{at}h.0.mlp.c_proj.weight",)),
        ]

    @classmethod
    def tensor_specs(cls, names: Collection[str], config: GPT2Config) -> dict[str, TensorSpec]:
        """Match every parameter to a tensor of the checkpoint.

        Checkpoints name their tensors with or without a leading `transformer.`, carry causal
        masks as `attn.bias` and `attn.masked_bias`, and have a head of its own or none.
        Raises ValueError that names what is missing or left over.
        """
        prefix = _prefix(names)
        wanted = {name: _source(name, prefix) for name, _ in cls(config).named_parameters()}
        if config.tie_word_embeddings:
            # Of two names for one tensor, writers keep either.
            for one, other in (("wte", "lm_head"), ("lm_head", "wte")):
                if wanted[one].names[0] not in names and wanted[other].names[0] in names:
                    wanted[one] = wanted[other]
        return match(wanted, names, ignorable=_ignorable)


def _prefix(names: Collection[str]) -> str:
    return "transformer." if any(name.startswith("transformer.") for name in names) else ""


def _source(parameter: str, prefix: str) -> TensorSpec:
    if parameter == "lm_head":
        return TensorSpec(("lm_head.weight",))
    if parameter in ("wte", "wpe"):
        return TensorSpec((f"{prefix}{parameter}.weight",))
    return TensorSpec((prefix + parameter,))


def _ignorable(name: str) -> bool:
    return name.endswith((".attn.bias", ".attn.masked_bias"))
