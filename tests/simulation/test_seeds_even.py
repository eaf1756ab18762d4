"""No seed breaks a promise: half of those that ``make test`` tries."""

from __future__ import annotations

import pytest

from tests.simulation.seeds import IN_EVERY_TEST_RUN, holds


@pytest.mark.parametrize("seed", IN_EVERY_TEST_RUN[::2])
def test_no_promise_breaks(seed: int) -> None:
    """SAFETY throughout twenty seconds of faults, then LIVENESS without them."""
    holds(seed)
