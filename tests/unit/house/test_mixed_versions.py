"""What the run of two versions beside each other counts, and where it has nothing to run."""

from __future__ import annotations

import json
import sys
from random import Random
from typing import Any

import pytest

from benchmarks import mixed_versions as command
from benchmarks.mixed_versions import Ledger, make_job
from benchmarks.versions import newest_release


class Stream:
    """A ledger's Redis that answers one read."""

    def __init__(self, *lines: str) -> None:
        self._rows = [(f"{number}-0", {"line": line}) for number, line in enumerate(lines, 1)]

    def xrange(self, key: str, min: str) -> list[Any]:  # noqa: A002 - redis-py's name
        return [row for row in self._rows if int(row[0][:-2]) > int(min.lstrip("(").partition("-")[0])]


def test_a_commit_that_git_does_not_have_is_skipped_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shallow clone, or a source archive without git, is no failure; the JSON line says that nothing was run."""
    monkeypatch.setattr(sys, "argv", ["mixed_versions", "--old", "0" * 40])

    with pytest.raises(SystemExit) as ended:
        command.main()

    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (ended.value.code, said["ok"], said["runs"]) == (0, True, [])
    assert "unknown here" in said["skipped"]


def test_the_releases_name_whole_commits() -> None:
    """A short name may come to mean two."""
    assert len(newest_release()) == 40


def test_a_retry_is_a_run_of_its_own_and_a_second_start_is_counted() -> None:
    """Lost is what has no end, run twice what began again; both go by task id and number of the try."""
    ledger: Any = Ledger(Stream("start a 0 7 x.py", "end a 0 7 x.py", "start a 1 7 x.py", "start b 0 8 y.py", "start b 0 9 y.py"))

    ledger.read()
    ledger.read()

    assert ledger.began == {"a:0": 1, "a:1": 1, "b:0": 2}
    assert ledger.ended == {"a:0"}
    assert ledger.workers == {7: 2, 8: 1, 9: 1}
    assert ledger.files == {(7, "x.py"), (8, "y.py"), (9, "y.py")}


def test_jobs_are_of_every_kind() -> None:
    """Sessions and costs, priorities, countdowns and retries: what the two versions tell each other of a job."""
    rng = Random(1)
    jobs = [make_job(rng) for _ in range(200)]

    assert {next(iter(job.options), "") for job in jobs} == {"", "headers", "priority", "countdown"}
    assert {len(job.runs) for job in jobs} == {1, 2}
