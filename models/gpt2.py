"""GPT-2 and its family: distilgpt2, DialoGPT and everything else with `model_type` "gpt2".

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. Pre-norm blocks,
learned absolute positions, the head tied to the embedding unless the configuration says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritonseq.cache import KVCache
from tritonseq.kernels import decode_attention

from .activations import activation
from .attention import attend_and_append
from .checks import check_name, check_number, check_sizes
from .layers import LayerNorm, Linear, empty_parameter
from .packing import split_prompts
from .products import matmul
from .weights import Source, match

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tritonseq.cache import Sizes

    from .packing import Prompt


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
        check_name(self, "activation_function")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"config.json: n_embd {self.n_embd} is not a multiple of n_head {self.n_head}"
            )
        activation(self.activation_function)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> GPT2Config:
        """Read the keys that matter; newer general names are accepted beside GPT-2's own."""
        if config.get("add_cross_attention"):
            raise ValueError("config.json: add_cross_attention is not supported for gpt2")
        general = {
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
        }
        named = {general.get(key, key): value for key, value in config.items()}
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in named.items() if key in known})

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


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

    def prefill(self, x: Tensor, prompt: Prompt, cache: KVCache) -> Tensor:
        """Attend within the prompts and store their keys and values; `x: [N, d]` packed."""
        qkv = prompt.pad(self.c_attn(x)).unflatten(-1, (3, self.heads, self.head_dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        self._store(key, value, prompt, cache)
        # Padding stands on the right, where the causal mask already hides it.
        attended = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self.scale
        )
        return self.c_proj(prompt.pack(attended.transpose(1, 2).flatten(2)))

    def prefill_last(self, x: Tensor, prompt: Prompt, cache: KVCache) -> Tensor:
        """As `prefill`, but attend for the last token of each sample only; returns `[b, d]`.

        The last layer needs no more: nothing above it reads the other positions.
        """
        weight, bias = self.c_attn.weight, self.c_attn.bias
        assert bias is not None
        d = x.shape[1]
        kv = prompt.pad(torch.addmm(bias[d:], x, weight[:, d:]))
        key, value = kv.unflatten(-1, (2, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        self._store(key, value, prompt, cache)
        query = torch.addmm(bias[:d], x[prompt.last], weight[:, :d])
        attended = decode_attention(
            query.view(-1, 1, 1, self.heads, self.head_dim),
            source_key=key,
            source_value=value,
            source_len=prompt.source_len,
            scale=self.scale,
        )
        return self.c_proj(attended.flatten(1))

    def step(self, x: Tensor, lineage: Tensor | None, cache: KVCache) -> Tensor:
        """Attend for the newest token of every beam and append its key and value; `x: [R, d]`."""
        samples = cache.step.shape[0]
        qkv = self.c_attn(x).view(samples, -1, 1, 3, self.heads, self.head_dim)
        query, key, value = qkv.unbind(3)
        attended = attend_and_append(
            query, key, value, cache, self.layer, lineage, scale=self.scale
        )
        return self.c_proj(attended.view(x.shape[0], -1))

    def _store(self, key: Tensor, value: Tensor, prompt: Prompt, cache: KVCache) -> None:
        length = key.shape[2]
        for part, new in zip(cache.source(self.layer), (key, value), strict=True):
            part[prompt.samples, :, :length] = new


class MLP(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        inner = config.n_inner if config.n_inner is not None else 4 * config.n_embd
        self.c_fc = Linear(config.n_embd, inner)
        self.c_proj = Linear(inner, config.n_embd)
        self.act = activation(config.activation_function)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.act(self.c_fc(x)))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def prefill(self, x: Tensor, prompt: Prompt, cache: KVCache) -> Tensor:
        x = x + self.attn.prefill(self.ln_1(x), prompt, cache)
        return x.add_(self.mlp(self.ln_2(x)))

    def prefill_last(self, x: Tensor, prompt: Prompt, cache: KVCache) -> Tensor:
        x = x[prompt.last] + self.attn.prefill_last(self.ln_1(x), prompt, cache)
        return x.add_(self.mlp(self.ln_2(x)))

    def step(self, x: Tensor, lineage: Tensor | None, cache: KVCache) -> Tensor:
        x = x + self.attn.step(self.ln_1(x), lineage, cache)
        return x.add_(self.mlp(self.ln_2(x)))


class GPT2(nn.Module):
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
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else Linear(config.n_embd, config.vocab_size, bias=False)
        )

    def new_cache(self, sizes: Sizes, device: torch.device | None = None) -> KVCache:
        """Caches for prompts of up to `sizes.source_length` tokens and what continues them."""
        return KVCache.allocate(
            sizes,
            layers=self.config.n_layer,
            heads=self.config.n_head,
            head_dim=self.config.head_dim,
            device=self.wpe.device if device is None else device,
            dtype=self.wpe.dtype,
        )

    @torch.no_grad()
    def prefill(self, tokens: Tensor, lengths: Tensor, cache: KVCache) -> Tensor:
        """Read the prompts, once per sample, into caches of `B` samples.

        `tokens`: `[B, S]` int64, padded on the right; `lengths`: `[B]` int64, all at least 1.
        Returns the logits `[B, V]` after the last token of each prompt.
        """
        cache.source_len.copy_(lengths)
        cache.step.zero_()
        groups = split_prompts(tokens, lengths, padded=True)
        return self._logits(torch.cat([self._prefill_group(group, cache) for group in groups]))

    def _prefill_group(self, prompt: Prompt, cache: KVCache) -> Tensor:
        x = self._embed(prompt.tokens, prompt.positions)
        *lower, last = self._blocks
        for block in lower:
            x = block.prefill(x, prompt, cache)
        return last.prefill_last(x, prompt, cache)

    @torch.no_grad()
    def step(self, tokens: Tensor, lineage: Tensor | None, cache: KVCache) -> Tensor:
        """Feed the newest token of every beam.

        `tokens`: `[B, K]` int64; `lineage`: `[B, T, K]` int64, the slot of each generated position
        that each beam descends from, or None when beams never change places. Writes position
        `cache.step`, which the caller advances, and returns logits `[B, K, V]`.
        """
        samples, beams = tokens.shape
        positions = cache.next_positions()[:, None].expand(samples, beams)
        x = self._embed(tokens.reshape(-1), positions.reshape(-1))
        for block in self._blocks:
            x = block.step(x, lineage, cache)
        return self._logits(x).view(samples, beams, -1)

    @property
    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.h))

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.wte.index_select(0, tokens) + self.wpe.index_select(0, positions)

    def _logits(self, x: Tensor) -> Tensor:
        x = self.ln_f(x)
        return matmul(x, self.wte.t()) if self.lm_head is None else self.lm_head(x)

    def input_dim(self, name: str) -> int | None:
        """Which dimension of the parameter `name` is the input side of a matrix product."""
        if name == "wte":
            # The tied head multiplies by its transpose; looking rows up is cheap in any layout.
            return 1 if self.lm_head is None else None
        return 0 if name.startswith(("h.", "lm_head")) else None

    @classmethod
    def sources(cls, names: Collection[str], config: GPT2Config) -> dict[str, Source]:
        """Match every parameter to a tensor of the checkpoint.

        Checkpoints name their tensors with or without a leading `transformer.`, carry causal
        masks as `attn.bias` and `attn.masked_bias`, and may or may not repeat a tied head.
        Raises ValueError that names what is missing or left over.
        """
        prefix = "transformer." if any(n.startswith("transformer.") for n in names) else ""
        wanted = {name: _source(name, prefix) for name, _ in cls(config).named_parameters()}
        if config.tie_word_embeddings and wanted["wte"].names[0] not in names:
            # Of two names for one tensor, some writers kept the head's.
            wanted["wte"] = Source(("lm_head.weight",))
        return match(wanted, names, ignorable=lambda name: _ignorable(name, config))


def _source(parameter: str, prefix: str) -> Source:
    if parameter == "lm_head.weight":
        return Source((parameter,), transpose=True)
    if parameter in ("wte", "wpe"):
        return Source((f"{prefix}{parameter}.weight",))
    return Source((prefix + parameter,))


def _ignorable(name: str, config: GPT2Config) -> bool:
    mask = name.endswith((".attn.bias", ".attn.masked_bias"))
    return mask or (name == "lm_head.weight" and config.tie_word_embeddings)
