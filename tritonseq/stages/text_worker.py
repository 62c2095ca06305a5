"""Text worker: the service of a child process that turns texts into ids, and ids into texts.

Works without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.text.encoding import TextEncoder
from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tritonseq.text.encoding import Encoding

    from .worker_main import Handler


class TextSetup(NamedTuple):
    """What a text encoder is made of, in this process or another."""

    folder: Path
    """Where the tokenizer lies."""
    tokenizer_config: Mapping[str, Any] | None
    encoding: Encoding
    """How sources become ids."""

    def encoder(self) -> TextEncoder:
        return TextEncoder(Tokenizer.from_folder(self.folder, self.tokenizer_config), self.encoding)


def serve(setup: TextSetup) -> Handler:
    """For `Remote`: requests are ("encode", texts) or ("decode", rows), with one reply each."""
    encoder = setup.encoder()
    encoder.check()

    def handle(request: tuple[str, Any], stopped: Callable[[], bool]) -> Iterator[Any]:
        kind, things = request
        yield getattr(encoder, kind)(things)

    return handle
