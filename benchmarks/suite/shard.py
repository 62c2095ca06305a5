"""A plugin for pytest: one process of several runs its share of the tests, `SHARD=number/count`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

VARIABLE = "SHARD"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Every so manieth: neighbours take about as long as each other.
    number, count = map(int, os.environ[VARIABLE].split("/"))
    items[:] = items[number::count]
