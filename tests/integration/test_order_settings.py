"""Order and holds reach the live dispatcher: what the policy promises, seen from a worker's queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher.core.facts.header import job_headers
from tests.eventually import eventually
from tests.integration.stage import Stage

MakeStage = Callable[..., Stage]


@pytest.fixture
def make_stage(redis_url: str) -> Iterator[MakeStage]:
    made: list[Stage] = []

    def make(**settings: Any) -> Stage:
        made.append(Stage(redis_url, window_extra=0, window_hide_ms=0.0, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def redis_time_s(stage: Stage) -> float:
    seconds, micros = stage.text.time()
    return seconds + micros / 1e6


@pytest.mark.parametrize(("order", "first"), [("oldest", "long"), ("shortest", "short")])
def test_which_job_is_next(make_stage: MakeStage, order: str, first: str) -> None:
    """A long job came before a short one and one slot comes free: by default the long one goes, by size the short one, since what
    both have waited is more of its size.
    """
    stage = make_stage(order=order)
    jobs = {"long": stage.send(headers=job_headers(cost=60.0))[0]}
    sent_s = redis_time_s(stage)
    stage.step()
    jobs["short"] = stage.send(headers=job_headers(cost=1.0))[0]
    stage.step()
    both_s = redis_time_s(stage)
    eventually(lambda: redis_time_s(stage) > both_s + max(0.001, both_s - sent_s))
    worker = stage.worker()
    stage.step()

    assert worker.run_all() == [jobs[first]]


@pytest.mark.parametrize(("ratio", "goes"), [(0.0, True), (1.5, False)])
def test_a_heavy_job_is_held_for_a_faster_worker(make_stage: MakeStage, ratio: float, goes: bool) -> None:
    """The strong worker runs a job and the weak one is idle: without holds the next goes there, with them it waits and then goes on."""
    stage = make_stage(strategy="earliest_completion", hold_ratio=ratio)
    strong = stage.worker("strong", weight=4.0)
    stage.send(headers=job_headers(cost=4.0))
    stage.step()
    running = strong.take()
    assert running is not None
    weak = stage.worker("weak", weight=0.5)
    (heavy,) = stage.send(headers=job_headers(cost=4.0))
    report = stage.step()

    assert bool(weak.queued()) == goes
    if not goes:
        assert report.plan is not None
        assert [hold.reason for hold in report.plan.holds] == ["sooner_elsewhere"]
        strong.end(running)
        stage.step()
        assert strong.run_all() == [heavy]
