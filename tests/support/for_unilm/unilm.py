"""The UniLM network by its definition, slowly: at every step the whole sequence, mask and all.

Nothing is cached and nothing is skipped: what the engine computes in parts must equal this.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "rel_pos_bins": 0,
    "max_rel_pos": 0,
    "first_type_id": 0,
    "source_type_id": 0,
    "target_type_id": 1,
    "pos_shift": False,
    "mask_token_id": 103,
    "start_token_id": 102,
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
}


class Layout(NamedTuple):
    """What the network is told beside the tokens: `L` is the padded source plus target slots."""

    positions: Tensor
    """`[B, L]`."""
    types: Tensor
    """`[B, L]`."""
    mask: Tensor
    """`[B, L, L]` bool: may the row's token look at the column's?"""


class Network:
    """A network over `weights`, a state dict, of the sizes and ids that `config` names."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: Mapping[str, Any],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.weights = {name: weight.to(dtype) for name, weight in weights.items()}
        self.config = {**DEFAULTS, **config}

    def layout(self, lengths: Tensor, width: int, slots: int) -> Layout:
        """Sources of true `lengths [B]`, padded on the right to `width`; `slots` target tokens."""
        place = torch.arange(width + slots).expand(len(lengths), -1)
        length = lengths[:, None]
        in_target = place >= width
        in_source = place < length
        # The target goes on where the source truly ended; pads stand at 0.
        positions = torch.where(in_target, length + place - width, place * in_source)
        types = torch.full_like(place, self.config["source_type_id"])
        types[:, 0] = self.config["first_type_id"]
        types[in_target] = self.config["target_type_id"]
        not_later = place[:, None, :] <= place[:, :, None]
        sees_target = in_target[:, :, None] & in_target[:, None, :] & not_later
        return Layout(positions, types, in_source[:, None, :] | sees_target)

    @torch.no_grad()
    def logits(self, tokens: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """`[B, V]` for the token after `targets [B, t]` of the sources `tokens [B, S]`.

        Without position shift a mask token is appended, and the head reads its row. With it, the
        target starts with a given token, and the head reads the last row.
        """
        shifts = self.config["pos_shift"]
        extra = self.config["start_token_id" if shifts else "mask_token_id"]
        column = torch.full((len(tokens), 1), extra)
        written = (column, targets) if shifts else (targets, column)
        whole = torch.cat((tokens, *written), 1)
        layout = self.layout(lengths, tokens.shape[1], targets.shape[1] + 1)
        return self._head(self._states(whole, layout)[:, -1])

    def rows(
        self, sources: Sequence[Sequence[int]], rows: Sequence[tuple[int, Sequence[int]]]
    ) -> Tensor:
        """`[R, V]` for rows of (index of the source, target so far); targets of one length."""
        width = max(len(source) for source in sources)
        padded = [[*sources[sample], *[0] * (width - len(sources[sample]))] for sample, _ in rows]
        lengths = torch.tensor([len(sources[sample]) for sample, _ in rows])
        targets = torch.tensor([list(target) for _, target in rows], dtype=torch.int64)
        return self.logits(torch.tensor(padded), lengths, targets)

    def _states(self, tokens: Tensor, layout: Layout) -> Tensor:
        """The last layer's output `[B, L, H]`."""
        embeddings = "bert.embeddings."
        x = self.weights[embeddings + "word_embeddings.weight"][tokens]
        x = x + self.weights[embeddings + "position_embeddings.weight"][layout.positions]
        types = self.weights.get(embeddings + "token_type_embeddings.weight")
        if types is not None:
            x = x + types[layout.types]
        x = self._norm(x, embeddings)
        added = (~layout.mask).to(x.dtype)[:, None] * -10000.0
        if self.config["rel_pos_bins"]:
            added = added + self._bias(layout.positions)
        for layer in range(self.config["num_hidden_layers"]):
            x = self._layer(x, added, f"bert.encoder.layer.{layer}.")
        return x

    def _layer(self, x: Tensor, added: Tensor, name: str) -> Tensor:
        heads = self.config["num_attention_heads"]
        query, key, value = (
            self._linear(x, f"{name}attention.self.{part}").unflatten(-1, (heads, -1))
            for part in ("query", "key", "value")
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
        seen = torch.einsum("bhqk,bkhd->bqhd", (scores + added).softmax(-1), value).flatten(2)
        seen = self._linear(seen, name + "attention.output.dense")
        x = self._norm(seen + x, name + "attention.output.")
        inner = self._act(self._linear(x, name + "intermediate.dense"))
        return self._norm(self._linear(inner, name + "output.dense") + x, name + "output.")

    def _bias(self, positions: Tensor) -> Tensor:
        """What every layer adds to its scores, `[B, heads, L, L]`: by distance of key to query."""
        relative = positions[:, None, :] - positions[:, :, None]
        buckets = bucket(relative, self.config["rel_pos_bins"], self.config["max_rel_pos"])
        return self.weights["bert.rel_pos_bias.weight"][:, buckets].transpose(0, 1)

    def _head(self, x: Tensor) -> Tensor:
        x = self._act(self._linear(x, "cls.predictions.transform.dense"))
        x = self._norm(x, "cls.predictions.transform.")
        words = self.weights["bert.embeddings.word_embeddings.weight"]
        return x @ words.T + self.weights["cls.predictions.bias"]

    def _act(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.config["hidden_act"]](x)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = (self.weights[f"{name}LayerNorm.{part}"] for part in ("weight", "bias"))
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.config["layer_norm_eps"])


def bucket(relative: Tensor, bins: int, furthest: int) -> Tensor:
    """The bin of every distance: half of them for keys to the right of the query.

    Within a side, the first half counts tokens one by one, the rest grows by logarithm.
    """
    side, single = bins // 2, bins // 4
    distance = relative.abs()
    # float32, as the networks were trained: a wider type could round the edge of a bin elsewhere.
    ratio = (distance.clamp(min=1).float() / single).log() / math.log(furthest / single)
    far = (single + (ratio * (side - single)).long()).clamp(max=side - 1)
    return torch.where(distance < single, distance, far) + side * (relative > 0)
