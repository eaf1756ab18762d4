"""How many jobs one dispatcher process moves a second, from the ingress to the worker queues.

1 KB Celery messages wait in the ingress; 100 registered stub workers, in another process, take and ack what they are given. Beside
it, on the same Redis and in the same run, the ceiling: one Lua loop of LMOVE over the same messages, which decides nothing and
records nothing. The value is the ratio of the two, median over the runs. It goes with the version of Redis, which stands in the last line:
an LMOVE in a loop takes Redis 7.0 twice as long as 6.2, and the rest about the same.

    python -m benchmarks.dispatch_rate [--jobs 60000] [--runs 3] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import multiprocessing
import pstats
import socket
import threading
import time
import uuid
from base64 import b64encode
from multiprocessing.synchronize import Event as ProcessEvent
from random import Random
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import hiredis

from benchmarks.private_redis import private_redis, redis_version
from benchmarks.result import finish
from dispatcher.clock import SystemClock
from dispatcher.core.admission.rules import Admission
from dispatcher.leader.build import make_dispatcher
from dispatcher.leader.dispatcher import new_token
from dispatcher.leader.wake import Waker
from dispatcher.settings import Settings
from dispatcher.store.keys import Keys
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.registration import Registration
from dispatcher.store.scripts.sources import source
from dispatcher.store.worker.worker_store import WorkerStore, new_epoch

LIMIT = 0.06
WORKERS = 100
CONCURRENCY = 16
MESSAGE_BYTES = 1024
LMOVE_LOOP = "for i = 1, tonumber(ARGV[1]) do redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT') end"


def message(number: int) -> bytes:
    """A Celery message of 1 KB, field for field as kombu writes it."""
    task_id = str(uuid.UUID(int=Random(number).getrandbits(128), version=4))
    body = json.dumps([[number], {"pad": ""}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    headers = {
        "lang": "py", "task": "bench.job", "id": task_id, "shadow": None, "eta": None, "expires": None, "group": None,
        "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": task_id, "parent_id": None,
        "argsrepr": f"({number},)", "kwargsrepr": "{}", "origin": "gen1@bench", "ignore_result": False,
        "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
    }  # fmt: skip
    properties = {
        "correlation_id": task_id, "reply_to": task_id, "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "dispatch"}, "priority": 0, "body_encoding": "base64",
        "delivery_tag": str(uuid.uuid4()),
    }  # fmt: skip

    def envelope(body: str) -> bytes:
        return json.dumps(
            {
                "body": b64encode(body.encode()).decode(), "content-encoding": "utf-8",
                "content-type": "application/json", "headers": headers, "properties": properties,
            }
        ).encode()  # fmt: skip

    lacking = max(0, MESSAGE_BYTES - len(envelope(body)))
    return envelope(body.replace('"pad": ""', '"pad": "' + "x" * (lacking * 3 // 4) + '"'))


def wired(part: bytes) -> bytes:
    """One argument on the wire."""
    return b"$%d\r\n%b\r\n" % (len(part), part)


def command(*parts: str | bytes) -> bytes:
    """One Redis command on the wire."""
    encoded = [part if isinstance(part, bytes) else part.encode() for part in parts]
    return b"*%d\r\n" % len(encoded) + b"".join(map(wired, encoded))


def stub_workers(url: str, ready: ProcessEvent, stop: ProcessEvent) -> None:
    """100 workers in one process: register, then pop, take each job and ack, as fast as they are fed; beat twice a second.

    Written against the socket: what it costs is taken from the two cores that the dispatcher and Redis share.
    """
    client, keys = connect(url), Keys()
    stores = [WorkerStore(client, keys, new_epoch()) for _ in range(WORKERS)]
    for index, store in enumerate(stores):
        store.register(Registration(f"stub{index}@bench", "bench", index, CONCURRENCY, tasks=("bench.job",)))
    take, ack = (client.script_load(source(name)) for name in ("take", "ack"))
    done = [0] * WORKERS
    pops, takes, acks = [], [], []
    for store in stores:
        names = [keys.alive(store.epoch), keys.leases(store.epoch), keys.taken(store.epoch), keys.messages]
        queue = keys.worker_queue(store.epoch)
        pops.append(command("RPOP", queue))
        takes.append(b"*12\r\n" + command("EVALSHA", take, "6", *names, keys.revoked_at, queue).split(b"\r\n", 1)[1])
        acks.append(command("EVALSHA", ack, "6", *names, keys.lanes, keys.wake).split(b"\r\n", 1)[1])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(urlsplit(url).path)
    reader = hiredis.Reader()

    def ask(commands: list[bytes], replies: int) -> list[Any]:
        connection.sendall(b"".join(commands))
        answers: list[Any] = []
        while len(answers) < replies:
            reply = reader.gets()
            if reply is False:
                reader.feed(connection.recv(1 << 20))
            elif isinstance(reply, Exception):
                raise reply
            else:
                answers.append(reply)
        return answers

    beat_at = 0.0
    ready.set()
    while not stop.is_set():
        if time.monotonic() >= beat_at:
            for store, count in zip(stores, done, strict=True):
                store.heartbeat({"done": count})
            beat_at = time.monotonic() + 0.5
        popped = {index: id_ for index, id_ in enumerate(ask(pops, WORKERS)) if id_}
        how = command(str(int(time.time() * 1000)), str(CONCURRENCY - 1)).split(b"\r\n", 1)[1]
        started = ask([takes[index] + how + wired(id_) for index, id_ in popped.items()], len(popped))
        commands = []
        for index, (_, *jobs) in zip(popped, started, strict=True):
            ids = jobs[::3]
            commands.append(b"*%d\r\n" % (9 + len(ids)) + acks[index] + b"".join(map(wired, ids)))
            done[index] += len(ids)
        ask(commands, len(commands))
        time.sleep(0.002)


def one_run(url: str, messages: list[bytes], *, profile: bool) -> tuple[float, float]:
    """(jobs/s of the dispatcher, jobs/s of the ceiling) over the same messages."""
    client = connect(url, text=False, timeout_s=60)
    client.flushall()

    def fill() -> None:
        for at in range(0, len(messages), 1000):
            client.lpush("dispatch", *messages[at : at + 1000])

    fill()
    began = time.perf_counter()
    client.eval(LMOVE_LOOP, 2, "dispatch", "elsewhere", len(messages))
    ceiling = len(messages) / (time.perf_counter() - began)
    client.flushall()

    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    stubs = context.Process(target=stub_workers, args=(url, ready, stop), daemon=True)
    stubs.start()
    ready.wait(30)
    fill()
    settings = Settings(redis_url=url)
    keys = Keys()
    dispatcher = make_dispatcher(
        DispatchStore(client, keys, new_token()),
        settings,
        admission=Admission(routes={}, default_cost_s=1.0),
        clock=SystemClock(),
        rng=Random(1),
        emit=lambda event: None,
        waker=Waker(client, keys.wake),
    )
    ended = threading.Event()
    done_at: list[float] = []
    watch = connect(url)

    def wait_until_done() -> None:
        while watch.hlen(keys.messages) or watch.llen("dispatch"):
            time.sleep(0.01)
        done_at.append(time.perf_counter())  # not when the loop notices: it may be asleep by then
        ended.set()

    watcher = threading.Thread(target=wait_until_done, daemon=True)
    profiler = cProfile.Profile() if profile else None
    began = time.perf_counter()
    watcher.start()
    if profiler is not None:
        profiler.enable()
    dispatcher.run(ended)
    took = done_at[0] - began
    if profiler is not None:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(18)
    stop.set()
    stubs.join(10)
    return len(messages) / took, ceiling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=60_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="show where the dispatcher's time goes")
    options = parser.parse_args()
    messages = [message(number) for number in range(options.jobs)]
    rates: list[tuple[float, float]] = []
    with private_redis() as url:
        for _ in range(options.runs):
            rate, ceiling = one_run(url, messages, profile=options.profile)
            rates.append((rate, ceiling))
            print(f"dispatcher {rate:9,.0f} jobs/s   one Lua loop of LMOVE {ceiling:11,.0f}/s   ratio {rate / ceiling:.3f}")
    ratios = [rate / ceiling for rate, ceiling in rates]
    more: dict[str, Any] = {"jobs_per_s": round(median(rate for rate, _ in rates)), "message_bytes": len(messages[0])}
    more["redis"] = redis_version()
    finish("dispatch_rate", value=median(ratios), limit=LIMIT, ok=median(ratios) >= LIMIT, runs=ratios, **more)


if __name__ == "__main__":
    main()
