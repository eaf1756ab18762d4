"""Workers as choosing sees them: a row of the snapshot, what the worker said when its life began, and what the leader has learned."""

from __future__ import annotations

from typing import Any

from dispatcher.core.snapshot import WorkerView
from dispatcher.store.dispatch_store import WorkerRow
from dispatcher.store.worker_store import Registration


def worker_view(row: WorkerRow, registration: Registration, **learned: Any) -> WorkerView:
    """``learned``: the fields of :class:`WorkerView` that neither of the two has, its window at least."""
    return WorkerView(
        epoch=row.epoch,
        name=registration.name,
        concurrency=registration.concurrency,
        weight=registration.weight,
        models=frozenset(registration.models),
        tasks=frozenset(registration.tasks),
        ingress=frozenset(registration.ingress),
        leases=row.leases,
        leased_cost_ms=row.leased_cost_ms,
        taken=row.taken,
        done=row.done,
        draining=row.draining,
        beat_age_ms=row.beat_age_ms,
        consume_age_ms=row.consume_age_ms,
        loop_lag_ms=row.loop_lag_ms,
        ended=row.ended,
        at_most_once=frozenset(registration.at_most_once),
        labels=registration.labels,
        **learned,
    )


def lost_worker_view(row: WorkerRow) -> WorkerView:
    """A worker whose registration is gone: it can only be reaped."""
    return WorkerView(
        row.epoch, row.epoch, 0, 1.0, frozenset(), frozenset(), frozenset(), row.leases, row.leased_cost_ms, row.taken, 0,
        ended=row.ended, beat_age_ms=row.beat_age_ms,
    )  # fmt: skip
