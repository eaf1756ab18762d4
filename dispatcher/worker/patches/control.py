"""Celery's remote commands ``revoke`` and ``revoke_by_stamped_headers``, with one difference: a revoke is kept in Redis
too.
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


def keep_revokes() -> None:
    """Replace the two commands in this process; a worker that is not a dispatched one answers them as ever. May be
    called again.
    """
    for command, variadic in ((revoke, "task_id"), (revoke_by_stamped_headers, "headers")):
        meta = control.Panel.meta[command.__name__]
        control.control_command(variadic=variadic, signature=meta.signature)(command)


def _keep(state: Any, members: list[str]) -> None:
    life = getattr(state.consumer, "life", None)
    if life is not None:
        life.revokes.heard(members)
