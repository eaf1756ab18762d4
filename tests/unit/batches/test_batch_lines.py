"""Reading a batch file: what is accepted, and every mistake found at once under the code that OpenAI's users know."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from dispatcher.batches.lines import InvalidBatch, read_batch
from dispatcher.errors import Invalid


def request(custom_id: str = "a", **changes: Any) -> dict[str, Any]:
    made = {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {"model": "hash-384", "input": "hello"}}
    return made | changes


def write(path: Path, *lines: Any) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "batch.jsonl"


def mistakes(path: Path, **options: Any) -> list[tuple[int | None, str, str | None]]:
    with pytest.raises(InvalidBatch) as caught:
        read_batch(path, **options)
    return [(mistake.line, mistake.code, mistake.param) for mistake in caught.value.mistakes]


def test_a_byte_order_mark_and_blank_last_lines_are_no_mistakes(file: Path) -> None:
    """Editors on Windows write the one, `echo` the other."""
    write(file, b"\xef\xbb\xbf" + json.dumps(request("a")).encode() + b"\r", request("b"), b"", b"  ", b"")

    batch = read_batch(file)

    assert [line.custom_id for line in batch.lines] == ["a", "b"]
    assert batch.bodies(list(batch.lines)) == [{"model": "hash-384", "input": "hello"}] * 2


def test_all_mistakes_are_found_at_once_with_their_lines(file: Path) -> None:
    """Whoever fixes a file fixes it once."""
    write(
        file,
        request("a"),
        b"{not json",
        b"[1]",
        request("a"),
        request("b", url="/v1/chat/completions"),
        request("c", method="GET", body={"input": "x"}),
        request("", url="/v2/x", body=None),
        request("d", body={"model": "m", "stream": True}),
        b'{"custom_id": "\xff"}',
    )

    assert mistakes(file) == [
        (2, "invalid_json_line", None),
        (3, "invalid_json_line", None),
        (4, "duplicate_custom_id", "custom_id"),
        (5, "url_mismatch", "url"),
        (6, "invalid_request", "method"),
        (6, "invalid_request", "body.model"),
        (7, "invalid_request", "custom_id"),
        (7, "invalid_request", "url"),
        (7, "invalid_request", "body"),
        (8, "invalid_request", "body.stream"),
        (9, "invalid_json_line", None),
    ]


def test_a_blank_line_in_the_middle_is_a_mistake(file: Path) -> None:
    """It is the trace of a broken export; only at the end does it mean nothing."""
    assert mistakes(write(file, request("a"), b"", request("b"))) == [(2, "invalid_json_line", None)]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_requests_is_refused(file: Path, content: bytes) -> None:
    """An empty batch is a mistake further up."""
    file.write_bytes(content)

    assert mistakes(file) == [(None, "empty_file", None)]


def test_too_many_requests_are_refused_where_there_is_a_limit(file: Path) -> None:
    """The limit is the caller's: the API has one, the command line has none."""
    write(file, *(request(str(n)) for n in range(3)))

    assert mistakes(file, lines_max=2) == [(None, "too_many_tasks", None)]
    assert len(read_batch(file, lines_max=3).lines) == 3


def test_a_model_given_for_the_file_replaces_that_of_each_line(file: Path) -> None:
    """A file made for another service runs here unchanged."""
    write(file, request("a"), request("b", body={"input": "x"}))

    batch = read_batch(file, model="minilm")

    assert [line.model for line in batch.lines] == ["minilm", "minilm"]
    assert [body["model"] for body in batch.bodies(list(batch.lines))] == ["minilm", "minilm"]


def test_the_message_shows_twenty_mistakes_and_counts_the_rest(file: Path) -> None:
    """A terminal is not flooded, and nobody thinks that there were only twenty."""
    write(file, *[b"{"] * 25)

    with pytest.raises(InvalidBatch, match="and 5 more mistakes") as caught:
        read_batch(file)

    assert len(str(caught.value).splitlines()) == 21
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_file_that_cannot_be_read_is_said_in_one_sentence(tmp_path: Path) -> None:
    """The name and what to do."""
    with pytest.raises(Invalid, match=r"cannot read .*absent\.jsonl: No such file"):
        read_batch(tmp_path / "absent.jsonl")


def test_a_line_that_is_nested_too_deep_is_a_mistake(file: Path) -> None:
    """Of that line: the decoder gives up, and the reader does not."""
    write(file, request("a"), b'{"custom_id": "b", "body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")

    assert mistakes(file) == [(2, "invalid_json_line", None)]
