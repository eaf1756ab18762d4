"""Every test here has a cell of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lua.cell import Cell


@pytest.fixture
def cell(redis_url: str) -> Iterator[Cell]:
    """A cell with a leader on an empty Redis."""
    made = Cell(redis_url)
    yield made
    made.close()
