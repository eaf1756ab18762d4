"""What an operator, or a guard, does to an alias: the alias as it is after that. Nothing is changed in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from dispatcher.core.rollout.aliases import POINTS, Guard, Ranges, Rollout, shares_of
from dispatcher.errors import Invalid

HISTORY_MAX: Final = 20
"""So many splits can be gone back to."""


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """What an operator asks of a guard."""

    steps: tuple[int, ...] = (500, 2000, 5000, POINTS)
    """Shares of the canary, in points, one after the other."""

    step_s: float = 300.0
    """Least time at each share."""

    jobs_min: int = 50
    """Least runs of the canary at each share."""

    latency_ratio: float = 1.5
    """Roll back a canary whose jobs take more than this many times as long; 0: do not judge its latency."""


def set_shares(rollout: Rollout | None, shares: Mapping[str, int], now_ms: int, *, guard: GuardPlan | None = None) -> Rollout:
    """Give versions these shares, in points. What they lack to the whole goes to the version with the largest share
    now, unless that is named.

    Raises :class:`Invalid` if the shares do not add up, or a guard does not find two versions to compare.
    """
    before = rollout.shares() if rollout is not None else {}
    wanted = _completed(before, shares)
    ranges = resplit(rollout.ranges if rollout is not None else (), wanted)
    watched = _guard(before, {v: s for v, s in wanted.items() if s}, guard, now_ms) if guard is not None else None
    return _changed(rollout, ranges, now_ms, guard=watched)


def promote(rollout: Rollout, version: str | None, now_ms: int) -> Rollout:
    """Give all jobs to one version; by default to the canary: the one that the guard watches, or the smaller of two."""
    shares = rollout.shares()
    if version is None:
        if rollout.guard is not None:
            version = rollout.guard.candidate
        elif len(shares) == 2:
            version = min(shares, key=shares.__getitem__)
        else:
            raise Invalid(f"{' and '.join(shares)} share it: name the version to promote")
    elif version not in shares:
        raise Invalid(f"{version!r} has no share: there are {', '.join(shares)}")
    return _changed(rollout, ((POINTS, version),), now_ms)


def back(rollout: Rollout, now_ms: int) -> Rollout:
    """Undo the last ``set_shares`` or ``promote``, with all that a guard did since. Versions that lose their share are
    withdrawn.
    """
    if not rollout.history:
        raise Invalid("there is no split before this one")
    *history, ranges = rollout.history
    return _withdrawing(rollout, ranges, now_ms, history=tuple(history))


def step(rollout: Rollout, now_ms: int) -> Rollout:
    """Give the candidate its guard's next share. At the whole line the guard has done its work."""
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


def step_begins(rollout: Rollout, now_ms: int) -> Rollout:
    """Let the guard's present step begin now: it was dated in the future, before Redis' clock was set back."""
    guard = rollout.guard
    assert guard is not None
    return msgspec.structs.replace(rollout, guard=msgspec.structs.replace(guard, step_began_ms=now_ms))


def roll_back(rollout: Rollout, reason: str, now_ms: int) -> Rollout:
    """Give all jobs to the guard's baseline; the candidate is withdrawn."""
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


# -- how shares change hands


def resplit(ranges: Ranges, shares: Mapping[str, int]) -> Ranges:
    """Ranges with these shares (points, ``POINTS`` in all), of which as few points as possible change hands.

    The version at the beginning of the line gives up its upper end, every other version its lower end: so a canary that
    grows and shrinks again has the users that it had before.
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
