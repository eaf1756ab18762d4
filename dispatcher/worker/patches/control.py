"""Celery's remote commands where a dispatched worker differs: a revoke is kept in Redis too, and ``add_consumer`` and
``cancel_consumer`` answer "ok" only if the worker does what they say.
"""

from __future__ import annotations

from typing import Any

from celery.utils.functional import maybe_list
from celery.worker import control

from dispatcher.core.facts.message import plain_text
from dispatcher.store.worker.revoke_store import id_members, stamp_members


def revoke(state: Any, task_id: Any, terminate: bool = False, signal: str | None = None, **kwargs: Any) -> Any:
    """Revoke task by task id (or list of ids)."""
    _keep(state, id_members(map(plain_text, maybe_list(task_id) or [])))
    return control.revoke(state, task_id, terminate=terminate, signal=signal, **kwargs)


def revoke_by_stamped_headers(state: Any, headers: Any, terminate: bool = False, signal: str | None = None, **kwargs: Any) -> Any:
    """Revoke task by header (or list of headers)."""
    _keep(state, stamp_members(headers))
    return control.revoke_by_stamped_headers(state, headers, terminate=terminate, signal=signal, **kwargs)


def add_consumer(state: Any, queue: str, **kwargs: Any) -> Any:
    """Tell worker(s) to consume from task queue by name."""
    if (refusal := _refusal(state, queue)) is not None:
        return control.nok(refusal)
    return control.add_consumer(state, queue, **kwargs)


def cancel_consumer(state: Any, queue: str, **kwargs: Any) -> Any:
    """Tell worker(s) to stop consuming from task queue by name."""
    if (refusal := _refusal(state, queue)) is not None:
        return control.nok(refusal)
    return control.cancel_consumer(state, queue, **kwargs)


def replace_commands() -> None:
    """Replace the commands in this process; a worker that is not a dispatched one answers them as ever. May be called
    again.
    """
    for command in (revoke, revoke_by_stamped_headers, add_consumer, cancel_consumer):
        meta = control.Panel.meta[command.__name__]
        control.control_command(args=meta.args, variadic=meta.variadic, signature=meta.signature)(command)


def _refusal(state: Any, queue: str) -> str | None:
    """Why the worker neither begins nor ends to consume ``queue``; ``None`` if it does as it is told."""
    consumer = state.consumer
    if not hasattr(consumer, "life"):
        return None
    if consumer.life is None:
        return "this worker is not registered with its dispatcher yet: ask again"
    if consumer.life.stands_for(queue):
        return None
    named = ", ".join(consumer.life.registration.ingress)
    return (
        f"a dispatched worker is given jobs of all queues that it named with -Q when it started ({named}), not of "
        f"{queue!r} alone: restart it with other queues, or drain it with `dispatcher drain --keep`"
    )


def _keep(state: Any, members: list[str]) -> None:
    life = getattr(state.consumer, "life", None)
    if life is not None:
        life.revokes.heard(members)
