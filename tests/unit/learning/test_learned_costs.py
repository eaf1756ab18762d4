"""Learned costs, from made-up evidence."""

from __future__ import annotations

import pytest

from dispatcher.core.learning.costs import Costs
from dispatcher.core.learning.speeds import Speeds
from tests.unit.facts.evidence_fleet import MODEL, TASK, UNLIKE, Fleet


def test_a_cost_in_use_stays_until_it_is_clearly_another() -> None:
    """A lane is of one size class: noise must not make lanes."""
    fleet = Fleet(UNLIKE, cv=0.5)
    costs = Costs(fleet.speeds)
    used = set()
    for _ in range(120):
        fleet.run(1)
        costs.observe([], [], fleet.now_ms)
        used.add(costs.seconds.get((TASK, MODEL)))
    settled = costs.seconds[TASK, MODEL]
    fleet.cost_s *= 3
    for _ in range(120):
        fleet.run(1)
        costs.observe([], [], fleet.now_ms)

    assert len(used) <= 8
    assert costs.seconds[TASK, MODEL] == pytest.approx(3 * settled, rel=0.3)


def test_learned_costs_survive_a_takeover() -> None:
    """In the mapping that admission already holds."""
    fleet = Fleet(UNLIKE).run(10)
    costs, successor = Costs(fleet.speeds), Costs(Speeds(prior_jobs=5))
    costs.observe([], [], fleet.now_ms)
    held = successor.seconds
    successor.load(costs.dump())

    assert held == costs.seconds != {}
