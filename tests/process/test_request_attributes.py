"""What a bound task reads in ``self.request``, in attached workers and in stock ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import Signature

from tests.process.cluster import PATIENCE_S, MakeCluster

Sig = Callable[..., Signature]

WAYS: dict[str, Callable[[Sig], Any]] = {
    "plain": lambda s: s(),
    "countdown": lambda s: s(countdown=0.2),
    "eta": lambda s: s(eta=datetime.now(UTC) + timedelta(seconds=0.2)),
    "expires": lambda s: s(expires=600),
    "priority": lambda s: s(priority=6),
    "time limits": lambda s: s(time_limit=100, soft_time_limit=50),
    "headers and shadow": lambda s: s(headers={"customer": "acme"}, shadow="other name"),
    "stamps": lambda s: s().stamp(customer="acme"),
    "callbacks": lambda s: s(link=s(), link_error=s()),
    "retry": lambda s: s(kwargs={"retries": 1}),
    "chain": lambda s: chain(s(), s(immutable=True)),
    "group": lambda s: group(s(), s()),
    "chord": lambda s: chord([s(), s()], s(immutable=True)),
}
DIFFERENT = {"hostname", "delivery_tag"}
"""By nature: another worker, and the name of a lease."""
ANY = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[0-9:.+]+|w\d@promise|gen\d+@|'delivery_tag': '[^']*'"
)
"""Ids, times, names of workers and their processes, and tags of deliveries inside of values."""


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_request_is_as_in_stock_celery(make_cluster: MakeCluster, pool: str) -> None:
    """Each attribute, however the job was sent."""
    cluster = make_cluster(app="tests.process.meaning_app")
    cluster.start_dispatcher(leads=False)
    cluster.start_worker("w1", pool=pool, ready=False)
    databases = {"broker": cluster.broker.celery_url(2), "backend": cluster.broker.celery_url(3)}
    cluster.environ |= {"PROMISE_BROKER": cluster.broker.url(2), "PROMISE_RESULTS": cluster.broker.url(3)}
    cluster.start_worker("w2", pool=pool, ready=False, app="tests.process.stock_app")
    with Celery("producer", **databases, set_as_current=False) as stock:
        stock.conf.update(task_default_queue="dispatch")
        results = [_send(app) for app in (cluster.producer, stock)]
        attached, plain = (_seen(sent) for sent in results)

    assert {name: (attached.get(name), value) for name, value in plain.items() if attached.get(name) != value} == {}
    assert attached.keys() == plain.keys()


def _send(app: Celery) -> dict[str, Any]:
    def sig(**options: Any) -> Signature:
        immutable = options.pop("immutable", False)  # for results as arguments have host names deep inside
        return Signature("request", kwargs=options.pop("kwargs", None), options=options, app=app, immutable=immutable)

    return {way: make(sig).apply_async() for way, make in WAYS.items()}


def _seen(results: dict[str, Any]) -> dict[tuple[str, int, str], str]:
    """What each way's last tasks saw, by way, task and attribute, with ids and times made the same."""
    seen = {}
    for way in list(results):
        values = results.pop(way).get(timeout=PATIENCE_S)
        for index, attributes in enumerate(values if isinstance(values, list) else [values]):
            seen |= {(way, index, name): ANY.sub("…", value) for name, value in attributes.items() if name not in DIFFERENT}
    return seen
