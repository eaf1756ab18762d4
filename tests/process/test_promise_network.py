"""The network between Redis and everything else breaks, under load: all come back by themselves, nothing is lost or run twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, Cluster, MakeCluster, Process
from tests.proxy import Proxy


@pytest.fixture
def make_proxy() -> Iterator[Callable[[Cluster], Proxy]]:
    """``make_proxy(cluster)`` is a way to the Redis of a cluster that can be broken."""
    proxies: list[Proxy] = []

    def make(cluster: Cluster) -> Proxy:
        proxies.append(Proxy(cluster.broker.socket))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


MakeProxy = Callable[[Cluster], Proxy]


def past(cluster: Cluster, jobs: int) -> bool:
    """Whether about so many jobs have run."""
    return cluster.ledger.length() >= 2 * jobs


def start_all(cluster: Cluster, proxy: Proxy | None = None) -> list[Process]:
    """A dispatcher and two unlike workers, all of them behind the proxy; each is up."""
    workers = [
        cluster.start_worker("w1", concurrency=4, via=proxy, ready=False),
        cluster.start_worker("w2", concurrency=4, pool="threads", via=proxy, ready=False),
    ]
    dispatcher = cluster.start_dispatcher(via=proxy)
    for worker in workers:
        cluster.epoch(worker)
    return [dispatcher, *workers]


def all_is_well(cluster: Cluster, processes: list[Process], jobs: list[str], epochs: set[str]) -> None:
    """Every job ran once and has its result, and the very same processes and worker lives go on with the next ones."""
    cluster.all_succeed(jobs)
    jobs = jobs + cluster.send("noop", count=20)
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)
    assert [one.exit_code for one in processes] == [None] * len(processes)
    assert {cluster.epoch(worker) for worker in processes[1:]} == epochs


def epochs_of(cluster: Cluster, processes: list[Process]) -> set[str]:
    return {cluster.epoch(worker) for worker in processes[1:]}


@pytest.mark.long
def test_killed_connections_lose_and_repeat_nothing(make_cluster: MakeCluster) -> None:
    """CLIENT KILL of every connection, of whatever type, five times under load: each of 200 jobs runs once."""
    cluster = make_cluster()
    processes = start_all(cluster)
    epochs = epochs_of(cluster, processes)
    jobs = cluster.send("nap", 0.02, count=200)
    for number in range(5):
        eventually(lambda number=number: past(cluster, 10 + 35 * number), PATIENCE_S)
        for kind in ("pubsub", "normal"):
            cluster.client.client_kill_filter(_type=kind, skipme=True)
    all_is_well(cluster, processes, jobs, epochs)


@pytest.mark.parametrize("away_s", [4.0, pytest.param(30.0, marks=pytest.mark.long)])
def test_refused_connections_lose_and_repeat_nothing(make_cluster: MakeCluster, make_proxy: MakeProxy, away_s: float) -> None:
    """Redis refuses connections, for longer than leases live, under load: nobody is declared dead, each of 200 jobs runs once."""
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    proxy = make_proxy(cluster)
    processes = start_all(cluster, proxy)
    epochs = epochs_of(cluster, processes)
    jobs = cluster.send("nap", 0.05, count=200)
    eventually(lambda: past(cluster, 50), PATIENCE_S)
    proxy.refuse()
    time.sleep(away_s)  # how long it is away is what is tried
    proxy.accept()
    all_is_well(cluster, processes, jobs, epochs)


def test_connections_that_go_silent_lose_and_repeat_nothing(make_cluster: MakeCluster, make_proxy: MakeProxy) -> None:
    """All connections go half-open under load: they stay open and carry nothing any more. For longer than leases live new ones are no
    better; then they are, and the old ones still are not. Nobody is declared dead, each of 200 jobs runs once.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    proxy = make_proxy(cluster)
    processes = start_all(cluster, proxy)
    epochs = epochs_of(cluster, processes)
    jobs = cluster.send("nap", 0.05, count=200)
    eventually(lambda: past(cluster, 50), PATIENCE_S)
    proxy.go_silent()
    time.sleep(4.0)  # how long it is silent is what is tried
    proxy.speak()
    all_is_well(cluster, processes, jobs, epochs)


@pytest.mark.parametrize("on_cut_off", [pytest.param("finish", marks=pytest.mark.long), "stop"])
def test_a_worker_that_alone_is_cut_off_does_as_it_was_told(make_cluster: MakeCluster, make_proxy: MakeProxy, on_cut_off: str) -> None:
    """Its connections go silent while it runs a job, the rest of the cell goes on: others get the job. Told to ``finish``, it runs it to
    the end all the same, and ends when it is back; told to ``stop``, it kills the job and ends while it is still cut off.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5, on_cut_off=on_cut_off)
    proxy = make_proxy(cluster)
    cluster.start_dispatcher()
    lonely, other = cluster.start_worker("lonely", concurrency=1, via=proxy), cluster.start_worker("other", concurrency=1)
    others = cluster.keys.worker(cluster.epoch(other))
    cluster.client.hset(others, "draining", "keep")
    (job,) = cluster.send("nap", 6)
    eventually(cluster.ledger.running, PATIENCE_S)
    proxy.go_silent()
    cluster.client.hdel(others, "draining")
    if on_cut_off == "stop":
        assert lonely.wait() == 75
    cluster.all_succeed([job])
    if on_cut_off == "finish":
        eventually(lambda: len(cluster.ledger.entries()) == 4, PATIENCE_S)  # both runs have begun and ended
        proxy.speak()
        assert lonely.wait() == 75
    first, second = cluster.ledger.starts()
    assert (first.worker, second.worker) == ("lonely@promise", "other@promise")
    ended = {entry.pid for entry in cluster.ledger.entries() if entry.what == "end"}
    assert ended == ({second.pid} if on_cut_off == "stop" else {first.pid, second.pid})
    cluster.nothing_is_left()
