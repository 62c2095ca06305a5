"""Checkpoints and calls with something wrong, by the hundred: a named error, in bounded memory."""

from __future__ import annotations

import random
import resource
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import hostile
import pytest
import seq2seq
import tiny
import tiny_unilm

import tritonseq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOURCE = [[8, 9, 10, 11]]
MEBIBYTES = 300
"""By which a sweep may raise the peak of the process."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return hostile.originals(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEBIBYTES * 1024


def fault_of(call: Callable[[], Any]) -> Exception | None:
    """What a call raises. Running out of time or memory is a failure of the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except Exception as error:
            return error
    return None


def complaint(fault: Exception | None, words: tuple[str, ...]) -> str | None:
    """What is wrong with how a fault is told; None if nothing is."""
    if fault is None:
        return None
    if not isinstance(fault, ValueError | TypeError | OSError):
        return f"{type(fault).__name__}: {fault}"
    if not any(word in str(fault) for word in words):
        return f"names nothing: {fault}"
    return None


def sweep_checkpoints(checkpoints: dict[str, Path], folder: Path, seeds: range) -> list[str]:
    found = []
    for seed in seeds:
        draw = random.Random(seed)
        name = draw.choice(sorted(checkpoints))
        copy = folder / "copy"
        shutil.copytree(checkpoints[name], copy)
        mutation = hostile.mutate(copy, draw)

        def use(copy: Path = copy) -> None:
            tritonseq.load(copy).generate(SOURCE, max_new_tokens=3)

        told = complaint(fault_of(use), mutation.words)
        if told is not None:
            found.append(f"seed {seed}, {name}, {mutation.what}: {told}")
        shutil.rmtree(copy)
    return found


def sweep_options(seeds: range) -> list[str]:
    models = {
        "gpt2": tiny.pair().ours,
        "t5": tritonseq.from_transformers(seq2seq.hf_model("t5")),
        "bart": tritonseq.from_transformers(seq2seq.hf_model("bart")),
        "unilm": tiny_unilm.tiny().model(),
    }
    found = []
    for seed in seeds:
        draw = random.Random(seed)
        name = draw.choice(sorted(models))
        names = draw.sample(hostile.OPTIONS, draw.choice((1, 1, 2, 3)))
        options = {"max_new_tokens": 3} | {name: draw.choice(hostile.VALUES) for name in names}

        def use(name: str = name, options: dict[str, Any] = options) -> None:
            models[name].generate(SOURCE, **options)

        told = complaint(fault_of(use), (*options, "options", "GiB", "MiB"))
        if told is not None:
            found.append(f"seed {seed}, {name}, {options!r:.200}: {told}")
    return found


def test_damaged_checkpoints(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    assert not sweep_checkpoints(checkpoints, tmp_path, range(100))


def test_malformed_options() -> None:
    assert not sweep_options(range(60))


@pytest.mark.long
def test_many_damaged_checkpoints(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    assert not sweep_checkpoints(checkpoints, tmp_path, range(1000, 3000))


@pytest.mark.long
def test_many_malformed_options() -> None:
    assert not sweep_options(range(1000, 3000))
