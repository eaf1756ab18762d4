"""Decides about a message of an ingress: which lane it waits in, or why it is refused. Only its envelope and headers
count; of the body only that Celery will be able to unpack it, for a worker that cannot exits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from dispatcher.core.admission.prefix import PrefixSlots, SlotOfPrefix, slot_of_text
from dispatcher.core.facts.header import DEFAULT_MODEL, DEFAULT_TENANT, JobHeader, parse_header, turn_of
from dispatcher.core.facts.labels import wanted
from dispatcher.core.facts.lane import Lane, lane_name, name_end, size_class
from dispatcher.core.facts.message import (
    ABSENT,
    JSON_CONTENT,
    Refusal,
    as_protocol_2,
    check_body,
    identity_of,
    read_envelope,
)
from dispatcher.core.rollout.aliases import Split
from dispatcher.errors import Invalid

LARGEST_COST_MS: Final = 999_999_999
LATEST_DEADLINE_MS: Final = 9_999_999_999_999
"""What a frame has digits for."""
UNKNOWN_FIELDS_MAX: Final = 100
"""So many names of unknown header fields are counted, the first ones."""
NO_NAME: Final = frozenset({"no_id", "no_task"})
OF_PROTOCOL_1: Final = NO_NAME | {"bad_body", "wrong_type"}
"""For these reasons a message of task protocol 1 is refused where protocol 2 is expected."""
UNREAD: Final = b"!"
"""The script ``read_ingress`` sends this mark and a size instead of some messages: ``!<size>`` if the message is too
large, ``!!<size>`` if it begins with the mark itself.
"""


class Admitted(NamedTuple):
    """The message is a job, and waits."""

    lane: str
    """Name of the lane."""
    cost_ms: int
    due_ms: int | None = None
    """The job may not run before this time, by Redis' clock; ``None``: it may at once."""
    task_id: str = ""
    deadline_ms: int = 0
    """The job may not begin after this time, by Redis' clock; 0: it always may."""
    turn: int = 0
    """See :func:`~dispatcher.core.facts.header.turn_of`."""


class Refused(NamedTuple):
    """The message is a dead letter."""

    reason: str
    """One of a few words."""
    detail: str
    """A sentence."""
    task_id: str | None = None
    """``None`` if it cannot be read."""
    task: str | None = None
    """``None`` if it cannot be read."""


