"""Reads a message of an ingress: which lane it waits in, or why it is refused. Only envelope and headers are looked at, and that
the body is what Celery will be able to unpack: a worker that meets a body it cannot unpack exits.
"""

from __future__ import annotations

import binascii
import bz2
import json
import lzma
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from dispatcher.core.admission.prefix import PrefixSlots, SlotOfPrefix, slot_of_text
from dispatcher.core.facts.header import JobHeader, parse_header, turn_of
from dispatcher.core.facts.labels import wanted
from dispatcher.core.facts.lane import Lane, lane_name, name_end, size_class
from dispatcher.core.rollout.aliases import Split
from dispatcher.errors import Invalid

JSON_CONTENT: Final = "application/json"
LARGEST_COST_MS: Final = 999_999_999
LATEST_DEADLINE_MS: Final = 9_999_999_999_999
UNPACKED_BYTES_MAX: Final = 64 * 1024 * 1024
FOREIGN_COMPRESSION: Final = ("application/x-brotli", "application/zstd")
_DECOMPRESSORS: Final[dict[str, Callable[[], Any]]] = {
    "application/x-gzip": zlib.decompressobj,  # what kombu calls gzip is zlib
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}
_ABSENT: Final = msgspec.Raw(b"null")
UNKNOWN_FIELDS_MAX: Final = 100
UNREAD: Final = b"!"
"""What read_ingress sends for a message that it does not: ``!<size>`` for one that is too large, ``!!<size>`` for one that begins
with this mark itself."""


class _Object(msgspec.Struct, gc=False):
    """Any JSON object: what is in it is skipped."""


class _Headers(msgspec.Struct, gc=False):
    id: str
    task: str
    eta: str | None = None
    expires: str | None = None
    timelimit: tuple[float | None, float | None] | None = None
    retries: int | None = 0
    replaced_task_nesting: int | None = 0
    compression: str | None = None
    dispatch: msgspec.Raw = _ABSENT


class _Properties(msgspec.Struct, gc=False):
    delivery_tag: str
    body_encoding: str | None = None
    delivery_info: _Object | None = None


class _Envelope(msgspec.Struct, gc=False):
    headers: _Headers
    properties: _Properties
    body: str
    content_type: str | None = msgspec.field(name="content-type", default=None)
    content_encoding: str | None = msgspec.field(name="content-encoding", default=None)


_decode = msgspec.json.Decoder(_Envelope).decode
_decode_body = msgspec.json.Decoder(tuple[list[msgspec.Raw], _Object, _Object | None]).decode


class Admitted(NamedTuple):
    """The job waits in ``lane``; not before ``due_ms`` and not after ``deadline_ms`` (Redis time) where those are given. ``turn``: see
    :func:`~dispatcher.core.facts.header.turn_of`.
    """

    lane: str
    cost_ms: int
    due_ms: int | None = None
    task_id: str = ""
    deadline_ms: int = 0
    turn: int = 0


class Refused(NamedTuple):
    """The message is a dead letter. ``reason`` is one of a few words, ``detail`` a sentence; ``task_id`` is None where it has none."""

    reason: str
    detail: str
    task_id: str | None = None
    task: str | None = None


