"""What `sample_tokens` cuts off a distribution, as one record that checks itself."""

from __future__ import annotations

import math
from typing import NamedTuple


class Cuts(NamedTuple):
    """What is cut off before a token is drawn; `sample_tokens` explains the fields."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float

    def check(self) -> None:
        """Raise ValueError unless every value is in its range."""
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature is {self.temperature}; pass a number above 0, "
                "or take the best token instead of drawing one"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; pass 1 or more, or 0 to keep all tokens")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p is {self.top_p}; pass more than 0 and at most 1")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p is {self.min_p}; pass a number from 0 to 1")
