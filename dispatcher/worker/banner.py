"""What a worker says of itself in its log when it starts, so that nobody has to guess that it is a dispatched one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from dispatcher.worker.options import WorkerOptions
from dispatcher.worker.threads import ThreadLimit

LISTED_MAX: Final = 10
"""So many queues, models or labels are named; of the others, how many there are."""


def banner(cell: str, queues: Iterable[str], options: WorkerOptions, limit: ThreadLimit) -> str:
    """One line: the cell, the queues whose jobs this worker is given, what it says of itself, its thread policy."""
    models = _listed("models", options.models) + (
        f" (at most {options.models_max} in memory)" if options.models_max else ""
    )
    facts = (
        _listed("queues", queues),
        f"weight {options.weight:g}",
        models,
        _listed("labels", _pairs(options.labels)),
        str(limit),
    )
    return f"attached to cell {cell}: {'; '.join(facts)}"


def _pairs(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in labels.items()]


def _listed(what: str, names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - LISTED_MAX
    return (
        f"{what} {', '.join(names[:LISTED_MAX])}" + (f" and {more} more" if more > 0 else "") if names else f"no {what}"
    )
