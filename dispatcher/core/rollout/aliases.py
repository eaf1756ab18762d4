"""Aliases: which version of a model a job gets. ``chat`` may be 95 % ``chat@1`` and 5 % ``chat@2``.

The line from 0 to ``POINTS`` is cut into ranges, each a version's. A session (a job without one: its id) stands at one point of the
line for ever, by a hash, so a user stays on one side. When shares change, only as much of the line changes hands as must: a version
that loses some gives up one end of what it has, and nobody else moves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from dispatcher.core.facts.hashing import stable_hash
from dispatcher.core.facts.header import DEFAULT_MODEL, parse_header
from dispatcher.core.facts.message import read_routing
from dispatcher.errors import Invalid

POINTS: Final = 10_000
"""The line is this long: shares are whole hundredths of a percent."""

HISTORY_MAX: Final = 20
"""So many splits can be gone back to."""

Ranges = tuple[tuple[int, str], ...]
"""(upper end, version) of each range, in order; the last ends at ``POINTS``."""


class Guard(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a canary is watched. ``began_ms`` names it; ``step_began_ms`` is when ``candidate`` got its share; both by Redis' clock.

    ``steps`` are the shares, in points, still to come; where the last is below ``POINTS`` the candidate stays there, watched.
    ``stages`` is how many shares it is watched at in all. ``latency_ratio`` 0: its latency is not judged.
    """

    baseline: str
    candidate: str
    steps: tuple[int, ...]
    stages: int
    step_s: float
    jobs_min: int
    latency_ratio: float
    began_ms: int
    step_began_ms: int


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True):
    """One alias. ``revision`` grows with each change; ``history`` has the splits before, the latest last; from ``withdrawn``
    versions waiting jobs are taken away; ``outcome`` says how the last guard ended.
    """

    ranges: Ranges
    revision: int
    changed_ms: int
    history: tuple[Ranges, ...] = ()
    withdrawn: tuple[str, ...] = ()
    guard: Guard | None = None
    outcome: str = ""

    def shares(self) -> dict[str, int]:
        """Version → points, the largest first."""
        return shares_of(self.ranges)


@dataclass(frozen=True, slots=True)
class Split:
    """What admission needs of an alias."""

    alias: str
    uppers: tuple[int, ...]
    versions: tuple[str, ...]

    def version(self, key: str) -> str:
        """The version of the session, or of the job where it has none."""
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
    found: dict[str, int] = {}
    lower = 0
    for upper, version in ranges:
        found[version] = found.get(version, 0) + upper - lower
        lower = upper
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def resplit(ranges: Ranges, shares: Mapping[str, int]) -> Ranges:
    """Ranges with those shares (points, ``POINTS`` in all), of which as few points as possible change hands.

    The version at the beginning of the line gives up its upper end, every other its lower end: so a canary that grows and shrinks
    again has the users that it had before.
    """
    owned: dict[str, list[tuple[int, int]]] = {}
    lower = 0
    for upper, version in ranges:
        owned.setdefault(version, []).append((lower, upper))
        lower = upper
    free: list[tuple[int, int]] = [] if ranges else [(0, POINTS)]
    for version, pieces in owned.items():
        surplus = sum(high - low for low, high in pieces) - shares.get(version, 0)
        from_above = pieces[0][0] == 0
        while surplus > 0:
            low, high = pieces.pop(-1 if from_above else 0)
            cut = min(surplus, high - low)
            free.append((high - cut, high) if from_above else (low, low + cut))
            if cut < high - low:
                pieces.insert(len(pieces) if from_above else 0, (low, high - cut) if from_above else (low + cut, high))
            surplus -= cut
    free.sort()
    for version, share in shares.items():
        pieces = owned.setdefault(version, [])
        lacking = share - sum(high - low for low, high in pieces)
        while lacking > 0:
            low, high = free.pop(0)
            cut = min(lacking, high - low)
            pieces.append((low, low + cut))
            if cut < high - low:
                free.insert(0, (low + cut, high))
            lacking -= cut
    merged: list[tuple[int, str]] = []
    for _, high, version in sorted((low, high, version) for version, pieces in owned.items() for low, high in pieces):
        if merged and merged[-1][1] == version:
            merged.pop()
        merged.append((high, version))
    return tuple(merged)


# -- what an operator, or a guard, does to an alias


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """What an operator asks of a guard: shares of the canary in points, and the least time and jobs at each."""

    steps: tuple[int, ...] = (500, 2000, 5000, POINTS)
    step_s: float = 300.0
    jobs_min: int = 50
    latency_ratio: float = 1.5


def set_shares(rollout: Rollout | None, shares: Mapping[str, int], now_ms: int, *, guard: GuardPlan | None = None) -> Rollout:
    """The alias with those shares; what they lack to the whole goes to the version that has most now, if it is not named.

    Raises :class:`Invalid` where the shares do not add up, or a guard does not find two versions to compare.
    """
    before = rollout.shares() if rollout is not None else {}
    wanted = _completed(before, shares)
    ranges = resplit(rollout.ranges if rollout is not None else (), wanted)
    watched = _guard(before, {v: s for v, s in wanted.items() if s}, guard, now_ms) if guard is not None else None
    return _changed(rollout, ranges, now_ms, guard=watched)


