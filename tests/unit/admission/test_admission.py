"""Admission: every message is either a job in a lane or a dead letter with the right reason, and nothing is ever raised."""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, chain, chord, group
from celery.worker.request import Request
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu import compression
from kombu.transport.virtual import Message
from kombu.utils.json import loads

from dispatcher.core.admission.prefix import slot_of_text
from dispatcher.core.admission.rules import Admission, Admitted, Refused
from dispatcher.core.facts.header import job_headers
from dispatcher.core.facts.labels import wanted
from dispatcher.core.facts.lane import Lane, lane_name, parse_lane, size_class
from tests.messages import TASK, envelope
from tests.unit.admission.admission_rules import NOW_MS, REASONS, admission, encoded, make_app, read, sent_by


def test_a_plain_message_waits_in_the_lane_of_its_kind() -> None:
    """Queue, task, model, priority step and size class of the default cost."""
    found = read(json.dumps(envelope("id-1")).encode())

    assert isinstance(found, Admitted)
    assert found.lane == f"dispatch/{TASK}/default/p3/c10"
    assert (found.cost_ms, found.due_ms) == (1000, None)


def test_what_the_header_says_decides() -> None:
    """Model and cost come from the header `dispatch`, before route and default."""
    raw = json.dumps(envelope(dispatch={"model": "chat@2", "cost": 0.25})).encode()

    found = read(raw, admission(routes={TASK: "minilm"}, default_cost_s=9.0))

    assert isinstance(found, Admitted)
    assert parse_lane(found.lane).model == "chat@2"
    assert found.cost_ms == 250


def lane_of(dispatch: dict[str, Any], rules: Admission | None = None) -> Lane:
    found = read(json.dumps(envelope(dispatch=dispatch)).encode(), rules)
    assert isinstance(found, Admitted), found
    return parse_lane(found.lane)


def test_every_field_of_the_header_is_in_the_lane() -> None:
    """Who it is for, where it must and would rather run, what it belongs to, how long it may wait: none is lost."""
    said = job_headers(
        model="chat@2", session="user-7", tenant="a/b c", cost=0.25, requires={"region": "eu", "gpu": ["h100", "a100"]},
        prefers={"shard": "=7;|"}, deadline_s=30,
    )["dispatch"]  # fmt: skip

    assert lane_of(said) == Lane(
        "dispatch", TASK, "chat@2", 3, size_class(250), "a/b c", (("gpu", ("a100", "h100")), ("region", ("eu",))),
        (("shard", ("=7;|",)),), slot_of_text("user-7"), (30_000).bit_length(),
    )  # fmt: skip


tenants = st.text(min_size=1, max_size=5)
wishes = st.dictionaries(st.text(min_size=1, max_size=4), st.lists(st.text(max_size=4), min_size=1, max_size=3), max_size=3)


@given(tenants, wishes, wishes, st.none() | st.text(min_size=1, max_size=8), st.none() | st.floats(0.0001, 1e8))
def test_a_lane_has_the_name_that_its_fields_give(
    tenant: str, requires: dict[str, Any], prefers: dict[str, Any], session: str | None, deadline_s: float | None
) -> None:
    """The name that admission puts together is the one name of that lane, so equal jobs share a list."""
    given_fields = dict(tenant=tenant, requires=requires, prefers=prefers, session=session, deadline_s=deadline_s)
    found = read(json.dumps(envelope(dispatch={k: v for k, v in given_fields.items() if v is not None})).encode())
    assert isinstance(found, Admitted), found
    lane = parse_lane(found.lane)

    assert found.lane == lane_name(lane)
    assert (lane.tenant, lane.requires, lane.prefers) == (tenant, wanted(requires), wanted(prefers))
    assert (lane.slot >= 0) == (session is not None)
    assert (found.deadline_ms > 0) == (lane.deadline_class > 0) == (deadline_s is not None)


