"""What a plan sees: each worker, from its row of the snapshot, its registration and what the leader has learned; and
arriving jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, get_type_hints

import msgspec
from msgspec import structs

from dispatcher.core.admission.rules import Admitted
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import LaneView, WorkerView
from dispatcher.store.leader.admit_batch import AdmitBatch
from dispatcher.store.leader.look import WorkerRow
from dispatcher.store.registration import Registration

_OF_ROW: Final = frozenset(
    {"epoch", "leases", "leased_cost_ms", "taken", "done", "draining", "beat_age_ms", "consume_age_ms", "loop_lag_ms", "ended"}
)
_OF_REGISTRATION: Final = frozenset({"name", "concurrency", "weight", "models", "tasks", "ingress", "at_most_once", "labels", "models_max"})
_LEARNED: Final = tuple(field for field in structs.fields(WorkerView) if field.name not in _OF_ROW | _OF_REGISTRATION)
_TYPES: Final = get_type_hints(WorkerView)


def worker_view(row: WorkerRow, registration: Registration, **learned: Any) -> WorkerView:
    """A worker as a plan sees it. ``learned``: the fields of :class:`WorkerView` that neither of the two has, at least
    ``window``.
    """
    return WorkerView(
        epoch=row.epoch,
        name=registration.name,
        concurrency=registration.concurrency,
        weight=registration.weight,
        models=_set(registration.models),
        tasks=_set(registration.tasks),
        ingress=_set(registration.ingress),
        leases=row.leases,
        leased_cost_ms=row.leased_cost_ms,
        taken=row.taken,
        done=row.done,
        draining=row.draining,
        beat_age_ms=row.beat_age_ms,
        consume_age_ms=row.consume_age_ms,
        loop_lag_ms=row.loop_lag_ms,
        ended=row.ended,
        at_most_once=_set(registration.at_most_once),
        models_max=registration.models_max,
        labels=registration.labels,
        **learned,
    )


@lru_cache(maxsize=4096)
def _set(names: tuple[str, ...]) -> frozenset[str]:
    """One set for all workers that name the same, as most do."""
    return frozenset(names)


def lost_worker_view(row: WorkerRow) -> WorkerView:
    """A worker whose registration is missing or malformed: it gets no jobs, and can only be reaped."""
    return WorkerView(
        epoch=row.epoch, name=row.epoch, concurrency=0, weight=1.0, models=frozenset(), tasks=frozenset(), ingress=frozenset(), window=0,
        leases=row.leases, leased_cost_ms=row.leased_cost_ms, taken=row.taken, ended=row.ended, beat_age_ms=row.beat_age_ms,
    )  # fmt: skip


def learned(view: WorkerView) -> dict[str, Any]:
    """Field → value of what only the leader knows of the worker, for its published view; defaults are left out."""
    known = {field.name: getattr(view, field.name) for field in _LEARNED}
    return {field.name: known[field.name] for field in _LEARNED if known[field.name] != _default(field)}


def learned_from_json(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The result of :func:`learned`, read back from JSON. Raises ``msgspec.ValidationError`` for anything else."""
    return {field.name: msgspec.convert(facts[field.name], _TYPES[field.name]) for field in _LEARNED if field.name in facts}


def _default(field: Any) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def arrivals(batches: Iterable[AdmitBatch], now_ms: int) -> dict[str, LaneView]:
    """The jobs that are about to be admitted, as lanes, so that the same step can assign them."""
    views: dict[str, Any] = {}
    for batch in batches:
        for decision in batch.decisions:
            if isinstance(decision, Admitted) and decision.due_ms is None:
                counted = views.get(decision.lane)
                if counted is None:
                    views[decision.lane] = [1, decision.cost_ms, decision.deadline_ms]
                else:
                    counted[0] += 1
    return {
        name: LaneView(name, parse_lane(name), depth, cost_ms, now_ms, deadline_ms, now_ms * 1000)
        for name, (depth, cost_ms, deadline_ms) in views.items()
    }
