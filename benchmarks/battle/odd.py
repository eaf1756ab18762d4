"""Jobs that no worker can do, among the others: what they are made of, how they are sent, and what each must come to.

A job of the kind *unpicklable* cannot be handed to the pool. One that is *deadly* kills the process that reads it. Of one that is
*undecodable* no worker can read the body. *told* is as the first, and its result goes where its sender asked, by Celery's ``rpc://``. A
*line* is a line of a batch file that kills the worker which runs it, and what keeps it apart.
"""

from __future__ import annotations

import json
import os
import signal
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from kombu.utils.json import register_type

from dispatcher import job_headers
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.message import headers_of
from dispatcher.leader.settle import POISON
from dispatcher.store.frame import parse_entry
from dispatcher.store.keys import Keys

SHARES = {"unpicklable": 0.3, "deadly": 0.3, "undecodable": 0.2, "told": 0.15, "line": 0.05}
"""Kind → its part of the odd jobs. A line kills the most: a handful of workers each."""
REASONS = {"unpicklable": "delivery_failed", "deadly": "process_died", "undecodable": "unreadable", "told": "delivery_failed"}
"""Kind → the reason that its dead letter must have; :data:`HIT` will do, for its worker may be killed at the last try."""
HIT = "worker_died"
OF_A_LINE = frozenset({"worker_died", "process_died"})
"""Why a chunk with a deadly line, and then the line alone, are dead letters."""

MODEL = "lines"
LABELS = {"pool": "prefork"}
"""Of the workers that odd jobs go to. In another pool nothing is pickled, and no process is there to die but the worker's own."""
REPLIES = "battle.replies"
"""The list that results of *told* jobs are sent to."""
HITS = "hits"
"""The stream of the ledger with the processes that lines have killed."""


class Unpicklable:
    """To hand it to a process fails."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle this, as asked")


class Deadly:
    """Whoever unpickles it dies."""

    def __reduce__(self) -> Any:
        return _die, ()


class Unknown:
    """Only the sender's JSON knows it."""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def register_values() -> None:
    """Teach kombu's JSON the values that a worker can read, and its pool cannot be given. For senders and workers."""
    for kind in (Unpicklable, Deadly):
        register_type(kind, kind.__name__, lambda _: "", lambda _, kind=kind: kind())  # type: ignore[misc]


def send(app: Celery, kind: str, task_id: str) -> None:
    """Send one, by ``app``, in whose process :func:`register_values` was called."""
    if kind == "undecodable":
        register_type(Unknown, "Unknown of the sender", lambda _: "")
    value = {"undecodable": None, "deadly": Deadly()}.get(kind, Unpicklable())
    app.send_task(
        "battle.told" if kind == "told" else "battle.odd", [Unknown()] if kind == "undecodable" else [], task_id=task_id,
        headers=job_headers(requires=LABELS) | {"odd": value}, **({"reply_to": REPLIES} if kind == "told" else {}),
    )  # fmt: skip


def answer(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The model of the lines: one that says *kill* kills the worker, or the pool's process that keeps it apart; others are echoed."""
    for body in bodies:
        if body["input"] == "kill":
            _kill_parent()
    return [{"said": body["input"]} for body in bodies]


def _kill_parent() -> None:
    parent = os.getppid()
    # Never the battle itself, nor a supervisor: only a process that was started as a Celery worker, or forked off one.
    if b"celery" not in Path(f"/proc/{parent}/cmdline").read_bytes():
        raise RuntimeError(f"process {parent} is no worker")
    children = [int(pid) for path in Path(f"/proc/{parent}/task").glob("*/children") for pid in path.read_text().split()]
    with redis.Redis.from_url(os.environ["BATTLE_LEDGER"]) as client:
        client.xadd(HITS, {"pids": json.dumps([parent, *children])})
    os.kill(parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def hits(ledger: redis.Redis) -> list[tuple[int, tuple[int, ...]]]:
    """When lines have killed, in ms of the ledger's clock, and which processes."""
    return [(int(id_.partition("-")[0]), tuple(json.loads(fields["pids"]))) for id_, fields in ledger.xrange(HITS)]


# -- what became of them


@dataclass(frozen=True, slots=True)
class Ends:
    """What Redis has of jobs that ended badly."""

    letters: Mapping[str, tuple[str, str]]
    """Task id → reason and task, of each dead letter."""
    stored: Mapping[str, str]
    """Task id → the error that ``AsyncResult.get()`` raises, by the result backend."""
    replies: Mapping[str, str]
    """The same, by what was sent to :data:`REPLIES`."""


def read_ends(url: str, keys: Keys, task_ids: list[str]) -> Ends:
    """``url``: of the broker; results lie in its database 1. ``task_ids``: those whose stored results are read."""
    letters, stored, replies = {}, {}, {}
    with redis.Redis.from_url(url, decode_responses=True, encoding_errors="replace") as client:
        for record in map(json.loads, client.hvals(keys.dead_reasons)):
            entry = record.get("entry")
            task = parse_lane(parse_entry(entry).lane).task if entry else record.get("task")
            message = client.hget(keys.messages, parse_entry(entry).job) if entry else None
            task_id = record.get("task_id") or headers_of(message).get("id")
            letters[str(task_id)] = str(record["reason"]), str(task)
        for text in client.lrange(REPLIES, 0, -1):
            record = json.loads(b64decode(json.loads(text)["body"]))
            replies[record["task_id"]] = _error_in(record)
    with redis.Redis.from_url(url.replace("db=0", "db=1"), decode_responses=True) as client:
        for start in range(0, len(task_ids), 500):
            part = task_ids[start : start + 500]
            texts = client.mget([f"celery-task-meta-{task_id}" for task_id in part])
            stored |= {task_id: _error_in(json.loads(text)) for task_id, text in zip(part, texts, strict=True) if text}
    return Ends(letters, stored, replies)


def _error_in(record: dict[str, Any]) -> str:
    result = record["result"]
    return f"{result['exc_type']}: {result['exc_message'][0]}" if record["status"] == "FAILURE" else record["status"]


def wrong_ends(sent: Mapping[str, str], ends: Ends) -> list[str]:
    """What is not as it must be, a sentence each, of odd jobs (task id → kind, lines left out): pure."""
    said = []
    for task_id, kind in sent.items():
        told = (ends.replies if kind == "told" else ends.stored).get(task_id, "nothing")
        reason = ends.letters.get(task_id, ("none", ""))[0]
        if reason not in (REASONS[kind], HIT):
            said.append(f"{kind} job {task_id} should be a dead letter of {REASONS[kind]} and is {reason}")
        error = f"{'PoisonJob' if reason in POISON else 'JobDead'}: {reason}"
        if told != error:
            said.append(f"the sender of {kind} job {task_id} should be told {error} and is told {told}")
    return said
