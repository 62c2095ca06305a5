"""What Python runs first in every process that has this folder on its path: a faulty detokenizer.

FAULT says what it does about the text FAULTY_TEXT: "raise", or "die" where it is in a worker.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from tritonseq.text import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

_decode = Tokenizer.decode


def _faulty(self: Tokenizer, rows: Sequence[Sequence[int]], *args: Any, **options: Any) -> Any:
    texts = _decode(self, rows, *args, **options)
    if os.environ["FAULTY_TEXT"] in texts:
        if os.environ["FAULT"] == "raise":
            raise RuntimeError("a screw is loose")
        if "tritonseq.stages.worker" in sys.modules and "tritonseq.cli" not in sys.modules:
            os.kill(os.getpid(), signal.SIGKILL)
    return texts


Tokenizer.decode = _faulty  # type: ignore[method-assign]
