"""Aliases: which version of a model a job gets. ``chat`` may be 95 % ``chat@1`` and 5 % ``chat@2``.

The line from 0 to ``POINTS`` is cut into ranges, each a version's. A session (or the task id of a job without a
session) stands at one point of the line for ever, by a hash, so a user stays on one side. How ranges change:
:mod:`~dispatcher.core.rollout.changes`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from dispatcher.core.facts.hashing import stable_hash
from dispatcher.core.facts.header import DEFAULT_MODEL, parse_header
from dispatcher.core.facts.message import read_routing

POINTS: Final = 10_000
"""The line is this long: shares are whole hundredths of a percent."""

Ranges = tuple[tuple[int, str], ...]
"""(upper end, version) of each range, in order; the last ends at ``POINTS``."""


class Guard(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a canary is watched."""

    baseline: str
    """The version that the candidate is compared with."""
    candidate: str
    """The canary."""
    steps: tuple[int, ...]
    """Shares, in points, still to come. Where the last is below ``POINTS``, the candidate stays there and is watched.
    """
    stages: int
    """At how many shares the candidate is watched in all."""
    step_s: float
    """Least time at each share."""
    jobs_min: int
    """Least runs of the candidate at each share."""
    latency_ratio: float
    """Roll back a candidate whose jobs take more than this many times as long; 0: its latency is not judged."""
    began_ms: int
    """When the guard began, by Redis' clock. It serves as the guard's name."""
    step_began_ms: int
    """When the candidate got its present share, by Redis' clock."""


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True):
    """One alias."""

    ranges: Ranges
    """Which part of the line each version has."""
    revision: int
    """Grows with each change."""
    changed_ms: int
    """When it was changed last, by Redis' clock."""
    history: tuple[Ranges, ...] = ()
    """The splits before, the latest last."""
    withdrawn: tuple[str, ...] = ()
    """Versions that lost their share because they were bad: waiting jobs are taken away from them."""
    guard: Guard | None = None
    """How the canary is watched, if it is."""
    outcome: str = ""
    """How the last guard ended."""

    def shares(self) -> dict[str, int]:
        """Version → points, the largest first."""
        return shares_of(self.ranges)


@dataclass(frozen=True, slots=True)
class Split:
    """What admission needs of an alias."""

    alias: str
    uppers: tuple[int, ...]
    """Upper end of each range."""
    versions: tuple[str, ...]
    """Version of each range."""

    def version(self, key: str) -> str:
        """The version for a session, or for the task id of a job without a session."""
        return self.versions[bisect_right(self.uppers, point(self.alias, key))]


def split(alias: str, rollout: Rollout) -> Split:
    """The ranges of ``alias``, ready to be asked."""
    return Split(alias, tuple(upper for upper, _ in rollout.ranges), tuple(version for _, version in rollout.ranges))


def point(alias: str, key: str) -> int:
    """Where ``key`` stands on the line of ``alias``, from 0 to ``POINTS`` - 1.

    The alias is hashed too: it must not be the same users who try the canaries of every model.
    """
    return stable_hash(f"{alias}\0{key}", errors="backslashreplace") * POINTS >> 64


def shares_of(ranges: Ranges) -> dict[str, int]:
    """Version → points, the largest first."""
    shares: dict[str, int] = {}
    lower = 0
    for upper, version in ranges:
        shares[version] = shares.get(version, 0) + upper - lower
        lower = upper
    return dict(sorted(shares.items(), key=lambda share: -share[1]))


def version_now(raw: bytes, splits: Mapping[str, Split], routes: Mapping[str, str]) -> str | None:
    """The version that the job of this message would be admitted to now; ``None`` if it does not ask for an alias."""
    headers = read_routing(raw)
    model, key = None, headers.id
    if bytes(headers.dispatch) != b"null":
        header, _ = parse_header(bytes(headers.dispatch))
        model, key = header.model, header.session or key
    if model is None:
        model = routes.get(headers.task, DEFAULT_MODEL)
    asked = splits.get(model)
    return asked.version(key) if asked is not None else None


def percent(points: int) -> str:
    """``5 %``, ``0.25 %``."""
    return f"{points / 100:g} %"
