"""Who is to blame when a worker dies with all it was running, and what is told of it."""

from __future__ import annotations

import json
import pickle
from random import Random

import pytest
from celery.backends.base import Backend
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.core.returns.poison import Fate, fate, story_text
from dispatcher.errors import JobDead, PoisonJob
from dispatcher.leader.settle import error_of
from tests.integration.stage import make_app

LINE = {"worker": "w1@h", "epoch": "5a5a", "how": "it died", "alone": True, "began_ms": 0, "ended_ms": 61_001}


def test_only_what_dies_alone_is_buried() -> None:
    """However often it died in company; and before it is, its last run is one alone."""
    assert [fate(deaths, alone=False, attempts_max=3) for deaths in (1, 2, 3, 99)] == [Fate.AGAIN, *[Fate.ALONE] * 3]
    assert [fate(deaths, alone=True, attempts_max=3) for deaths in (1, 2, 3)] == [Fate.AGAIN, Fate.ALONE, Fate.BURIED]
    assert fate(1, alone=True, attempts_max=1) is Fate.BURIED
    assert fate(1, alone=False, attempts_max=1) is Fate.ALONE


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32), jobs=st.integers(1, 24), poisoned=st.integers(0, 5), size=st.integers(1, 8),
    attempts_max=st.integers(1, 5),
)  # fmt: skip
def test_innocents_are_never_buried_and_poison_always_is(seed: int, jobs: int, poisoned: int, size: int, attempts_max: int) -> None:
    """Whoever shares workers with whom, how often: every poison job is buried, after ``attempts_max`` deaths and at most one more."""
    rng = Random(seed)
    poison = set(range(min(poisoned, jobs)))
    waiting, suspects = set(range(jobs)), set[int]()
    deaths = dict.fromkeys(range(jobs), 0)
    buried: set[int] = set()
    while waiting or suspects:
        if suspects and (not waiting or rng.random() < 0.5):
            running = {suspects.pop()}
        else:
            running = set(rng.sample(sorted(waiting), min(len(waiting), rng.randint(1, size))))
            waiting -= running
        if not running & poison:
            continue  # all have ended
        for job in running:
            deaths[job] += 1
            verdict = fate(deaths[job], alone=len(running) == 1, attempts_max=attempts_max)
            {Fate.AGAIN: waiting, Fate.ALONE: suspects, Fate.BURIED: buried}[verdict].add(job)

    assert buried == poison
    assert all(deaths[job] == attempts_max or (attempts_max == 1 and deaths[job] == 2) for job in poison)


def test_a_story_in_words() -> None:
    """Who, when, how; what nobody knows is left out, and what is no line is passed over."""
    text = story_text([LINE, "nonsense", LINE | {"began_ms": None, "alone": False}])
    assert text == (
        "run 1 on w1@h (life 5a5a), alone, 1970-01-01 00:00:00.000 to 1970-01-01 00:01:01.001 UTC: it died; "
        "run 3 on w1@h (life 5a5a), 1970-01-01 00:01:01.001 UTC: it died"
    )
    assert story_text([]) == ""


@pytest.mark.parametrize("reason", ["worker_died", "process_died"])
def test_the_error_survives_pickle_and_json(reason: str) -> None:
    """As Celery's result backends encode it: the class, the reason, and the story in its text."""
    error = error_of({"reason": reason, "detail": "it died 3 times", "story": [LINE]})
    assert type(error) is PoisonJob
    app = make_app("unix:///nowhere?db=0")
    for serializer in ("json", "pickle"):
        backend = Backend(app, serializer=serializer, accept=["json", "pickle"])
        encoded = backend.prepare_exception(error)
        stored = json.loads(json.dumps(encoded)) if serializer == "json" else pickle.loads(pickle.dumps(encoded))
        back = backend.exception_to_python(stored)
        assert isinstance(back, PoisonJob)
        assert isinstance(back, JobDead)
        assert (back.reason, back.detail) == (error.reason, error.detail)
        assert str(back).startswith(f"{reason}: it died 3 times: run 1 on w1@h")
    app.close()


def test_other_dead_letters_are_no_poison() -> None:
    """Nor is a record that says little."""
    assert type(error_of({"reason": "time_limit", "detail": "late", "story": [LINE]})) is JobDead
    assert str(error_of({})) == "dead"