@dataclass(slots=True)
class Admission:
    """The rules of one cell. ``known_models`` is None while no model is known at all: then every model may wait.

    ``sticky``: whether jobs of a session, or of a prefix, have a lane of their own, so that they can be kept together.
    ``unknown_fields``: how often a field of a header was seen that this version does not know, of the first hundred such names.
    ``splits``: what a model's name stands for, where it is an alias of versions. ``costs``: (task, model) → seconds of work at speed 1,
    where they were learned, for jobs that do not say.
    """

    routes: dict[str, str]
    default_cost_s: float
    accept_content: frozenset[str] = frozenset({JSON_CONTENT})
    known_models: Collection[str] | None = None
    splits: Mapping[str, Split] = field(default_factory=dict)
    costs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    unknown_fields: dict[str, int] = field(default_factory=dict)
    sticky: bool = True
    slot_of_prefix: SlotOfPrefix = field(default_factory=lambda: PrefixSlots().slot_of_prefix)

    def read(self, raw: bytes, *, ingress: str, step: int, now_ms: int) -> Admitted | Refused:
        """Decide about one message. Never raises: whatever is wrong with it is a :class:`Refused`."""
        return self.read_all([raw], ingress=ingress, step=step, now_ms=now_ms)[0]

    def read_all(
        self, messages: Sequence[bytes], *, ingress: str, step: int, now_ms: int, is_enough: Callable[[], bool] = bool
    ) -> list[Admitted | Refused]:
        """Decide about each of these messages, which are of one list; about the first ones, at least one, where ``is_enough`` says so after
        them.
        """
        source = _Source(ingress, step, now_ms)
        found: list[Admitted | Refused] = []
        for raw in messages:
            found.append(self._decide(raw, source))
            if is_enough():
                break
        return found

    def _decide(self, raw: bytes, source: _Source) -> Admitted | Refused:
        try:
            return self._read(raw, source)
        except Refusal as exc:
            reason, detail = exc.args
        except msgspec.ValidationError as exc:
            reason, detail = _reason_of(str(exc)), str(exc)
        except (ValueError, RecursionError) as exc:  # msgspec's DecodeError and UnicodeError are ValueErrors
            reason, detail = "not_json", f"the message is not JSON: {exc}"
        return Refused(reason, detail, *_identity(raw))

    def _read(self, raw: bytes, source: _Source) -> Admitted:
        if raw[:1] == UNREAD:
            if raw[1:2] == UNREAD:
                raise Refusal("not_json", "the message is not JSON: it begins with '!'")
            raise Refusal("too_large", f"the message has {raw[1:].decode()} bytes; see message_bytes_max")
        if not raw.isascii():
            raw.decode()  # what nobody asks for is skipped unread below, but the worker reads it all
        try:
            envelope = _decode(raw)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            envelope = _decode(_strict_json(raw.decode()))
        headers = envelope.headers
        if not headers.id or not headers.task:
            raise Refusal("no_id" if not headers.id else "no_task", "headers.id and headers.task must not be empty")
        if not envelope.properties.delivery_tag:
            raise Refusal("no_delivery_tag", "properties.delivery_tag must not be empty")
        content = envelope.content_type
        if content not in self.accept_content:
            raise Refusal("content_refused", f"content type {content!r} is not in accept_content")
        _check_body(envelope, is_json=content == JSON_CONTENT)
        if headers.expires is not None:
            _instant_ms(headers.expires, "expires")
        due_ms = None
        if headers.eta is not None:
            due_ms = _instant_ms(headers.eta, "eta")
            if due_ms <= source.now_ms:
                due_ms = None
        if headers.dispatch is _ABSENT:
            found = source.plain.get(headers.task)
            if found is not None:
                return Admitted(found[0], found[1], due_ms, headers.id, turn=turn_of(headers.retries, headers.replaced_task_nesting))
        model, session, cost_s, span_ms, lane_end = None, None, None, 0, ""
        said = bytes(headers.dispatch)
        if said != b"null":
            try:
                header, unknown, span_ms, lane_end = _read_header(said, self.sticky)
            except Invalid as exc:
                raise Refusal("bad_header", str(exc)) from None
            model, session, cost_s = header.model, header.session, header.cost
            if header.prefix and self.sticky and header.session is None:
                lane_end = _lane_end(header, self.slot_of_prefix(header.prefix), span_ms)
            for name in unknown:
                if name in self.unknown_fields or len(self.unknown_fields) < UNKNOWN_FIELDS_MAX:
                    self.unknown_fields[name] = self.unknown_fields.get(name, 0) + 1
        if model is None:
            model = self.routes.get(headers.task, "default")
        split = self.splits.get(model)
        if split is not None:
            model = split.version(session or headers.id)
        if model != "default" and self.known_models is not None and model not in self.known_models:
            raise Refusal("unknown_model", f"no worker has served model {model!r} and the setting `models` does not name it")
        if cost_s is None:
            cost_s = self.costs.get((headers.task, model), self.default_cost_s)
        cost_ms = min(LARGEST_COST_MS, round(cost_s * 1000))
        lane = _lane(source.ingress, headers.task, model, source.step, size_class(cost_ms)) + lane_end
        if said == b"null" and split is None:
            source.plain[headers.task] = lane, cost_ms
        deadline_ms = min(LATEST_DEADLINE_MS, (due_ms or source.now_ms) + span_ms) if span_ms else 0
        turn = turn_of(headers.retries, headers.replaced_task_nesting)
        return Admitted(lane, cost_ms, due_ms, headers.id, deadline_ms, turn)


