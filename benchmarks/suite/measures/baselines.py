"""transformers, and the setting that suits it best where that is not its default."""

from __future__ import annotations

from typing import Any

from generate.engines import Transformers

# Their modules take seconds to import, which a part does while it waits for the one before.
from transformers import (
    BartForConditionalGeneration,  # noqa: F401
    GPT2LMHeadModel,  # noqa: F401
    T5ForConditionalGeneration,  # noqa: F401
)

__all__ = ["StaticCache", "Transformers"]


class StaticCache(Transformers):
    """With a cache of fixed size; on a GPU transformers then compiles its step by itself."""

    words = "transformers, static cache and compiled"

    def _run(self, **options: Any) -> Any:
        return super()._run(cache_implementation="static", **options)
