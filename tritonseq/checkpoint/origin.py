"""Origin of a model: its files and their fingerprint, so that another process can load it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.models.matmul import fingerprint
from tritonseq.models.network import place

from .files import is_there, read_bytes
from .hub import SMALL_FILES
from .loader import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from .loader import Checkpoint


def of_files(folder: Path) -> str:
    """A checksum of the configuration and the tokenizer in a folder, by name and content.

    Other files may come and go: an output of a job, a README.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(SMALL_FILES):
        path = folder / name
        if is_there(path):
            content = read_bytes(path)
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


class Origin(NamedTuple):
    """The arguments of `load_checkpoint`, without anything that another machine would decide."""

    path: Path
    """Absolute: a folder, or a file with weights."""
    tokenizer: Path | None
    """Absolute; None if it is beside the weights."""
    device: str
    dtype: str
    model_type: str | None
    config: dict[str, Any]
    """Keys that count instead of those of config.json."""
    source_cache: str

    @property
    def folder(self) -> Path:
        """Where the tokenizer lies."""
        if self.tokenizer is not None:
            return self.tokenizer
        return self.path.parent if self.path.is_file() else self.path

    def identity(self) -> Identity:
        """Of what lies there now; no weight stays in memory. Raises as `load_checkpoint` does."""
        _, weights = self._read(keep=False)
        return Identity(weights, of_files(self.folder))

    def load(self, wanted: Identity) -> Checkpoint:
        """The checkpoint, as it was when it had this identity.

        Raises ValueError if it is not there any more, or has changed.
        """
        if not self.path.exists():
            raise ValueError(
                f"this model was pickled by its name, and {self.path} is not here: bring it there, "
                "or load the model where it is"
            )
        checkpoint, weights = self._read(keep=True)
        found = Identity(weights, of_files(self.folder))
        for what, is_same in (
            (f"the weights in {self.path}", found.weights == wanted.weights),
            (f"the configuration or the tokenizer in {self.folder}", found.files == wanted.files),
        ):
            if not is_same:
                raise ValueError(
                    f"{what} changed since this model was pickled: restore what was there, or "
                    "load the model anew and pickle that"
                )
        return checkpoint

    def _read(self, *, keep: bool) -> tuple[Checkpoint, str]:
        """The checkpoint, without memory for its weights unless they are to be kept; and their
        checksum."""
        told: list[str] = []

        def fill(model: nn.Module, weights: Iterator[tuple[list[str], Tensor]]) -> None:
            told.append(fingerprint(_each(model, weights, keep=keep)))

        checkpoint = load_checkpoint(
            self.path,
            device=self.device,
            dtype=self.dtype,
            model_type=self.model_type,
            overrides=self.config,
            tokenizer=self.tokenizer,
            source_cache=self.source_cache,
            fill=fill,
        )
        return checkpoint, told[0]


class Identity(NamedTuple):
    """What must be as it was."""

    weights: str
    files: str


def origin_of(
    path: Path,
    tokenizer: Path | None,
    device: torch.device,
    dtype: torch.dtype,
    model_type: str | None,
    config: Any,
    source_cache: str,
) -> Origin:
    """What `load_checkpoint` was told, and what it made of "auto"."""
    return Origin(
        path.absolute(),
        None if tokenizer is None else tokenizer.absolute(),
        str(device),
        str(dtype).removeprefix("torch."),
        model_type,
        dict(config or {}),
        source_cache,
    )


def _each(
    model: nn.Module, weights: Iterator[tuple[list[str], Tensor]], *, keep: bool
) -> Iterator[tuple[list[str], Tensor]]:
    """The weights, placed in the model once they have been looked at."""
    for names, weight in weights:
        yield names, weight
        if keep:
            place(model, names, weight)
