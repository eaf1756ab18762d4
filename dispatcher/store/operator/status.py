"""What ``dispatcher status`` shows: one cell at one instant, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import redis

from dispatcher.core.choosing.explain import in_words
from dispatcher.core.facts.evidence import Memory, WorkerTotals
from dispatcher.core.facts.lane import parse_lane
from dispatcher.errors import Invalid
from dispatcher.store.frame import parse_entry
from dispatcher.store.keys import Keys, text_names
from dispatcher.store.leader.leader_view import HeldLane, LeaderView, read_leader_info, read_leader_view
from dispatcher.store.leader.look import parts_of
from dispatcher.store.redis_client.connection import if_of_its_type
from dispatcher.store.registration import Registration, read_registration
from dispatcher.store.scripts.call import Scripts
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS

SNAPSHOT_WORKER_FIELDS = 10

NOBODY = Registration("", "", 0, 0)
"""Stands in for a registration that is missing or malformed."""

STATES = ("starting", "ready", "draining", "refused", "ejected", "left", "dead")
"""*starting*: registered, has not beaten yet. *refused*: it beats, but Redis refuses what its consumer needs. *left*:
its life has ended, and it said goodbye. *dead*: its life has ended otherwise.
"""

ENDED = ("left", "dead")
"""Those of a life that has ended. It is shown for a minute, or until a worker of its name lives or has ended later."""


def read_status(client: redis.Redis, scripts: Scripts, keys: Keys, queues: Sequence[str]) -> dict[str, Any]:
    """The cell as JSON, in a few round trips, whatever the number of jobs. ``client`` answers with text.

    ``queues``: ingress queues to count besides those that workers have named. ``ingress``, ``scheduled`` and ``dead``
    are counts of jobs; of those that are dead, ``unsettled`` have no state in the result backend yet. A worker's
    ``leased`` includes ``running``; its ``resident`` models are ``null`` and its ``threads`` (of each slot) 0 if it
    does not say. ``leader`` is ``null`` or has the ``host`` and ``pid`` of the leading dispatcher. Facts that only the
    leader knows are up to a second old, and missing while none leads: ``why`` a lane's jobs wait, ``unroutable`` (lanes
    that no worker may serve, for ``unroutable_after_s``), and a worker's ``window``, measured ``speeds``, ``warmth``,
    and why it is ``ejected``. ``unreadable`` names keys that hold what no version of this package has written; they are
    passed over. A worker's ``refused`` is Redis' own sentence while its consumer cannot work for it.
    """
    names = [keys.leader, keys.lanes, keys.workers, keys.paused, keys.scheduled]
    snapshot = scripts("snapshot", names, ["", keys.lane_prefix.removesuffix("lane:"), ALIVE_TTL_MS, ""])
    now_ms, _, _, _, lanes, workers, _, unreadable = parts_of(snapshot)
    all_rows = [workers[i : i + SNAPSHOT_WORKER_FIELDS] for i in range(0, len(workers), SNAPSHOT_WORKER_FIELDS)]
    rows = {row[0]: row for row in all_rows if row[0].isascii() and row[0].isalnum()}  # nothing else is an epoch
    with client.pipeline(transaction=False) as pipe:
        pipe.exists(keys.leader)
        pipe.zcard(keys.scheduled)
        pipe.zcard(keys.dead_letters)
        pipe.smembers(keys.ingress_queues)
        pipe.zrange(keys.gone, 0, -1)
        leads, scheduled, dead, named, gone = pipe.execute()
    view = (read_leader_view(client, keys) if leads else None) or LeaderView("")
    holds = {hold.lane: hold for hold in view.holds}
    epochs = [*rows, *(epoch for epoch in reversed(gone) if epoch not in rows)]  # that which ended last first
    lists = [key for queue in sorted({*queues, *text_names(named)}) for key in keys.ingress(queue)]
    with client.pipeline(transaction=False) as pipe:
        for key in lists:
            pipe.llen(key)
        for epoch in epochs:
            pipe.hgetall(keys.worker(epoch))
        pipe.hgetall(keys.totals)
        replies = pipe.execute()
    totals = replies[-1]
    reasons = _read_reasons(client, keys, [epoch for epoch in epochs if epoch not in rows])
    shown: list[dict[str, Any]] = []
    for epoch, facts in zip(epochs, replies[len(lists) : -1], strict=True):
        row, registration = rows.get(epoch), read_registration(facts.get("registration"))
        if registration is None and row is not None and not row[9]:
            unreadable.append(keys.worker(epoch))
        if facts:
            reason = reasons.get(epoch) if row is None else row[9]
            learned = view.workers.get(epoch, {})
            shown.append(_worker(epoch, row, facts, registration or NOBODY, totals.get(epoch), learned, reason))
    shown_lanes: list[dict[str, Any]] = []
    for i in range(0, len(lanes), 3):
        try:
            shown_lanes.append(_lane(lanes[i : i + 3], now_ms, holds))
        except (Invalid, ValueError):
            unreadable.append(keys.lane(lanes[i]))
    return {
        "leader": read_leader_info(client, keys) if leads else None,
        "ingress": sum(replies[: len(lists)]),
        "scheduled": scheduled,
        "dead": dead,
        "unsettled": count_unsettled(client, keys),
        "unroutable": view.unroutable,
        "unreadable": sorted(key.encode(errors="surrogateescape").decode(errors="backslashreplace") for key in unreadable),
        "lanes": sorted(shown_lanes, key=lambda lane: str(lane["lane"])),
        "workers": sorted(
            _without_former(shown), key=lambda worker: (worker["state"] in ENDED, worker["name"], worker["epoch"])
        ),
    }


def _read_reasons(client: redis.Redis, keys: Keys, epochs: Sequence[str]) -> dict[str, str]:
    """Epoch → why that life ended, of those that are forgotten already; another program's key says nothing."""
    with client.pipeline(transaction=False) as pipe:
        for epoch in epochs:
            pipe.get(keys.dead(epoch))
        replies = pipe.execute(raise_on_error=False)
    return {epoch: reply for epoch, reply in zip(epochs, replies, strict=True) if isinstance(reply, str)}


