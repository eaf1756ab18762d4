"""Workers as processes: when they are started again. Real ones are in tests/integration/test_embedded.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from dispatcher.clock import ManualClock
from dispatcher.errors import Unavailable
from dispatcher.provision.base import WorkerKind
from dispatcher.provision.child import Child, Children
from dispatcher.provision.processes import BACKOFF_S, ProcessProvisioner, worker_command


class Machine:
    """Has room for so many processes."""

    def __init__(self) -> None:
        self.room = 10
        self.running: dict[str, Any] = {}

    def start(self, name: str, *_: object, **__: object) -> Child:
        if self.room <= len([one for one in self.running.values() if one.exit_code is None]):
            raise Unavailable(f"cannot start {name}: no room")
        self.running[name] = type("Process", (), {"exit_code": None, "pid": 1})()
        return cast("Child", self.running[name])

    def forget(self, _: Child) -> None:
        pass


def test_a_worker_that_cannot_be_started_again_is_tried_later() -> None:
    """And the others meanwhile: nothing is raised to whoever supervises them."""
    machine, clock, told = Machine(), ManualClock(1_000), list[str]()
    provisioner = ProcessProvisioner(
        cast("Children", machine), environ={}, logs=Path("/tmp"), clock=clock, on_restart=lambda name, why: told.append(f"{name} {why}")
    )
    for name in ("a", "b"):
        provisioner.start_named(name, WorkerKind(name, concurrency=1))
    for name in ("a", "b"):
        machine.running[name].exit_code = 1
    provisioner.step()
    machine.room = 1
    clock.now_ms += round(1000 * BACKOFF_S[0])
    provisioner.step()
    assert [machine.running[name].exit_code for name in ("a", "b")] == [None, 1]
    assert "cannot start b: no room; starting it again in 2 s" in told[-1]

    machine.room = 2
    clock.now_ms += round(1000 * BACKOFF_S[1])
    provisioner.step()
    assert machine.running["b"].exit_code is None


def test_the_threads_of_a_kind_are_an_option_of_its_workers() -> None:
    """Where the fleet file says a number; else the worker takes its share."""
    command = worker_command("a1", WorkerKind("a", threads=3))
    assert command[command.index("--threads") + 1] == "3"
    assert "--threads" not in worker_command("a1", WorkerKind("a"))


def test_a_start_that_the_system_refuses_is_said_as_such(tmp_path: Path) -> None:
    """A folder for the log that cannot be made, a process that cannot: one error, which callers expect."""
    (tmp_path / "file").write_text("")
    children = Children()
    try:
        with pytest.raises(Unavailable, match=r"cannot start a, .*(File exists|Not a directory)"):
            children.start("a", ["true"], log=tmp_path / "file" / "a.log", environ={})
        with pytest.raises(Unavailable, match=r"cannot start a, .*Argument list too long"):
            children.start("a", ["true", *["x" * 100_000] * 100], log=tmp_path / "a.log", environ={})
    finally:
        children.close()
