"""Errors that the caller tells apart by their classes."""

from __future__ import annotations


class JobFailed(RuntimeError):
    """Something outside the input went wrong: the disk, a worker, the memory.

    What is done is kept, and the same command with --resume goes on from there.
    """


class TextError(ValueError):
    """One text of several cannot be read."""

    def __init__(self, index: int, reason: str) -> None:
        """`reason` is what a message says behind the text's name: "is empty", ": it ..."."""
        super().__init__(index, reason)
        self.index, self.reason = index, reason

    def __str__(self) -> str:
        return self.of(f"text {self.index}")

    def of(self, name: str) -> str:
        """The message about a text that the reader knows by another name."""
        return f"{name}{self.reason}" if self.reason.startswith(":") else f"{name} {self.reason}"

    def at(self, index: int) -> TextError:
        """The same fault of a text that is elsewhere in a longer list."""
        return TextError(index, self.reason)
