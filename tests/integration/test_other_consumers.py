"""Who else consumes: a stock worker beside dispatched ones on the same ingress, and other queues on a dispatched worker's channel."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.worker.refusal import WorkerRefused
from tests.eventually import eventually
from tests.worker_app import Ledger
from tests.worker_harness import Cell, WorkerProcess, open_cell


@pytest.fixture
def cell(redis_url: str, tmp_path: Path) -> Iterator[Cell]:
    with open_cell(redis_url, tmp_path) as opened:
        yield opened


STOCK_WORKER = """
from pathlib import Path
from sys import argv
from tests.worker_app import make_app
app = make_app(argv[1], Path(argv[2]), attached=False)
app.worker_main(["worker", "-Q", "dispatch", "-P", "threads", "-c", "2", "-n", "stock@test", "--without-gossip", "--without-mingle"])
"""


def test_a_stock_worker_on_the_ingress_takes_jobs_and_doubles_none(cell: Cell, tmp_path: Path) -> None:
    """Beside a dispatched worker, one of an app that is not attached consumes ``dispatch`` itself: what it gets it runs without a lease,
    the dispatcher goes on with what is left, and each job runs once (scenario 71).
    """
    others = Ledger(tmp_path / "others")
    env = {name: value for name, value in cell.environment().items() if name != "TEST_BROKER"}
    with cell.in_process():
        epoch = cell.epoch_of("inner@test")
        command = [sys.executable, "-c", STOCK_WORKER, cell.url, str(others.path)]
        stock = WorkerProcess("stock@test", command, env, tmp_path / "stock.log")
        cell.workers.append(stock)
        sent: list[str] = []

        def both_ran_some() -> bool:
            jobs = cell.send("work", 0.01, count=20)
            sent.extend(job.id for job in jobs)
            assert stock.lives
            for job in jobs:
                eventually(lambda job=job: job.state == "SUCCESS")
            return bool(cell.ledger.started() and others.started())

        eventually(both_ran_some, 30, stock.output)
        eventually(cell.no_leases)
        assert Counter(cell.ledger.ended() + others.ended()) == Counter(cell.ledger.started() + others.started()) == Counter(sent)
        assert cell.waiting() == 0
        assert set(cell.registrations()) == {epoch}

        stock.signal(signal.SIGTERM)
        assert stock.wait() == 0
        [last] = cell.send("work")
        assert last.get() == last.id
        assert last.id in cell.ledger.ended()
        eventually(cell.no_leases)
    assert cell.client.exists(cell.keys.messages, cell.keys.dead_letters, "unacked", "unacked_index") == 0


def test_the_lease_channel_consumes_its_own_list_only(cell: Cell) -> None:
    """Whatever else it is told to consume is refused in one sentence: a job of that queue would run without a lease. The worker lives."""
    with cell.in_process() as worker:
        channel = worker.consumer.task_consumer.channel
        for queue in ("dispatch", "celery", cell.keys.worker_queue("0" * 12)):
            with pytest.raises(WorkerRefused, match=f"its own list only, not '{queue}'"):
                channel.basic_consume(queue, False, lambda message: None, "tag")
        assert channel.active_queues == [worker.consumer.life.queue_name]
        assert cell.send("work")[0].get()
