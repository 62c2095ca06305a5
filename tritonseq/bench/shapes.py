"""The five workloads, as sizes: what one step of each asks of the kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Shape:
    """One step of a model, halfway through its targets, for a whole batch."""

    letter: str
    model: str
    samples: int
    beams: int
    source: int
    """Positions of the prompt (GPT-2, UniLM) or of the encoder's source (BART, T5)."""
    target: int
    """New tokens in all."""
    width: int
    heads: int
    inner: int
    """Width of the feed-forward layer."""
    vocabulary: int
    activation: str
    new_rows: int = 1
    """Rows that a beam brings to a step: UniLM's second one is its mask."""
    encoder: bool = False
    rms: bool = False
    scaled: int = 1
    """By how much the batch was divided to be feasible."""
    tiny: bool = False

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def position(self) -> int:
        """The step that is measured, of whose position nothing is stored yet."""
        return self.target // 2

    @property
    def scale(self) -> str:
        """How the row tells that it is not the whole workload."""
        return "tiny" if self.tiny else f"1/{self.scaled}" if self.scaled > 1 else "1"

    def divided(self, by: int) -> Shape:
        """A batch `by` times smaller, of one sample at least."""
        samples = max(1, self.samples // by)
        return replace(self, samples=samples, scaled=self.samples // samples)

    def shrunk(self) -> Shape:
        """Toy sizes, none of them round, for a rehearsal."""
        return replace(
            self,
            samples=min(self.samples, 2),
            beams=min(self.beams, 3),
            source=9,
            target=7,
            width=32,
            heads=2,
            inner=40,
            vocabulary=53,
            tiny=True,
        )


SHAPES = {
    shape.letter: shape
    for shape in (
        Shape("a", "GPT-2", 1, 1, 32, 128, 768, 12, 3072, 50257, "gelu_tanh"),
        Shape("b", "GPT-2", 64, 4, 512, 199, 768, 12, 3072, 50257, "gelu_tanh"),
        Shape("c", "BART-large", 128, 4, 1024, 142, 1024, 16, 4096, 50264, "gelu", encoder=True),
        Shape("d", "T5-base", 128, 4, 64, 64, 768, 12, 3072, 32128, "relu", encoder=True, rms=True),
        Shape("e", "UniLM-large", 64, 5, 512, 128, 1024, 16, 4096, 28996, "gelu", new_rows=2),
    )
}
