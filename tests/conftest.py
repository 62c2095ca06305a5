"""For every test: seeds, devices, poisoned memory, and kernels interpreted without a GPU."""

from __future__ import annotations

import math
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

# Triton looks at this when it is first imported, which no test module may do before.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The models of the tests are tiny: a second thread costs more than it gives, and beside a busy
# neighbour ten times as much.
torch.set_num_threads(1)

# What runs in the background is started with these ignored, and so would be what it starts. The
# tests send them.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--unilm-fixtures",
        metavar="PATH",
        default=os.environ.get("TRITONSEQ_UNILM_FIXTURES"),
        help="the folder with toy checkpoints and the outputs of UniLM's own decoders on them",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Nothing called in this process changes what its signals do: it is not the command's."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where kernels are tested: on the GPU if there is one, else in the interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the kernels allocate without filling it holds NaN."""

    def poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(*args: Any, **options: Any) -> torch.Tensor:
            tensor = allocate(*args, **options)
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith("tritonseq.kernels.") and tensor.is_floating_point():
                tensor.fill_(math.nan)
            return tensor

        return call

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
