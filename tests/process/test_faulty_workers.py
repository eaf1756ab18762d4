"""Real workers with real faults: each is found, routed around, loses no job, and comes back when it is well."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dispatcher.store.operator.admin_store import AdminStore
from tests.eventually import eventually as soon
from tests.redis_server import RedisServer, find_redis_server
from tests.worker_harness import Cell, Sent, open_cell

QUICK = {"eject_base_s": 0.4, "slow_start_s": 0.5, "probe_interval_s": 0.4, "probe_timeout_s": 5.0, "stall_s": 1.0, "lease_ttl_s": 30.0}
WORKERS = ("f1", "f2", "f3")
ILL = "f2@test"


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """Three workers, for all tests here: to start them takes longer than a fault."""
    executable = find_redis_server()
    if executable is None:
        pytest.skip("no Redis here")
    folder = tmp_path_factory.mktemp("f")
    server = RedisServer(executable, folder)
    try:
        with open_cell(server.url(), folder, **QUICK) as made:
            for name in WORKERS:
                made.spawn(name, pool="threads", concurrency=2, ready=False)
            for worker in made.workers:
                made.wait_registered(worker)
            yield made
    finally:
        server.kill()


def state_of(cell: Cell, name: str) -> str:
    return next(worker["state"] for worker in AdminStore(cell.client, cell.keys).status()["workers"] if worker["name"] == name)


def is_in(cell: Cell, state: str) -> None:
    """Wait until the ill worker is in that state."""

    def what_is_there() -> object:
        return AdminStore(cell.client, cell.keys).status()["workers"], cell.workers[WORKERS.index("f2")].output()[-1500:]

    soon(lambda: state_of(cell, ILL) == state, 60, what_is_there)


@contextmanager
def load(cell: Cell) -> Iterator[list[Sent]]:
    """Jobs of 90 ms for over four of the six slots, in a thread, for as long as the ``with`` takes: every worker has some."""
    sent: list[Sent] = []
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.02):
            sent.extend(cell.send("ill", 0.09))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("fault", ["fails", "slow", "hangs", "model"])
def test_a_faulty_worker_is_routed_around_and_comes_back(cell: Cell, fault: str) -> None:
    """It is ejected, alone; meanwhile jobs go elsewhere; when it is well it passes a probe and gets jobs again; no job is lost."""
    file: Path = cell.folder / f"fault-{ILL}"
    with load(cell) as sent:
        ran_before = 150  # enough of a past to be compared with
        soon(lambda: len(sent) >= ran_before, 60)
        file.write_text(fault)
        is_in(cell, "ejected")
        assert {state_of(cell, f"{name}@test") for name in WORKERS if f"{name}@test" != ILL} == {"ready"}
        file.unlink(missing_ok=True)
        is_in(cell, "ready")
        count = len(sent)
        soon(lambda: any(one.state == "SUCCESS" and one.get() == ILL for one in sent[count:]), 60)
    soon(cell.no_leases, 60)
    ended = {one.state for one in sent}
    assert ended <= ({"SUCCESS", "FAILURE"} if fault in ("fails", "model") else {"SUCCESS"})
    assert cell.waiting() == 0
    assert cell.dead_letters() == {}
    assert cell.client.hlen(cell.keys.messages) == 0
