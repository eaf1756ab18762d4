"""What malformed messages do to the good ones beside them: 100,000 of 38 kinds, mixed into 100,000 good ones.

Each must become a dead letter with its own kind's reason, every good job must be taken and acked by a stub worker, and the dispatcher,
which runs in a process of its own, must not grow. The value is how many messages came to anything else.

    python -m benchmarks.malformed [--jobs 100000] [--bad 100000]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from multiprocessing.synchronize import Event as ProcessEvent
from pathlib import Path
from random import Random
from typing import Any, cast

from benchmarks.dispatch_rate import message, stub_workers
from benchmarks.private_redis import private_redis
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

GROWTH_LIMIT_MB = 24.0
"""From a quarter of the messages on. What a dead letter left behind in the dispatcher, were it 500 bytes, would be twice that."""
MESSAGE_BYTES_MAX = 20_000

Kind = Callable[[int], bytes]


def changed(change: Callable[[dict[str, Any]], object]) -> Kind:
    """A good message with one thing wrong."""

    def make(number: int) -> bytes:
        envelope = json.loads(message(10**9 + number))
        change(envelope)
        return json.dumps(envelope).encode()

    return make


def header(**values: object) -> Kind:
    return changed(lambda envelope: envelope["headers"].update(values))


def without(part: str, name: str) -> Kind:
    return changed(lambda envelope: envelope[part].pop(name))


def body(text: bytes | str) -> Kind:
    encoded = b64encode(text).decode() if isinstance(text, bytes) else text
    return changed(lambda envelope: envelope.update(body=encoded))


def cut(number: int) -> bytes:
    whole = message(10**9 + number)
    return whole[: 100 + number % 700]


KINDS: dict[str, tuple[str, Kind]] = {
    "random bytes": ("not_json", lambda number: Random(number).randbytes(200) + b"%d" % number),
    "cut off": ("not_json", cut),
    "two messages in one": ("not_json", lambda number: message(10**9 + number) + message(10**9 + number)),
    "begins with our mark": ("not_json", lambda number: b"!%d" % number),
    "not UTF-8 in a header nobody reads": ("not_json", lambda number: message(10**9 + number).replace(b"gen1@bench", b"gen1@\xff\xfe")),
    "deeply nested": ("wrong_type", lambda number: b"[" * (1_000 + number % 1_000) + b"%d" % number),
    "a number": ("wrong_type", lambda number: b"%d" % number),
    "a list": ("wrong_type", lambda number: b"[%d]" % number),
    "a string": ("wrong_type", lambda number: b'"%d"' % number),
    "an empty object": ("no_headers", lambda number: b'{"number": %d}' % number),
    "no headers": ("no_headers", changed(lambda envelope: envelope.pop("headers"))),
    "headers are a list": ("wrong_type", changed(lambda envelope: envelope.update(headers=[]))),
    "no properties": ("no_properties", changed(lambda envelope: envelope.pop("properties"))),
    "no body": ("bad_body", changed(lambda envelope: envelope.pop("body"))),
    "no id": ("no_id", without("headers", "id")),
    "an empty id": ("no_id", header(id="")),
    "an id that is a number": ("wrong_type", header(id=17)),
    "no task": ("no_task", without("headers", "task")),
    "an empty task": ("no_task", header(task="")),
    "no delivery tag": ("no_delivery_tag", without("properties", "delivery_tag")),
    "pickle": ("content_refused", changed(lambda envelope: envelope.update({"content-type": "application/x-python-serialize"}))),
    "no content type": ("content_refused", changed(lambda envelope: envelope.pop("content-type"))),
    "a body that is not base64": ("bad_body", body("%%%")),
    "an empty body": ("bad_body", body("")),
    "a body that is not JSON": ("bad_body", body(b"[[1], {}")),
    "a body of two": ("bad_body", body(b"[[1], {}]")),
    "a body that is an object": ("bad_body", body(b"{}")),
    "a body whose arguments are a string": ("bad_body", body(b'["args", {}, {}]')),
    "a body encoding that nobody knows": ("bad_body", changed(lambda envelope: envelope["properties"].update(body_encoding="rot13"))),
    "a compression that nobody knows": ("bad_body", header(compression="application/x-middle-out")),
    "said to be compressed": ("bad_body", header(compression="application/x-gzip")),
    "an eta tomorrow": ("bad_eta", header(eta="tomorrow")),
    "expires never": ("bad_expires", header(expires="never")),
    "a time limit of three": ("bad_timelimit", header(timelimit=[1, 2, 3])),
    "our header is a list": ("bad_header", header(dispatch=[])),
    "a negative cost": ("bad_header", header(dispatch={"cost": -1})),
    "requires a number": ("bad_header", header(dispatch={"requires": {"region": 7}})),
    "too large": ("too_large", lambda number: message(10**9 + number) + b" " * MESSAGE_BYTES_MAX),
}  # fmt: skip


def dispatch(url: str, stop: ProcessEvent) -> None:
    """The dispatcher's process."""
    client, keys = connect(url, text=False, timeout_s=60), Keys()
    make_dispatcher(
        DispatchStore(client, keys, new_token()), Settings(redis_url=url, message_bytes_max=MESSAGE_BYTES_MAX),
        admission=Admission(routes={}, default_cost_s=1.0), clock=SystemClock(), rng=Random(1), emit=lambda event: None,
        waker=Waker(client, keys.wake),
    ).run(cast("Any", stop))  # fmt: skip


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--bad", type=int, default=100_000)
    options = parser.parse_args()
    kinds = list(KINDS.items())
    expected: dict[bytes, tuple[str, str]] = {}
    for number in range(options.bad):
        name, (reason, make) = kinds[number % len(kinds)]
        expected[make(number)] = name, reason
    everything = [*map(message, range(options.jobs)), *expected]
    Random(1).shuffle(everything)
    context, keys = multiprocessing.get_context("spawn"), Keys()
    ready, stop = context.Event(), context.Event()
    with private_redis() as url:
        client = connect(url, text=False, timeout_s=60)
        stubs = context.Process(target=stub_workers, args=(url, ready, stop), daemon=True)
        stubs.start()
        ready.wait(60)
        dispatcher = context.Process(target=dispatch, args=(url, stop), daemon=True)
        dispatcher.start()
        while not client.exists(keys.leader):
            time.sleep(0.05)
        rss: list[tuple[int, float]] = []
        began = time.perf_counter()
        for at in range(0, len(everything), 1_000):
            client.lpush("dispatch", *everything[at : at + 1_000])
            while cast("int", client.llen("dispatch")) > 20_000:
                time.sleep(0.05)
            rss.append((at, rss_mb(cast("int", dispatcher.pid))))
        while (left := cast("int", client.llen("dispatch"))) or cast("int", client.hlen(keys.messages)) != len(expected):
            if time.perf_counter() - began > 600 or not dispatcher.is_alive():
                print(f"not done: {left} messages in the ingress, dispatcher alive: {dispatcher.is_alive()}")
                break
            time.sleep(0.05)
        took_s = time.perf_counter() - began
        rss.append((len(everything), rss_mb(cast("int", dispatcher.pid))))
        wrong: Counter[str] = Counter()
        kept: dict[bytes, bytes] = dict(client.hscan_iter(keys.messages, count=1_000))
        reasons: dict[bytes, bytes] = dict(client.hscan_iter(keys.dead_reasons, count=1_000))
        dead = set(cast("list[bytes]", client.zrange(keys.dead_letters, 0, -1)))
        by_reason: Counter[str] = Counter()
        for job, raw in kept.items():
            name, reason = expected.get(raw, ("a good job", "none: it should be done"))
            said = json.loads(reasons.get(job, b"{}")).get("reason")
            by_reason[said] += 1
            if said != reason or job not in dead:
                wrong[f"{name}: {said} instead of {reason}"] += 1
        wrong["bad messages that are gone"] += len(expected) - len(set(kept.values()) & expected.keys())
        stop.set()
        for process in (stubs, dispatcher):
            process.join(10)
    for reason, count in sorted(by_reason.items()):
        print(f"{count:8,d} {reason}")
    for what, count in wrong.most_common(20):
        if count:
            print(f"WRONG {count:,d} × {what}")
    warm = next(mb for at, mb in rss if at >= len(everything) // 4)
    growth = max(mb for at, mb in rss if at >= len(everything) // 4) - warm
    print(f"{len(everything):,d} messages in {took_s:.1f} s; the dispatcher has {warm:.0f} MB, then {growth:+.1f} MB")
    value = sum(wrong.values())
    finish(
        "malformed", value=value, limit=0, ok=value == 0 and growth <= GROWTH_LIMIT_MB, runs=[value], kinds=len(kinds), good=options.jobs,
        bad=len(expected), growth_mb=round(growth, 1), rss_mb=round(rss[-1][1], 1), took_s=round(took_s, 1),
    )  # fmt: skip


if __name__ == "__main__":
    main()
