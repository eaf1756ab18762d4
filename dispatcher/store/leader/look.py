"""A look: what the leading dispatcher knows of the cell at one instant, as the scripts ``snapshot`` and ``read_ingress`` tell it."""

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
    """A worker's line of the snapshot; :class:`~dispatcher.core.facts.snapshot.WorkerView` adds its registration."""

    epoch: str
    beat_age_ms: int
    draining: str
    consume_age_ms: int
    leases: int
    leased_cost_ms: int
    taken: int
    done: int
    loop_lag_ms: int
    ended: str | None


class Look(msgspec.Struct, frozen=True):
    """What one look found. ``messages``: per ingress list (its index) the next raw messages, next first. ``leased_ms``: cost by
    lane, where it was asked for. ``unreadable``: in words, lanes whose name or first job is none of ours, and keys of lanes and workers of
    another type; these lanes and workers are left out.
    """

    now_ms: int
    leads: bool
    paused: frozenset[str]
    lanes: tuple[LaneView, ...]
    workers: tuple[WorkerRow, ...]
    next_due_ms: int | None
    leased_ms: dict[str, int]
    messages: dict[int, list[bytes]]
    unreadable: tuple[str, ...] = ()


class LookAt(TypedDict):
    """How much a look reads; see :meth:`DispatchStore.look`."""

    limit: int
    message_bytes_max: int
    by_lane: bool


@dataclass(frozen=True, slots=True)
class LookWish:
    """Commands that make a look of these lists, and how many replies they get."""

    ingress: tuple[IngressList, ...]
    packed: bytes
    replies: int


class Granted(msgspec.Struct, frozen=True):
    """A wish, and the replies to it."""

    wish: LookWish
    replies: Sequence[Any]

    def look(self, ingress: Sequence[IngressList]) -> Look | None:
        """What it found; ``None`` if it is one of other lists, or Redis could not run it (it was restarted: it has no scripts)."""
        if self.wish.ingress != tuple(ingress) or any(isinstance(reply, Exception) for reply in self.replies):
            return None
        return as_look(ingress, *self.replies)


def parts_of(snapshot: list[Any]) -> tuple[Any, ...]:
    """What the script ``snapshot`` returned, taken apart: now_ms, leads, next_due_ms or "", paused, lanes, workers, leased, unreadable."""
    parts: list[Any] = snapshot[:3]
    at = 8
    for size in snapshot[3:8]:
        parts.append(snapshot[at : at + size])
        at += size
    return tuple(parts)


def _by_list(found: list[Any], lists: int) -> dict[int, list[bytes]]:
    """What ``read_ingress`` returned: messages by the index of their list, without the empty ones."""
    messages, at = {}, lists
    for index in range(lists):
        if size := found[index]:
            messages[index] = found[at : at + size]
            at += size
    return messages


def as_look(ingress: Sequence[IngressList], snapshot: list[Any], found: list[Any] | None = None) -> Look:
    """What the two scripts returned about these lists, read."""
    now_ms, leads, next_due, paused, lanes, workers, leased, others = parts_of(snapshot)
    views: list[LaneView] = []
    unreadable = [f"key {key.decode(errors='backslashreplace')!r}" for key in others]
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
        messages=_by_list(found, len(ingress)) if found else {},
        unreadable=tuple(unreadable),
    )


def _due_ms(score: bytes) -> int | None:
    due_ms = float(score or "inf")
    return int(due_ms) if isfinite(due_ms) else None if due_ms > 0 else 0


def _lane_view(now_ms: int, name: bytes, depth: int, frame: bytes) -> LaneView:
    text, since_ms = name.decode(), waits_since_ms(int(frame[16:29]), now_ms)
    return LaneView(text, parse_lane(text), depth, int(frame[29:38]), since_ms, deadline_of(frame), int(frame[:16]))


def _worker_row(
    epoch: bytes, beat_age: int, draining: bytes, consume_age: int, leases: int, cost: int, taken: int, done: int, lag: int,
    ended: bytes,
) -> WorkerRow:  # fmt: skip
    drains, reason = draining.decode(errors="replace"), ended.decode(errors="replace") or None
    return WorkerRow(epoch.decode(), beat_age, drains, consume_age, leases, cost, taken, done, lag, reason)
