"""What a traced run tells of stages that work at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritonseq.stages.runtime import WorkSpan


def done_beside(spans: Sequence[WorkSpan], stage: str, other: str) -> int:
    """Samples that came out of `stage` in pieces of work during which `other` worked as well."""
    theirs = [span for span in spans if span.stage == other]
    return sum(
        own.samples
        for own in spans
        if own.stage == stage
        and any(min(own.end, span.end) > max(own.start, span.start) for span in theirs)
    )
