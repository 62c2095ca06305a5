"""ProphetNet as its paper and fairseq state it, in plain torch: whole targets at once, no cache.

transformers' own answer is right for cached generation from one start token only: of more tokens
at once it mixes up heads, streams and positions.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class PlainProphetNet:
    """Logits of a transformers model's weights, by definition."""

    def __init__(self, model: Any) -> None:
        self.config = model.config
        self.state = {n.removeprefix("prophetnet."): t for n, t in model.state_dict().items()}

    def __call__(
        self, input_ids: Tensor, decoder_input_ids: Tensor, use_cache: bool = False
    ) -> Any:
        """As a transformers model answers: `.logits [K, N, V]` for sources `[K, S]`."""
        rows = zip(input_ids, decoder_input_ids, strict=True)
        return SimpleNamespace(logits=torch.stack([self._logits(*row) for row in rows]))

    def _logits(self, source: Tensor, target: Tensor) -> Tensor:
        encoded, config = self._encode(source), self.config
        place = torch.arange(len(target))
        positions = self.state["decoder.position_embeddings.weight"]
        words = self.state["word_embeddings.weight"]
        # The stream n of fairseq, from 1 on, has the row n - 2 of its table: the first has the
        # last one.
        asking = self.state["decoder.ngram_embeddings.weight"][-1] + positions[place + 2]
        main = self._norm("decoder.embeddings_layer_norm", words[target] + positions[place + 1])
        asking = self._norm("decoder.embeddings_layer_norm", asking)
        for layer in range(config.num_decoder_layers):
            at = f"decoder.layers.{layer}"
            main, asking = self._attend_both(at, main, asking)
            main, asking = (self._read_source(at, x, encoded) for x in (main, asking))
        return asking @ self.state["lm_head.weight"].t()

    def _encode(self, source: Tensor) -> Tensor:
        last = self.config.max_position_embeddings - 1
        place = (torch.arange(len(source)) + 1).clamp(max=last)
        x = self.state["word_embeddings.weight"][source]
        x = x + self.state["encoder.position_embeddings.weight"][place]
        x = self._norm("encoder.embeddings_layer_norm", x)
        for layer in range(self.config.num_encoder_layers):
            at, heads = f"encoder.layers.{layer}", self.config.num_encoder_attention_heads
            attended = self._attention(f"{at}.self_attn", x, x, heads, 0.0)
            x = self._norm(f"{at}.self_attn_layer_norm", x + attended)
            x = self._feed_forward(at, x)
        return x

    def _attend_both(self, at: str, main: Tensor, asking: Tensor) -> tuple[Tensor, Tensor]:
        """Row `t` of the main stream sees main rows `0..t`; the asking one sees them and itself."""
        heads, length = self.config.num_decoder_attention_heads, len(main)
        place = torch.arange(length)
        distance = place[:, None] - place
        later = torch.where(distance < 0, -math.inf, 0.0)
        bias = self._bias(at, main, distance.clamp(min=0)) + later
        new_main = self._attention(f"{at}.self_attn", main, main, heads, bias)
        ahead = self._bias(at, asking, distance.clamp(min=0) + 1) + later
        own = self._bias(at, asking, torch.zeros(length, length, dtype=torch.int64))
        own = own + torch.where(distance == 0, 0.0, -math.inf)
        both, bias = torch.cat((main, asking)), torch.cat((ahead, own), 2)
        new_asking = self._attention(f"{at}.self_attn", asking, both, heads, bias)
        norm = f"{at}.self_attn_layer_norm"
        return self._norm(norm, main + new_main), self._norm(norm, asking + new_asking)

    def _bias(self, at: str, x: Tensor, distance: Tensor) -> Tensor:
        """`[H, N, N]`: what a row says of each distance, in its bucket."""
        heads = self.config.num_decoder_attention_heads
        said = self._linear(f"{at}.self_attn.relative_pos_embeddings", x).view(len(x), -1, heads)
        buckets = torch.tensor([self._bucket(n) for n in range(int(distance.max()) + 1)])
        return said[torch.arange(len(x))[:, None], buckets[distance]].permute(2, 0, 1)

    def _bucket(self, distance: int) -> int:
        count, farthest = self.config.num_buckets, self.config.relative_max_distance
        exact = count // 2
        if distance < exact:
            return distance
        # In float32, as upstream.
        ratio = float(torch.log(torch.tensor(distance / exact)) / math.log(farthest / exact))
        return min(exact + int(ratio * (count - exact)), count - 1)

    def _read_source(self, at: str, x: Tensor, encoded: Tensor) -> Tensor:
        heads = self.config.num_decoder_attention_heads
        attended = self._attention(f"{at}.cross_attn", x, encoded, heads, 0.0)
        return self._feed_forward(at, self._norm(f"{at}.cross_attn_layer_norm", x + attended))

    def _feed_forward(self, at: str, x: Tensor) -> Tensor:
        inner = F.gelu(self._linear(f"{at}.feed_forward.intermediate", x))
        added = x + self._linear(f"{at}.feed_forward.output", inner)
        return self._norm(f"{at}.feed_forward_layer_norm", added)

    def _attention(self, at: str, x: Tensor, seen: Tensor, heads: int, bias: Any) -> Tensor:
        query, key, value = (
            self._linear(f"{at}.{name}_proj", rows).view(len(rows), heads, -1).transpose(0, 1)
            for name, rows in (("query", x), ("key", seen), ("value", seen))
        )
        scores = query @ key.transpose(1, 2) / query.shape[2] ** 0.5 + bias
        attended = torch.softmax(scores, 2) @ value
        return self._linear(f"{at}.out_proj", attended.transpose(0, 1).flatten(1))

    def _linear(self, at: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{at}.weight"], self.state[f"{at}.bias"])

    def _norm(self, at: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{at}.weight"], self.state[f"{at}.bias"])