def promote(rollout: Rollout, version: str | None, now_ms: int) -> Rollout:
    """All of it to one version; by default to the canary: what the guard watches, or the smaller of two."""
    shares = rollout.shares()
    if version is None:
        if rollout.guard is not None:
            version = rollout.guard.candidate
        elif len(shares) == 2:
            version = min(shares, key=lambda one: shares[one])
        else:
            raise Invalid(f"{' and '.join(shares)} share it: name the version to promote")
    elif version not in shares:
        raise Invalid(f"{version!r} has no share: there are {', '.join(shares)}")
    return _changed(rollout, ((POINTS, version),), now_ms)


def back(rollout: Rollout, now_ms: int) -> Rollout:
    """Undo the last ``set_shares`` or ``promote``, with all that a guard did since. Versions that lose their share are withdrawn."""
    if not rollout.history:
        raise Invalid("there is no split before this one")
    *history, ranges = rollout.history
    return _withdrawing(rollout, ranges, now_ms, history=tuple(history))


def step(rollout: Rollout, now_ms: int) -> Rollout:
    """The guard's next share for its candidate. At the whole line the guard has done its work."""
    guard = rollout.guard
    assert guard is not None
    share, *later = guard.steps
    ranges = resplit(rollout.ranges, {guard.baseline: POINTS - share, guard.candidate: share})
    ended = share == POINTS
    going_on = msgspec.structs.replace(guard, steps=tuple(later), step_began_ms=now_ms)
    return msgspec.structs.replace(
        rollout, ranges=ranges, revision=rollout.revision + 1, changed_ms=now_ms, guard=None if ended else going_on,
        outcome=f"{guard.candidate} was promoted by its guard" if ended else "",
    )  # fmt: skip


def roll_back(rollout: Rollout, reason: str, now_ms: int) -> Rollout:
    """All of it to the guard's baseline; the candidate is withdrawn."""
    guard = rollout.guard
    assert guard is not None
    ranges = resplit(rollout.ranges, {guard.baseline: POINTS})
    outcome = f"{guard.candidate} was rolled back by its guard: {reason}"
    return _withdrawing(rollout, ranges, now_ms, history=rollout.history, outcome=outcome)


def _completed(before: Mapping[str, int], shares: Mapping[str, int]) -> dict[str, int]:
    total = sum(shares.values())
    if total < POINTS and before and (largest := next(iter(before))) not in shares:
        return {largest: POINTS - total, **shares}
    if total != POINTS:
        raise Invalid(f"the shares add up to {total / 100:g} %: they must make 100")
    return dict(shares)


def _guard(before: Mapping[str, int], after: Mapping[str, int], plan: GuardPlan, now_ms: int) -> Guard:
    if len(after) != 2:
        raise Invalid(f"a guard compares two versions: {', '.join(after)} would share it")
    first, second = after
    baseline = max(after, key=lambda version: (before.get(version, 0), version == first))
    candidate = second if baseline == first else first
    steps = tuple(share for share in plan.steps if share > after[candidate])
    return Guard(
        baseline, candidate, steps, 1 + sum(share < POINTS for share in steps), plan.step_s, plan.jobs_min, plan.latency_ratio, now_ms,
        now_ms,
    )  # fmt: skip


def _changed(rollout: Rollout | None, ranges: Ranges, now_ms: int, *, guard: Guard | None = None) -> Rollout:
    if rollout is None:
        return Rollout(ranges, 1, now_ms, guard=guard)
    used = shares_of(ranges)
    return Rollout(
        ranges, rollout.revision + 1, now_ms, history=(*rollout.history, rollout.ranges)[-HISTORY_MAX:],
        withdrawn=tuple(version for version in rollout.withdrawn if version not in used), guard=guard,
    )  # fmt: skip


def _withdrawing(rollout: Rollout, ranges: Ranges, now_ms: int, *, history: tuple[Ranges, ...], outcome: str = "") -> Rollout:
    used = shares_of(ranges)
    withdrawn = dict.fromkeys(version for version in (*rollout.withdrawn, *rollout.shares()) if version not in used)
    return Rollout(
        ranges, rollout.revision + 1, now_ms, history=history, withdrawn=tuple(withdrawn)[-HISTORY_MAX:], outcome=outcome
    )


# -- jobs that wait for a version which was withdrawn


def version_now(raw: bytes, splits: Mapping[str, Split], routes: Mapping[str, str]) -> str | None:
    """The version that the job of this message would be admitted to now; ``None`` where it did not ask for an alias."""
    headers = read_routing(raw)
    model, key = None, headers.id
    if bytes(headers.dispatch) != b"null":
        header, _ = parse_header(bytes(headers.dispatch))
        model, key = header.model, header.session or key
    if model is None:
        model = routes.get(headers.task, DEFAULT_MODEL)
    found = splits.get(model)
    return found.version(key) if found is not None else None


def percent(points: int) -> str:
    """``5 %``, ``0.25 %``."""
    return f"{points / 100:g} %"


def parse_shares(texts: Iterable[str]) -> dict[str, int]:
    """``VERSION=PERCENT`` of each; raises :class:`Invalid` for what is none."""
    found: dict[str, int] = {}
    for text in texts:
        version, equals, share = text.rpartition("=")
        if not (version and equals):
            raise Invalid(f"{text!r} is no share: write VERSION=PERCENT, such as chat@2=5")
        if version in found:
            raise Invalid(f"{version!r} stands there twice")
        found[version] = parse_percent(share)
    return found


def parse_percent(text: str) -> int:
    """Points of a number of percent, with two decimals at most."""
    try:
        points = float(text.removesuffix("%")) * 100
    except ValueError:
        points = -1.0
    if not 0 <= points <= POINTS or abs(points - round(points)) > 1e-6:
        raise Invalid(f"{text!r} is no percentage: write a number from 0 to 100, with two decimals at most")
    return round(points)
