"""Celery's own ways to join tasks, over dispatched workers."""

from __future__ import annotations

from pathlib import Path

from celery import chain, chord, group

from tests.eventually import eventually
from tests.worker_harness import Sent, open_cell


def test_canvas_works_as_it_did(redis_url: str, tmp_path: Path) -> None:
    """Chains, groups and chords, whose parts the workers send on, end as they do without a dispatcher."""
    with open_cell(redis_url, tmp_path) as cell:
        cell.spawn("w1", concurrency=2)
        cell.spawn("w2", pool="threads", concurrency=2)
        app = cell.make_app(attached=False)
        work = app.tasks["work"]
        last = (chain(work.si(), group(work.si(), work.si()), work.si())).apply_async().id
        body = chord([work.si() for _ in range(5)])(work.si()).id
        # Results unsubscribe when they are collected, and retry for long where Redis has gone before.
        app.backend.result_consumer.subscribed_to.clear()
        for job in (last, body):
            assert Sent(cell.client, job).get(20) == job
        eventually(cell.no_leases)
        assert len(cell.ledger.ended()) == 10
        assert set(cell.runs().values()) == {1}
