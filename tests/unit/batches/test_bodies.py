"""What may be the body of a response: what every reader of a result file reads as it was given."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.batches.bodies import DEPTH_MAX, printable, why_no_body

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
odd = st.sampled_from([float("nan"), float("inf"), b"x", {1}, "\ud83d", 2**65, object(), np.float32(1), np.zeros(2), 1j])
trees = st.recursive(plain | odd, lambda part: st.lists(part) | st.dictionaries(st.text() | st.integers(), part), max_leaves=8)


def nested(levels: int) -> dict[str, Any]:
    body: Any = 1
    for _ in range(levels):
        body = {"a": body}
    assert isinstance(body, dict)
    return body


def holding_itself() -> dict[str, Any]:
    body: dict[str, Any] = {}
    body["a"] = [body, body]
    return body


@given(trees)
def test_what_passes_is_read_back_as_it_was_given(body: Any) -> None:
    """Through Celery's JSON and through the result file; and whatever an encoder refuses does not pass."""
    if why_no_body(body) is None:
        assert isinstance(body, dict)
        assert json.loads(json.dumps(body, allow_nan=False)) == body
        assert msgspec.json.decode(msgspec.json.encode(body)) == body


@given(st.dictionaries(st.text(), st.recursive(plain, lambda part: st.lists(part) | st.dictionaries(st.text(), part), max_leaves=8)))
def test_every_object_of_json_values_passes(body: dict[str, Any]) -> None:
    """The check costs nobody an answer."""
    assert why_no_body(body) is None


@pytest.mark.parametrize(("body", "said"), [
    (None, "None, not a response body"),
    ("text", "a str, not a response body"),
    (0.5, "a float, not a response body"),
    ([{}], "a list, not a response body"),
    (np.zeros(2), "a numpy.ndarray, not a response body"),
    ({"data": [{"embedding": [0.5, float("nan")]}]}, "the float nan at data[0].embedding[1]"),
    ({"data": [{"embedding": [0.5, np.float32(1)]}]}, "a numpy.float32 at data[0].embedding[1]"),
    ({"x": np.zeros(2)}, "a numpy.ndarray at x"),
    ({"x": (1, {2})}, "a set at x[1]"),
    ({"x": {"y": b"raw"}}, "a bytes at x.y"),
    ({"x": "cut \ud83d"}, "half a surrogate pair at x"),
    ({"\ud83d": 1}, "the key '\\ud83d'"),
    ({"x": {1: 2}}, "the key 1, an int that is no text, at x"),
    ({"x": 2**64}, "an int of 65 bits at x"),
    (nested(DEPTH_MAX + 1), "more than 100 levels of nesting, from a.a.a."),
    (holding_itself(), "more than 100 levels of nesting, from a[1].a[1]."),
])  # fmt: skip
def test_what_does_not_pass_is_named_with_its_place(body: Any, said: str) -> None:
    """Whoever wrote the model finds the line of code; and the reason itself can be written."""
    reason = why_no_body(body)

    assert reason is not None
    assert reason.startswith(said)
    assert reason.isascii()


def test_as_many_levels_as_are_allowed_pass() -> None:
    assert why_no_body(nested(DEPTH_MAX)) is None


def test_half_a_pair_is_escaped_and_nothing_else() -> None:
    assert printable("é \ud83d \U0001f600") == "é \\ud83d \U0001f600"
