"""Plans that were recorded can be made again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest

from dispatcher.cli import cli
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.recorded import Recorder
from dispatcher.core.choosing.strategies import STRATEGIES
from dispatcher.core.facts.snapshot import Snapshot
from dispatcher.errors import Invalid
from dispatcher.recording import open_recording, replay
from dispatcher.settings import Settings
from dispatcher.settings.rules import policy_of
from tests.unit.facts.snapshots import lane_view, worker_view


def record(path: Path, settings: Settings, rounds: int = 40) -> None:
    """Plans over a fleet and lanes that change from one to the next, one dispatcher's state running through them."""
    rng, state = Random(1), PolicyState()
    with open_recording(path, settings) as file:
        recorder = Recorder(file.write)
        for at in range(rounds):
            lanes = [lane_view(task=f"t.{n}", tenant=f"u{n}", depth=rng.randrange(1, 9), cost_ms=rng.randrange(1, 5_000)) for n in range(4)]
            workers = [
                worker_view(epoch=f"e{n}", name=f"w{n}", tasks=frozenset(f"t.{i}" for i in range(4)), leases=rng.randrange(3), window=3,
                            leased_cost_ms=rng.randrange(3_000), speeds={"default": rng.choice((0.5, 2.0))}, labels={"zone": "a"})
                for n in range(6)
            ]  # fmt: skip
            snapshot = Snapshot(1_000_000 + at, True, frozenset(), tuple(lanes), tuple(workers), load_ms={"default": 7})
            recorder.plan(snapshot, state, policy_of(settings), rng=rng, jobs_max=10)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_plan_is_the_same_again(tmp_path: Path, name: str) -> None:
    """Whatever the strategy keeps from plan to plan, or draws."""
    path = tmp_path / "plans"
    hold = 1.5 if name in {"earliest_completion", "least_work"} else 0.0
    record(path, Settings(strategy=name, hold_ratio=hold, redis_url="redis://user:secret@host"))
    found = replay(path)

    assert (found.plans, found.same, found.first_other) == (40, 40, None)
    assert found.jobs > 40
    assert b"secret" not in path.read_bytes()


def test_a_plan_that_would_be_another_is_found(tmp_path: Path) -> None:
    """The first of them is shown: what was recorded, and what comes out now."""
    path = tmp_path / "plans"
    record(path, Settings(strategy="random", hold_ratio=0))
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace('"seed":', '"seed":1')
    path.write_text("".join(lines) + '{"cut off')
    found = replay(path)

    assert (found.plans, found.same) == (40, 39)
    assert found.first_other is not None
    number, recorded, again = found.first_other
    assert number == 4
    assert recorded != again


def test_recording_changes_no_plan(tmp_path: Path) -> None:
    """But for the random numbers, which each plan then has of its own."""
    workers = tuple(worker_view(epoch=f"e{n}", speeds={"default": 1.0 + n * n}) for n in range(4))
    snapshot = Snapshot(1_000, True, frozenset(), (lane_view(depth=3),), workers)
    policy = policy_of(Settings())
    recorded = Recorder(lambda line: None).plan(snapshot, PolicyState(), policy, rng=Random(1), jobs_max=10)

    assert recorded == plan(snapshot, PolicyState(), policy, rng=Random(1), jobs_max=10)


@pytest.mark.parametrize("text", ["", "{}\n", '{"settings":{}}\nwhat\n'])
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    """With its name."""
    path = tmp_path / "plans"
    path.write_text(text)

    with pytest.raises(Invalid, match="plans"):
        replay(path)
    with pytest.raises(Invalid, match="missing"):
        replay(tmp_path / "missing")


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out + err


def test_the_command_says_whether_a_version_decides_as_the_recorded_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 if all plans are the same; else 1, with the first that is not."""
    path = tmp_path / "plans"
    record(path, Settings(), rounds=5)
    assert command(capsys, str(path))[0] == 0
    code, out = command(capsys, str(path), "--json")
    assert (code, json.loads(out)["same"]) == (0, 5)
    path.write_text(path.read_text().replace('"concurrency":1', '"concurrency":9', 1))
    code, out = command(capsys, str(path))

    assert code == 1
    assert out.startswith("4 of 5 plans are the same again")
    assert re.search(r"^line 2 said \d+ of dispatch/", out, re.MULTILINE)


def test_a_recording_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Before anything is dispatched."""
    with pytest.raises(Invalid, match="cannot write"):
        open_recording(tmp_path / "no folder" / "plans", Settings())
