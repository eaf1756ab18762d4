"""A batch of messages and what was decided about each, and how the script ``admit`` takes it: records, and verdicts
they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from dispatcher.core.admission.rules import UNREAD, Admitted, Refused
from dispatcher.store.frame import NEW, new_until

FINGERPRINT_BYTES = 64
"""How much of a message's end identifies it: Celery puts the delivery tag there, which is unique to a publish."""


@dataclass(frozen=True, slots=True)
class IngressList:
    """One Redis list of an ingress queue."""

    key: str
    queue: str
    step: int


class AdmitBatch(msgspec.Struct, frozen=True):
    """Messages at the head of one ingress list, next first, and what was decided about each."""

    source: IngressList
    messages: Sequence[bytes]
    decisions: Sequence[Admitted | Refused]


def admit_records(batch: AdmitBatch) -> tuple[bytes, list[str], list[bytes]]:
    """The records end to end, the names of the lanes, and the verdicts."""
    lanes: dict[str, int] = {}
    verdicts: dict[bytes, bytes] = {}  # verdict → its number, three digits
    alike: dict[tuple[str, object], bytes] = {}  # most jobs of a batch wait in the same lane and cost the same
    records: list[bytes] = []
    for message, decision in zip(batch.messages, batch.decisions, strict=True):
        kind = decision[0], decision[1] if isinstance(decision, Admitted) and not decision[2] and not decision[4] else None
        number = alike.get(kind)
        if number is None:
            number = verdicts.setdefault(_verdict(decision, batch.source, lanes), b"%03d" % (len(verdicts) + 1))
            if kind[1] is not None:
                alike[kind] = number
        records += (_fingerprint(message), number)
    return b"".join(records), list(lanes), list(verdicts)


def _verdict(decision: Admitted | Refused, source: IngressList, lanes: dict[str, int]) -> bytes:
    """The verdict about one message. ``lanes``: name → number; a new lane is added."""
    if isinstance(decision, Refused):
        # A message that is too large was not read here: it may have an id.
        return (b"U" if decision.task_id or decision.reason == "too_large" else b"D") + _reason(decision, source)
    lane = lanes.setdefault(decision.lane, len(lanes) + 1)
    rest = new_until(decision.deadline_ms) if decision.deadline_ms else NEW
    if decision.due_ms is None:
        return f"L{decision.cost_ms:09d}{rest}{lane}".encode()
    return f"S{decision.cost_ms:09d}{rest}{lane}:{decision.due_ms}".encode()


def _fingerprint(message: bytes) -> bytes:
    """What ``admit`` compares with the message it pops: the message's end, or a hash of all if the end has no delivery
    tag.
    """
    tail = message[-FINGERPRINT_BYTES:]
    if b'"delivery_tag"' in tail and len(tail) == FINGERPRINT_BYTES:
        return tail
    if message[:1] == UNREAD:  # only its size is known
        return (UNREAD + message.lstrip(UNREAD)).ljust(FINGERPRINT_BYTES)
    return b"sha1:%-59b" % hashlib.sha1(message).hexdigest().encode()  # noqa: S324 (what Lua in Redis has)


def _reason(refused: Refused, source: IngressList) -> bytes:
    return msgspec.json.encode(
        {
            "reason": refused.reason,
            "detail": refused.detail,
            "task_id": refused.task_id,
            "task": refused.task,
            "ingress": source.queue,
            "step": source.step,
        }
    )
