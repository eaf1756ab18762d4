"""Every script that changes something for a leader or a worker refuses one that was replaced: frozen, cut off, or merely late.

The tables below name every script there is. Each call is made twice: by who was replaced, when it must write nothing, and by who was
not, when it must write something, so that the refusal is of the caller and not of the call.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dispatcher.core.facts.decisions import Assign
from dispatcher.core.returns.ending import GiveBack
from dispatcher.core.rollout.aliases import POINTS
from dispatcher.core.rollout.changes import set_shares
from dispatcher.errors import EpochEnded, NotLeader
from dispatcher.store.leader.dispatch_store import DispatchStore, Lead
from dispatcher.store.scripts.sources import names
from dispatcher.store.worker.worker_store import BeatStatus
from tests.life import Life
from tests.lua.cell import LANE, Cell, dump, nothing_written
from tests.lua.test_assign_alone import SUSPECTS, suspects
from tests.lua.test_assign_probe import LANE as PROBES
from tests.lua.test_assign_probe import MESSAGE as PROBE
from tests.lua.test_bury_late import jobs_until
from tests.lua.test_promote_scheduled import schedule
from tests.lua.test_reroute import ELSEWHERE, newest_first
from tests.messages import message

OWES, IDLE, SILENT, GONE = (letter * 12 for letter in "abce")
LATE_LANE = LANE.replace("default", "late")

LEADER: dict[str, Callable[[Cell, DispatchStore], object]] = {
    "admit": lambda cell, store: cell.admit(store=store),
    "assign": lambda cell, store: cell.assign(Assign(LANE, IDLE, 1, 100, 0.0), store=store),
    "assign_alone": lambda _, store: store.suspects().assign(IDLE, lane=SUSPECTS),
    "assign_probe": lambda _, store: store.assign_probe(IDLE, lane=PROBES, window=1, message=PROBE),
    "bury_late": lambda _, store: store.bury_late([(LATE_LANE, 0)], limit=10),
    "change_rollout": lambda _, store: store.rollouts().change("chat", None, set_shares(None, {"chat@1": POINTS}, 1)),
    "end_epoch": lambda _, store: store.end_silent(SILENT, beat_age_ms=5_000),
    "forget_worker": lambda _, store: store.forget_worker(GONE),
    "free_alone": lambda _, store: store.suspects().free({GONE}),
    "giveback": lambda cell, store: store.giveback(OWES, [GiveBack(id_) for id_ in cell.text.hkeys(cell.keys.leases(OWES))]),
    "log_decisions": lambda _, store: store.log_decisions([(1, b"{}")], kept=500),
    "note_turns": lambda cell, store: cell.admit(store=store),
    "promote_scheduled": lambda _, store: store.apply([], tuple, promote=10),
    "raise_format": lambda cell, store: store.formats().raise_to(2, cell.text.smembers(cell.keys.workers)),
    "reroute": lambda cell, store: store.rollouts().reroute(LANE, [(newest_first(cell)[0], ELSEWHERE)]),
    "save_policy": lambda _, store: store.policy().save({"speeds": b"{}"}),
    "tell": lambda _, store: store.tell(b"{}"),
}
WORKER: dict[str, Callable[[Life, str, str], object]] = {
    "adopt": lambda worker, *_: worker.adopt([("0.1", b"0" * 59 + LANE.encode(), b"{}")]),
    "ack": lambda worker, _, taken: worker.ack([taken]),
    "drain_worker": lambda worker, *_: worker.drain(),
    "end_epoch": lambda worker, *_: worker.goodbye(),
    "giveback": lambda worker, waiting, taken: worker.giveback([GiveBack(waiting), GiveBack(taken)]),
    "heartbeat": lambda worker, *_: worker.heartbeat({"done": 7}, b"{}"),
    "take": lambda worker, waiting, _: worker.take(waiting),
}
ELECTED = {"elect"}
BEGINS_A_LIFE = {"register_worker"}
READ_ONLY = {"find_job", "read_ingress", "snapshot"}
ANYBODY = {"free_keys", "publish", "purge", "release", "requeue_dead", "revoke", "store_retry"}
"""At any time: what they change is checked by what is there, not by who asks."""


def everything_to_do(cell: Cell) -> None:
    """A cell in which each of :data:`LEADER` has something to write."""
    suspects(cell, 1)
    for epoch in (OWES, IDLE, SILENT, GONE):
        cell.worker(epoch)
    cell.leased(Life(cell.text, cell.keys, OWES), 2)
    cell.jobs(2)
    jobs_until(cell, 1, lane=LATE_LANE)
    schedule(cell, 1, in_ms=-1_000)
    cell.push(message(retries=1))
    cell.text.pexpire(cell.keys.alive(SILENT), 1_000)
    Life(cell.text, cell.keys, GONE).goodbye()
    cell.text.hset(cell.keys.alone, GONE, f"{GONE}.1")
    cell.woken()


def test_every_script_is_fenced_or_said_why_not() -> None:
    """A new script is named in one of the tables above."""
    tables = [set(LEADER), set(WORKER), ELECTED, BEGINS_A_LIFE, READ_ONLY, ANYBODY]

    assert set().union(*tables) == set(names())


@pytest.mark.parametrize("script", LEADER)
def test_a_replaced_leader_changes_nothing(cell: Cell, script: str) -> None:
    """REFUSED, whatever it had planned; the one that leads is not."""
    everything_to_do(cell)
    replaced, now = cell.store, cell.leader("leader-2")

    with nothing_written(cell), pytest.raises(NotLeader):
        LEADER[script](cell, replaced)
    before = dump(cell.client)
    LEADER[script](cell, now)
    assert dump(cell.client) != before


def test_a_replaced_leader_cannot_renew_or_give_up_the_lead(cell: Cell) -> None:
    """REFUSED: nor does it lengthen the lead of its successor."""
    replaced, _ = cell.store, cell.leader("leader-2")

    with nothing_written(cell):
        assert replaced.elect(ttl_ms=60_000, info={}) is Lead.NONE
        assert replaced.elect(ttl_ms=60_000, info={}, resign=True) is Lead.NONE


def is_refused(call: Callable[[], object]) -> bool:
    """As each transition says it."""
    try:
        answer = call()
    except EpochEnded:
        return True
    status = getattr(answer, "status", answer)
    return status in (None, False, BeatStatus.DEAD)


@pytest.mark.parametrize("script", WORKER)
def test_a_replaced_worker_changes_nothing(cell: Cell, script: str) -> None:
    """REFUSED from the moment its life was ended, before and after its leases have gone to others; the same call of one that lives is
    not.
    """
    frozen, living = cell.worker(SILENT), cell.worker(OWES)
    held: dict[str, tuple[str, str]] = {}
    for worker in (frozen, living):
        waiting, taken = cell.leased(worker, 2)
        assert worker.take(taken)
        held[worker.epoch] = (waiting, taken)
    cell.text.pexpire(cell.keys.alive(SILENT), 1_000)
    assert cell.store.end_silent(SILENT, beat_age_ms=5_000)

    def late() -> None:
        with nothing_written(cell):
            assert is_refused(lambda: WORKER[script](frozen, *held[SILENT]))

    late()
    cell.store.giveback(SILENT, [GiveBack(id_) for id_ in held[SILENT]])
    late()
    assert cell.store.forget_worker(SILENT)
    late()
    before = dump(cell.client)
    ttl_ms = cell.text.pttl(cell.keys.alive(OWES))
    answer = WORKER[script](living, *held[OWES])
    assert dump(cell.client) != before, (answer, ttl_ms)


def test_a_replaced_worker_cannot_begin_its_life_again(cell: Cell) -> None:
    """REFUSED while anything of it is known: a new life has a new epoch."""
    worker = cell.worker(SILENT)
    worker.goodbye()

    with nothing_written(cell), pytest.raises(AssertionError):
        cell.worker(SILENT)


def test_a_reap_in_parts_lets_nobody_in_between(cell: Cell) -> None:
    """A worker's 501 leases go back in two calls, and its leader is replaced between them: a beat, a take, an ack and an assignment to it
    are refused, the next leader does the rest, and each job is in one place (scenario 57).
    """
    frozen = cell.worker(SILENT)
    ids = cell.leased(frozen, 501)
    taken = ids[0]
    assert frozen.take(taken)
    cell.text.pexpire(cell.keys.alive(SILENT), 1_000)
    assert cell.store.end_silent(SILENT, beat_age_ms=5_000)
    assert cell.store.giveback(SILENT, [GiveBack(id_) for id_ in reversed(ids[1:])]) == 500
    jobs = cell.whereabouts()
    assert len(set(jobs)) == len(jobs) == 501

    successor = cell.leader("leader-2")
    with nothing_written(cell, without=cell.keys.sequence):
        assert frozen.heartbeat({"done": 1}).status is BeatStatus.DEAD
        assert frozen.take(ids[-1]) is None
        with pytest.raises(EpochEnded):
            frozen.ack([taken])
        assert cell.assign(Assign(LANE, SILENT, 5, 1_000, 0.0), store=successor) == [0]
        assert not successor.forget_worker(SILENT)
    assert [id_ for id_, _, _ in successor.leases(SILENT)] == [taken]
    assert successor.giveback(SILENT, [GiveBack(taken)]) == 1
    assert successor.forget_worker(SILENT)
    assert cell.whereabouts() == jobs


def test_the_lock_of_an_older_time_lets_one_lead(cell: Cell) -> None:
    """Redis lost its last writes, and the lock names the leader before last again: it may write, the newest may not, and an id that was
    given out before is never given again (scenario 56).
    """
    cell.jobs(3)
    first, worker = cell.store, cell.worker(OWES)
    then = cell.client.get(cell.keys.sequence)
    second = cell.leader("leader-2")
    assert cell.assign(Assign(LANE, OWES, 1, 100, 0.0), store=second) == [1]
    (given,) = cell.queued(worker)
    assert then is not None
    cell.client.set(cell.keys.leader, "leader-1", px=60_000)
    cell.client.set(cell.keys.sequence, then)

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.assign(Assign(LANE, OWES, 1, 100, 0.0), store=second)
    assert cell.assign(Assign(LANE, OWES, 1, 100, 0.0), store=first) == [1]
    assert len(cell.leases(worker)) == 2
    assert cell.queued(worker)[0] == given
    assert len(set(cell.queued(worker))) == 2
