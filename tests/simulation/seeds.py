"""One seed, one verdict."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulation.account import Broken
from tests.simulation.cell import Simulation

IN_EVERY_TEST_RUN = range(32)
"""As many as `make test` has time for; `make soak` runs the others."""
LAST = 12
"""So many of the last things that happened stand in a failure's message."""


@dataclass
class Passed:
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    said: Sequence[str] = ()


@dataclass
class Failure(Passed):
    why: str = ""

    def __str__(self) -> str:
        last = "\n".join(f"    {line}" for line in list(self.said)[-LAST:])
        return f"seed {self.seed}: {self.why}\n  the last things that happened:\n{last}\n  to repeat it: {repeat(self.seed)}"


def repeat(seed: int) -> str:
    """The command that does."""
    return f"python -m tests.simulation {seed} -v"


def span(text: str) -> range:
    """``7`` or ``0-99``."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def simulate(seed: int) -> Passed | Failure:
    """Runs one simulation; never raises for what production code does."""
    made = Simulation(seed)
    try:
        made.run()
    except Broken as broken:
        return Failure(seed, made.account.counts, made.said, str(broken))
    except Exception:  # noqa: BLE001 (whatever it is, it is a finding)
        return Failure(seed, made.account.counts, made.said, f"something raised what its caller cannot handle:\n{traceback.format_exc()}")
    return Passed(seed, made.account.counts, made.said)


def holds(seed: int) -> None:
    """For tests."""
    outcome = simulate(seed)
    assert not isinstance(outcome, Failure), str(outcome)
