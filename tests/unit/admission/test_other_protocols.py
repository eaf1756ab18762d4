"""Messages that are not Celery's plain protocol 2: of protocol 1, of both, and with values that carry their types."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery, chord
from celery.worker.request import Request
from kombu.compression import decompress
from kombu.transport.virtual import Message
from kombu.utils.json import dumps, loads

from dispatcher.core.admission.rules import Admitted, Refused
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.message import (
    embed_of,
    headers_of,
    identity_of,
    plain_text,
    read_routing,
    read_whole,
    task_id_of,
)
from tests.messages import TASK, envelope
from tests.unit.admission.admission_rules import admission, encoded, make_app, read, sent_by


@pytest.fixture(scope="module")
def old_app() -> Iterator[Celery]:
    """An app that sends in protocol 1."""
    made = make_app(task_protocol=1)
    yield made
    made.close()


SENT: dict[str, Callable[[Any], Any]] = {
    "plain": lambda task: task.delay(1, name="ü"),
    "no arguments": lambda task: task.apply_async(),
    "eta": lambda task: task.apply_async(eta=datetime(2200, 1, 1, tzinfo=UTC)),
    "expires": lambda task: task.apply_async(expires=60),
    "time limits": lambda task: task.apply_async(time_limit=5, soft_time_limit=2.5),
    "retried": lambda task: task.apply_async(retries=2, task_id="again"),
    "UUID as id": lambda task: task.apply_async(task_id=uuid4()),
    "zlib": lambda task: task.apply_async((["x" * 500],), compression="zlib"),
    "typed": lambda task: task.delay(datetime(2020, 1, 1, tzinfo=UTC), Decimal("0.1")),
    "nan": lambda task: task.delay(float("nan")),
    "header": lambda task: task.apply_async(headers={"dispatch": {"model": "chat", "cost": 0.25}, "mine": 7}),
    "chord": lambda task: chord([task.s(1), task.s(2)])(task.si()),
}


@pytest.mark.parametrize("name", SENT)
def test_a_job_of_protocol_1_is_admitted_and_read_as_any_other(old_app: Celery, name: str) -> None:
    """Old producers, and some in other languages, say in the body what the job is: its id, task, times, retries and canvas."""
    raw, *_ = sent_by(old_app, SENT[name])
    sent = json.loads(raw)
    body = b64decode(sent["body"])
    said = loads(decompress(body, sent["headers"]["compression"]) if "compression" in sent["headers"] else body)

    decided = read(raw)

    assert isinstance(decided, Admitted), decided
    lane = parse_lane(decided.lane)
    assert (lane.task, lane.model, decided.task_id) == (TASK, "chat" if name == "header" else "default", plain_text(said["id"]))
    assert (decided.due_ms is not None, decided.turn) == (name == "eta", said["retries"])
    with old_app.connection_for_write() as connection:
        message = Message(read_whole(raw, loads), channel=connection.default_channel)
        request = Request(message, app=old_app, task=old_app.tasks[TASK])
    assert (request.id, request.name) == (said["id"], TASK)
    assert repr((list(request.args), request.kwargs)) == repr((said["args"], said["kwargs"]))
    facts = request.request_dict
    assert all(facts[name] == said[name] for name in ("eta", "expires", "retries", "timelimit", "taskset", "utc"))
    assert facts["group"] == said["taskset"]
    assert facts["headers"].get("mine") == (7 if name == "header" else None)
    assert (embed_of(raw)["chord"] is None) == (said["chord"] is None)
    assert task_id_of(raw) == read_routing(raw).id == headers_of(raw)["id"] == identity_of(raw)[0] == decided.task_id


def test_what_is_of_both_protocols_is_named_by_its_headers() -> None:
    """Some producers in other languages name the job in the headers, and its arguments in the body."""
    raw = envelope("the-id")
    raw["body"] = encoded(json.dumps({"args": [1], "kwargs": {"a": 2}, "task": "of.the.body", "eta": "2200-01-01T00:00:00+00:00"}))

    decided = read(json.dumps(raw).encode())

    assert isinstance(decided, Admitted), decided
    assert (parse_lane(decided.lane).task, decided.task_id, decided.due_ms) == (TASK, "the-id", None)


def test_a_job_of_protocol_1_that_is_not_json_is_refused_and_its_sender_told() -> None:
    """Its id is in the body, which nobody but a worker unpickles; but the correlation id is the same."""
    raw = {**envelope("the-id"), "headers": {}, "content-type": "application/x-python-serialize"}

    decided = read(json.dumps(raw).encode(), admission(accept_content=frozenset({"application/x-python-serialize"})))

    assert isinstance(decided, Refused)
    assert (decided.reason, decided.task_id) == ("no_id", "the-id")
    assert "protocol 1" in decided.detail


TYPED: dict[str, Any] = {
    "dispatch": {"session": UUID(int=7), "tenant": b"acme", "cost": Decimal("0.25"), "deadline_s": Decimal(30), "model": "chat"},
    "eta": datetime(2200, 1, 1, tzinfo=UTC), "expires": datetime(2200, 1, 2, tzinfo=UTC), "retries": Decimal(2),
    "timelimit": [Decimal("1.5"), None], "id": UUID(int=1), "task": b"a.task",
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "dispatch": {"session": str(UUID(int=7)), "tenant": "acme", "cost": 0.25, "deadline_s": 30, "model": "chat"},
    "eta": "2200-01-01T00:00:00+00:00", "expires": "2200-01-02T00:00:00+00:00", "retries": 2,
    "timelimit": [1.5, None], "id": str(UUID(int=1)), "task": "a.task",
}  # fmt: skip


@pytest.mark.parametrize("name", [*TYPED, "all of them"])
def test_a_value_that_carries_its_type_is_read_as_the_plain_value(name: str) -> None:
    """kombu's JSON carries UUIDs, times, Decimals and bytes, in any header that we read."""
    decided = []
    for values in (TYPED, PLAIN):
        made = envelope("the-id")
        made["headers"] |= values if name == "all of them" else {name: values[name]}
        raw = dumps(made).encode()
        decided.append((read(raw), task_id_of(raw), identity_of(raw), headers_of(raw)["id"], read_routing(raw).task))

    assert isinstance(decided[0][0], Admitted), decided[0]
    assert decided[0] == decided[1]


@pytest.mark.parametrize("value", [{"hex": 5}, None, "no hex", {"hex": "0" * 32, "more": 1}], ids=str)
def test_a_type_that_does_not_fit_its_value_is_refused(value: Any) -> None:
    """SAFETY: kombu would raise for it; admission must not."""
    made = envelope("the-id")
    made["headers"]["id"] = {"__type__": "uuid", "__value__": value}

    assert isinstance(read(json.dumps(made).encode()), Refused)


def test_a_compression_that_the_app_registered_in_kombus_place_is_not_looked_into() -> None:
    """An app may replace kombu's zlib, say by a faster library with another format: only its workers can read it."""
    raw = json.dumps(envelope(compression="application/x-gzip")).encode()

    assert isinstance(read(raw), Refused)
    assert isinstance(read(raw, admission(own_compressions=frozenset({"application/x-gzip"}))), Admitted)
