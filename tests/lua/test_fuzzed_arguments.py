"""Scripts called with one argument that is none: by a worker or dispatcher of another version, say. What is refused wrote nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.store.scripts.call import Scripts
from dispatcher.store.scripts.stream import Stream
from tests.life import Life
from tests.lua.cell import Cell, dump
from tests.lua.test_fencing import LEADER, OWES, WORKER, everything_to_do

Call = tuple[str, list[str], list[Any]]

NUMBERS = ("", "-1", "0", "1e999", "nan")
GARBAGE = st.one_of(
    st.binary(max_size=80), st.text(max_size=20), st.integers(-(2**70), 2**70), st.floats(), st.sampled_from(NUMBERS)
)


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """The calls of scripts that stores make meanwhile."""
    calls: list[Call] = []
    ask, send = Scripts.__call__, Stream.send
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scripts, "__call__", lambda self, name, keys, args: calls.append((name, keys, args)) or ask(self, name, keys, args))
        patch.setattr(Stream, "send", lambda self, call: calls.append(call) or send(self, call))
        yield calls


def call_of(cell: Cell, script: str) -> Call:
    """A call of that script as the product makes it, with something to do; it is not made yet."""
    begin_anew(cell)
    worker = Life(cell.text, cell.keys, OWES)
    waiting, taken = cell.queued(worker)
    if script == "take":
        return script, [*map(cell.keys.alive, [OWES]), cell.keys.leases(OWES), cell.keys.taken(OWES), cell.keys.messages,
                        cell.keys.revoked_at, cell.keys.worker_queue(OWES)], ["0", "5", waiting]  # fmt: skip
    if script == "ack":
        keys = cell.keys
        return script, [keys.alive(OWES), keys.leases(OWES), keys.taken(OWES), keys.messages, keys.lanes, keys.wake], [waiting, taken]
    act: Callable[[], object] = (
        (lambda: LEADER[script](cell, cell.store)) if script in LEADER else (lambda: WORKER[script](worker, waiting, taken))
    )
    with recorded() as calls:
        act()
    call = next(call for call in calls if call[0] == script)
    begin_anew(cell)
    return call


def kept_messages(cell: Cell) -> set[bytes]:
    return {*cell.client.hvals(cell.keys.messages), *cell.ingress()}


def begin_anew(cell: Cell) -> None:
    cell.client.flushall()
    cell.client.connection_pool.reset()  # every store keeps a connection
    cell.store = cell.leader("leader-1")
    everything_to_do(cell)


@pytest.mark.parametrize("script", sorted({*LEADER, *WORKER}))
def test_a_call_that_is_refused_wrote_nothing(cell: Cell, script: str) -> None:
    """And no call, refused or not, makes a job of the others vanish."""

    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        name, keys, args = call_of(cell, script)
        at = data.draw(st.integers(0, len(args) - 1), label="argument")
        args = [*args[:at], data.draw(GARBAGE, label="garbage"), *args[at + 1 :]]
        before, jobs = dump(cell.client, without=cell.keys.sequence), kept_messages(cell)
        try:
            cell.scripts(name, keys, args)
        except redis.ResponseError:
            assert dump(cell.client, without=cell.keys.sequence) == before  # numbers may be skipped
        if script != "ack":
            assert jobs <= kept_messages(cell)

    holds()
