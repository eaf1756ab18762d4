"""A dispatcher and workers of different versions: they agree on a format, move on to a newer one, or refuse to lead."""

from __future__ import annotations

import json

import pytest

from dispatcher.errors import FormatMismatch
from dispatcher.events import LeadGained, Unreadable
from dispatcher.leader.dispatcher import Dispatcher
from dispatcher.store.formats import Formats
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS
from tests.integration.stage import Stage, Stub


def dispatcher(stage: Stage, oldest: int, newest: int) -> Dispatcher:
    """Another dispatcher, which reads these formats, takes over from the stage's."""
    stage.dispatcher.resign()
    stage.events.clear()
    return stage.make_dispatcher("another", reads=Formats(oldest, newest))


def stored(stage: Stage) -> Formats | None:
    return stage.make_store("").formats().read().stored


def does_not_lead(stage: Stage, newer: Dispatcher, why: str) -> None:
    """It says why, and leaves the lead and the jobs to others."""
    with pytest.raises(FormatMismatch, match=why):
        newer.step()

    assert stage.text.exists(stage.keys.leader) == 0
    assert stage.text.llen("dispatch") == 1
    assert not any(isinstance(event, LeadGained) for event in stage.events)
    assert stage.step().leads


def test_a_dispatcher_that_shares_no_format_with_a_live_worker_does_not_lead(stage: Stage) -> None:
    """It says which worker, and what to do."""
    stage.worker("old", formats=Formats(1, 1))
    stage.step()
    stage.send()

    does_not_lead(stage, dispatcher(stage, 2, 2), "dispatcher reads format 2, but worker old@h reads format 1: upgrade worker old@h first")


def test_a_dispatcher_that_cannot_read_what_is_stored_does_not_lead(stage: Stage) -> None:
    """A job waits there in format 1; that there is no worker changes nothing."""
    stage.send()
    stage.steps()
    stage.send()

    does_not_lead(stage, dispatcher(stage, 2, 3), "this dispatcher reads formats 2 to 3, but Redis holds format 1: first start a version")


def test_a_cell_writes_the_old_format_until_the_last_old_worker_has_gone(stage: Stage) -> None:
    """And the newer one from then on. Redis keeps which formats may lie there, for whoever comes later."""
    old, new = stage.worker("old", formats=Formats(1, 1)), stage.worker("new", formats=Formats(1, 2))
    stage.dispatcher = dispatcher(stage, 1, 2)
    stage.send(3)
    stage.steps()
    assert stage.dispatcher.parts.formats.writes == 1
    assert stored(stage) == (1, 1)

    old.store.goodbye()
    stage.steps()
    assert stage.text.smembers(stage.keys.workers) == {new.epoch}
    assert stage.dispatcher.parts.formats.writes == 2
    assert stored(stage) == (1, 2)
    with pytest.raises(FormatMismatch, match="worker late@h reads format 1, but Redis holds formats 1 to 2: start a newer version here"):
        stage.worker("late", formats=Formats(1, 1))


def test_a_successor_goes_on_in_the_format_of_the_cell(stage: Stage) -> None:
    """It moves on no further than the workers that it finds."""
    stage.send()
    stage.steps()
    stage.dispatcher = dispatcher(stage, 1, 2)
    stage.steps()
    stage.dispatcher = dispatcher(stage, 1, 3)
    stage.worker("new", formats=Formats(1, 2))
    stage.steps()

    assert stage.dispatcher.parts.formats.writes == 2
    assert stored(stage) == (1, 2)


def test_a_cell_of_today_says_nothing_of_formats(stage: Stage) -> None:
    """Old processes find what they know: no new key while there is one format."""
    stage.worker()
    stage.send(3)
    stage.steps()

    assert stage.text.exists(stage.keys.formats) == 0
    assert stage.text.hget(stage.keys.leader_info, "formats") == "1 1"


def test_a_worker_that_did_not_compare_is_given_nothing(stage: Stage) -> None:
    """0.1.0 registers without a look at what lies there. The others are given the jobs, and the log names it."""
    stage.dispatcher = dispatcher(stage, 1, 2)
    new = stage.worker("new", formats=Formats(1, 2), concurrency=4)
    stage.steps()
    assert stage.dispatcher.parts.formats.writes == 2
    old = old_worker(stage, like=new)

    stage.send(6)
    stage.steps()

    assert stage.text.hlen(stage.keys.leases(old)) == 0
    assert len(new.leases()) == 6
    assert [event for event in stage.events if isinstance(event, Unreadable)] == [
        Unreadable("what is written here in format 2, by worker old@h,")
    ]


def old_worker(stage: Stage, *, like: Stub) -> str:
    """What 0.1.0 writes when its life begins; its epoch."""
    registration = json.loads(stage.text.hget(stage.keys.worker(like.epoch), "registration") or "")
    del registration["formats"]
    epoch = "0" * 11 + "f"
    stage.text.hset(stage.keys.worker(epoch), "registration", json.dumps(registration | {"name": "old@h"}))
    stage.text.sadd(stage.keys.workers, epoch)
    stage.text.set(stage.keys.alive(epoch), "1", px=ALIVE_TTL_MS)
    return epoch
