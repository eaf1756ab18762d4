"""What becomes of a job whose run ended without an ack."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dispatcher.core.facts.lane import Lane, lane_name, parse_lane
from dispatcher.core.returns.ending import AT_ONCE, NEVER, BadEnd, Cause, GiveBack, elsewhere, verdict
from dispatcher.core.returns.poison import Attempt

END = BadEnd("e.1", Cause.WORKER_DIED, "it died", "w@h", "e", alone=False, deaths=0, at_most_once=False)

OWN_FAULT = (Cause.TIME_LIMIT, Cause.DELIVERY_FAILED, Cause.ENDING_FAILED, Cause.UNREADABLE)
COUNTERS = dict.fromkeys(Cause, "crashes") | {Cause.WORKER_DIED: "reaps", Cause.WORKER_LEFT: "reaps"}


@pytest.mark.parametrize(("cause", "counter"), [(Cause.WORKER_DIED, "reaps"), (Cause.PROCESS_DIED, "crashes")])
@pytest.mark.parametrize(
    ("deaths", "alone", "bury_at", "suspect"),
    [
        (0, False, NEVER, False),
        (0, True, NEVER, False),
        (1, False, NEVER, True),
        (1, True, NEVER, True),
        (2, False, NEVER, True),
        (2, True, AT_ONCE, False),
        (9, False, NEVER, True),
    ],
)
def test_a_death_that_may_be_another_jobs_fault(
    cause: Cause, counter: str, deaths: int, alone: bool, bury_at: int, suspect: bool
) -> None:
    """The script is told to bury the job, or to have it run alone, or neither; always with a line for the story."""
    back = verdict(replace(END, cause=cause, deaths=deaths, alone=alone), attempts_max=3)
    assert (back.counter, back.bury_at, back.suspect) == (counter, bury_at, suspect)
    assert back.reason == cause.value
    assert back.attempt == Attempt("w@h", "e", "it died", alone)
    assert back.detail.startswith(f"its worker, or its process there, died {'once' if not deaths else f'{deaths + 1} times'} while it ran")


@pytest.mark.parametrize("cause", OWN_FAULT)
def test_what_is_the_jobs_own_fault_is_counted_up_to_attempts_max(cause: Cause) -> None:
    """However often it died before, and in whatever company: the script counts, and buries it."""
    back = verdict(replace(END, cause=cause, how="it did", deaths=7), attempts_max=3)
    assert back == GiveBack("e.1", "crashes", 3, cause.value, "it did; last on w@h", Attempt("w@h", "e", "it did", alone=False))


@pytest.mark.parametrize("cause", [Cause.WORKER_LEFT, Cause.OUTAGE])
def test_where_nobody_is_to_blame_the_job_goes_back(cause: Cause) -> None:
    """However often it died before; whoever runs it next knows that it has begun before."""
    assert verdict(replace(END, cause=cause, deaths=7, alone=True), attempts_max=3) == GiveBack.rejected("e.1")


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.UNREADABLE])
def test_a_job_that_must_not_run_twice_is_buried(cause: Cause) -> None:
    """Whatever ended its run; its dead letter says what, and why that was all."""
    back = verdict(replace(END, cause=cause, at_most_once=True), attempts_max=3)
    happened = "worker w@h ended while it ran" if COUNTERS[cause] == "reaps" else "it died"
    detail = f"{happened}; its task says acks_late=False, so it is not run again"
    assert back == GiveBack("e.1", COUNTERS[cause], AT_ONCE, "at_most_once", detail)


def test_the_forms_of_a_return_that_is_nobodys_fault() -> None:
    """Only a late job is buried by them, and neither it nor a recalled one where it was begun after all."""
    forms = [GiveBack.uncounted("e.1"), GiveBack.recalled("e.1"), GiveBack.rejected("e.1"), GiveBack.late("e.1")]
    assert [(form.counter, form.bury_at, form.reason) for form in forms] == [
        ("", NEVER, ""),
        ("recalls", NEVER, ""),
        ("rejects", NEVER, ""),
        ("recalls", AT_ONCE, "deadline_passed"),
    ]


LANE = Lane("dispatch", "a.task", "default", 3, 10, requires=(("region", ("eu",)),), alone=True)
UNREAD = GiveBack("e.1", "crashes", 3, "unreadable", "no such class")


class Other:
    """A worker that has tasks only."""

    def __init__(self, *tasks: str) -> None:
        self.tasks = tasks

    def may_have(self, lane: Lane) -> bool:
        return lane.task in self.tasks


def test_what_a_worker_cannot_read_waits_for_those_that_may() -> None:
    """In a lane that says who cannot: in a rolling deploy the old workers pass it on to the new ones."""
    first = elsewhere(UNREAD, LANE, "e1", {"e2": Other("a.task")})
    assert first == replace(UNREAD, lane=first.lane)
    assert first.lane.startswith(lane_name(LANE).partition("/requires=")[0])

    second = elsewhere(UNREAD, parse_lane(first.lane), "e2", {"e1": Other("a.task"), "e3": Other("a.task")})
    lane = parse_lane(second.lane)
    assert lane_name(lane) == second.lane
    assert dict(lane.requires) == {"region": ("eu",), "=not_on": ("e1", "e2")}
    assert lane.alone


@pytest.mark.parametrize("others", [{}, {"e1": Other("a.task")}, {"e3": Other("another")}], ids=["none", "the same", "another task"])
def test_what_nobody_else_may_have_is_buried(others: dict[str, Other]) -> None:
    """Its sender is told at once, and why."""
    waits = elsewhere(UNREAD, LANE, "e1", {"e2": Other("a.task")}).lane
    buried = elsewhere(UNREAD, parse_lane(waits), "e2", others)
    assert (buried.bury_at, buried.lane, buried.reason) == (AT_ONCE, "", "unreadable")
    assert buried.detail == "no such class; no other worker may have it"


def test_a_job_that_never_began_may_go_to_another_worker() -> None:
    """Though its task says acks_late=False."""
    assert verdict(replace(END, cause=Cause.UNREADABLE, at_most_once=True), attempts_max=3).bury_at == 3
