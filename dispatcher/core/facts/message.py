"""Celery's message as it lies in Redis: how its envelope, its headers and its body are read, and how one is written.

Nobody else reads or writes a message. It is never rewritten: whatever is made strict here is made so to be looked at
only.
"""

from __future__ import annotations

import binascii
import bz2
import json
import lzma
import math
import zlib
from base64 import b64encode
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

JSON_CONTENT: Final = "application/json"

UNPACKED_BYTES_MAX: Final = 64 * 1024 * 1024
"""A compressed body that unpacks to more than this is refused."""

COMPRESSIONS: Final[dict[str, Callable[[], Any]]] = {
    "application/x-gzip": zlib.decompressobj,  # what kombu calls gzip is zlib
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}
"""Content type of a compression that kombu always has → what unpacks it."""

TYPED: Final = b'"__type__"'
"""Stands in a message where kombu's JSON carries a value with its type: a UUID, a date, a Decimal, bytes."""

ABSENT: Final = msgspec.Raw(b"null")
"""What :attr:`Headers.dispatch` *is* for a producer who does not know us and sends no such header."""

REPR_MAX: Final = 1024
"""Characters of arguments in the text that Flower shows."""

T = TypeVar("T")


class Refusal(Exception):
    """Why a message cannot become a job. Its arguments are the reason, which is one of a few words, and the detail, a
    sentence.
    """


UNREADABLE = (ValueError, RecursionError, OSError, EOFError, zlib.error, lzma.LZMAError, Refusal)
"""What reading a body may raise: msgspec's errors are ValueErrors."""


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
    except msgspec.MsgspecError:
        return _decoded(raw, _decode_envelope)


def check_body(envelope: Envelope, own_compressions: Collection[str] = ()) -> None:
    """Raise :class:`Refusal` if Celery could not unpack the body. Only JSON can be looked into safely.

    ``own_compressions``: content types that the app packs in its own way.
    """
    body: str | bytes = envelope.body
    encoding = envelope.properties.body_encoding
    if encoding not in (None, "", "base64", "utf-8"):
        raise Refusal("bad_body", f"properties.body_encoding is {encoding!r}: expected base64")
    try:
        if encoding == "base64":
            body = binascii.a2b_base64(body)
        if compression := envelope.headers.compression:
            if compression in own_compressions or compression not in COMPRESSIONS:
                return  # a worker can tell, if its app registered it with kombu
            body = decompressed(body, compression)
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
    except Refusal:
        raise
    except UNREADABLE as exc:
        raise Refusal("bad_body", f"the body is not Celery's [args, kwargs, embed]: {exc}") from None


def decompressed(body: str | bytes, compression: str) -> bytes:
    """The body before kombu compressed it in one of :data:`COMPRESSIONS`."""
    unpacker = COMPRESSIONS[compression]()
    unpacked: bytes = unpacker.decompress(body if isinstance(body, bytes) else body.encode(), UNPACKED_BYTES_MAX)
    if not unpacker.eof:
        raise Refusal("bad_body", f"the body is cut off, or holds more than {UNPACKED_BYTES_MAX} bytes")
    return unpacked


def strict_json(text: str) -> bytes:
    """JSON as Python and kombu read and write it (NaN, half a surrogate pair, a UUID: a task may well be given them),
    made strict for msgspec.

    Raises ``ValueError`` where it is no JSON for Python either.
    """
    value = json.loads(text, parse_constant=lambda _: None, object_hook=untyped)
    return json.dumps(value, ensure_ascii=False).encode(errors="replace")


def untyped(value: dict[str, Any]) -> Any:
    """The plain value of an object in which kombu's JSON carries a value with its type; any other as it is.

    A UUID, date or time is its text, as in a key of Celery's result backend; a Decimal is a number. Of a type that the
    app registered itself it is what stands in the message.
    """
    if value.keys() != {"__type__", "__value__"}:
        return value
    kind, plain = value["__type__"], value["__value__"]
    try:
        match kind:
            case "uuid":
                return str(UUID(**plain))
            case "decimal":
                number = float(plain)
                return (int(number) if number.is_integer() else number) if math.isfinite(number) else None
            case "base64":
                return plain_text(binascii.a2b_base64(plain))
    except (ValueError, TypeError, AttributeError):
        return value
    return plain


