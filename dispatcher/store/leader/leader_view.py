"""What the leading dispatcher tells those who look: why lanes wait, and what it has learned of each worker.

Only shown, never acted on; it expires with its leader.
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
    """Why jobs of a lane wait. ``refusals``: filter → how many workers it keeps from them, and an example; empty where there is too much
    to tell. ``waits_for``: worker → how many of the jobs wait for it. ``unroutable_s``: for how long no worker may have had them.
    """

    lane: str
    reason: str
    refusals: dict[str, tuple[int, str]] = {}
    waits_for: dict[str, int] = {}
    unroutable_s: float = 0.0


class LeaderView(msgspec.Struct, frozen=True, omit_defaults=True):
    """``workers``: epoch → fields of ``WorkerView`` that only the leader knows. ``load_ms``: model → time to
    load it. ``unroutable``: how many lanes have been so for longer than ``unroutable_after_s``. ``holds_left_out``: of so many more lanes
    nothing is told.
    """

    strategy: str
    holds: tuple[HeldLane, ...] = ()
    holds_left_out: int = 0
    unroutable: int = 0
    workers: dict[str, dict[str, Any]] = {}
    load_ms: dict[str, int] = {}


def read_leader_view(client: redis.Redis, keys: Keys) -> LeaderView | None:
    """What the leader told last; ``None`` where no dispatcher leads, or it is another version's."""
    text = if_of_its_type(lambda: client.get(keys.leader_view))
    try:
        return None if text is None else msgspec.json.decode(text, type=LeaderView)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def read_leader_info(client: redis.Redis, keys: Keys) -> dict[str, Any]:
    """Host and pid of the leading dispatcher; empty where none leads, or it cannot be read."""
    return read_record(if_of_its_type(lambda: client.hget(keys.leader_info, "info")))
