"""Checks that a Redis server is fit to carry jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast

import redis

VERSION_MIN: Final = (6, 2)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself, and what is wrong with it, in sentences."""

    version: str
    maxmemory_policy: str
    append_only: bool
    snapshots: bool
    problems: list[str] = field(default_factory=list)
    """Why nothing may run on it."""
    refusals: list[str] = field(default_factory=list)
    """Why it takes no writes now. That may end, so a process may wait."""
    warnings: list[str] = field(default_factory=list)
    """What may cost jobs."""
    unread: list[str] = field(default_factory=list)
    """Options that it refuses to show."""


def read_server_facts(client: redis.Redis) -> ServerFacts:
    """Ask the server. A managed Redis that forbids CONFIG still answers INFO."""
    info = client.info("everything")
    version = str(info.get("valkey_version") or info.get("redis_version") or "0.0")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    append_only = bool(info.get("aof_enabled"))
    unread: list[str] = []
    snapshots = bool(_config(client, "save", unread))
    facts = ServerFacts(version, policy, append_only, snapshots, unread=unread)
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if number < VERSION_MIN:
        facts.problems.append(f"Redis is {version}: this needs 6.2 or later, or Valkey")
    if policy != "noeviction":
        facts.problems.append(
            f"maxmemory-policy is {policy}: Redis would throw jobs away when it is full; set it to noeviction"
        )
    if not append_only:
        facts.warnings.append(
            "appendonly is no: jobs that wait are lost when Redis ends"
            + (", but for those in its last snapshot" if snapshots else "")
            + "; set it to yes"
        )
    elif _config(client, "appendfsync", unread) == "no":
        facts.warnings.append("appendfsync is no: half a minute of jobs and results is lost when the machine ends; set it to everysec")
    facts.refusals.extend(_refusals(info))
    if int(info.get("connected_slaves", 0)) and _config(client, "min-replicas-to-write", unread) == "0":
        facts.warnings.append(
            "min-replicas-to-write is 0: a master that is cut off from its replicas goes on taking jobs, all of which are lost after a "
            "failover; set it to 1"
        )
    return facts


def _refusals(info: dict[str, Any]) -> Iterator[str]:
    """Why the server takes no writes now."""
    if info.get("role") == "slave":
        yield "this Redis is a replica, which takes no writes: name the master, or the sentinels that know it"
    for what, field_name in (("append-only file", "aof_last_write_status"), ("snapshot", "rdb_last_bgsave_status")):
        if info.get(field_name, "ok") != "ok":
            yield f"the last write of its {what} failed, and it may refuse all others: look at its disk and its log"
    limit_bytes, used_bytes = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if 0 < limit_bytes <= used_bytes:
        yield f"it is full: {used_bytes} bytes of maxmemory {limit_bytes} are used; make room, or raise maxmemory"


def _config(client: redis.Redis, name: str, unread: list[str]) -> str | None:
    """An option of the server; ``None`` if it refuses to show options, as most managed servers do: then ``unread`` gets
    the name.
    """
    try:
        return cast("dict[str, str]", client.config_get(name)).get(name)
    except redis.ResponseError:
        unread.append(name)
        return None
