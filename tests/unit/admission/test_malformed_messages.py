"""Admission refuses what no worker could run: each kind of malformed message with a reason of its own."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from dispatcher.core.admission.rules import Admitted, Refused
from tests.messages import envelope
from tests.unit.admission.admission_rules import REASONS, admission, encoded, read

MISSING = object()


def changed(*path: str, to: Any) -> bytes:
    """A good message with one place changed or, for ``MISSING``, left out."""
    made = envelope("the-id", task="the.task")
    place = made
    for name in path[:-1]:
        place = place[name]
    if to is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(made).encode()


REFUSED: list[tuple[str, bytes]] = [
    ("not_json", b""),
    ("not_json", b"\x00\xff\x80 binary"),
    ("not_json", b"hello"),
    ("not_json", b"{"),
    ("not_json", json.dumps(envelope()).encode() + b" and more"),
    ("not_json", json.dumps(envelope()).encode()[:-1]),
    ("not_json", b'{"a": ' * 50_000),
    ("not_json", json.dumps(envelope()).encode("utf-16")),
    ("not_json", b"\xef\xbb\xbf" + json.dumps(envelope()).encode()),
    ("not_json", changed("headers", "origin", to="ORIGIN").replace(b"ORIGIN", b"\xff")),
    ("not_json", b"!!40"),
    ("too_large", b"!104857600"),
    ("wrong_type", b"[]"),
    ("wrong_type", b"null"),
    ("wrong_type", b'"a string"'),
    ("wrong_type", b"5"),
    ("no_headers", b"{}"),
    ("no_headers", changed("headers", to=MISSING)),
    ("wrong_type", changed("headers", to=None)),
    ("wrong_type", changed("headers", to=[])),
    ("no_properties", changed("properties", to=MISSING)),
    ("wrong_type", changed("properties", to="x")),
    ("no_id", changed("headers", "id", to=MISSING)),
    ("no_id", changed("headers", "id", to="")),
    ("wrong_type", changed("headers", "id", to=5)),
    ("no_task", changed("headers", "task", to=MISSING)),
    ("no_task", changed("headers", "task", to="")),
    ("wrong_type", changed("headers", "task", to=None)),
    ("no_delivery_tag", changed("properties", "delivery_tag", to=MISSING)),
    ("no_delivery_tag", changed("properties", "delivery_tag", to="")),
    ("wrong_type", changed("properties", "delivery_tag", to=7)),
    ("wrong_type", changed("properties", "delivery_info", to="dispatch")),
    ("wrong_type", changed("content-encoding", to=5)),
    ("bad_body", changed("body", to=MISSING)),
    ("wrong_type", changed("body", to=None)),
    ("wrong_type", changed("body", to=[[], {}, {}])),
    ("bad_body", changed("body", to="")),
    ("bad_body", changed("body", to="not base64!")),
    ("bad_body", changed("body", to=encoded("not json"))),
    ("bad_body", changed("body", to=encoded("[]"))),
    ("bad_body", changed("body", to=encoded("[[], {}]"))),
    ("bad_body", changed("body", to=encoded("[{}, [], {}]"))),
    ("bad_body", changed("body", to=encoded("[[], {}, []]"))),
    ("bad_body", changed("body", to=encoded("[[], {}, {}, {}]"))),
    ("bad_body", changed("body", to=encoded('{"args": {}}'))),
    ("bad_body", changed("body", to=encoded('{"args": [], "kwargs": []}'))),
    ("bad_body", changed("body", to=encoded("[[], {}, {}] and more"))),
    ("bad_body", changed("body", to=encoded('[["\x01"], {}, {}]'))),
    ("bad_body", changed("body", to=encoded("[" * 50_000))),
    ("bad_body", changed("body", to=b64encode(b'[["\xff"], {}, {}]').decode())),
    ("bad_body", changed("properties", "body_encoding", to=None)),
    ("bad_body", changed("properties", "body_encoding", to="rot13")),
    ("bad_body", changed("headers", "compression", to="application/x-gzip")),
    ("wrong_type", changed("headers", "compression", to=5)),
    ("content_refused", changed("content-type", to=MISSING)),
    ("content_refused", changed("content-type", to=None)),
    ("content_refused", changed("content-type", to="application/x-python-serialize")),
    ("wrong_type", changed("content-type", to=1)),
    ("bad_timelimit", changed("headers", "timelimit", to=5)),
    ("bad_timelimit", changed("headers", "timelimit", to=[5])),
    ("bad_timelimit", changed("headers", "timelimit", to=[5, 4, 3])),
    ("bad_timelimit", changed("headers", "timelimit", to=["5", None])),
    ("bad_timelimit", changed("headers", "timelimit", to={"hard": 5})),
    ("bad_eta", changed("headers", "eta", to="")),
    ("bad_eta", changed("headers", "eta", to="tomorrow")),
    ("bad_eta", changed("headers", "eta", to="2023-02-30T00:00:00")),
    ("bad_eta", changed("headers", "eta", to=1_700_000_000)),
    ("bad_expires", changed("headers", "expires", to="soon")),
    ("bad_expires", changed("headers", "expires", to="")),
    ("bad_expires", changed("headers", "expires", to=60.5)),
    ("wrong_type", changed("headers", "retries", to="many")),
    ("bad_header", changed("headers", "dispatch", to="minilm")),
    ("bad_header", changed("headers", "dispatch", to=[])),
    ("bad_header", changed("headers", "dispatch", to={"cost": -1})),
    ("bad_header", changed("headers", "dispatch", to={"model": 5})),
    ("bad_header", changed("headers", "dispatch", to={"tenant": "x" * 129})),
    ("bad_header", changed("headers", "dispatch", to={"requires": {"gpu": []}})),
    ("bad_header", changed("headers", "dispatch", to={"prefers": {"gpu": "x" * 65}})),
    ("bad_header", changed("headers", "dispatch", to={"deadline_s": 0})),
    ("unknown_model", changed("headers", "dispatch", to={"model": "gpt-99"})),
]


@pytest.mark.parametrize(("reason", "raw"), REFUSED, ids=[f"{i}-{reason}" for i, (reason, _) in enumerate(REFUSED)])
def test_a_malformed_message_is_refused_with_its_reason(reason: str, raw: bytes) -> None:
    """One word for the metric, one sentence for a person, and the id wherever it can be read, so that its waiter can be told."""
    found = read(raw, admission(known_models={"minilm"}))

    assert isinstance(found, Refused), found
    assert found.reason == reason, found
    assert len(found.detail) > 10
    is_named = b'"id": "the-id"' in raw or (b'"correlation_id": "the-id"' in raw and b'"id": ' not in raw)
    assert found.task_id == ("the-id" if is_named and reason != "not_json" else None)
    if b'"task": "the.task"' in raw and reason != "not_json":
        assert found.task == "the.task"


def test_the_table_of_malformed_messages_is_complete() -> None:
    """Every reason there is has an example above."""
    assert {reason for reason, _ in REFUSED} == REASONS


def test_what_the_app_accepts_is_accepted() -> None:
    """`accept_content` of the app decides about other serializers; their bodies are not looked into, but must be there."""
    pickled = json.loads(changed("content-type", to="application/x-python-serialize"))
    rules = admission(accept_content=frozenset({"application/x-python-serialize"}))
    assert isinstance(read(json.dumps(pickled).encode(), rules), Admitted)

    pickled["body"] = ""
    found = read(json.dumps(pickled).encode(), rules)
    assert isinstance(found, Refused)
    assert found.reason == "bad_body"
