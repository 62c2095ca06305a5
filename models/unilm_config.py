"""What a UniLM computes, by the keys that a loader has settled."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .activations import activation
from .config_checks import check_number, check_sizes, check_types
from .relative_bias import check_distance

if TYPE_CHECKING:
    from collections.abc import Mapping


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
