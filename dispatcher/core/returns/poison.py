"""A job whose worker dies with it: who is to blame, and the story that is told of it.

A worker that dies takes along all it was running, and from outside nobody can say which of them killed it. So nobody is
blamed for a death that was shared. A job that died with its workers so often that one more death would bury it is a
*suspect*: it runs alone, with no other job in its worker, and only what dies alone is buried.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run that ended with its worker or its process, as the job's story has it; Redis adds when it began and ended."""

    worker: str
    epoch: str
    how: str
    """How it ended, in words."""
    alone: bool
    """True if the worker was running nothing else."""


class Fate(Enum):
    """What becomes of a job that was running when its worker, or its process there, died."""

    AGAIN = "again"
    """It runs again as any other."""
    ALONE = "alone"
    """It runs again, with no other job in its worker."""
    BURIED = "buried"
    """It is to blame."""


def fate(deaths: int, *, alone: bool, attempts_max: int) -> Fate:
    """``deaths`` counts this one too; ``alone``: the worker was running nothing else. The last of its runs is always
    one alone.
    """
    if alone and deaths >= attempts_max:
        return Fate.BURIED
    return Fate.ALONE if deaths >= attempts_max - 1 else Fate.AGAIN


def story_text(story: Iterable[Any], *, first: int = 1) -> str:
    """A story in words, for the text of an error: ``run 1 on w1@h (life 5a…), 12:00:00 to 12:00:07 UTC: its process
    died; …``.
    """
    return "; ".join(f"run {number} {_line(run)}" for number, run in enumerate(story, start=first) if isinstance(run, dict))


def _line(run: dict[str, Any]) -> str:
    beside = ", alone" if run.get("alone") else ""
    times = " to ".join(_time(run[name]) for name in ("began_ms", "ended_ms") if isinstance(run.get(name), int))
    return f"on {run.get('worker')} (life {run.get('epoch')}){beside}, {times} UTC: {run.get('how')}"


def _time(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
    except (ValueError, OverflowError, OSError):  # no date has that number
        return "?"
