"""Celery's remote control of a dispatched worker: what Flower sees, what is refused, and what a purge discards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery.bin.base import CLIContext
from celery.bin.purge import purge as celery_purge
from celery.events import EventReceiver
from celery.signals import task_prerun
from click.testing import CliRunner
from kombu import Queue

from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.worker import attach
from tests.eventually import eventually
from tests.worker_harness import Cell, open_cell


@pytest.fixture
def cell(redis_url: str, tmp_path: Path) -> Iterator[Cell]:
    with open_cell(redis_url, tmp_path) as opened:
        yield opened


def test_flower_sees_the_workers_list_and_may_pause_it(cell: Cell) -> None:
    """``active_queues`` names the worker's list; ``cancel_consumer`` of it, or of the only queue that the worker named, drains
    and stays, ``add_consumer`` ends that.
    """
    with cell.in_process():
        epoch = cell.epoch_of("inner@test")
        name = cell.keys.worker_queue(epoch)
        control = cell.app.control
        # A worker is registered before it listens to remote control, and what is said before that is lost.
        [queues] = eventually(control.inspect(["inner@test"]).active_queues).values()
        assert [queue["name"] for queue in queues] == [name]

        for queue in (name, "dispatch"):
            [answer] = control.cancel_consumer(queue, destination=["inner@test"], reply=True, timeout=10, limit=1)
            assert "ok" in answer["inner@test"]
            eventually(lambda: cell.client.hget(cell.keys.worker(epoch), "draining") == "keep")
            [result] = cell.send("work")
            eventually(lambda: cell.waiting() == 1)
            [answer] = control.add_consumer(queue, destination=["inner@test"], reply=True, timeout=10, limit=1)
            assert "ok" in answer["inner@test"]
            assert result.get() == result.id


def test_a_worker_says_so_where_it_does_not_do_what_remote_control_asks(cell: Cell) -> None:
    """``add_consumer`` of a queue that the worker did not name, ``cancel_consumer`` of such, and of only some of those that it
    named: the answer is an error that says what to do, and the worker goes on as before.
    """
    app = cell.make_app()
    app.conf.task_queues = [Queue("dispatch"), Queue("more")]
    with cell.in_process(app=app):
        cell.epoch_of("inner@test")
        control = cell.app.control
        eventually(control.inspect(["inner@test"]).ping)
        for command in (control.add_consumer, control.cancel_consumer):
            for queue in ("extra", "dispatch"):
                [answer] = command(queue, destination=["inner@test"], reply=True, timeout=10, limit=1)
                assert "dispatcher drain --keep" in answer["inner@test"]["error"]
        [result] = cell.send("work", queue="more")
        assert result.get() == result.id
        assert cell.client.lpush("extra", "not ours") == 1


@pytest.mark.parametrize("how", ["celery purge", "app.control.purge", "worker --purge"])
def test_what_celery_purges_never_runs(cell: Cell, how: str) -> None:
    """Jobs that wait in lanes, or for their eta, are discarded; jobs of queues that are not meant wait on."""
    app = cell.make_app()
    attach(app, cell.settings)
    with cell.in_process(app=cell.make_app(task_queues=[Queue("dispatch"), Queue("kept")])):
        cell.drain(cell.epoch_of("inner@test"), "keep")
        sent = [*cell.send("work", count=250), *cell.send("work", count=3, countdown=3600)]
        kept = [*cell.send("work", queue="kept"), *cell.send("work", queue="kept", countdown=3600)]
        eventually(lambda: (cell.lanes_hold(), cell.client.zcard(cell.keys.scheduled)) == (251, 4))
        if how == "celery purge":
            run = CliRunner().invoke(celery_purge, ["-f", "-Q", "dispatch"], obj=CLIContext(app, no_color=True, workdir=None))
            assert "Purged 253 messages that waited with the dispatcher." in run.output, run.output
        elif how == "app.control.purge":
            assert app.control.purge() == 253
        else:
            app.Worker(pool="solo", purge=True).purge_messages()
        assert (cell.lanes_hold(), cell.client.zcard(cell.keys.scheduled)) == (1, 1)
        assert cell.client.hlen(cell.keys.messages) == len(kept)
    assert not {job.id for job in sent} & set(cell.runs())


def test_a_probe_is_no_task_for_flower(redis_url: str, tmp_path: Path) -> None:
    """Jobs send their events, probes that ran before them send none."""
    probes: list[str] = []
    seen: list[tuple[str, str]] = []

    def began(sender: Any = None, task_id: str = "", **_: Any) -> None:
        if sender.name == PROBE_TASK:
            probes.append(task_id)

    def note(event: dict[str, Any]) -> None:
        seen.append((event["uuid"], event["type"]))

    task_prerun.connect(began)
    with open_cell(redis_url, tmp_path, probe_interval_s=0.2) as cell, cell.app.connection_for_read() as given:
        receiver = EventReceiver(given, {"task-received": note, "task-succeeded": note}, app=cell.app)
        with receiver.Consumer() as (connection, _, _):

            def listen() -> None:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.1)

            listen()  # kombu subscribes when it first waits
            with cell.in_process(app=cell.make_app(worker_send_task_events=True)):
                eventually(lambda: len(probes) >= 2)
                [result] = cell.send("work")
                eventually(lambda: listen() or (result.id, "task-succeeded") in seen)
    assert seen == [(result.id, "task-received"), (result.id, "task-succeeded")]
