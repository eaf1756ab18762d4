"""The search for late jobs: heads at once, the rest of every lane in the end."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dispatcher.core.facts.snapshot import LaneView
from dispatcher.core.returns.deadlines import JOBS_MAX, LANES_MAX, LOOK_MS, Lateness
from tests.unit.facts.snapshots import lane_view

NOW_MS = 1_000_000
LATER_MS = 9_999_999


def timed(name: str, depth: int, deadline_ms: int = LATER_MS) -> LaneView:
    view = lane_view(task=name, depth=depth)
    return structs.replace(view, name=name, lane=replace(view.lane, deadline_class=10), deadline_ms=deadline_ms)


def look(lanes: dict[str, list[bool]], where: list[tuple[str, int]]) -> list[tuple[int, int]]:
    """What the script would do with lanes of jobs that are late or not."""
    left, found = JOBS_MAX, []
    for name, pass_over in where:
        part = lanes[name][pass_over : pass_over + left]
        left -= len(part)
        lanes[name][pass_over : pass_over + len(part)] = [late for late in part if not late]
        found.append((len(part), sum(part)))
    return found


def test_without_deadlines_nothing_is_looked_at() -> None:
    """It costs nobody anything who does not use it."""
    assert Lateness().where([lane_view(depth=10_000)], NOW_MS) == []


def test_a_late_head_is_looked_at_at_once() -> None:
    """Also between two looks; one that is in time is not, and a lane of one job is its head."""
    search = Lateness()
    lanes = [timed("late", 1, NOW_MS), timed("fine", 1), timed("deep", 2)]

    assert search.where(lanes, NOW_MS) == [("late", 0), ("deep", 0)]
    assert search.where(lanes, NOW_MS + LOOK_MS - 1) == [("late", 0)]
    assert search.where(lanes[2:], NOW_MS) == []


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=40), min_size=1, max_size=8), st.integers(1, 3))
def test_every_late_job_is_found(lanes: list[list[bool]], stretch: int) -> None:
    """LIVENESS: wherever it stands, however many lanes and jobs there are: after enough looks none is left, and none in time is gone."""
    waiting = {f"lane{at}": jobs * (stretch * 40) for at, jobs in enumerate(lanes)}
    in_time = {name: jobs.count(False) for name, jobs in waiting.items()}
    search, now_ms = Lateness(), NOW_MS
    for _ in range(3 * (len(lanes) + sum(map(len, waiting.values())) // JOBS_MAX)):
        views = [timed(name, len(jobs), NOW_MS if jobs[0] else LATER_MS) for name, jobs in waiting.items() if jobs]
        where = search.where(views, now_ms)
        search.note(where, look(waiting, where))
        now_ms += LOOK_MS

    assert {name: jobs.count(True) for name, jobs in waiting.items()} == dict.fromkeys(waiting, 0)
    assert {name: len(jobs) for name, jobs in waiting.items()} == in_time


def test_a_look_is_about_a_few_lanes_and_the_next_about_others() -> None:
    """A thousand lanes have their turn."""
    search = Lateness()
    lanes = [timed(f"lane{at:03}", 2) for at in range(200)]
    seen: set[str] = set()
    for turn in range(4):
        where = search.where(lanes, NOW_MS + turn * LOOK_MS)
        assert len(where) == LANES_MAX
        search.note(where, [(2, 0)] * len(where))
        seen.update(name for name, _ in where)

    assert len(seen) == 200
