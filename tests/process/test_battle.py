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


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("redis_executable")
def test_jobs_that_no_worker_can_do_end_with_their_reason(tmp_path: Path) -> None:
    """A line that kills its worker among them: none is lost or stuck, their senders are told, all others run, and no worker is down for
    longer than its restart takes.
    """
    plan = Plan(
        400, 2, 1, kill_every_s=8, quiet_s=60, workers=(("prefork1", "prefork", 2), ("threads1", "threads", 2), ("solo1", "solo", 1)),
        others=(Kind.CUT,), odd_share=0.05,
    )  # fmt: skip
    report = fight(plan, tmp_path / "battle")
    assert {kind for kind, count in report.odd.items() if count} == {"unpicklable", "deadly", "undecodable", "told", "line"}
    assert report.verdict.ok, f"{report.verdict}; the logs are in {report.folder}"
    assert (report.dead, report.left, report.wrong) == ([], {}, [])
    assert not any(down.is_wrong for down in report.downs), report.downs


@pytest.mark.usefixtures("redis_executable")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_battle_whose_watcher_dies_ends_with_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody would see what is not recovered."""

    def look(_: Watcher) -> None:
        raise ValueError("what nobody foresaw")

    monkeypatch.setattr(Watcher, "look", look)
    with pytest.raises(RuntimeError, match="the watcher failed"):
        fight(Plan(2, 0, 1, kill_every_s=1, quiet_s=30, workers=(("solo1", "solo", 1),)), tmp_path)
