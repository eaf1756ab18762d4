"""Two dispatchers of one cell: what the second knows when it takes over, and what the first may still do. Real Redis, manual clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult

from dispatcher.core.facts.header import job_headers
from dispatcher.events import LeadGained, LeadLost, StandsBy
from dispatcher.leader.dispatcher import Dispatcher
from dispatcher.leader.settle import Settler
from dispatcher.settings import Settings
from dispatcher.store.keys import Keys
from dispatcher.store.leader.unsettled_store import UnsettledStore
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.worker.lease_pipe import LeasePipe
from dispatcher.worker.broker import client_of
from tests.integration.stage import Stage, task_id
from tests.proxy import Proxy
from tests.redis_server import RedisServer


def leads_and_losses(stage: Stage) -> list[object]:
    return [event for event in stage.events if isinstance(event, LeadGained | LeadLost | StandsBy)]


def steps(dispatcher: Dispatcher, stage: Stage) -> None:
    stage.dispatcher = dispatcher
    stage.steps()


# -- who leads


def test_a_standby_says_so_once(stage: Stage) -> None:
    """However often it asks; and it says when it leads."""
    standby = stage.make_dispatcher("leader-2")
    stage.step()
    for _ in range(5):
        assert not standby.step().leads
    stage.dispatcher.resign()
    assert standby.step().leads

    assert leads_and_losses(stage) == [LeadGained("leader-1"), StandsBy(), LeadLost("leader-1", resigned=True), LeadGained("leader-2")]


def test_a_leader_that_was_replaced_stands_by_and_says_so_once(stage: Stage) -> None:
    """Thawed before it was to renew the lead: the next script is refused, the ones after that are not called."""
    worker = stage.worker()
    stage.steps()
    stage.text.delete(stage.keys.leader)
    standby = stage.make_dispatcher("leader-2")
    assert standby.step().leads
    del stage.events[:]

    stage.send(2)
    for _ in range(5):
        stage.clock.now_ms += 100
        standby.step()
        assert not stage.step().leads
    assert leads_and_losses(stage) == [LeadLost("leader-1")]
    assert len(worker.leases()) == 2


def test_who_leads_again_trusts_nothing_it_remembers(stage: Stage) -> None:
    """It was frozen until its lead had expired, and nobody stood by: it was never refused, and yet another may have led and gone."""
    stage.steps()
    stage.text.delete(stage.keys.leader)
    stage.clock.now_ms += 60_000

    assert stage.step().leads
    assert leads_and_losses(stage) == [LeadGained("leader-1"), LeadGained("leader-1")]


def test_nothing_is_shown_of_what_the_last_leader_saw(stage: Stage) -> None:
    """Why jobs wait, as the dead leader told it, is no answer of the next."""
    stage.send(1)
    stage.step()
    stage.step()
    assert stage.text.exists(stage.keys.leader_view)

    stage.text.delete(stage.keys.leader)
    store: Any = stage.make_dispatcher("leader-2").parts.store
    assert store.elect(ttl_ms=60_000, info={"host": "h", "pid": 2})
    (lane,) = AdminStore(stage.text, stage.keys).status()["lanes"]
    assert lane["why"] is None


# -- what survives


def test_a_tenant_begins_no_new_account_with_a_takeover(stage: Stage) -> None:
    """One tenant has been given 400 s of work and the other none: after the takeover it is the other's turn, until they are even."""
    worker = stage.worker(concurrency=1)
    for tenant in ("greedy", "modest"):
        stage.send(20, headers=job_headers(tenant=tenant, cost=10.0))
    # Both wait from the first plan on; what the greedy one has been given already is what a leader knows.
    stage.dispatcher.parts.planner.state.accounts.given |= {"greedy": 400_000.0, "modest": 0.0}
    stage.dispatcher.parts.planner.state.accounts.waited = frozenset({"greedy", "modest"})
    stage.step()
    stage.text.delete(stage.keys.leader)
    stage.dispatcher = stage.make_dispatcher("leader-2")
    stage.step()

    worker.run_all()
    stage.step()
    lanes = [entry.lane for entry in worker.leases().values()]
    assert lanes
    assert all("modest" in lane for lane in lanes)


# -- dead letters


def test_only_the_leader_settles(stage: Stage) -> None:
    """Two that store the FAILURE of one dead letter would call its errbacks twice; a successor does what is left (scenario 59)."""
    (sent,) = stage.send(headers={"dispatch": {"cost": -1}})
    stage.steps()
    standby = Settler(UnsettledStore(stage.client, stage.keys, "leader-2"), stage.app, stage.events.append)
    assert standby.step() == 0
    assert stage.text.scard(stage.keys.unsettled) == 1

    stage.text.delete(stage.keys.leader)
    steps(stage.make_dispatcher("leader-2"), stage)
    assert stage.settler.step() == 0
    assert standby.step() == 1
    assert AsyncResult(sent, app=stage.app).state == "FAILURE"


# -- the leader dies at any of its calls


