"""A look: what the leading dispatcher knows of the cell at one instant, as the scripts ``snapshot`` and
``read_ingress`` tell it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple, TypedDict

import msgspec

from dispatcher.core.facts.every import waits_since_ms
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import LaneView
from dispatcher.errors import Invalid
from dispatcher.store.frame import deadline_of
from dispatcher.store.leader.admit_batch import IngressList


class WorkerRow(NamedTuple):
    """A worker's row of the snapshot; :class:`~dispatcher.core.facts.snapshot.WorkerView` adds its registration."""

    epoch: str
    beat_age_ms: int
    """Below 0 if Redis' clock was set back after the beat; 0 if the life has ended."""
    draining: str
    """``""``, ``"exit"`` or ``"keep"``."""
    consume_age_ms: int
    """How long ago the worker last asked for jobs, as of its last beat."""
    leases: int
    leased_cost_ms: int
    taken: int
    """How many of the leases it has started."""
    done: int
    """Jobs it has done in this life."""
    loop_lag_ms: int
    ended: str | None
    """Why the life ended; ``None`` while it lasts."""


class Look(msgspec.Struct, frozen=True):
    """A cell at one instant."""

    now_ms: int
    """Redis' time."""
    leads: bool
    """The store that looked holds the lead."""
    paused: frozenset[str]
    """Ingress queues, or ``*`` for all."""
    lanes: tuple[LaneView, ...]
    workers: tuple[WorkerRow, ...]
    next_due_ms: int | None
    """When the next scheduled job is due."""
    leased_ms: dict[str, int]
    """Lane → cost of its jobs that are leased; empty unless it was asked for."""
    messages: dict[int, list[bytes]]
    """Index of an ingress list → its next raw messages, next first."""
    unreadable: tuple[str, ...] = ()
    """In words: lanes whose name or first job is malformed, and keys of lanes and workers that are of another type.

    These lanes and workers are left out.
    """


class LookAt(TypedDict):
    """How much a look reads; see :meth:`LookStore.look <dispatcher.store.leader.look_store.LookStore.look>`."""

    limit: int
    message_bytes_max: int
    by_lane: bool


@dataclass(frozen=True, slots=True)
class LookWish:
    """A look that is sent ahead: Redis takes it when the sender is woken up."""

    ingress: tuple[IngressList, ...]
    packed: bytes
    """The commands, as they go over the wire."""
    replies: int
    """How many replies they get."""


class Granted(msgspec.Struct, frozen=True):
    """A wish, and the replies to it."""

    wish: LookWish
    replies: Sequence[Any]

    def look(self, ingress: Sequence[IngressList]) -> Look | None:
        """The look; ``None`` if it is of other lists, or if Redis could not take it: a restarted Redis has no scripts."""
        if self.wish.ingress != tuple(ingress) or any(isinstance(reply, Exception) for reply in self.replies):
            return None
        return as_look(ingress, *self.replies)


def parts_of(snapshot: list[Any]) -> tuple[Any, ...]:
    """The reply of the script ``snapshot`` in parts: now_ms, leads, next_due_ms or "", paused, lanes, workers, leased,
    unreadable.
    """
    parts: list[Any] = snapshot[:3]
    at = 8
    for size in snapshot[3:8]:
        parts.append(snapshot[at : at + size])
        at += size
    return tuple(parts)


def _by_list(reply: list[Any], lists: int) -> dict[int, list[bytes]]:
    """The reply of the script ``read_ingress``: index of each list that is not empty → its messages."""
    messages, at = {}, lists
    for index in range(lists):
        if size := reply[index]:
            messages[index] = reply[at : at + size]
            at += size
    return messages


def as_look(ingress: Sequence[IngressList], snapshot: list[Any], messages: list[Any] | None = None) -> Look:
    """A look, from the replies of the scripts ``snapshot`` and ``read_ingress``."""
    now_ms, leads, next_due, paused, lanes, workers, leased, foreign_keys = parts_of(snapshot)
    views: list[LaneView] = []
    unreadable = [f"key {key.decode(errors='backslashreplace')!r}" for key in foreign_keys]
    for i in range(0, len(lanes), 3):
        try:
            views.append(_lane_view(now_ms, *lanes[i : i + 3]))
        except (Invalid, ValueError):
            unreadable.append(f"lane {lanes[i].decode(errors='backslashreplace')!r}")
    return Look(
        now_ms=now_ms,
        leads=bool(leads),
        paused=frozenset(name.decode(errors="replace") for name in paused),
        lanes=tuple(views),
        # What is not alphanumeric is no epoch.
        workers=tuple(_worker_row(*workers[i : i + 10]) for i in range(0, len(workers), 10) if workers[i].isalnum()),
        next_due_ms=_due_ms(next_due),
        leased_ms={leased[i].decode(errors="backslashreplace"): leased[i + 1] for i in range(0, len(leased), 2)},
        messages=_by_list(messages, len(ingress)) if messages else {},
        unreadable=tuple(unreadable),
    )


def _due_ms(score: bytes) -> int | None:
    due_ms = float(score or "inf")
    return int(due_ms) if isfinite(due_ms) else None if due_ms > 0 else 0


def _lane_view(now_ms: int, name: bytes, depth: int, frame: bytes) -> LaneView:
    text, since_ms = name.decode(), int(frame[16:29])
    if since_ms > now_ms:
        since_ms = waits_since_ms(since_ms, now_ms)
    return LaneView(text, parse_lane(text), depth, int(frame[29:38]), since_ms, deadline_of(frame), int(frame[:16]))


def _worker_row(
    epoch: bytes, beat_age: int, draining: bytes, consume_age: int, leases: int, cost: int, taken: int, done: int, lag: int,
    ended: bytes,
) -> WorkerRow:  # fmt: skip
    drains, reason = draining.decode(errors="replace"), ended.decode(errors="replace") or None
    return WorkerRow(epoch.decode(), beat_age, drains, consume_age, leases, cost, taken, done, lag, reason)
