"""Where suspects run: jobs that may kill their workers (``core/poison.py``), each of which is to have a worker to itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.core.choosing.strategies.base import Filter
from dispatcher.core.facts.decisions import Hold
from dispatcher.core.facts.snapshot import LaneView, WorkerView, is_paused

SHARE: Final = 4
"""One worker in so many, and always one, may be kept for suspects at a time: they are rare, and the others have their work to do."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Where suspects go now. ``assign``: (lane, epoch), each for one job and an empty worker. ``emptying``: epochs that get nothing new,
    so that a suspect finds them empty. ``holds``: why the others wait.
    """

    assign: tuple[tuple[str, str], ...]
    emptying: frozenset[str]
    holds: tuple[Hold, ...]


def place_suspects(
    lanes: Iterable[LaneView],
    workers: Sequence[WorkerView],
    filters: Sequence[Filter],
    *,
    alone: Collection[str],
    emptying: Collection[str],
    paused: Collection[str] = (),
) -> Quarantine:
    """Give each suspect a worker of its own, the one that has waited longest first.

    ``alone``: epochs where a suspect runs now; ``emptying`` those that this said before, and keeps to, lest one after another be emptied
    for nobody. An empty worker is taken at once, the fastest; where there is none, the one that will be done soonest is emptied.
    """
    most = max(1, sum(worker.ended is None for worker in workers) // SHARE)
    kept = len(alone)
    assign: list[tuple[str, str]] = []
    chosen: set[str] = set()
    holds: list[Hold] = []
    for view in sorted(lanes, key=lambda one: one.job):
        if is_paused(view.lane.ingress, paused):
            holds.append(Hold(view.name, "paused", view.depth, {}))
            continue
        fit = [one for one in workers if all(by.refuses(view.lane, one) is None for by in filters)]
        free = [one for one in fit if one.epoch not in alone and one.epoch not in chosen]
        left = view.depth
        while left and free and kept + len(chosen) < most:
            one = min(free, key=lambda worker: _rank(worker, view.lane.model, emptying))
            free.remove(one)
            chosen.add(one.epoch)
            left -= 1
            if not one.leases:
                assign.append((view.name, one.epoch))
        waiting = view.depth - sum(name == view.name for name, _ in assign)
        if waiting:
            holds.append(Hold(view.name, "alone" if fit else "unroutable", waiting, {}))
    return Quarantine(tuple(assign), frozenset(chosen - {epoch for _, epoch in assign}), tuple(holds))


def _rank(worker: WorkerView, model: str, emptying: Collection[str]) -> tuple[bool, bool, float, str]:
    """Least first: empty, then being emptied, then the one that is done soonest; the fastest of the empty ones."""
    speed = worker.speed(model) * worker.concurrency
    return worker.leases > 0, worker.epoch not in emptying, worker.leased_cost_ms / speed if worker.leases else -speed, worker.epoch
