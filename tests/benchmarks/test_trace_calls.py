"""How much of the code a call enters: bounds that are raised only on purpose."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

import tritonseq

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("trace_calls")


def test_a_greedy_call_is_short_and_shallow(trace: Any) -> None:
    model = tritonseq.load(trace.EMBEDDED / "gpt2-words", device="cpu")
    walk = trace.Walk().run(lambda: model.generate([[1, 2, 3]], max_new_tokens=4))
    assert 20 < len(walk.files) <= 35
    assert 10 < walk.deepest <= 15


def test_a_job_enters_less_than_half_of_the_files(trace: Any, tmp_path: Path) -> None:
    assert 50 < len(trace.Walk().run(lambda: trace.job(tmp_path)).files) <= 84