def plain_text(value: object) -> str:
    """The text of a value that kombu has given its type back, as :func:`untyped` makes it: of a task id, say."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return b64encode(value).decode()


# -- other protocols


def as_protocol_2(raw: bytes | str) -> bytes | None:
    """A message of task protocol 1, or of the hybrid of both that some producers in other languages send, as one of
    protocol 2. ``None`` for any other, and where the body is not JSON.

    In protocol 1 task, id, eta, expires and the like stand in the body; a task finds the message's headers in
    ``self.request.headers``.
    """
    try:
        envelope = json.loads(raw)
        headers, properties = envelope.get("headers") or {}, envelope["properties"]
        fields = json.loads(_unpacked(envelope["body"], properties.get("body_encoding"), headers.get("compression")))
        if envelope["content-type"] != JSON_CONTENT or not isinstance(fields, dict):
            return None
        args, kwargs = fields.pop("args", []), fields.pop("kwargs", {})
        embed = {name: fields.pop(name, None) for name in ("callbacks", "errbacks", "chord")} | {"chain": None}
        more = {name: value for name, value in headers.items() if name != "compression"}
        group = {"group": fields["taskset"]} if fields.get("taskset") else {}
        envelope["headers"] = {
            "root_id": None, "parent_id": None, "argsrepr": repr(args)[:REPR_MAX],
            "kwargsrepr": repr(kwargs)[:REPR_MAX], **fields, **group, **more, "headers": more,
        }  # fmt: skip
        envelope["body"] = b64encode(json.dumps([args, kwargs, embed]).encode()).decode()
        envelope["properties"] = {**properties, "body_encoding": "base64"}
        return json.dumps(envelope).encode()
    except (*UNREADABLE, KeyError, TypeError, AttributeError):
        return None


def _unpacked(body: str, encoding: str | None, compression: str | None) -> str | bytes:
    """The body as its serializer wrote it. Raises :data:`UNREADABLE`; ``KeyError`` for a compression of the app's."""
    packed = binascii.a2b_base64(body) if encoding == "base64" else body
    return decompressed(packed, compression) if compression else packed


# -- reading a part, of a message that was admitted or may be anything


def read_routing(raw: bytes) -> Routing:
    """The headers that routing needs, of a message that was admitted."""
    return _decoded(raw, _decode_routing).headers


def task_id_of(raw: bytes) -> str | None:
    """The task id; ``None`` where it cannot be read."""
    try:
        task_id = _decoded(raw, _decode_identity).headers.id
        if not task_id and (plain := as_protocol_2(raw)) is not None:
            task_id = _decoded(plain, _decode_identity).headers.id
        return task_id or None
    except (ValueError, RecursionError):  # msgspec's errors and UnicodeError are ValueErrors
        return None


def identity_of(raw: bytes) -> tuple[str | None, str | None]:
    """Task id and task name, each ``None`` where it cannot be read: of a message that was refused."""
    try:
        envelope = msgspec.json.decode(strict_json((as_protocol_2(raw) or raw).decode()))
        headers, properties = envelope.get("headers") or {}, envelope.get("properties")
        task_id, task = headers.get("id"), headers.get("task")
        if "id" not in headers and isinstance(properties, dict):  # protocol 1, in a body that cannot be read
            task_id = properties.get("correlation_id")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None, None
    return (task_id if isinstance(task_id, str) and task_id else None), (task if isinstance(task, str) else None)


def headers_of(message: bytes | str | None) -> dict[str, Any]:
    """All headers; empty where they cannot be read."""
    try:
        headers = json.loads(as_protocol_2(message or b"") or message or b"{}", object_hook=untyped)["headers"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return headers if isinstance(headers, dict) else {}


def reply_address_of(message: bytes | str | None) -> dict[str, str]:
    """``reply_to`` and ``correlation_id``, which stand in the properties: where ``rpc://`` sends a result. Those that
    cannot be read are missing.
    """
    try:
        properties = json.loads(message or b"{}")["properties"]
        address = {name: properties.get(name) for name in ("reply_to", "correlation_id")}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: value for name, value in address.items() if isinstance(value, str) and value}


def embed_of(message: bytes | str | None) -> dict[str, Any]:
    """Callbacks, errbacks, chain and chord, which stand in the body; empty where it cannot be read."""
    try:
        envelope = json.loads(as_protocol_2(message or b"") or message or b"{}", object_hook=untyped)
        encoding, compression = envelope["properties"].get("body_encoding"), envelope["headers"].get("compression")
        embed = json.loads(_unpacked(envelope["body"], encoding, compression), object_hook=untyped)[2]
    except (*UNREADABLE, LookupError, TypeError, AttributeError):
        return {}
    return embed if isinstance(embed, dict) else {}


def read_whole(raw: bytes, kombu_loads: Callable[[bytes], Any]) -> Any:
    """The whole message, as kombu's own reader would give it to Celery, in protocol 2. That reader is slower, so it is
    asked only where it must be.
    """
    if TYPED in raw:
        message = kombu_loads(raw)
    else:
        try:
            message = msgspec.json.decode(raw)
        except msgspec.DecodeError:  # NaN, Infinity: Python's JSON has them
            message = kombu_loads(raw)
    headers = message.get("headers")
    if headers and "task" in headers and "id" in headers:
        return message
    return kombu_loads(as_protocol_2(raw) or raw)


def _decoded(raw: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(raw)
    except msgspec.ValidationError:
        plain = as_protocol_2(raw)
        if plain is None and TYPED not in raw:
            raise
    except msgspec.DecodeError:
        plain = as_protocol_2(raw)
    return decode(strict_json((plain or raw).decode()))


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
