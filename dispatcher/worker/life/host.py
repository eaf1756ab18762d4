"""What a worker life asks of the Celery worker around it, as a record of functions: tests and the simulation give their
own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Host:
    """What a life asks of the Celery worker it lives in. Any thread may call these."""

    call_soon: Callable[[Callable[[], None]], object]
    """Runs a function in the consumer's loop."""
    has_loop: bool
    """True if there is an event loop; without it :attr:`call_soon` may be late by seconds."""
    stop_warm: Callable[[], None]
    """Take nothing more, finish what runs, exit with 0."""
    kill_pool: Callable[[], None]
    """Kill the processes of the pool, where it has any."""
    stop_dead: Callable[[], None]
    """Kill what runs and end at once: this life was declared dead."""
    stop_short: Callable[[], None]
    """Kill what runs and end at once: its time to stop is up."""
    switch_queue: Callable[[], None]
    """Consume the list that :attr:`WorkerLife.queue_name` names now."""
    is_reserved: Callable[[str], bool]
    """True for the id of a lease that Celery has a request for."""
    runs_at_most_once: Callable[[str], bool]
    """True for the name of a task whose jobs must not be run again after a crash."""
    loop_runs_jobs: bool
    """True if jobs run in the loop itself (solo): there a busy loop is not stuck."""
