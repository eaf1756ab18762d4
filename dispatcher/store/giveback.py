"""Ends leases without an ack: how a :class:`GiveBack` goes to the script ``giveback``, from a worker, the leader, or an
operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from dispatcher.core.returns.ending import DEADLINE_PASSED, LATE, GiveBack
from dispatcher.store.keys import Keys

GIVEBACK_MAX: Final = 500
"""Leases that one call may end."""

STORY_TTL_MS: Final = 7 * 24 * 3600 * 1000

LATE_REASON: Final = msgspec.json.encode({"reason": DEADLINE_PASSED, "detail": LATE})
"""Why a job whose deadline has passed is buried, as the scripts take it."""


def give_back(
    run: Callable[[str, list[str], list[Any]], Any], keys: Keys, epoch: str, leases: Sequence[GiveBack], *, guard: str,
    guard_value: str = "", delay_ms: int = 0,
) -> int:  # fmt: skip
    """End leases of the worker life ``epoch``, at most :data:`GIVEBACK_MAX`. Returns how many were ended, or -1 if
    Redis refused.

    Redis refuses unless the key ``guard`` holds ``guard_value``; empty: unless that key exists. A worker is guarded by
    its life, the leader by its lead. The first wait of a rejected job is ``delay_ms``; 0: it goes back in line at once.
    """
    names = [
        guard, keys.leases(epoch), keys.taken(epoch), keys.worker_queue(epoch), keys.lanes, keys.scheduled,
        keys.dead_letters, keys.dead_reasons, keys.unsettled, keys.wake, keys.messages,
    ]  # fmt: skip
    args: list[Any] = [guard_value, keys.lane_prefix, delay_ms, keys.story_prefix, STORY_TTL_MS]
    return int(run("giveback", names, [*args, *(part for lease in leases for part in _args(lease))]))


def _args(lease: GiveBack) -> tuple[str, str, int, str, str, str]:
    """A lease as ``giveback.lua`` takes it."""
    reason = msgspec.json.encode({"reason": lease.reason, "detail": lease.detail}).decode()
    attempt = msgspec.json.encode(lease.attempt).decode() if lease.attempt is not None else ""
    return lease.lease_id, lease.counter, lease.bury_at, reason, attempt, "1" if lease.suspect else lease.lane