class Cut:
    """Breaks a dispatcher's way to Redis at its n-th send: before it, or when Redis has done the first of what was sent."""

    def __init__(self, dispatcher: Dispatcher, at: int, *, after: bool) -> None:
        self.sends = 0
        self.broken = False
        pool = dispatcher.parts.store._client.connection_pool
        cut = self

        class Connection(pool.connection_class):  # type: ignore[misc, name-defined]
            def send_packed_command(self, command: Any, check_health: bool = True) -> None:
                cut.sends += 1
                cut.broken = cut.broken or cut.sends == at
                if cut.broken and not (after and cut.sends == at):
                    raise redis.ConnectionError("cut")
                super().send_packed_command(command, check_health)
                if cut.broken:
                    self.read_response()
                    raise redis.ConnectionError("cut")

        pool.connection_class = Connection
        pool.reset()
        dispatcher.parts.store._scripts._connection = None


def half_way(stage: Stage) -> list[str]:
    """A cell in which the next step has all there is to do: admit, refuse, schedule, promote, assign, bury what is late, reap, recall
    what a worker does not begin, reroute. The task ids of those that are to run.
    """
    gone, drained = stage.worker("gone", concurrency=2), stage.worker("drained", concurrency=2)
    sent = stage.send(4)
    stage.steps()
    assert gone.take()
    sent += stage.send(1, countdown=3600)
    sent += stage.send(3, headers=job_headers(requires={"disk": "big"}))
    late = stage.send(1, headers=job_headers(requires={"disk": "none"}, deadline_s=0.001))
    stage.steps()
    scheduled = stage.text.zrange(stage.keys.scheduled, 0, -1)
    stage.text.zadd(stage.keys.scheduled, dict.fromkeys(scheduled, 1))
    assert late
    gone.store.goodbye()
    drained.store.drain("keep")
    stage.worker("big", labels={"disk": "big"}, concurrency=4)
    stage.send(1, headers={"dispatch": {"cost": -1}})
    return sent + stage.send(3)


@pytest.mark.parametrize("after", [False, True])
def test_a_leader_that_dies_at_any_call_is_followed(stage: Stage, *, after: bool) -> None:
    """Whatever it was about to send, or had sent and got no answer to: the next leader finishes it, each job is leased once and runs
    once (scenarios 50, 51, 57, 58).
    """
    for at in range(1, 100):
        stage.client.flushall()
        stage.workers.clear()
        stage.dispatcher = stage.make_dispatcher(f"first-{at}")
        sent = half_way(stage)
        cut = Cut(stage.dispatcher, at, after=after)
        try:
            for _ in range(3):
                stage.clock.now_ms += 1_000
                stage.step()
        except redis.ConnectionError:
            pass
        stage.text.delete(stage.keys.leader)
        stage.dispatcher = stage.make_dispatcher(f"second-{at}")
        ran: Counter[str] = Counter()
        for _ in range(20):
            stage.steps()
            for worker in [one for one in stage.workers.values() if not one.name.startswith("gone")]:
                while (taken := worker.take()) is not None:
                    ran[task_id(taken)] += 1
                    worker.end(taken)
            if not any(len(one.leases()) for one in stage.workers.values()) and not stage.waiting():
                break
        assert ran == Counter(sent), f"cut at send {at}"
        assert sorted(stage.reasons().values()) == ["bad_header", "deadline_passed"], f"cut at send {at}"
        if not cut.broken:
            break
    else:
        raise AssertionError("a step never ended")
    assert at > 10


# -- an answer is lost on the way


@pytest.fixture
def loser(redis_server: RedisServer, redis_url: str) -> Iterator[Proxy]:
    made = Proxy(redis_server.socket)
    yield made
    made.close()


def a_workers_client(url: str) -> redis.Redis:
    app = Celery("theirs", broker=url, set_as_current=False)
    with app.connection_for_read() as connection:
        return client_of(connection.default_channel, Settings())


CLIENTS: dict[str, Callable[[str], redis.Redis]] = {"the dispatcher's": connect, "a worker's": a_workers_client}
CALLS: dict[str, Callable[[redis.Redis], Callable[[], object]]] = {
    "eval": lambda client: partial(client.eval, "return redis.call('INCR', KEYS[1])", 1, "counter"),
    "evalsha": lambda client: partial(LeasePipe(client, Keys(), "0" * 12).ack, [f"{'0' * 12}.1"]),
    "incrby": lambda client: partial(client.incrby, "counter", 1),
}


@pytest.mark.parametrize("command", CALLS)
@pytest.mark.parametrize("whose", CLIENTS)
def test_a_call_whose_answer_is_lost_is_not_made_again(stage: Stage, loser: Proxy, whose: str, command: str) -> None:
    """It may have been carried out, and whoever asked for 2 would get 4: it raises, and Redis has been called once (scenario 51)."""
    stage.text.set(Keys().alive("0" * 12), "1")
    client = CLIENTS[whose](loser.url())
    call = CALLS[command](client)
    call()  # connected, and the script is known, before the answer that counts
    stage.text.config_resetstat()
    loser.lose_answer_to(b"")
    with pytest.raises(redis.ConnectionError):
        call()
    assert loser.lost
    assert calls_of(command, stage) == 1

    call()
    assert calls_of(command, stage) == 2
    client.close()


def calls_of(command: str, stage: Stage) -> int:
    """How often Redis was asked to carry it out since its counters were reset."""
    return int(stage.text.info("commandstats")[f"cmdstat_{command}"]["calls"])
