"""What Python runs first in every process that has this folder on its path: a faulty detokenizer.

FAULT says what it does: "raise" about the text FAULT_OF, "die" of it where it is in a worker, or
be "slow": take FAULT_OF seconds for every text.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

_fault, _of = os.environ["FAULT"], os.environ["FAULT_OF"]
_decode = Tokenizer.decode


def _faulty(self: Tokenizer, rows: Sequence[Sequence[int]], *args: Any, **options: Any) -> Any:
    texts = _decode(self, rows, *args, **options)
    if _fault == "slow":
        time.sleep(float(_of) * len(rows))
    elif _of in texts:
        if _fault == "raise":
            raise RuntimeError("a screw is loose")
        if "tritonseq.cli.main" not in sys.modules:
            os.kill(os.getpid(), signal.SIGKILL)
    return texts


Tokenizer.decode = _faulty  # type: ignore[method-assign]
