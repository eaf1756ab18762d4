"""A small battle: what `make battle` does for twenty minutes, for half a one."""

from __future__ import annotations

import pytest

from benchmarks.battle.faults import Kind
from benchmarks.battle.fought import Plan, fight


@pytest.mark.long  # a busy machine can make a worker silent for longer than a lease lives, and that is no fault of anybody's
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_small_battle_is_won(redis_executable: str, seed: int) -> None:
    """Three kills, a restart of Redis, and connections cut under 300 jobs, chords and retries among them: none lost, none stuck, none run
    again but what a killed worker had, and nothing left.
    """
    plan = Plan(
        300, 3, seed, kill_every_s=4, quiet_s=60, workers=(("prefork1", "prefork", 2), ("threads1", "threads", 2), ("solo1", "solo", 1)),
        others=(Kind.RESTART_REDIS, Kind.CUT),
    )  # fmt: skip
    report = fight(plan)
    assert report.kills == 3
    assert report.verdict.ok, f"{report.verdict}; the logs are in {report.folder}"
    assert (report.dead, report.left) == ([], {})
