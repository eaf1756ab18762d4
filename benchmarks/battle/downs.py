"""How long workers were down: from the end of one process to the registration of the next one in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.battle.faults import Done
from benchmarks.battle.field import Restart
from benchmarks.battle.fight import Life

SUPERVISED_MS = 1000
"""A process is started again by then; the rest of the time that a worker is down is its restart's."""


@dataclass(frozen=True, slots=True)
class Down:
    """A worker ended, and there was none in its place for ``down_ms``."""

    name: str
    ended_ms: int
    down_ms: int
    """-1: the next one did not register, and nothing had been done to it."""
    restart_ms: int
    """How long the process took from its start to its registration that then was there."""

    @property
    def is_wrong(self) -> bool:
        """True if it was down for longer than its restart took."""
        return self.down_ms < 0 or self.down_ms > self.restart_ms + SUPERVISED_MS


def downs_of(restarts: Sequence[Restart], lives: Sequence[Life], faults: Sequence[Done]) -> list[Down]:
    """Of each end of a worker that had registered. A successor that was hit before it had registered, or whose restart Redis' absence
    made fail, is passed over for its own successor: what was done to it is no fault of the jobs.
    """
    registered = {life.pid: life.registered_ms for life in lives}
    next_of = {restart.before: restart for restart in restarts}
    downs = []
    for restart in restarts:
        if restart.before not in registered:
            continue
        since_ms, there = restart.ended_ms, restart
        while there.pid not in registered:
            following = next_of.get(there.pid)
            if following is None or not _was_hit(there, following, faults):
                break
            since_ms, there = following.ended_ms, following
        at_ms = registered.get(there.pid)
        spans = (-1, 0) if at_ms is None else (at_ms - since_ms, at_ms - there.started_ms)
        downs.append(Down(restart.name, restart.ended_ms, *spans))
    return downs


def _was_hit(restart: Restart, following: Restart, faults: Sequence[Done]) -> bool:
    """True if something was done to this process before it ended, or to Redis meanwhile."""
    return any(
        restart.pid in fault.pids or (not fault.pids and fault.at_ms <= following.ended_ms and fault.until_ms >= restart.started_ms)
        for fault in faults
    )
