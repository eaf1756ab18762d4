"""The leader's view: the leading dispatcher publishes why lanes wait, and what it has learned of each worker.

It is only shown, never acted on, and expires with its leader.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import redis

from dispatcher.store.frame import read_record
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import if_of_its_type

EXPIRES_MS: Final = 6_000


class HeldLane(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why the jobs of a lane wait."""

    lane: str
    reason: str
    refusals: dict[str, tuple[int, str]] = {}
    """Filter → how many workers it refuses, and an example. Left empty if the view would become too large."""
    waits_for: dict[str, int] = {}
    """Worker → how many of the jobs wait for it."""
    unroutable_s: float = 0.0
    """For how long no worker may run these jobs."""


class LeaderView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the leader publishes."""

    strategy: str
    holds: tuple[HeldLane, ...] = ()
    holds_left_out: int = 0
    """Lanes that wait too, and are not in ``holds``."""
    unroutable: int = 0
    """Lanes that no worker may serve, for longer than ``unroutable_after_s``."""
    workers: dict[str, dict[str, Any]] = {}
    """Epoch → fields of ``WorkerView`` that only the leader knows."""
    load_ms: dict[str, int] = {}
    """Model → time to load it."""


def read_leader_view(client: redis.Redis, keys: Keys) -> LeaderView | None:
    """The view that was published last; ``None`` if no dispatcher leads, or the view is of another version."""
    text = if_of_its_type(lambda: client.get(keys.leader_view))
    try:
        return None if text is None else msgspec.json.decode(text, type=LeaderView)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def read_leader_info(client: redis.Redis, keys: Keys) -> dict[str, Any]:
    """Host and pid of the leading dispatcher; empty if none leads, or the record cannot be read."""
    return read_record(if_of_its_type(lambda: client.hget(keys.leader_info, "info")))
