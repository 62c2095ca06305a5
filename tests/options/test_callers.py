"""Warnings stand at the line that called the library, or at none."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import tritonseq
from tritonseq.demo.run import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Callable

MORE: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 9}


def caught(act: Callable[[], Any]) -> list[str]:
    """The files that warnings of `act` point at."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        act()
    return [warning.filename for warning in found if "unfeasible" in str(warning.message)]


@pytest.fixture(scope="module")
def model() -> tritonseq.Model:
    return tritonseq.load(EMBEDDED / "bart-numbers", device="cpu")


def test_a_warning_points_at_the_call(model: tritonseq.Model) -> None:
    for call in (
        lambda: model.generate([[5, 6]], **MORE),
        lambda: model.generate_text(["three"], **MORE),
        lambda: list(model.generate_each([[5, 6]], **MORE)),
        lambda: list(model.stream([[5, 6]], num_beams=1, **MORE)),
    ):
        assert set(caught(call)) == {__file__}


def test_a_warning_of_a_thread_of_ours_points_at_no_line(model: tritonseq.Model) -> None:
    (file,) = {*caught(lambda: list(tritonseq.pipeline(model, ["three"], **MORE)))}
    assert file.strip("<>") == "sys"


def test_a_thread_of_the_caller_has_a_line(model: tritonseq.Model) -> None:
    def call() -> None:
        model.generate([[5, 6]], **MORE)

    def run() -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    assert set(caught(run)) == {__file__}