@dataclass(slots=True)
class Admission:
    """The rules of one cell."""

    routes: dict[str, str]
    """Task → the model of its jobs that name none."""
    default_cost_s: float
    """Cost of jobs whose producer does not say it and that have no learned cost."""
    accept_content: frozenset[str] = frozenset({JSON_CONTENT})
    """Content types of bodies that are admitted."""
    own_compressions: frozenset[str] = frozenset()
    """Content types that the app packs in its own way, under a name of kombu's."""
    known_models: Collection[str] | None = None
    """Models that jobs may name; ``None`` while no model is known at all: then every model may wait."""
    splits: Mapping[str, Split] = field(default_factory=dict)
    """Alias → its versions."""
    costs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(task, model) → learned seconds of work at speed 1, for jobs whose producer does not say."""
    unknown_fields: dict[str, int] = field(default_factory=dict)
    """Name of a header field that this version does not know → how often it was seen."""
    sticky: bool = True
    """True if the jobs of a session, or of a prefix, have a lane of their own, so that they can be kept together."""
    slot_of_prefix: SlotOfPrefix = field(default_factory=lambda: PrefixSlots().slot_of_prefix)

    def read(self, raw: bytes, *, ingress: str, step: int, now_ms: int) -> Admitted | Refused:
        """Decide about one message. Never raises: whatever is wrong with it is a :class:`Refused`."""
        return self.read_all([raw], ingress=ingress, step=step, now_ms=now_ms)[0]

    def read_all(
        self, messages: Sequence[bytes], *, ingress: str, step: int, now_ms: int, is_enough: Callable[[], bool] | None = None
    ) -> list[Admitted | Refused]:
        """Decide about these messages, which are of one list, in their order. Stops early, after at least one, if
        ``is_enough`` says so.
        """
        source = _Source(ingress, step, now_ms)
        decisions: list[Admitted | Refused] = []
        for raw in messages:
            decisions.append(self._decide(raw, source))
            if is_enough is not None and is_enough():
                break
        return decisions

    def _decide(self, raw: bytes, source: _Source) -> Admitted | Refused:
        try:
            return self._read(raw, source)
        except Refusal as exc:
            reason, detail = exc.args
        except msgspec.ValidationError as exc:
            reason, detail = _reason_of(str(exc)), str(exc)
        except (ValueError, RecursionError) as exc:  # msgspec's DecodeError and UnicodeError are ValueErrors
            reason, detail = "not_json", f"the message is not JSON: {exc}"
        if reason in OF_PROTOCOL_1 and (plain := as_protocol_2(raw)) is not None:
            return self._decide(plain, source)
        if reason in NO_NAME:
            detail = f"{detail} (a message of task protocol 1 is read if its body is JSON)"
        return Refused(reason, detail, *identity_of(raw))

    def _read(self, raw: bytes, source: _Source) -> Admitted:
        if raw[:1] == UNREAD:
            if raw[1:2] == UNREAD:
                raise Refusal("not_json", "the message is not JSON: it begins with '!'")
            raise Refusal("too_large", f"the message has {raw[1:].decode()} bytes; see message_bytes_max")
        envelope = read_envelope(raw)
        headers = envelope.headers
        if not headers.id or not headers.task:
            raise Refusal("no_id" if not headers.id else "no_task", "headers.id and headers.task must not be empty")
        if not envelope.properties.delivery_tag:
            raise Refusal("no_delivery_tag", "properties.delivery_tag must not be empty")
        content = envelope.content_type
        if content not in self.accept_content:
            raise Refusal("content_refused", f"content type {content!r} is not in accept_content")
        check_body(envelope, self.own_compressions)
        if headers.expires is not None:
            _instant_ms(headers.expires, "expires")
        due_ms = None
        if headers.eta is not None:
            due_ms = _instant_ms(headers.eta, "eta")
            if due_ms <= source.now_ms:
                due_ms = None
        if headers.dispatch is ABSENT:
            plain = source.plain.get(headers.task)
            if plain is not None:
                return Admitted(plain[0], plain[1], due_ms, headers.id, turn=turn_of(headers.retries, headers.replaced_task_nesting))
        model, session, cost_s, span_ms, lane_end = None, None, None, 0, ""
        dispatch_raw = bytes(headers.dispatch)
        if dispatch_raw != b"null":
            try:
                header, unknown, span_ms, lane_end = _read_header(dispatch_raw, self.sticky)
            except Invalid as exc:
                raise Refusal("bad_header", str(exc)) from None
            model, session, cost_s = header.model, header.session, header.cost
            if header.prefix and self.sticky and header.session is None:
                lane_end = _lane_end(header, self.slot_of_prefix(header.prefix), span_ms)
            for name in unknown:
                if name in self.unknown_fields or len(self.unknown_fields) < UNKNOWN_FIELDS_MAX:
                    self.unknown_fields[name] = self.unknown_fields.get(name, 0) + 1
        if model is None:
            model = self.routes.get(headers.task, DEFAULT_MODEL)
        split = self.splits.get(model)
        if split is not None:
            model = split.version(session or headers.id)
        if model != DEFAULT_MODEL and self.known_models is not None and model not in self.known_models:
            raise Refusal("unknown_model", f"no worker has served model {model!r} and the setting `models` does not name it")
        if cost_s is None:
            cost_s = self.costs.get((headers.task, model), self.default_cost_s)
        cost_ms = min(LARGEST_COST_MS, round(cost_s * 1000))
        lane = _lane(source.ingress, headers.task, model, source.step, size_class(cost_ms)) + lane_end
        if dispatch_raw == b"null" and split is None:
            source.plain[headers.task] = lane, cost_ms
        deadline_ms = min(LATEST_DEADLINE_MS, (due_ms or source.now_ms) + span_ms) if span_ms else 0
        turn = turn_of(headers.retries, headers.replaced_task_nesting)
        return Admitted(lane, cost_ms, due_ms, headers.id, deadline_ms, turn)


class _Source(msgspec.Struct):
    """Messages of one list that are read together."""

    ingress: str
    step: int
    now_ms: int
    plain: dict[str, tuple[str, int]] = msgspec.field(default_factory=dict)
    """Task → lane and cost of its jobs that have no ``dispatch`` header."""


@lru_cache(maxsize=4096)
def _read_header(dispatch_raw: bytes, sticky: bool) -> tuple[JobHeader, tuple[str, ...], int, str]:
    """The header, the names of unknown fields, the time to the deadline in ms (0: none), and the end of the lane's
    name.
    """
    header, unknown = parse_header(dispatch_raw)
    span_ms = 0 if header.deadline_s is None else max(1, round(header.deadline_s * 1000))
    slot = slot_of_text(header.session) if sticky and header.session is not None else -1
    return header, unknown, span_ms, _lane_end(header, slot, span_ms)


def _lane_end(header: JobHeader, slot: int, span_ms: int) -> str:
    return name_end(header.tenant or DEFAULT_TENANT, wanted(header.requires), wanted(header.prefers), slot, span_ms.bit_length())


@lru_cache(maxsize=65536)
def _lane(ingress: str, task: str, model: str, step: int, size: int) -> str:
    return lane_name(Lane(ingress, task, model, step, size))


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
