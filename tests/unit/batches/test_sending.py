"""What gets through Celery to a worker as it is, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from dispatcher.batches.sending import why_not_sent

MB = 1024 * 1024


def nested(levels: int) -> list[Any]:
    """So many lists in one another."""
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made



@pytest.mark.parametrize("body", [
    {}, {"text": "häß \u2603 \x00 \ud83d"}, {"numbers": [1e308, -0.0, 2**70, 0.1, True, None]}, {"__type__": "datetime"},
    {"a": {"__type__": "x", "__value__": 1, "more": 2}}, {"deep": nested(90)},
], ids=["empty", "text", "numbers", "one mark", "more keys", "deep"])  # fmt: skip
def test_what_is_json_is_sent(body: dict[str, Any]) -> None:
    """Text of any kind, large numbers, and what looks like kombu's mark of a type and is none."""
    assert why_not_sent(body, "json", lambda: MB) is None


@pytest.mark.parametrize(("body", "said"), [
    ({"a": {"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}}, "alone, for a typed value"),
    ({"a": {"__type__": "nobody's", "__value__": 1}}, "cannot carry it: ValueError: "),
    ({"a": {"__type__": "uuid", "__value__": 1}}, "cannot carry it: "),
    ({"a": {"__type__": [], "__value__": 1}}, "cannot carry it: TypeError: "),
    ({"deep": nested(3_000)}, "cannot carry it: RecursionError: "),
    ({"large": 10**5_000}, "cannot carry it: ValueError: "),
    ({"long": "x" * MB}, "its message would have 1463656 bytes, and Redis takes 1048576 at most"),
], ids=["known", "unknown", "wrong", "odd", "deep", "large", "long"])  # fmt: skip
def test_what_cannot_be_sent_is_said(body: dict[str, Any], said: str) -> None:
    """In a sentence; nothing is raised."""
    assert said in str(why_not_sent(body, "json", lambda: MB))


def test_a_serializer_that_carries_more() -> None:
    """It is asked, and no other."""
    assert why_not_sent({"a": {"__type__": "nobody's", "__value__": 1}}, "pickle", lambda: MB) is None
