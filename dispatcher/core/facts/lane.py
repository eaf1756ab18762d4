"""A lane: one kind of job that is waiting. Jobs of a lane may go to the same workers, cost about the same, and are
served in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from dispatcher.core.facts import labels
from dispatcher.core.facts.header import DEFAULT_TENANT
from dispatcher.core.facts.labels import NOTHING, Wanted
from dispatcher.errors import Invalid

SLOTS: Final = 2048
"""Hash buckets of sessions and prefixes: stickiness splits a lane into at most so many. Few slots spread unevenly over
workers: of eight workers the busiest had up to 1.4 times the mean work with 256 slots (two Mooncake traces, ten fleets
with different names), 1.24 with 2,048, and 1.17 with 4,096, whose lanes cost a plan twice as much in a backlog.
"""

ALONE: Final = "/alone=1"
"""The end of the name of a suspects' lane, after all else: ``lua/giveback.lua`` appends it."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What the jobs of a lane have in common."""

    ingress: str
    """The queue that they came through."""
    task: str
    model: str
    """:data:`~dispatcher.core.facts.header.DEFAULT_MODEL` if they name none."""
    step: int
    """kombu's priority step (0, 3, 6, 9 by default); 0 is served first."""
    size_class: int
    """Bit length of the cost in ms: costs of one class differ by less than a factor of two."""
    tenant: str = DEFAULT_TENANT
    requires: Wanted = field(default=NOTHING)
    """Labels that their worker must have."""
    prefers: Wanted = field(default=NOTHING)
    """Labels that their worker had better have."""
    slot: int = -1
    """Hash bucket of their session or prefix, below ``SLOTS``; -1 if they have neither."""
    deadline_class: int = 0
    """Bit length of the ms from admission to the deadline; 0 without a deadline."""
    alone: bool = False
    """The jobs are suspects, which run alone in their worker (``core/returns/poison.py``); only ``giveback`` puts jobs
    there.
    """


def lane_name(lane: Lane) -> str:
    """The lane's name in Redis, Flower, logs and ``status``: ``dispatch/workers.tasks.infer/minilm/p0/c10``.

    It goes on with what its jobs ask for, if they do: ``/tenant=acme``, ``/requires=region=eu``, ``/prefers=…``,
    ``/slot=17``, ``/deadline=12``, ``/alone=1``.
    """
    return (
        f"{quote(lane.ingress, safe='')}/{quote(lane.task, safe='')}/{quote(lane.model, safe='@')}"
        f"/p{lane.step}/c{lane.size_class}{name_end(lane.tenant, lane.requires, lane.prefers, lane.slot, lane.deadline_class)}"
        f"{ALONE if lane.alone else ''}"
    )


def name_end(tenant: str, requires: Wanted, prefers: Wanted, slot: int, deadline_class: int) -> str:
    """The end of a lane's name: nothing for what its jobs do not ask for."""
    end = ""
    if tenant != DEFAULT_TENANT:
        end += f"/tenant={quote(tenant, safe='')}"
    if requires:
        end += f"/requires={labels.to_text(requires)}"
    if prefers:
        end += f"/prefers={labels.to_text(prefers)}"
    if slot >= 0:
        end += f"/slot={slot}"
    if deadline_class:
        end += f"/deadline={deadline_class}"
    return end


@lru_cache(maxsize=65536)
def parse_lane(name: str) -> Lane:
    """The lane with this name. Raises :class:`Invalid` if it is not the name of a lane."""
    try:
        ingress, task, model, step, size_class, *rest = name.split("/")
        if step[0] != "p" or size_class[0] != "c":
            raise ValueError
        more = dict(part.split("=", 1) for part in rest)
        lane = Lane(
            unquote(ingress),
            unquote(task),
            unquote(model),
            int(step[1:]),
            int(size_class[1:]),
            unquote(more.pop("tenant", DEFAULT_TENANT)),
            labels.from_text(more.pop("requires", "")),
            labels.from_text(more.pop("prefers", "")),
            int(more.pop("slot", "-1")),
            int(more.pop("deadline", "0")),
            more.pop("alone", "0") == "1",
        )
        if more:
            raise ValueError
    except (ValueError, IndexError, Invalid):
        raise Invalid(f"{name!r} is not the name of a lane") from None
    return lane


def size_class(cost_ms: int) -> int:
    """The class of a cost: 0 for nothing, else 1 + the power of two below it."""
    return cost_ms.bit_length()
