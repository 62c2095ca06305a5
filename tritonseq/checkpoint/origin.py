"""Where a model was loaded from, so that another process can load it instead of being sent it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.models.layout import fingerprint
from tritonseq.models.parameters import place

from . import fingerprints
from .loader import load_checkpoint
from .placement import weights_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from .loader import Checkpoint


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

    @property
    def folder(self) -> Path:
        """Where the tokenizer lies."""
        if self.tokenizer is not None:
            return self.tokenizer
        return self.path.parent if self.path.is_file() else self.path

    def identity(self) -> Identity:
        """Of what lies there now; no weight stays in memory. Raises as `load_checkpoint` does."""
        _, weights = self._read(keep=False)
        return Identity(weights, fingerprints.of_files(self.folder))

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
        found = Identity(weights, fingerprints.of_files(self.folder))
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

        def fill(model: nn.Module, *source: Any) -> None:
            told.append(fingerprint(_each(model, weights_of(model, *source), keep=keep)))

        checkpoint = load_checkpoint(
            self.path,
            device=self.device,
            dtype=self.dtype,
            model_type=self.model_type,
            overrides=self.config,
            tokenizer=self.tokenizer,
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
) -> Origin:
    """What `load_checkpoint` was told, and what it made of "auto"."""
    return Origin(
        path.absolute(),
        None if tokenizer is None else tokenizer.absolute(),
        str(device),
        str(dtype).removeprefix("torch."),
        model_type,
        dict(config or {}),
    )


def _each(
    model: nn.Module, weights: Iterator[tuple[list[str], Tensor]], *, keep: bool
) -> Iterator[tuple[list[str], Tensor]]:
    """The weights, placed in the model once they have been looked at."""
    for names, weight in weights:
        yield names, weight
        if keep:
            place(model, names, weight)
