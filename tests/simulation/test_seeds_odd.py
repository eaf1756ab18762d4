"""No seed breaks a promise: the other half, in a file of its own so that two processes share them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, ROOT, Mutant, first_to_notice
from tests.simulation.seeds import IN_EVERY_TEST_RUN, holds

NOTICED = {
    "take: twice", "assign: keeps the job in its lane", "admit: forgets one", "elect: everybody leads", "promote: a copy stays",
    "snapshot: a beat from the future is a death", "keeper: forgets what it took",
    "every: waits for a clock that was set back",
}  # fmt: skip
"""Within few seeds; the others are in README.md."""


@pytest.mark.parametrize("seed", IN_EVERY_TEST_RUN[1::2])
def test_no_promise_breaks(seed: int) -> None:
    """SAFETY throughout twenty seconds of faults, then LIVENESS without them."""
    holds(seed)


def test_a_seed_is_a_history() -> None:
    """The same seed does the same in another process, whatever Python's hashes are there."""
    told = []
    for hashes in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "13", "-v"], cwd=Path(__file__).parents[2], capture_output=True, text=True,
            env=os.environ | {"PYTHONHASHSEED": hashes}, check=True,
        )  # fmt: skip
        told.append(ran.stdout.splitlines()[:-1])

    assert told[0] == told[1]
    assert len(told[0]) > 50


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_rule_is_where_it_can_be_taken_out(mutant: Mutant) -> None:
    """Production code has the text that a mutant lacks, once."""
    assert (ROOT / mutant.path).read_text().count(mutant.old) == 1


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.name in NOTICED], ids=lambda mutant: mutant.name)
def test_a_rule_that_is_missing_is_noticed(mutant: Mutant) -> None:
    """Production code with one rule taken out of it fails within some seeds."""
    assert first_to_notice(mutant, "0-99")