def test_equal_wishes_share_a_lane_however_they_are_written() -> None:
    """A string and a list of it, in any order, with or without repetition."""
    one = {"requires": {"gpu": ["a100", "h100", "a100"], "region": "eu"}}
    other = {"requires": {"region": ["eu"], "gpu": ["h100", "a100"]}}

    assert lane_of(one) == lane_of(other)


def test_a_session_wins_over_a_prefix_and_a_prefix_alone_has_a_slot() -> None:
    """Who maps prefixes to slots sees every prefix, and is not asked about a job of a session."""
    prefix = [11, 22, 33]

    assert lane_of({"prefix": prefix}).slot == slot_of_text("11")
    assert lane_of({"prefix": prefix, "session": "user-1"}).slot == slot_of_text("user-1")
    assert lane_of({"prefix": []}).slot == -1
    assert lane_of({"prefix": prefix}, admission(slot_of_prefix=len)).slot == 3


def test_without_stickiness_sessions_share_a_lane() -> None:
    """With `sticky` off nobody is kept together, and no lane is made for it."""
    for said in ({"session": "user-1"}, {"prefix": [1]}):
        assert lane_of(said, admission(sticky=False)) == lane_of({})


@pytest.mark.parametrize(
    ("eta", "deadline_s", "after_ms"),
    [(None, 30, 30_000), ("2000-01-01", 30, 30_000), ("2023-11-14T22:14:20", 30, 90_000), (None, 1e-9, 1)],
)
def test_the_time_to_the_deadline_begins_when_the_job_could_first_run(eta: str | None, deadline_s: float, after_ms: int) -> None:
    """At admission, or at its eta where that is later: a job that asks to wait is not late before it may begin."""
    found = read(json.dumps(envelope(eta=eta, dispatch={"deadline_s": deadline_s})).encode())

    assert isinstance(found, Admitted)
    assert found.deadline_ms == NOW_MS + after_ms


def test_a_deadline_beyond_what_a_frame_can_hold_is_cut() -> None:
    """The frame has thirteen digits, to the year 2286."""
    found = read(json.dumps(envelope(eta="9999-12-31", dispatch={"deadline_s": 1})).encode())

    assert isinstance(found, Admitted)
    assert found.deadline_ms == 9_999_999_999_999


def test_a_route_gives_the_model_of_a_task_that_names_none() -> None:
    """Producers that never heard of models are routed by their task's name."""
    found = read(json.dumps(envelope()).encode(), admission(routes={TASK: "minilm"}))

    assert isinstance(found, Admitted)
    assert parse_lane(found.lane).model == "minilm"


def test_unknown_header_fields_are_counted_and_ignored() -> None:
    """A newer producer is served."""
    rules = admission()
    raw = json.dumps(envelope(dispatch={"shard": 1})).encode()

    assert isinstance(read(raw, rules), Admitted)
    assert isinstance(read(raw, rules), Admitted)
    assert rules.unknown_fields == {"shard": 2}
    for number in range(200):
        assert isinstance(read(json.dumps(envelope(dispatch={f"made up {number}": 1})).encode(), rules), Admitted)
    assert len(rules.unknown_fields) == 100


def test_a_cost_too_large_for_a_frame_is_cut() -> None:
    """The frame has nine digits for it."""
    found = read(json.dumps(envelope(dispatch={"cost": 1e8})).encode())

    assert isinstance(found, Admitted)
    assert found.cost_ms == 999_999_999


