"""Whether a Redis server is fit to carry jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, cast

import redis

VERSION_MIN: Final = (6, 2)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself, and what is wrong with that: ``problems`` forbid running on it, ``warnings`` do not."""

    version: str
    maxmemory_policy: str
    append_only: bool
    snapshots: bool
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_server_facts(client: redis.Redis) -> ServerFacts:
    """Ask the server. INFO answers where a managed Redis forbids CONFIG."""
    info = client.info("everything")
    version = str(info.get("valkey_version") or info.get("redis_version") or "0.0")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    append_only = bool(info.get("aof_enabled"))
    snapshots = _saves(client)
    facts = ServerFacts(version, policy, append_only, snapshots)
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
    return facts


def _saves(client: redis.Redis) -> bool:
    try:
        return bool(cast("dict[str, str]", client.config_get("save")).get("save"))
    except redis.ResponseError:
        return False
