"""Celery's message, read in parts: whatever lies in Redis, what can be read is read and the rest is empty."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from kombu.utils.json import loads

from dispatcher.core.facts.message import (
    embed_of,
    headers_of,
    identity_of,
    read_envelope,
    read_routing,
    read_whole,
    task_id_of,
    write_message,
)
from tests.messages import TASK, envelope, message

STRANGE: list[Any] = [math.nan, math.inf, "\ud800"]


@pytest.mark.parametrize("value", STRANGE, ids=["nan", "inf", "half a surrogate pair"])
def test_what_pythons_json_allows_is_read_by_every_reader(value: Any) -> None:
    """Celery carries it, so a header of the user's own hides neither the task id nor the rest."""
    raw = message("the-id", dispatch={"model": "chat"}, mine=value)

    assert read_envelope(raw).headers.id == "the-id"
    assert read_routing(raw).task == TASK
    assert json.loads(bytes(read_routing(raw).dispatch)) == {"model": "chat"}
    assert task_id_of(raw) == "the-id"
    assert identity_of(raw) == ("the-id", TASK)
    assert headers_of(raw)["id"] == "the-id"
    assert read_whole(raw, loads)["headers"]["task"] == TASK


@pytest.mark.parametrize("raw", [b"", b"!", b"[]", b"{}", b"\xff", b'{"headers": 1}', b'{"headers": {"id": 7}}', b"[" * 100_000])
def test_what_is_no_message_has_no_parts(raw: bytes) -> None:
    """SAFETY: a dead letter may be anything, and those who look at it must not stop for it."""
    assert task_id_of(raw) is None
    assert identity_of(raw) == (None, None)
    assert headers_of(raw) in ({}, {"id": 7})
    assert embed_of(raw) == {}


def test_the_canvas_is_read_from_the_body() -> None:
    """A chord whose member is buried must hear of it, compressed body or not."""
    assert embed_of(message(embed={"chord": {"task": "x"}}))["chord"] == {"task": "x"}


def test_a_message_that_we_write_has_the_fields_that_kombu_writes() -> None:
    """It passes for one of Celery's everywhere: in its workers, in Flower, in our own admission."""
    written = json.loads(write_message(TASK, task_id="the-id", delivery_tag="tag", expires_ms=1_700_000_000_000))
    kombus = envelope("the-id")

    assert written.keys() == kombus.keys()
    assert written["properties"].keys() == kombus["properties"].keys()
    assert written["headers"].keys() >= kombus["headers"].keys() - {"stamped_headers"}
    assert written["headers"]["expires"] == "2023-11-14T22:13:20+00:00"
