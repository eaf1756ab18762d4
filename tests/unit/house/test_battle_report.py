"""What a battle must have done and measured to be won, and where it keeps what it leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.battle import __main__ as command
from benchmarks.battle.faults import Done, Kind
from benchmarks.battle.fight import Watcher
from benchmarks.battle.fought import Plan, Report
from benchmarks.battle.verdict import Verdict

PLANNED = [Kind.KILL_WORKER, Kind.KILL_WORKER, Kind.KILL_DISPATCHER, Kind.CUT]


def won(
    planned: list[Kind] = PLANNED, done: list[Kind] = PLANNED, in_line_ms: tuple[int, ...] = (3000,), *, dispatched: bool = True
) -> Report:
    """A battle in which nothing went wrong."""
    kills = sum(kind.is_kill for kind in planned)
    plan = Plan(10, kills, 1, kill_every_s=1, quiet_s=1, dispatched=dispatched)
    faults = [Done(kind, 1, 1) for kind in done]
    return Report(plan, Verdict(10), planned, faults, 0, [], {}, [], [], in_line_ms=list(in_line_ms), in_line_late_ms=[9000])


def test_a_battle_that_did_what_was_planned_and_measured_it_is_won() -> None:
    """Another fault than a kill may find Redis away."""
    assert won().ok
    spared = won(done=PLANNED[:3])
    assert (spared.skipped, spared.unproven, spared.ok) == ({Kind.CUT: 1}, [], True)


def test_a_battle_without_a_measured_recovery_is_not_won() -> None:
    """Of none the p99 would be 0; what was measured without a leader or Redis is held to no limit, and does not count."""
    report = won(in_line_ms=())
    assert ["no recovery" in what for what in report.unproven] == [True]
    assert not report.ok


def test_a_battle_that_planned_no_kill_of_a_worker_has_no_recovery_to_measure() -> None:
    """Nor has plain Celery, which has no leases."""
    assert won([Kind.CUT], [Kind.CUT], ()).ok
    assert won(in_line_ms=(), dispatched=False).ok


def test_a_battle_with_fewer_kills_than_planned_is_not_won() -> None:
    """Whatever kind of kill is missing: more of another, or other faults, do not make up for it."""
    report = won(done=[Kind.KILL_WORKER, Kind.KILL_DISPATCHER, Kind.CUT, Kind.CUT])
    assert (report.skipped, report.ok) == ({Kind.KILL_WORKER: 1}, False)
    assert report.unproven == ["1 of the 3 kills that were planned were not done"]
    assert not won(done=[Kind.KILL_WORKER, Kind.KILL_WORKER, Kind.CUT]).ok


def test_plain_celery_has_nobody_to_kill_but_workers() -> None:
    """Kills of dispatchers and of the autoscaler are skipped there, and those of workers are not."""
    planned = [*PLANNED, Kind.KILL_AUTOSCALER]
    assert won(planned, PLANNED[:2], dispatched=False).ok
    assert not won(planned, PLANNED[:1], dispatched=False).ok


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_kills_the_watcher_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of the producer and the fighter: whoever waits for it can tell that it failed from that it was stopped."""
    watcher = Watcher("unix:///nowhere.sock")
    error = ValueError("what nobody foresaw")

    def look() -> None:
        raise error

    monkeypatch.setattr(watcher, "look", look)
    watcher.start()
    watcher.join(10)
    assert watcher.error is error


# -- the command


@pytest.fixture
def fought(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """The folders of the battles that the command fights; every one is won, with the CUT skipped and no recovery measured."""
    folders: list[Path | None] = []

    def fight(plan: Plan, folder: Path | None) -> Report:
        folders.append(folder)
        return won(done=PLANNED[:3], in_line_ms=(), dispatched=plan.dispatched)

    monkeypatch.setattr(command, "fight", fight)
    return folders


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Its exit code."""
    monkeypatch.setattr(sys, "argv", ["battle", *arguments])
    with pytest.raises(SystemExit) as caught:
        command.main()
    return caught.value.code


def test_each_battle_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fought: list[Path | None]) -> None:
    """The second one on Celery would otherwise begin with the append-only file of the first."""
    call(monkeypatch, "--vs-celery", "--folder", str(tmp_path / "new"))
    assert len(set(fought)) == 3
    assert all(folder is not None and folder.parent == tmp_path / "new" for folder in fought)


def test_a_folder_in_use_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fought: list[Path | None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with anything in it, or a file; one that is empty is as good as none."""
    call(monkeypatch, "--folder", str(tmp_path))
    assert len(fought) == 1
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        assert call(monkeypatch, "--folder", str(folder)) == 2
        assert capsys.readouterr().err == f"{folder} is not an empty folder: name one that is, or that does not exist yet.\n"
    assert len(fought) == 1


@pytest.mark.usefixtures("fought")
def test_the_command_says_what_was_skipped_and_what_is_unproven(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And fails; a p99 that was not measured is no number."""
    assert call(monkeypatch) == 1
    out = capsys.readouterr().out
    assert "1 × kill connections" in out.partition("skipped")[2].splitlines()[0]
    assert "dispatcher: no recovery of a killed worker's leases was measured" in out
    told = json.loads(out.splitlines()[-1])
    assert (told["value"], told["ok"], told["skipped"]) == (None, False, 1)
