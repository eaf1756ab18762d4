"""A small battle: what `make battle` does for twenty minutes, for half a one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.battle.faults import Kind
from benchmarks.battle.fight import Watcher
from benchmarks.battle.fought import Plan, fight


@pytest.mark.long  # a busy machine can make a worker silent for longer than a lease lives, and that is no fault of anybody's
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.usefixtures("redis_executable")
def test_a_small_battle_is_won(tmp_path: Path, seed: int) -> None:
    """Three kills, a restart of Redis, and connections cut under 300 jobs, chords and retries among them: none lost, none stuck, none run
    again but what a killed worker had, and nothing left.
    """
    plan = Plan(
        300, 3, seed, kill_every_s=4, quiet_s=60, workers=(("prefork1", "prefork", 2), ("threads1", "threads", 2), ("solo1", "solo", 1)),
        others=(Kind.RESTART_REDIS, Kind.CUT),
    )  # fmt: skip
    # So few kills may all be near a fault of Redis: then no recovery counts as measured, and the folder is left.
    report = fight(plan, tmp_path / "battle")
    assert report.kills == 3
    assert report.verdict.ok, f"{report.verdict}; the logs are in {report.folder}"
    assert (report.dead, report.left) == ([], {})


@pytest.mark.usefixtures("redis_executable")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_battle_whose_watcher_dies_ends_with_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody would see what is not recovered."""

    def look(_: Watcher) -> None:
        raise ValueError("what nobody foresaw")

    monkeypatch.setattr(Watcher, "look", look)
    with pytest.raises(RuntimeError, match="the watcher failed"):
        fight(Plan(2, 0, 1, kill_every_s=1, quiet_s=30, workers=(("solo1", "solo", 1),)), tmp_path)