@pytest.mark.parametrize(
    ("eta", "due_ms"),
    [
        ("2023-11-14T22:13:20.001", NOW_MS + 1),
        ("2023-11-14T22:13:20.001+00:00", NOW_MS + 1),
        ("2023-11-15T00:13:20.001+02:00", NOW_MS + 1),
        ("2023-11-14T22:14:20Z", NOW_MS + 40_000 + 20_000),
        ("2023-11-14T22:13:20", None),
        ("1970-01-01T00:00:00", None),
        ("9999-12-31T23:59:59", 253_402_300_799_000),
    ],
)
def test_only_a_future_eta_is_waited_for(eta: str, due_ms: int | None) -> None:
    """Without a zone it is UTC, as Celery sends it; what is due waits in its lane at once."""
    found = read(json.dumps(envelope(eta=eta)).encode())

    assert isinstance(found, Admitted)
    assert found.due_ms == due_ms


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud800"], ids=["nan", "inf", "half a surrogate pair"])
def test_what_pythons_json_allows_is_a_job(value: Any) -> None:
    """Plain Celery carries these to its workers, as an argument or in a header of the user's own; so do we."""
    sent = json.dumps(envelope(args=(value,), mine=value)).encode()

    assert isinstance(read(sent), Admitted)


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    """An app that sends in protocol 2, as Celery does."""
    made = make_app()
    yield made
    made.close()


@pytest.fixture
def turned() -> Iterator[None]:
    """A compression that the app registered with kombu: bytes, the last first."""
    compression.register(lambda data: data[::-1], lambda data: data[::-1], "application/x-turned")
    yield
    del compression._encoders["application/x-turned"], compression._decoders["application/x-turned"]


SENT: dict[str, Callable[[Any], Any]] = {
    "delay": lambda task: task.delay(1, name="ü"),
    "no arguments": lambda task: task.apply_async(),
    "countdown": lambda task: task.apply_async(countdown=1_000_000_000),
    "past eta": lambda task: task.apply_async(eta=datetime(2020, 1, 1, tzinfo=UTC)),
    "expires": lambda task: task.apply_async(expires=60),
    "expires at": lambda task: task.apply_async(expires=datetime.now(UTC) + timedelta(hours=1)),
    "time limits": lambda task: task.apply_async(time_limit=5, soft_time_limit=2.5),
    "one time limit": lambda task: task.apply_async(soft_time_limit=3),
    "priority": lambda task: task.apply_async(priority=9),
    "header": lambda task: task.apply_async(headers=job_headers(model="minilm", session="s", cost=0.5, requires={"gpu": ["a", "b"]})),
    "callbacks": lambda task: task.apply_async(link=task.si(), link_error=task.si()),
    "stamped": lambda task: task.apply_async(stamped_headers=["tenant"], tenant="acme"),
    "zlib": lambda task: task.apply_async((["x" * 500],), compression="zlib"),
    "bzip2": lambda task: task.apply_async((["x" * 500],), compression="bzip2"),
    "lzma": lambda task: task.apply_async((["x" * 500],), compression="lzma"),
    "retried": lambda task: task.apply_async(retries=2, task_id="again"),
    "UUID as id": lambda task: task.apply_async(task_id=uuid4()),
    "own compression": lambda task: task.apply_async((["x" * 500],), compression="application/x-turned"),
    "typed": lambda task: task.delay(datetime(2020, 1, 1, tzinfo=UTC), {1, 2}.pop(), b"bytes".decode()),
    "nan": lambda task: task.delay(math.nan),
    "group": lambda task: group(task.s(i) for i in range(3)).apply_async(),
    "chain": lambda task: chain(task.si(1), task.si(2)).apply_async(),
    "chord": lambda task: chord([task.s(1), task.s(2)])(task.si()),
}


@pytest.mark.usefixtures("turned")
@pytest.mark.parametrize("name", SENT)
def test_whatever_celery_sends_is_admitted(app: Celery, name: str) -> None:
    """Any producer, unchanged: each of Celery's ways to send a job gives a job."""
    messages = sent_by(app, SENT[name])

    assert messages
    for raw in messages:
        found = admission().read(raw, ingress="dispatch", step=0, now_ms=round(datetime.now(UTC).timestamp() * 1000))
        assert isinstance(found, Admitted), found
        assert (found.due_ms is not None) == (name == "countdown")


