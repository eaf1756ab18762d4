"""A dispatcher that a test drives step by step, with stub workers, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.stage import Stage


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    """A cell of its own, with one dispatcher."""
    made = Stage(redis_url)
    yield made
    made.close()
