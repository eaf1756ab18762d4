"""Lines of batches as other vendors write them: read where the body needs no translation, else refused by name, once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher.batches.lines import InvalidBatch, Line, read_batch
from dispatcher.errors import Invalid

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "batch.jsonl"


def read(file: Path, *requests: Any, **options: Any) -> tuple[list[Line], list[dict[str, Any]]]:
    file.write_text("".join(json.dumps(request) + "\n" for request in requests))
    batch = read_batch(file, **options)
    return list(batch.lines), batch.bodies(list(batch.lines))


def refusal(file: Path, *requests: Any, **options: Any) -> str:
    with pytest.raises(InvalidBatch) as caught:
        read(file, *requests, **options)
    return str(caught.value)


@pytest.mark.parametrize(("body", "url"), [
    (CHAT, "/v1/chat/completions"),
    ({"model": "m", "input": "hello"}, "/v1/embeddings"),
    ({"model": "m", "prompt": "hello"}, "/v1/completions"),
    ({"model": "m", "prompt_token_ids": [1, 2]}, "/v1/completions"),
])  # fmt: skip
def test_a_line_without_url_goes_where_its_body_belongs(file: Path, body: dict[str, Any], url: str) -> None:
    """As Mistral, Together, Fireworks and Volcengine write them; the body comes out as it went in."""
    (line,), bodies = read(file, {"custom_id": "a", "body": body})

    assert (line.url, bodies) == (url, [body])


def test_url_and_model_of_the_job_are_given_for_the_file(file: Path) -> None:
    """Fireworks names neither in a line. A line that names its url keeps it."""
    (line,), bodies = read(file, {"custom_id": "a", "body": {"input": "hello"}}, model="m", url="/v1/responses")
    assert (line.url, line.model, bodies) == ("/v1/responses", "m", [{"input": "hello", "model": "m"}])

    named = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "hello"}}
    assert read(file, named, url="/v1/responses")[0][0].url == "/v1/embeddings"


def test_where_neither_file_nor_body_says_where_to_go_it_is_said(file: Path) -> None:
    """One message a line, not one for each field that OpenAI's lines have."""
    assert refusal(file, {"custom_id": "a", "body": {"model": "m", "query": "x"}}).splitlines() == [
        f"{file}: line 1: invalid_request: url is missing, and the body does not tell it: give one for all lines"
    ]
    with pytest.raises(Invalid, match=r"no url '/v1/chats': write one of /v1/audio/speech, "):
        read(file, {"custom_id": "a", "body": CHAT}, url="/v1/chats")


@pytest.mark.parametrize(("url", "means"), [
    ("/chat/completions", "/v1/chat/completions"),
    ("/embeddings", "/v1/embeddings"),
    ("/responses", "/v1/responses"),
    ("/v1/messages", "/v1/messages"),
    ("/v1/audio/transcriptions", "/v1/audio/transcriptions"),
    ("/v1/audio/translations", "/v1/audio/translations"),
    ("/score", "/v1/score"),
    ("/v1/rerank", "/v1/rerank"),
    ("/v2/rerank", "/v2/rerank"),
])  # fmt: skip
def test_urls_of_azure_and_vllm(file: Path, url: str, means: str) -> None:
    """Azure leaves ``/v1`` out; vLLM has scores, reranks and sound."""
    (line,), _ = read(file, {"custom_id": "a", "method": "POST", "url": url, "body": CHAT})

    assert line.url == means


def test_azures_url_is_the_same_url(file: Path) -> None:
    """A file may have both ways to write it."""
    urls = "/chat/completions", "/v1/chat/completions"
    lines, _ = read(file, *({"custom_id": url, "method": "POST", "url": url, "body": CHAT} for url in urls))

    assert {line.url for line in lines} == {"/v1/chat/completions"}


def test_anthropics_requests_are_read(file: Path) -> None:
    """At their own url, with their own body."""
    params = CHAT | {"max_tokens": 100}

    (line,), bodies = read(file, {"custom_id": "a", "params": params})

    assert (line.url, line.model, bodies) == ("/v1/messages", "m", [params])
    said = refusal(file, {"custom_id": "a", "params": {"stream": True}})
    assert [message.partition("invalid_request: ")[2] for message in said.splitlines()] == [
        "params.model must name a model, or give one for all lines", "params.stream must not be set: a batch has no stream",
    ]  # fmt: skip


@pytest.mark.parametrize(("request_", "whose"), [
    ({"key": "a", "request": {"contents": []}}, "a request of the Gemini API"),
    ({"key": "a", "request": {"content": {}}}, "a request of the Gemini API"),
    ({"request": {"contents": []}}, "a request of Vertex AI"),
    ({"recordId": "a", "modelInput": {}}, "a request of Amazon Bedrock"),
    ({"requests": [{"custom_id": "a", "params": CHAT}]}, "a whole batch of Anthropic's"),
    ({"id": "b", "custom_id": "a", "response": {}, "error": None}, "a result of a batch, not a request"),
    ({"custom_id": "a", "result": {"type": "succeeded"}}, "a result of Anthropic's batches, not a request"),
    ({"messages": []}, "a line of a data set for training"),
    ({"body": CHAT}, "a request without a custom_id"),
    ({"text": "hello"}, "nothing that is known here: it holds 'text'"),
    ({}, "nothing that is known here: it holds nothing"),
])  # fmt: skip
def test_what_is_not_read_is_refused_once_by_the_name_of_whose_it_looks_like(file: Path, request_: Any, whose: str) -> None:
    """One message for the whole file, with what a line must look like."""
    said = refusal(file, *[request_] * 30)

    assert len(said.splitlines()) == 1
    assert f"line 1: invalid_request: this looks like {whose}" in said
    assert '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": …, "messages": …}}' in said


@pytest.mark.parametrize(("content", "what"), [
    (gzip.compress(b'{"custom_id": "a"}\n' * 50), "this file is compressed by gzip: unpack it"),
    (b"PK\x03\x04" + b"\n" * 5 + b"x", "this file is a zip archive or a table of a spreadsheet"),
    ('{"custom_id": "a"}\n{"custom_id": "b"}\n'.encode("utf-16"), "this file is UTF-16: write it as UTF-8"),
    (b'[\n  {"custom_id": "a"},\n  {"custom_id": "b"}\n]\n', "this file is a JSON array: write each of its elements"),
    (b"custom_id,prompt\na,hello\nb,hello\n", "this is no file of JSON lines, it begins with 'custom_id,prompt': write each"),
    (b"\n\xef\xff\n\n\n", r"this is no file of JSON lines, it begins with '\\xef\\xff'"),
], ids=["gzip", "zip", "utf-16", "array", "csv", "bytes"])  # fmt: skip
def test_a_file_without_json_lines_is_refused_once(file: Path, content: bytes, what: str) -> None:
    """By what it is, not with a message a line."""
    file.write_bytes(content)

    with pytest.raises(InvalidBatch) as caught:
        read_batch(file)

    assert len(caught.value.mistakes) == 1
    assert str(caught.value).startswith(f"{file}: invalid_json_line: {what}")


def test_a_stranger_among_good_lines_is_named_with_its_line(file: Path) -> None:
    """Beside every other mistake of the file."""
    good = {"custom_id": "a", "body": CHAT}

    said = refusal(file, good, {"key": "a", "request": {}}, {"key": "b", "request": {}}, good)

    assert [message.partition(": line ")[2].partition(": ")[0] for message in said.splitlines()] == ["2", "4"]
