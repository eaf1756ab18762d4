"""The demo's input: real paragraphs, each once, as a batch file that the reader accepts."""

from __future__ import annotations

from pathlib import Path

from dispatcher.batches import read_batch
from workers.corpus import CHARACTERS_MIN, paragraphs, write_batch


def test_paragraphs_are_different_and_named_apart() -> None:
    """A name is a ``custom_id``; a text that stands in two topics is taken once."""
    found = paragraphs()

    assert len(found) > 1000
    assert len({one.text for one in found}) == len({one.name for one in found}) == len(found)
    assert all(len(one.text) >= CHARACTERS_MIN for one in found)


def test_fewer_are_the_first_of_all() -> None:
    """The same text whatever the machine; the answer to the demo's question is among the first."""
    few = paragraphs(600)

    assert few == paragraphs()[:600]
    assert any("Default parameter values are evaluated from left to right" in one.text for one in few)


def test_the_batch_file_is_in_order(tmp_path: Path) -> None:
    """It goes through the same checks as a user's."""
    texts = paragraphs(20)
    write_batch(tmp_path / "batch.jsonl", texts, "hash-384")

    batch = read_batch(tmp_path / "batch.jsonl")

    assert [line.custom_id for line in batch.lines] == [one.name for one in texts]
    assert {line.model for line in batch.lines} == {"hash-384"}
