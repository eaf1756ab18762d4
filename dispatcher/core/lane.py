"""A lane: one kind of job that is waiting. Jobs of a lane may go to the same workers and cost about the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

from dispatcher.errors import Invalid


@dataclass(frozen=True, slots=True)
class Lane:
    """``size_class`` is the bit length of the cost in ms: jobs of one class differ by less than a factor of two.

    ``step`` is kombu's priority step (0, 3, 6, 9 by default; 0 is served first). ``model`` is ``default`` where the job names none.
    """

    ingress: str
    task: str
    model: str
    step: int
    size_class: int


def lane_name(lane: Lane) -> str:
    """The lane's name in Redis, Flower, logs and ``status``: ``dispatch/workers.tasks.infer/minilm/p0/c10``."""
    return (
        f"{quote(lane.ingress, safe='')}/{quote(lane.task, safe='')}/{quote(lane.model, safe='@')}"
        f"/p{lane.step}/c{lane.size_class}"
    )


@lru_cache(maxsize=65536)
def parse_lane(name: str) -> Lane:
    """The lane of that name. Raises :class:`Invalid` if it is no lane's name."""
    try:
        ingress, task, model, step, size_class = name.split("/")
        if step[0] != "p" or size_class[0] != "c":
            raise ValueError
        return Lane(unquote(ingress), unquote(task), unquote(model), int(step[1:]), int(size_class[1:]))
    except (ValueError, IndexError):
        raise Invalid(f"{name!r} is not the name of a lane") from None


def size_class(cost_ms: int) -> int:
    """The class of a cost: 0 for nothing, else 1 + the power of two below it."""
    return cost_ms.bit_length()
