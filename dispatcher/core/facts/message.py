"""Celery's message as it lies in Redis: how its envelope, its headers and its body are read, and how one is written.

Nobody else reads or writes a message. It is never rewritten: whatever is made strict here is made so to be looked at
only.
"""

from __future__ import annotations

import binascii
import bz2
import json
import lzma
import zlib
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

JSON_CONTENT: Final = "application/json"

UNPACKED_BYTES_MAX: Final = 64 * 1024 * 1024
"""A compressed body that unpacks to more than this is refused."""

FOREIGN_COMPRESSION: Final = ("application/x-brotli", "application/zstd")
"""Compressions that kombu knows if another library is installed. Bodies packed so are not looked into."""

_DECOMPRESSORS: Final[dict[str, Callable[[], Any]]] = {
    "application/x-gzip": zlib.decompressobj,  # what kombu calls gzip is zlib
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}

ABSENT: Final = msgspec.Raw(b"null")
"""What :attr:`Headers.dispatch` *is* for a producer who does not know us and sends no such header."""

T = TypeVar("T")


class Refusal(Exception):
    """Why a message cannot become a job. Its arguments are the reason, which is one of a few words, and the detail, a
    sentence.
    """


class _Object(msgspec.Struct, gc=False):
    """Any JSON object. Its content is skipped."""


class Headers(msgspec.Struct, gc=False):
    """The headers that routing needs, of the twenty or so that Celery sends."""

    id: str
    """The task id."""
    task: str
    """The name of the task."""
    eta: str | None = None
    """ISO 8601: the job must not run before this time."""
    expires: str | None = None
    """ISO 8601: the worker revokes the job after this time."""
    timelimit: tuple[float | None, float | None] | None = None
    """Hard and soft limit of a run, in seconds. Read only so that a wrong type is refused here and not in the worker.
    """
    retries: int | None = 0
    """How often the job was retried. With ``replaced_task_nesting``: see :func:`~dispatcher.core.facts.header.turn_of`.
    """
    replaced_task_nesting: int | None = 0
    """How often the task was replaced by another."""
    compression: str | None = None
    """The content type of the compressed body; ``None`` if it is not compressed."""
    dispatch: msgspec.Raw = ABSENT
    """Our own header, not yet read; see :func:`~dispatcher.core.facts.header.parse_header`."""


class Properties(msgspec.Struct, gc=False):
    """The properties that kombu needs to deliver the message."""

    delivery_tag: str
    body_encoding: str | None = None
    delivery_info: _Object | None = None


class Envelope(msgspec.Struct, gc=False):
    """One message."""

    headers: Headers
    properties: Properties
    body: str
    content_type: str | None = msgspec.field(name="content-type", default=None)
    content_encoding: str | None = msgspec.field(name="content-encoding", default=None)


class Routing(msgspec.Struct):
    """The few headers that say what a job is and where it may run."""

    id: str
    task: str
    dispatch: msgspec.Raw = ABSENT


class _RoutingEnvelope(msgspec.Struct):
    headers: Routing


class _Identity(msgspec.Struct):
    id: str = ""


class _IdentityEnvelope(msgspec.Struct):
    headers: _Identity


_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_body = msgspec.json.Decoder(tuple[list[msgspec.Raw], _Object, _Object | None]).decode
_decode_routing = msgspec.json.Decoder(_RoutingEnvelope).decode
_decode_identity = msgspec.json.Decoder(_IdentityEnvelope).decode


# -- reading for admission, which must know everything that a worker will stumble over


