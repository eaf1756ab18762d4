"""Says which time limits a worker cannot keep: only a process can be killed while it runs a job, a thread cannot."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

log = logging.getLogger(__name__)

NAMED_MAX: Final = 5
"""So many tasks are named; of the others, how many there are."""

_warned: set[str] = set()
"""Names of the tasks whose jobs brought a limit of their own here."""


def unkept_limits(pool: str, app: Any, of_worker: Iterable[float | None]) -> tuple[int, str] | None:
    """The level and the sentence of what a worker with this pool says of time limits when it starts; ``None`` for
    prefork, which keeps them. ``of_worker``: those of all jobs, by its options or the app's settings.
    """
    if pool == "prefork":
        return None
    limited = ["every task"] if any(of_worker) else _limited_tasks(app)
    text = f"time limits are not enforced with -P {pool}: a job runs as long as it takes"
    if not limited:
        return logging.INFO, text
    return logging.WARNING, f"{text}, also of {_listed(limited)}; choose -P prefork where a limit must hold"


def warn_of_job(task: str, pool: str) -> None:
    """A job of this task brings a time limit that is not enforced here: said once for each task."""
    if task not in _warned:
        _warned.add(task)
        log.warning("a job of %s has a time limit, which is not enforced with -P %s: it runs to its end", task, pool)


def _limited_tasks(app: Any) -> list[str]:
    return sorted(name for name, task in app.tasks.items() if task.time_limit or task.soft_time_limit)


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