def _without_former(workers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``workers``, those that ended last first, without lives that have ended and have a successor of their name: it
    lives, or has ended later. What an ended life still owes goes back in line, whoever has its name.
    """
    names = {worker["name"] for worker in workers if worker["state"] not in ENDED}
    kept = []
    for worker in workers:
        if worker["state"] in ENDED:
            if worker["name"] in names:
                continue
            names.add(worker["name"])
        kept.append(worker)
    return kept


def count_unsettled(client: redis.Redis, keys: Keys) -> int:
    """How many dead letters have no state in the result backend yet."""
    return cast("int", if_of_its_type(lambda: client.scard(keys.unsettled)) or 0)


def _lane(row: Sequence[Any], now_ms: int, holds: Mapping[str, HeldLane]) -> dict[str, Any]:
    name, depth, frame = row
    parse_lane(name)
    oldest_s = max(0.0, round((now_ms - parse_entry(frame).admitted_ms) / 1000, 3))
    return {"lane": name, "depth": depth, "oldest_s": oldest_s, "why": _why(holds.get(name))}


def _why(hold: HeldLane | None) -> dict[str, Any] | None:
    if hold is None:
        return None
    return {
        "reason": hold.reason,
        "text": in_words(hold.reason, hold.refusals),
        "refusals": {kind: {"workers": count, "example": example} for kind, (count, example) in hold.refusals.items()},
        "waits_for": hold.waits_for,
        "unroutable_s": hold.unroutable_s,
    }


def _worker(
    epoch: str, row: Sequence[Any] | None, facts: dict[str, str], registration: Registration, totals: str | None,
    learned: Mapping[str, Any], reason: str | None,
) -> dict[str, Any]:  # fmt: skip
    """``reason``: why its life has ended, where it has."""
    memory = _memory(totals)
    resident = memory.resident if memory is not None else registration.resident
    alive = row is not None and not row[9]
    if not alive:
        state = "left" if reason == "goodbye" else "dead"
    elif facts.get("refused"):
        state = "refused"
    elif facts.get("draining"):
        state = "draining"
    elif "done" not in facts:
        state = "starting"
    elif learned.get("ejected"):
        state = "ejected"
    else:
        state = "ready"
    return {
        "name": registration.name or epoch,
        "epoch": epoch,
        "state": state,
        "weight": registration.weight,
        "concurrency": registration.concurrency,
        "threads": registration.threads,
        "leased": row[4] if row is not None else 0,
        "running": row[6] if row is not None else 0,
        "done": _count(facts.get("done", "")),
        "failed": _count(facts.get("failed", "")),
        "window": learned.get("window"),
        "speeds": learned.get("speeds", {}),
        "warmth": learned.get("warmth", 1.0),
        "ejected": learned.get("ejected", ""),
        "refused": facts.get("refused", "") if alive else "",
        "beat_age_s": round(max(0, row[1]) / 1000, 3) if alive and row is not None else None,
        "pid": registration.pid,
        "models": list(registration.models),
        "resident": None if resident is None else list(resident),
        "models_max": registration.models_max,
        "labels": registration.labels,
    }


def _memory(totals: str | None) -> Memory | None:
    try:
        return msgspec.json.decode(totals.encode(errors="surrogateescape"), type=WorkerTotals).memory if totals else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0