def read_envelope(raw: bytes) -> Envelope:
    """The envelope. Raises ``msgspec.ValidationError`` where a part is missing or of the wrong type, ``ValueError`` or
    ``RecursionError`` where it is not JSON.
    """
    if not raw.isascii():
        raw.decode()  # the decoder skips what nobody asks for, but the worker reads it all
    try:
        return _decode_envelope(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return _decode_envelope(strict_json(raw.decode()))


def check_body(envelope: Envelope) -> None:
    """Raise :class:`Refusal` unless Celery can unpack the body. kombu unpacks it in the worker's loop, where an
    exception ends the worker. Only JSON can be looked into safely.
    """
    body: str | bytes = envelope.body
    encoding = envelope.properties.body_encoding
    if encoding not in (None, "", "base64", "utf-8"):
        raise Refusal("bad_body", f"properties.body_encoding is {encoding!r}: expected base64")
    try:
        if encoding == "base64":
            body = binascii.a2b_base64(body)
        if envelope.headers.compression:
            unpacked = decompressed(body, envelope.headers.compression)
            if unpacked is None:
                return
            body = unpacked
        if not body:
            raise Refusal("bad_body", "the body is empty")
        if envelope.content_type == JSON_CONTENT:
            if isinstance(body, bytes) and not body.isascii():
                body = body.decode()
            try:
                _decode_body(body)
            except msgspec.ValidationError:
                raise
            except msgspec.DecodeError:
                _decode_body(strict_json(body if isinstance(body, str) else body.decode()))
    except (ValueError, RecursionError, OSError, EOFError, zlib.error, lzma.LZMAError) as exc:  # msgspec's are ValueErrors
        raise Refusal("bad_body", f"the body is not Celery's [args, kwargs, embed]: {exc}") from None


def decompressed(body: str | bytes, compression: str) -> bytes | None:
    """The body before kombu compressed it; ``None`` if only a library that need not be installed could tell."""
    if compression in FOREIGN_COMPRESSION:
        return None
    opener = _DECOMPRESSORS.get(compression)
    if opener is None:
        raise Refusal("bad_body", f"headers.compression is {compression[:60]!r}: there are {', '.join(_DECOMPRESSORS)}")
    unpacker = opener()
    unpacked: bytes = unpacker.decompress(body if isinstance(body, bytes) else body.encode(), UNPACKED_BYTES_MAX)
    if not unpacker.eof:
        raise Refusal("bad_body", f"the body is cut off, or holds more than {UNPACKED_BYTES_MAX} bytes")
    return unpacked


def strict_json(text: str) -> bytes:
    """JSON as Python reads and writes it (NaN, half a surrogate pair: a task may well be given them), made strict for
    msgspec.

    Raises ``ValueError`` where it is no JSON for Python either.
    """
    value = json.loads(text, parse_constant=lambda _: None)
    return json.dumps(value, ensure_ascii=False).encode(errors="replace")


# -- reading a part, of a message that was admitted or may be anything


def read_routing(raw: bytes) -> Routing:
    """The headers that routing needs, of a message that was admitted."""
    return _decoded(raw, _decode_routing).headers


def task_id_of(raw: bytes) -> str | None:
    """The task id; ``None`` where it cannot be read."""
    try:
        return _decoded(raw, _decode_identity).headers.id or None
    except (ValueError, RecursionError):  # msgspec's errors and UnicodeError are ValueErrors
        return None


def identity_of(raw: bytes) -> tuple[str | None, str | None]:
    """Task id and task name, each ``None`` where it cannot be read: of a message that was refused."""
    try:
        headers = msgspec.json.decode(strict_json(raw.decode()))["headers"]
        task_id, task = headers.get("id"), headers.get("task")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None, None
    return (task_id if isinstance(task_id, str) and task_id else None), (task if isinstance(task, str) else None)


def headers_of(message: bytes | str | None) -> dict[str, Any]:
    """All headers; empty where they cannot be read."""
    try:
        headers = json.loads(message or b"{}")["headers"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return headers if isinstance(headers, dict) else {}


def embed_of(message: bytes | str | None) -> dict[str, Any]:
    """Callbacks, errbacks, chain and chord, which stand in the body; empty where it cannot be read."""
    try:
        envelope = json.loads(message or b"{}")
        body = envelope["body"]
        if envelope["properties"].get("body_encoding") == "base64":
            body = binascii.a2b_base64(body)
        if compression := envelope["headers"].get("compression"):
            body = decompressed(body, compression)
        embed = json.loads(body)[2]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError, EOFError, zlib.error, lzma.LZMAError, Refusal):
        return {}
    return embed if isinstance(embed, dict) else {}


def read_whole(raw: bytes, kombu_loads: Callable[[bytes], Any]) -> Any:
    """The whole message, as kombu's own reader would give it to Celery. That one is slower, so it is asked only where
    it must be.
    """
    if b'"__type__"' in raw:
        return kombu_loads(raw)  # kombu's own encoding of dates, UUIDs and the like in headers
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:  # NaN, Infinity: Python's JSON has them
        return kombu_loads(raw)


def _decoded(raw: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return decode(strict_json(raw.decode()))


# -- writing


def write_message(task: str, *, task_id: str, delivery_tag: str, expires_ms: int) -> bytes:
    """A message of ``task`` without arguments, field for field as kombu writes it. Nobody waits for its result.

    ``expires_ms`` (since 1970) is when Celery drops it unrun.
    """
    body = msgspec.json.encode([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    headers: dict[str, Any] = {
        "lang": "py", "task": task, "id": task_id, "shadow": None, "eta": None,
        "expires": datetime.fromtimestamp(expires_ms / 1000, UTC).isoformat(), "group": None, "group_index": None, "retries": 0,
        "timelimit": [None, None], "root_id": task_id, "parent_id": None, "argsrepr": "()", "kwargsrepr": "{}",
        "origin": "dispatcher", "ignore_result": True, "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
    }  # fmt: skip
    properties = {
        "correlation_id": task_id, "reply_to": task_id, "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": ""},
        "priority": 0, "body_encoding": "base64", "delivery_tag": delivery_tag,
    }  # fmt: skip
    return msgspec.json.encode(
        {
            "body": b64encode(body).decode(), "content-encoding": "utf-8", "content-type": JSON_CONTENT, "headers": headers,
            "properties": properties,
        }
    )  # fmt: skip
