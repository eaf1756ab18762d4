"""What a producer may say about a job."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.facts.header import FIELDS, TURNS_MAX, job_headers, parse_header, turn_of
from dispatcher.errors import Invalid

names = st.text(min_size=1, max_size=20)
labels = st.dictionaries(names, names | st.lists(names, min_size=1, max_size=3), max_size=3)
fields = st.fixed_dictionaries(
    {},
    optional={
        "model": names,
        "session": names,
        "tenant": names,
        "cost": st.floats(0, 1e8),
        "requires": labels,
        "prefers": labels,
        "prefix": st.lists(names | st.integers(0, 2**60), max_size=4),
        "deadline_s": st.floats(0.001, 1e6),
    },
)


@given(fields)
def test_what_is_said_is_what_is_read(said: dict[str, Any]) -> None:
    """A header built by job_headers, sent as JSON, is read back field for field, and none is unknown."""
    sent = json.dumps(job_headers(**said)["dispatch"]).encode()

    header, unknown = parse_header(sent)

    assert msgspec.to_builtins(header) == said
    assert unknown == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"cost": -1},
        {"cost": float("nan")},
        {"cost": 1e9},
        {"cost": "3"},
        {"cost": True},
        {"deadline_s": 0},
        {"model": ""},
        {"model": 5},
        {"session": ""},
        {"tenant": ""},
        {"requires": ["eu"]},
        {"requires": {"gpu": 4}},
        {"requires": {"gpu": []}},
        {"requires": {"": "eu"}},
        {"requires": {"gpu": "x" * 65}},
        {"requires": {"gpu": ["a100"] * 9}},
        {"prefers": {f"label{i}": "x" for i in range(9)}},
        {"tenant": "x" * 129},
        {"session": "x" * 1025},
        {"prefix": [0] * 4097},
        {"deadline_s": 1e9},
        {"deadline_s": float("nan")},
        {"prefix": "abc"},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_a_wrong_value_is_refused_where_it_is_said(wrong: dict[str, Any]) -> None:
    """job_headers raises, and names the field; the producer's stack shows the line."""
    with pytest.raises(Invalid, match=next(iter(wrong))):
        job_headers(**wrong)


def test_an_unknown_field_is_refused_where_it_is_said() -> None:
    """A typing mistake is an error in the producer, with the names that there are."""
    with pytest.raises(Invalid, match=r"'modle'.*model, session"):
        job_headers(modle="minilm")


def test_an_unknown_field_on_the_wire_is_only_named() -> None:
    """A producer that is newer than the dispatcher is served; what it says beyond is ignored, and counted by name."""
    header, unknown = parse_header(b'{"model": "minilm", "shard": 7, "colour": {"a": [1]}}')

    assert (header.model, unknown) == ("minilm", ("shard", "colour"))


@pytest.mark.parametrize("sent", [b"[]", b'"minilm"', b"5", b'{"cost": -1}', b'{"cost": "a"}', b'{"model": null', b'{"prefix": 5}'])
def test_a_wrong_header_on_the_wire_is_invalid(sent: bytes) -> None:
    """It is refused as a whole: half a header would be a wrong routing."""
    with pytest.raises(Invalid, match="header dispatch"):
        parse_header(sent)


def test_nothing_said_is_an_empty_header() -> None:
    """Everything is optional."""
    assert job_headers() == {"dispatch": {}}
    assert {getattr(parse_header(b"{}")[0], name) for name in FIELDS} == {None}


TURNS = st.integers(min_value=0, max_value=TURNS_MAX - 1)


@given(before=st.tuples(TURNS, TURNS), after=st.tuples(TURNS, TURNS))
def test_a_later_turn_is_a_greater_one(before: tuple[int, int], after: tuple[int, int]) -> None:
    """By replacements first, since a task that replaces another begins with no retries."""
    turns = [turn_of(retries, nesting) for nesting, retries in (before, after)]

    assert (turns[0] < turns[1]) == (before < after)


@pytest.mark.parametrize(("retries", "nesting"), [(0, 0), (None, None), (-3, None), (0, -1)])
def test_a_first_turn_is_none(retries: int | None, nesting: int | None) -> None:
    """Whatever nonsense a producer sends for it."""
    assert turn_of(retries, nesting) == 0
