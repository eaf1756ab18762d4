"""The answers of the dispatcher's node to Celery's remote control: Flower and ``celery inspect`` ask it as any worker.

The node runs no jobs, so it has no pool and no tasks. Its *active queues* are the lists where jobs wait, and its
*scheduled* requests the jobs that wait for their eta.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.utils.encoding import safe_repr

from dispatcher.clock import Clock
from dispatcher.core.facts.message import plain_text
from dispatcher.store.worker.revoke_store import id_members, stamp_members

Answer = Callable[..., Any]

NOT_FOR_US = "this node dispatches jobs and runs none: ask a worker"


def answers(
    app: Celery,
    connection: Connection,
    queues: Callable[[], Sequence[str]],
    clock: Clock,
    revoked: Callable[[Sequence[str], Sequence[str]], object],
    scheduled: Callable[[], Sequence[object]] = tuple,
) -> dict[str, Answer]:
    """The answers, by method name.

    ``queues`` returns kombu queue names, ``scheduled`` the jobs that wait for their time. ``revoked`` gets task ids, and
    members for the :class:`RevokeStore`. If one of them raises, the answer is the error.
    """
    started_ms = clock.monotonic_ms()

    def nothing(_state: object, **_arguments: Any) -> list[Any]:
        return []

    def stats(_state: object, **_arguments: Any) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "uptime": (clock.monotonic_ms() - started_ms) // 1000,
            "clock": str(app.clock),
            "total": {},
            "prefetch_count": 0,
            "pool": {"implementation": "none", "max-concurrency": 0, "processes": []},
            "broker": _plain(connection.info()),
            "rusage": _rusage(),
        }

    def revoke(_state: object, task_id: Any, **_arguments: Any) -> dict[str, str]:
        ids = [plain_text(each) for each in (task_id if isinstance(task_id, list | tuple | set) else [task_id])]
        revoked(ids, id_members(ids))
        return {"ok": f"tasks {ids} flagged as revoked"}

    def revoke_by_stamped_headers(_state: object, headers: Any, **_arguments: Any) -> dict[str, str]:
        revoked((), stamp_members(headers))
        return {"ok": f"headers {headers} flagged as revoked"}

    return {
        "ping": lambda _state, **_arguments: {"ok": "pong"},
        "active_queues": lambda _state, **_arguments: [queue_facts(name) for name in queues()],
        "stats": stats,
        "conf": lambda _state, with_defaults=False, **_arguments: _plain(app.conf.table(with_defaults=with_defaults)),
        "report": lambda _state, **_arguments: {"ok": app.bugreport()},
        "registered": nothing,
        "active": nothing,
        "reserved": nothing,
        "scheduled": lambda _state, **_arguments: list(scheduled()),
        "revoked": nothing,
        "revoke": revoke,
        "revoke_by_stamped_headers": revoke_by_stamped_headers,
    }


def queue_facts(name: str) -> dict[str, Any]:
    """kombu's whole description of a queue, as a worker gives it to ``inspect active_queues``.

    With the anonymous exchange, as workers' queues have it: kombu's default exchange would stand for a binding that
    does not exist.
    """
    facts: dict[str, Any] = Queue(name, exchange=Exchange(""), routing_key=name).as_dict(recurse=True)
    return facts


def _plain(value: object) -> Any:
    """``value`` for JSON, with the ``repr`` of what JSON cannot carry. Keys that begin with ``__`` are left out."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if isinstance(key, str) and not key.startswith("__")}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return safe_repr(value)


def _rusage() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {name.removeprefix("ru_"): getattr(used, name) for name in dir(used) if name.startswith("ru_")}
