"""Aliases: shares by hash, users who stay where they are, and the way back."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.admission.rules import Admission, Admitted, Refused
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.rollout.aliases import POINTS, Ranges, Rollout, point, shares_of, split, version_now
from dispatcher.core.rollout.changes import HISTORY_MAX, GuardPlan, back, promote, resplit, roll_back, set_shares, step
from dispatcher.errors import Invalid
from tests.messages import message

NAMES = ("m@1", "m@2", "m@3", "m@4")


@st.composite
def shares(draw: st.DrawFn) -> dict[str, int]:
    cuts = sorted(draw(st.lists(st.integers(0, POINTS), min_size=3, max_size=3)))
    parts = [high - low for low, high in zip([0, *cuts], [*cuts, POINTS], strict=True)]
    order = draw(st.permutations(NAMES))
    return dict(zip(order, parts, strict=True))


def owners(ranges: Ranges) -> list[str]:
    """The version at each point."""
    found: list[str] = []
    for upper, version in ranges:
        found += [version] * (upper - len(found))
    return found


def on(rollout: Rollout, keys: range) -> dict[str, str]:
    ready = split("chat", rollout)
    return {f"user-{i}": ready.version(f"user-{i}") for i in keys}


@given(st.lists(shares(), min_size=1, max_size=6))
def test_no_more_of_the_line_changes_hands_than_must(plans: list[dict[str, int]]) -> None:
    """After any number of changes each version has exactly its share, and only what a version lost has moved."""
    ranges: Ranges = ()
    for wanted in plans:
        before, had = owners(ranges), shares_of(ranges)
        ranges = resplit(ranges, wanted)
        after = owners(ranges)

        assert len(after) == POINTS
        assert shares_of(ranges) == {version: share for version, share in wanted.items() if share}
        if before:
            moved = sum(old != new for old, new in zip(before, after, strict=True))
            assert moved == sum(max(0, share - wanted.get(version, 0)) for version, share in had.items())


@pytest.mark.parametrize("percent", [1, 5, 20, 50])
def test_a_share_of_the_users_is_its_share_of_the_line(percent: int) -> None:
    """Within four standard deviations of 20,000 users; by number, by UUID or by name alike."""
    rollout = set_shares(None, {"chat@1": POINTS - percent * 100, "chat@2": percent * 100}, 0)
    n = 20_000
    count = sum(version == "chat@2" for version in on(rollout, range(n)).values())

    assert abs(count - n * percent / 100) < 4 * (n * percent / 100 * (1 - percent / 100)) ** 0.5


def test_a_canary_that_grows_takes_its_users_along() -> None:
    """From 5 to 20 to 50 %: whoever had the new version keeps it, and nobody goes the other way. Shrinking again undoes that."""
    rollout = set_shares(None, {"chat@1": POINTS}, 0)
    canary: set[str] = set()
    grown = []
    for share in (500, 2000, 5000):
        rollout = set_shares(rollout, {"chat@2": share}, 0)
        now = {user for user, version in on(rollout, range(5000)).items() if version == "chat@2"}
        assert canary < now
        grown.append(now)
        canary = now
    assert {user for user, version in on(set_shares(rollout, {"chat@2": 500}, 0), range(5000)).items() if version == "chat@2"} == grown[0]


def test_the_canaries_of_two_aliases_are_not_the_same_users() -> None:
    """A user must not be the first to try everything."""
    early = [i for i in range(20_000) if point("chat", f"u{i}") >= 9500]
    both = [i for i in early if point("embed", f"u{i}") >= 9500]

    assert len(both) < 2 * len(early) * 0.05


@given(st.text())
def test_any_session_has_a_place(key: str) -> None:
    """Whatever a producer may write, lone surrogates too."""
    assert 0 <= point("chat", key) < POINTS
    assert 0 <= point("chat", "\ud800" + key) < POINTS


# -- what an operator does


def test_what_is_not_named_stays_with_the_largest() -> None:
    """`chat@2=5` is enough; without a version that could take the rest, shares must make 100."""
    rollout = set_shares(None, {"chat@1": POINTS}, 0)
    assert set_shares(rollout, {"chat@2": 500}, 0).shares() == {"chat@1": 9500, "chat@2": 500}
    for wanted in ({"chat@1": 500}, {"chat@2": 9000, "chat@3": 2000}):
        with pytest.raises(Invalid, match="must make 100"):
            set_shares(rollout, wanted, 0)
    with pytest.raises(Invalid, match="must make 100"):
        set_shares(None, {"chat@1": 500}, 0)


def test_back_is_exactly_where_it_was() -> None:
    """The users of before, change by change; then there is nothing to go back to."""
    first = set_shares(None, {"chat@1": POINTS}, 1)
    second = set_shares(first, {"chat@2": 500}, 2)
    third = promote(second, None, 3)

    assert third.shares() == {"chat@2": POINTS}
    again = back(third, 4)
    assert again.ranges == second.ranges
    assert (again.revision, again.withdrawn) == (4, ())
    last = back(again, 5)
    assert last.ranges == first.ranges
    assert last.withdrawn == ("chat@2",)
    with pytest.raises(Invalid, match="no split before"):
        back(last, 6)


def test_a_version_that_gets_a_share_again_is_not_withdrawn() -> None:
    """Its jobs may wait for it."""
    rollout = back(set_shares(set_shares(None, {"chat@1": POINTS}, 1), {"chat@2": 500}, 2), 3)
    assert rollout.withdrawn == ("chat@2",)
    assert set_shares(rollout, {"chat@3": 500}, 4).withdrawn == ("chat@2",)
    assert set_shares(rollout, {"chat@2": 500}, 4).withdrawn == ()


def test_promote_needs_to_know_whom() -> None:
    """The smaller of two; of three it must be named."""
    rollout = set_shares(None, {"m@1": 9000, "m@2": 500, "m@3": 500}, 0)
    with pytest.raises(Invalid, match="name the version"):
        promote(rollout, None, 1)
    with pytest.raises(Invalid, match="has no share"):
        promote(rollout, "m@4", 1)
    assert promote(rollout, "m@2", 1).shares() == {"m@2": POINTS}


def test_a_guard_steps_up_and_ends_at_the_whole() -> None:
    """Its steps are no splits to go back to: `back` undoes the canary as a whole."""
    before = set_shares(None, {"chat@1": POINTS}, 0)
    rollout = set_shares(before, {"chat@2": 500}, 1, guard=GuardPlan())
    assert rollout.guard is not None
    assert (rollout.guard.baseline, rollout.guard.candidate, rollout.guard.stages) == ("chat@1", "chat@2", 3)
    seen = []
    while rollout.guard is not None:
        rollout = step(rollout, 2)
        seen.append(rollout.shares().get("chat@2"))
    assert seen == [2000, 5000, POINTS]
    assert "promoted" in rollout.outcome
    assert back(rollout, 3).ranges == before.ranges
    assert back(rollout, 3).withdrawn == ("chat@2",)


def test_a_guard_rolls_back_to_the_old_version() -> None:
    """All of it, even where the canary had a share before; the canary is withdrawn and the guard is over."""
    rollout = set_shares(set_shares(None, {"chat@1": 9500, "chat@2": 500}, 0), {"chat@2": 2000}, 1, guard=GuardPlan())
    after = roll_back(rollout, "it is worse", 2)

    assert after.shares() == {"chat@1": POINTS}
    assert after.withdrawn == ("chat@2",)
    assert after.guard is None
    assert "it is worse" in after.outcome


def test_a_guard_compares_two() -> None:
    """The old version is the one that had more before; in a new alias the first."""
    with pytest.raises(Invalid, match="compares two"):
        set_shares(None, {"m@1": 8000, "m@2": 1000, "m@3": 1000}, 0, guard=GuardPlan())
    new = set_shares(None, {"m@1": 5000, "m@2": 5000}, 0, guard=GuardPlan())
    assert new.guard is not None
    assert new.guard.baseline == "m@1"
    turned = set_shares(set_shares(None, {"m@1": 1000, "m@2": 9000}, 0), {"m@1": 9000, "m@2": 1000}, 1, guard=GuardPlan())
    assert turned.guard is not None
    assert turned.guard.baseline == "m@2"


def test_what_is_stored_is_what_was_meant() -> None:
    """Through JSON and back."""
    rollout = back(set_shares(set_shares(None, {"m@1": POINTS}, 1), {"m@2": 500}, 2, guard=GuardPlan()), 3)
    for one in (rollout, set_shares(rollout, {"m@2": 1}, 4, guard=GuardPlan())):
        assert msgspec.json.decode(msgspec.json.encode(one), type=Rollout) == one


@given(st.lists(st.one_of(shares(), st.sampled_from(["promote", "back", "step", "roll back"])), max_size=30), st.booleans())
def test_whatever_is_done_to_an_alias(deeds: list[dict[str, int] | str], guarded: bool) -> None:
    """The line is whole, no version with a share is withdrawn, revisions grow, and a guard watches two that share it all."""
    rollout = set_shares(None, {"m@1": POINTS}, 0)
    for at, deed in enumerate(deeds):
        before = rollout
        try:
            if isinstance(deed, dict):
                used = {version: share for version, share in deed.items() if share}
                rollout = set_shares(rollout, deed, at, guard=GuardPlan() if guarded and len(used) == 2 else None)
            elif deed == "promote":
                rollout = promote(rollout, None, at)
            elif deed == "back":
                rollout = back(rollout, at)
            elif rollout.guard is not None and (deed == "roll back" or rollout.guard.steps):
                rollout = step(rollout, at) if deed == "step" else roll_back(rollout, "why", at)
        except Invalid:
            assert rollout is before
        assert len(owners(rollout.ranges)) == POINTS
        assert all(left[1] != right[1] for left, right in zip(rollout.ranges, rollout.ranges[1:], strict=False))
        assert not set(rollout.withdrawn) & set(rollout.shares())
        assert rollout.revision == before.revision + (rollout is not before)
        assert len(rollout.history) <= HISTORY_MAX
        if rollout.guard is not None:
            assert set(rollout.shares()) == {rollout.guard.baseline, rollout.guard.candidate}


# -- at admission


def admission(**facts: object) -> Admission:
    rollout = set_shares(None, {"chat@1": 5000, "chat@2": 5000}, 0)
    return Admission(routes={"talk": "chat"}, default_cost_s=1.0, splits={"chat": split("chat", rollout)}, **facts)  # type: ignore[arg-type]


def model_of(rules: Admission, raw: bytes) -> str:
    read = rules.read(raw, ingress="dispatch", step=0, now_ms=0)
    assert isinstance(read, Admitted), read
    return parse_lane(read.lane).model


def test_lanes_carry_the_version() -> None:
    """By header or by route; a session has one version for all its jobs, jobs without one are spread."""
    rules = admission()
    users = [{model_of(rules, message(dispatch={"model": "chat", "session": f"s{i}"})) for _ in range(5)} for i in range(20)]
    assert all(len(one) == 1 for one in users)
    assert set.union(*users) == {"chat@1", "chat@2"}
    assert {model_of(rules, message(task="talk")) for _ in range(40)} == {"chat@1", "chat@2"}
    assert {model_of(rules, message(dispatch={"model": "chat@1"})) for _ in range(20)} == {"chat@1"}
    assert model_of(rules, message(dispatch={"model": "other"})) == "other"


def test_a_retried_job_stays_on_its_side() -> None:
    """Celery sends it again under the same id."""
    rules = admission()
    assert len({model_of(rules, message("the-same-id", dispatch={"model": "chat"})) for _ in range(5)}) == 1


def test_the_version_must_be_known_not_the_alias() -> None:
    """A version that nobody ever served is an unknown model; the alias needs no server of its own."""
    raw = message(dispatch={"model": "chat"})
    assert isinstance(admission(known_models={"chat@1", "chat@2"}).read(raw, ingress="d", step=0, now_ms=0), Admitted)
    refused = admission(known_models={"chat"}).read(raw, ingress="d", step=0, now_ms=0)
    assert isinstance(refused, Refused)
    assert refused.reason == "unknown_model"


def test_a_waiting_job_is_read_as_admission_reads_it() -> None:
    """For any message, the version that it would be given now; none where it asked for no alias."""
    rules = admission()
    for raw in (
        message(dispatch={"model": "chat", "session": "s"}),
        message(dispatch={"model": "chat"}),
        message(task="talk"),
        message(task="talk", dispatch={"session": "s"}),
        message(dispatch={"model": "chat"}, shadow=float("nan")),
    ):
        assert version_now(raw, rules.splits, rules.routes) == model_of(rules, raw)
    for raw in (message(), message(dispatch={"model": "chat@2"})):
        assert version_now(raw, rules.splits, rules.routes) is None
    assert b"NaN" in message(shadow=float("nan"))
    assert json.loads(message())["headers"]["task"] != "talk"
