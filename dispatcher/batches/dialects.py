"""The forms in which vendors write a line of a batch, and how to tell them apart.

Two are read beside OpenAI's: lines that leave url and method to the job (Mistral, Together, Fireworks, Volcengine Ark),
and Anthropic's requests. A body is handed on as it is, never translated: a file whose bodies are of another shape is
refused, by the name of whose it looks like.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

URLS: Final = frozenset({
    "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/chat/completions", "/v1/completions",
    "/v1/embeddings", "/v1/images/edits", "/v1/images/generations", "/v1/messages", "/v1/moderations", "/v1/rerank",
    "/v1/responses", "/v1/score", "/v1/videos",
})  # fmt: skip
_MESSAGES_URL: Final = "/v1/messages"
_SUFFIXES: Final = ("/score", "/rerank")
"""vLLM takes any URL that ends so, such as ``/v2/rerank``."""

_URL_OF_FIELD: Final = {
    "messages": "/v1/chat/completions", "input": "/v1/embeddings", "prompt": "/v1/completions",
    "prompt_token_ids": "/v1/completions",
}  # fmt: skip
"""What a body is for that does not say so, by the field that it has."""

_LINE: Final = (
    '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": …, "messages": …}}'
)

_STRANGERS: Final = (
    (("recordId", "modelInput"), "a request of Amazon Bedrock"),
    (("key", "request"), "a request of the Gemini API"),
    (("request",), "a request of Vertex AI"),
    (("requests",), "a whole batch of Anthropic's: write each of its requests on a line of its own"),
    (("custom_id", "response"), "a result of a batch, not a request"),
    (("custom_id", "result"), "a result of Anthropic's batches, not a request"),
    (("messages",), "a line of a data set for training"),
    (("body",), "a request without a custom_id"),
)
"""Keys that a line has → whose it looks like. The first that fits counts."""


_FILES: Final = (
    (b"\x1f\x8b", "this file is compressed by gzip: unpack it"),
    (b"PK\x03\x04", "this file is a zip archive or a table of a spreadsheet: write its requests as JSON lines"),
    (b"PAR1", "this file is Parquet: write its rows as JSON lines"),
    ((b"\xff\xfe", b"\xfe\xff"), "this file is UTF-16: write it as UTF-8"),
    (b"[", "this file is a JSON array: write each of its elements on a line of its own"),
)
"""First bytes of a file → what it is, and what to do."""


def why_not_read(request: Mapping[str, Any]) -> str | None:
    """What a line looks like that is in no form that is read, and what to do; ``None`` where its form is known."""
    if "body" in request and ("custom_id" in request or "url" in request):
        return None
    if "params" in request and "custom_id" in request:
        return None
    looks_like = next((whose for keys, whose in _STRANGERS if all(key in request for key in keys)), None)
    if looks_like is None:
        if "custom_id" in request or "url" in request:  # OpenAI's, with something left out: the fields are named
            return None
        keys_seen = ", ".join(sorted(map(repr, request))[:8]) or "nothing"
        looks_like = f"nothing that is known here: it holds {keys_seen}"
    return f"this looks like {looks_like}. Bodies are not translated; write each line as {_LINE}"


def why_no_json_lines(first: bytes) -> str | None:
    """What a file is whose first line begins with no JSON object, and what to do; ``None`` where it does."""
    begin = first.lstrip()
    if begin.startswith(b"{"):
        return None
    for magic, what in _FILES:
        if begin.startswith(magic):
            return what
    shown = begin[:40].decode(errors="backslashreplace").strip()
    return f"this is no file of JSON lines, it begins with {shown!r}: write each line as {_LINE}"


def body_field(request: Mapping[str, Any]) -> str:
    """The field that has the body: ``params`` in Anthropic's form."""
    return "params" if "body" not in request and "params" in request else "body"


def names_its_url(request: Mapping[str, Any]) -> bool:
    """True for OpenAI's form, which says where a line goes; else the file, its job or its body does."""
    return body_field(request) == "body" and ("url" in request or "method" in request or "body" not in request)


def url_of(request: Mapping[str, Any], default: str | None) -> str | None:
    """Where the request goes, as OpenAI writes it; ``None`` where neither line nor ``default`` nor body says it.

    Azure writes URLs without ``/v1``, and they mean the same.
    """
    if body_field(request) == "params":
        return _MESSAGES_URL
    if names_its_url(request):
        return plain_url(request.get("url"))
    if default is not None:
        return default
    body = request.get("body")
    return next((url for field, url in _URL_OF_FIELD.items() if isinstance(body, dict) and field in body), None)


def plain_url(url: object) -> str | None:
    """The URL in its usual form; ``None`` if none is like it."""
    if not isinstance(url, str):
        return None
    for known in (url, f"/v1{url}"):
        if known in URLS:
            return known
    return url if url.startswith("/") and url.endswith(_SUFFIXES) else None