class _Source(msgspec.Struct):
    """Messages of one list that are read together. ``plain``: task → lane and cost of its jobs that say nothing of themselves."""

    ingress: str
    step: int
    now_ms: int
    plain: dict[str, tuple[str, int]] = msgspec.field(default_factory=dict)


@lru_cache(maxsize=4096)
def _read_header(said: bytes, sticky: bool) -> tuple[JobHeader, tuple[str, ...], int, str]:
    """The header, the names of fields that nobody knows, the time to the deadline in ms (0: none), and the end of the lane's name."""
    header, unknown = parse_header(said)
    span_ms = 0 if header.deadline_s is None else max(1, round(header.deadline_s * 1000))
    slot = slot_of_text(header.session) if sticky and header.session is not None else -1
    return header, unknown, span_ms, _lane_end(header, slot, span_ms)


def _lane_end(header: JobHeader, slot: int, span_ms: int) -> str:
    return name_end(header.tenant or "default", wanted(header.requires), wanted(header.prefers), slot, span_ms.bit_length())


@lru_cache(maxsize=65536)
def _lane(ingress: str, task: str, model: str, step: int, size: int) -> str:
    return lane_name(Lane(ingress, task, model, step, size))


class Refusal(Exception):
    """(reason, detail) of a message that cannot be admitted; admission itself never raises it."""


def _check_body(envelope: _Envelope, *, is_json: bool) -> None:
    """kombu unpacks the body in the worker's loop, where an exception ends the worker; only JSON can be looked into safely."""
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
        if is_json:
            if isinstance(body, bytes) and not body.isascii():
                body = body.decode()
            try:
                _decode_body(body)
            except msgspec.ValidationError:
                raise
            except msgspec.DecodeError:
                _decode_body(_strict_json(body if isinstance(body, str) else body.decode()))
    except (ValueError, RecursionError, OSError, EOFError, zlib.error, lzma.LZMAError) as exc:  # msgspec's are ValueErrors
        raise Refusal("bad_body", f"the body is not Celery's [args, kwargs, embed]: {exc}") from None


def decompressed(body: str | bytes, kind: str) -> bytes | None:
    """The body that kombu packed, or None where only a library that need not be here can tell."""
    if kind in FOREIGN_COMPRESSION:
        return None
    opener = _DECOMPRESSORS.get(kind)
    if opener is None:
        raise Refusal("bad_body", f"headers.compression is {kind[:60]!r}: there are {', '.join(_DECOMPRESSORS)}")
    unpacker = opener()
    unpacked: bytes = unpacker.decompress(body if isinstance(body, bytes) else body.encode(), UNPACKED_BYTES_MAX)
    if not unpacker.eof:
        raise Refusal("bad_body", f"the body is cut off, or holds more than {UNPACKED_BYTES_MAX} bytes")
    return unpacked


def _strict_json(text: str) -> bytes:
    """What Python's own JSON allows and msgspec does not (NaN, half a surrogate pair: a task may well be given them), made strict.

    Only to be looked at: the message itself goes on as it is. Raises ValueError where it is no JSON for Python either.
    """
    read = json.loads(text, parse_constant=lambda _: None)
    return json.dumps(read, ensure_ascii=False).encode(errors="replace")


def _instant_ms(text: str, name: str) -> int:
    """ISO 8601 as ms since 1970; without a zone it is UTC, as Celery sends it."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(f"bad_{name}", f"headers.{name} is {text[:60]!r}: expected an ISO 8601 date and time") from None
    return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)


_MISSING = {
    "headers": "no_headers", "properties": "no_properties", "id": "no_id", "task": "no_task",
    "delivery_tag": "no_delivery_tag", "body": "bad_body",
}  # fmt: skip


def _reason_of(problem: str) -> str:
    """Our word for msgspec's sentence."""
    for name, reason in _MISSING.items():
        if f"missing required field `{name}`" in problem:
            return reason
    for name in ("timelimit", "eta", "expires"):
        if f"$.headers.{name}" in problem:
            return f"bad_{name}"
    return "wrong_type"


def _identity(raw: bytes) -> tuple[str | None, str | None]:
    """Task id and task name of a message that was refused, where they can be read."""
    try:
        headers = msgspec.json.decode(_strict_json(raw.decode()))["headers"]
        task_id, task = headers.get("id"), headers.get("task")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None, None
    return (task_id if isinstance(task_id, str) and task_id else None), (task if isinstance(task, str) else None)
