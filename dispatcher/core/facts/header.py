"""What a producer may say about a job: the Celery header ``dispatch``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from dispatcher.core.facts.message import TYPED, strict_json
from dispatcher.errors import Invalid

Labels = dict[str, str | list[str]]

DEFAULT_MODEL: Final = "default"
"""The model of a job that names none: every worker serves it."""
DEFAULT_TENANT: Final = "default"
"""The tenant of a job that names none."""

TENANT_CHARS_MAX: Final = 128
SESSION_CHARS_MAX: Final = 1024
LABELS_MAX: Final = 8
"""So many labels may a job ask for, and so many values may do for each."""
LABEL_CHARS_MAX: Final = 64
PREFIX_MAX: Final = 4096
"""Blocks of a prompt whose hashes a job may carry."""
TURNS_MAX: Final = 1_000_000
"""Retries are counted up to this: one replacement counts as more than all retries."""


MODEL_HEADER = "dispatch_model"
"""``self.request.get("dispatch_model")`` in a task: the model, or the version of an alias, that the job was given. In a
worker's memory only; nobody sends it.
"""

ALONE_HEADER = "dispatch_alone"
"""``self.request.get("dispatch_alone")`` in a task: True if the job is a suspect. It died with its process or worker so
often that this is its last run, and nothing else runs in this worker. In a worker's memory only.
"""


class JobHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of the header, all optional. :func:`job_headers` documents them."""

    model: str | None = None
    session: str | None = None
    tenant: str | None = None
    cost: float | None = None
    requires: Labels | None = None
    prefers: Labels | None = None
    prefix: list[str | int] | None = None
    deadline_s: float | None = None

    def problem(self) -> str | None:
        """What is wrong with the values, in a few words; ``None`` if nothing is."""
        if self.cost is not None and not 0 <= self.cost < 1e9:
            return f"cost is {self.cost}: expected seconds, from 0 to a billion"
        if self.deadline_s is not None and not 0 < self.deadline_s < 1e9:
            return f"deadline_s is {self.deadline_s}: expected seconds, more than 0, less than a billion"
        if "" in (self.model, self.session, self.tenant):
            name = next(name for name in ("model", "session", "tenant") if getattr(self, name) == "")
            return f"{name} is empty: leave it out instead"
        if self.tenant is not None and len(self.tenant) > TENANT_CHARS_MAX:
            return f"tenant has {len(self.tenant)} characters: at most {TENANT_CHARS_MAX} are allowed"
        if self.session is not None and len(self.session) > SESSION_CHARS_MAX:
            return f"session has {len(self.session)} characters: at most {SESSION_CHARS_MAX} are allowed"
        if self.prefix is not None and len(self.prefix) > PREFIX_MAX:
            return f"prefix has {len(self.prefix)} blocks: at most {PREFIX_MAX} are allowed"
        return _label_problem("requires", self.requires) or _label_problem("prefers", self.prefers)


FIELDS = JobHeader.__struct_fields__


def _label_problem(field: str, labels: Labels | None) -> str | None:
    """Lanes are named by what their jobs ask for, so all of it is bounded."""
    if not labels:
        return None
    if len(labels) > LABELS_MAX:
        return f"{field} has {len(labels)} labels: at most {LABELS_MAX} are allowed"
    for name, values in labels.items():
        several = [values] if isinstance(values, str) else values
        if not name or not several:
            return f"{field} names {'a label without values' if name else 'a label without a name'}: no worker could ever match"
        if len(several) > LABELS_MAX:
            return f"{field} has {len(several)} values for one label: at most {LABELS_MAX} are allowed"
        longest = max(map(len, (name, *several)))
        if longest > LABEL_CHARS_MAX:
            return f"{field} has a text of {longest} characters: at most {LABEL_CHARS_MAX} are allowed"
    return None


def job_headers(
    *,
    model: str | None = None,
    session: str | None = None,
    tenant: str | None = None,
    cost: float | None = None,
    requires: Mapping[str, str | Sequence[str]] | None = None,
    prefers: Mapping[str, str | Sequence[str]] | None = None,
    prefix: Sequence[str | int] | None = None,
    deadline_s: float | None = None,
    **unknown: Any,
) -> dict[str, dict[str, Any]]:
    """Headers for ``apply_async(headers=...)``; what is left out has its default.

    ``model``: name, ``name@version``, or an alias of versions; only workers that name it get the job. ``cost``:
    expected work in seconds on a worker of weight 1. ``session``: its jobs go to the worker that had the ones before
    (setting ``sticky``); ``prefix``: hashes of the prompt's leading blocks, longest shared first, does the same for
    jobs that share them; a session comes first. ``tenant``: whom to be fair to.

    ``requires``: labels of the worker, ``{"region": "eu", "gpu": ["a100", "h100"]}``; a job that no worker matches
    waits. ``prefers``: the same, as a wish. ``deadline_s``: not begun so long after it was admitted (or after its
    ``eta``, if later), it fails with the reason ``deadline_passed``; what has begun in time may end. Raises
    :class:`Invalid` for an unknown field or a wrong value.
    """
    if unknown:
        raise Invalid(f"a job has no field {min(unknown)!r}; it has {', '.join(FIELDS)}")
    fields = dict(
        model=model, session=session, tenant=tenant, cost=cost, requires=requires, prefers=prefers, prefix=prefix,
        deadline_s=deadline_s,
    )  # fmt: skip
    try:
        header = msgspec.convert({k: v for k, v in fields.items() if v is not None}, JobHeader)
    except msgspec.ValidationError as exc:
        raise Invalid(f"wrong job header: {exc}") from exc
    if problem := header.problem():
        raise Invalid(f"wrong job header: {problem}")
    return {"dispatch": msgspec.to_builtins(header)}


@lru_cache(maxsize=4096)
def parse_header(raw: bytes) -> tuple[JobHeader, tuple[str, ...]]:
    """The header in a message, and the names of its fields that this version does not know.

    Cached: producers send few different headers. Raises :class:`Invalid` for wrong types or values.
    """
    if TYPED in raw:
        raw = strict_json(raw.decode())
    try:
        header = msgspec.json.decode(raw, type=JobHeader)
        names = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError as exc:
        raise Invalid(f"header dispatch: {exc}") from exc
    if problem := header.problem():
        raise Invalid(f"header dispatch: {problem}")
    return header, tuple(name for name in names if name not in FIELDS)


def turn_of(retries: int | None, replaced_task_nesting: int | None) -> int:
    """The number of a message among the messages of its task id: 0 for the first, more after each ``retry`` or
    ``replace``, which send another message and leave the one before to be acked.
    """
    if not retries and not replaced_task_nesting:
        return 0
    return min(max(0, replaced_task_nesting or 0), TURNS_MAX) * TURNS_MAX + min(max(0, retries or 0), TURNS_MAX - 1)
