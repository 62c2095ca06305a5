"""UniLM decoded by the method of its own decoders, as the baseline of the benchmark.

What is kept of the past are the inputs of every layer, for each beam and every position but that
of [MASK]. Every step projects the keys and values of this whole history again, in every layer,
and a change of beams copies it. No run stops before its last step. Sources are not padded.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import torch
from generate.s2s_folder import END, MASK
from safetensors.torch import load_file
from torch.nn import functional as F

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# What the decoders add to a score that must not win.
BANNED = -10000.0
EPSILON = 1e-5


class ReprojectingNetwork:
    """The weights of an s2s-ft folder, and the layers that they make."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors", device=str(device))
        self.weights = {name: weight.to(dtype) for name, weight in weights.items()}

    def embed(self, tokens: Tensor, positions: Tensor, types: Tensor) -> Tensor:
        """`[R, N, W]` of tokens `[R, N]` at positions `[N]`, of types `[N]`."""
        words, places, kinds = (
            self.weights[f"bert.embeddings.{table}_embeddings.weight"]
            for table in ("word", "position", "token_type")
        )
        x = F.embedding(tokens, words) + places[positions] + kinds[types]
        return self.norm("bert.embeddings.LayerNorm", x)

    def layer(self, number: int, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """The outputs for `x` `[R, N, W]`, which are the last rows of `context` `[R, M, W]`."""
        prefix = f"bert.encoder.layer.{number}"
        q, k, v = (
            self.split(self.linear(f"{prefix}.attention.self.{part}", rows))
            for part, rows in (("query", x), ("key", context), ("value", context))
        )
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(2, 3) + mask
        mixed = (scores.softmax(3) @ v).transpose(1, 2).flatten(2)
        mixed = self.linear(f"{prefix}.attention.output.dense", mixed)
        x = self.norm(f"{prefix}.attention.output.LayerNorm", mixed + x)
        inner = F.gelu(self.linear(f"{prefix}.intermediate.dense", x))
        return self.norm(
            f"{prefix}.output.LayerNorm", self.linear(f"{prefix}.output.dense", inner) + x
        )

    def head(self, x: Tensor) -> Tensor:
        """Logits `[R, V]` of `[R, W]`."""
        x = F.gelu(self.linear("cls.predictions.transform.dense", x))
        x = self.norm("cls.predictions.transform.LayerNorm", x)
        words = self.weights["bert.embeddings.word_embeddings.weight"]
        return F.linear(x, words, self.weights["cls.predictions.bias"])

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, EPSILON)

    def split(self, x: Tensor) -> Tensor:
        """`[R, N, W]` to `[R, heads, N, W / heads]`."""
        return x.unflatten(2, (self.config["num_attention_heads"], -1)).transpose(1, 2)


class ReprojectingDecoder:
    """The histories of one batch; rows are samples at first, and beams from `reorder` on."""

    def __init__(self, network: ReprojectingNetwork, source: Tensor) -> None:
        """`source`: `[B, S]`, with the tokens that frame it."""
        self.network = network
        self.source = source
        config, weights = network.config, network.weights
        nothing = weights["bert.embeddings.word_embeddings.weight"].new_empty(
            len(source), 0, config["hidden_size"]
        )
        self.histories = [nothing] * config["num_hidden_layers"]
        """The inputs of every layer, `[R, M, W]`."""

    def start(self) -> Tensor:
        """Read the source; logits `[B, V]` of the first target token."""
        return self.read(self.source)

    def reorder(self, rows: Tensor) -> None:
        """Let each row go on from the history of another."""
        self.histories = [history.index_select(0, rows) for history in self.histories]

    def read(self, tokens: Tensor) -> Tensor:
        """Take the next tokens `[R, N]` into the histories; logits `[R, V]` of what follows."""
        tokens = F.pad(tokens, (0, 1), value=MASK)
        past, length = self.histories[0].shape[1], self.source.shape[1]
        config = self.network.config
        keys = torch.arange(past + tokens.shape[1], device=tokens.device)
        queries = keys[past:]
        types = torch.where(queries < length, config["source_type_id"], config["target_type_id"])
        x = self.network.embed(tokens, queries, types)
        # The source sees all of itself, and a target token what stands before it as well.
        hidden = keys > queries.clamp(min=length - 1)[:, None]
        mask = hidden.to(x.dtype) * BANNED
        for number, history in enumerate(self.histories):
            context = torch.cat([history, x], 1)
            self.histories[number] = context[:, :-1]
            x = self.network.layer(number, x, context, mask)
        return self.network.head(x[:, -1])


def search(decoder: ReprojectingDecoder, beams: int, steps: int) -> Tensor:
    """Beam search by UniLM's rules without a length penalty; the best tokens `[B, steps]`.

    The shortest output allowed is the longest one, so the end token is banned at every step and
    the best hypothesis is the best beam of the last step.
    """
    logits = decoder.start()
    scores = torch.zeros(len(logits), 1, device=logits.device)
    frames = []
    for step in range(steps):
        logs = logits.float().log_softmax(1)
        logs[:, END] += BANNED
        # Each parent offers as many tokens as there are beams: [B, parents, beams].
        values, offered = logs.unflatten(0, scores.shape).topk(beams)
        parents_before = scores.shape[1]
        scores, picked = (values + scores[:, :, None]).flatten(1).topk(beams)
        parents, tokens = picked // beams, offered.flatten(1).gather(1, picked)
        frames.append((parents, tokens))
        if step + 1 < steps:
            first = torch.arange(len(scores), device=scores.device)[:, None] * parents_before
            decoder.reorder((first + parents).flatten())
            logits = decoder.read(tokens.flatten()[:, None])
    return trace(frames, scores.argmax(1, keepdim=True))


def trace(frames: list[tuple[Tensor, Tensor]], beam: Tensor) -> Tensor:
    """Follow back pointers from the last frame's `beam` `[B, 1]`; tokens `[B, steps]`."""
    path = []
    for parents, tokens in reversed(frames):
        path.append(tokens.gather(1, beam))
        beam = parents.gather(1, beam)
    return torch.cat(path[::-1], 1)