def test_any_model_may_wait_while_none_is_known() -> None:
    """On a cell that has never seen a worker, nobody can tell a wrong model from one that is about to come."""
    raw = json.dumps(envelope(dispatch={"model": "minilm"})).encode()

    assert isinstance(read(raw, admission(known_models=None)), Admitted)
    assert isinstance(read(raw, admission(known_models={"minilm"})), Admitted)
    assert isinstance(read(raw, admission(known_models={"other"})), Refused)


# -- any message

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["", "\ud800", "2024-01-01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good message with up to three places changed to anything, its body taken apart as well."""
    made: dict[str, Any] = envelope("the-id", dispatch={"cost": 1.0})
    body: Any = json.loads(b64decode(made["body"]))
    paths = [
        ("body",), ("content-type",), ("content-encoding",), ("headers",), ("properties",),
        *(("headers", name) for name in made["headers"]), *(("properties", name) for name in made["properties"]),
        ("headers", "dispatch", "model"), ("headers", "dispatch", "cost"), ("properties", "delivery_info", "exchange"),
    ]  # fmt: skip
    for path in draw(st.lists(st.sampled_from(paths), max_size=3)):
        place = made
        for name in path[:-1]:
            place = place[name] if isinstance(place.get(name), dict) else place
        if draw(st.booleans()):
            place[path[-1]] = draw(json_values)
        else:
            place.pop(path[-1], None)
    if draw(st.booleans()):
        body[draw(st.integers(0, 2))] = draw(json_values)
        made["body"] = encoded(json.dumps(body))
    return json.dumps(made).encode()


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """A good message with a few bytes changed, as a bad disk or a bad client would."""
    raw = bytearray(json.dumps(deepcopy(envelope("the-id"))).encode())
    for _ in range(draw(st.integers(1, 3))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255) | st.sampled_from(list(b'"\\{}[],:0')))
    return bytes(raw)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()) | mutated() | torn())
@example(b"!")
@example(b"!\xff")
@example(b"!!")
@example(b"\xed\xa0\x80")
def test_nothing_is_ever_raised(raw: bytes) -> None:
    """SAFETY: whatever lies in the ingress is a job or a dead letter whose reason can be stored as JSON."""
    found = read(raw)

    if isinstance(found, Admitted):
        assert 0 <= found.cost_ms <= 999_999_999
        assert parse_lane(found.lane).ingress == "dispatch"
        assert found.due_ms is None or found.due_ms > NOW_MS
    else:
        assert found.reason in REASONS
        assert json.dumps(tuple(found), ensure_ascii=False).encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much], max_examples=300)
@given(raw=mutated() | torn())
def test_what_is_admitted_can_be_received_by_a_celery_worker(app: Celery, raw: bytes) -> None:
    """SAFETY: a worker that meets a message it cannot unpack exits, and the next one after it. None such is admitted."""
    if isinstance(read(raw), Refused):
        return
    with app.connection_for_read() as connection:
        message = Message(loads(raw.decode()), channel=connection.default_channel, accept={"application/json"})
        args, kwargs, embed = message.payload
        request = Request(message, app=app, hostname="w@h", task=app.tasks[TASK], headers=message.headers, body=message.body, utc=True)
        hard, soft = request.time_limits

    assert isinstance(args, list)
    assert isinstance(kwargs, dict)
    assert isinstance(embed, dict | None)
    assert request.id


def test_a_learned_cost_stands_for_one_that_is_not_declared() -> None:
    """By task and model; a producer that says the cost is believed, and a kind of which nothing is known has the default."""
    rules = admission(routes={TASK: "minilm"}, costs={(TASK, "minilm"): 0.3})
    said: list[dict[str, Any] | None] = [None, {"cost": 2}, {"model": "other"}]
    found = [read(json.dumps(envelope(dispatch=one) if one else envelope()).encode(), rules) for one in said]

    assert [one.cost_ms for one in found if isinstance(one, Admitted)] == [300, 2_000, 1_000]
