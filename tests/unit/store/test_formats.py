"""Formats: what several processes may write, and who must not start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.store.formats import FORMATS, FORMATS_UNSAID, Formats, agreed, encode_formats, read_formats, refusal

NUMBERS = st.integers(1, 6)
RANGES = st.tuples(NUMBERS, NUMBERS).map(lambda pair: Formats(min(pair), max(pair)))


@given(st.lists(RANGES, min_size=1))
def test_the_agreed_format_is_read_by_everybody_and_is_the_newest_such(ranges: list[Formats]) -> None:
    """SAFETY: nobody is sent what it cannot read; and nobody is kept from what all read."""
    shared = [number for number in range(1, 7) if all(formats.covers(Formats(number, number)) for formats in ranges)]

    assert agreed(ranges) == (shared[-1] if shared else None)


@given(RANGES, st.dictionaries(st.sampled_from("abc"), RANGES), st.none() | RANGES)
def test_a_process_starts_where_it_reads_all_that_lies_there_and_shares_a_format_with_each(
    own: Formats, others: dict[str, Formats], stored: Formats | None
) -> None:
    """SAFETY: a process that starts can read Redis, and talk to each live process. It is refused for nothing else."""
    may_start = (stored is None or own.covers(stored)) and all(agreed((own, formats)) for formats in others.values())

    assert (refusal("this", own, others, stored) is None) == may_start


@pytest.mark.parametrize(
    ("own", "others", "stored", "said"),
    [
        ((1, 1), {}, (1, 2), "me reads format 1, but Redis holds formats 1 to 2: start a newer version here"),
        ((2, 3), {}, (1, 1), "me reads formats 2 to 3, but Redis holds format 1: first start a version that reads format 1 too"),
        ((2, 2), {"worker w1": (1, 1)}, None, "me reads format 2, but worker w1 reads format 1: upgrade worker w1 first"),
        ((1, 1), {"worker w1": (2, 2)}, None, "me reads format 1, but worker w1 reads format 2: start a newer version here"),
    ],
)  # fmt: skip
def test_a_refusal_says_who_reads_what_and_what_to_do(
    own: tuple[int, int], others: dict[str, tuple[int, int]], stored: tuple[int, int] | None, said: str
) -> None:
    """One sentence, for the log of a process that ends."""
    ranges = {name: Formats(*formats) for name, formats in others.items()}

    assert refusal("me", Formats(*own), ranges, stored and Formats(*stored)) == said


@given(RANGES)
def test_a_range_comes_back_as_it_was_written(formats: Formats) -> None:
    """As text and as bytes, as redis-py may answer."""
    assert read_formats(encode_formats(formats)) == read_formats(encode_formats(formats).encode()) == formats


@pytest.mark.parametrize("text", [None, "", b"", "1", "1 2 3", "one two", b"\xff 1", "-1 2", 5, "9" * 30 + " 1"])
def test_what_is_no_range_counts_as_unsaid(text: object) -> None:
    """An old process says nothing; anything may lie under a key."""
    assert read_formats(text) == FORMATS_UNSAID


def test_this_version_reads_what_old_processes_write() -> None:
    """Until a release says otherwise: 0.1.0 writes format 1 and does not say so."""
    assert FORMATS.covers(FORMATS_UNSAID)
