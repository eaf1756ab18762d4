"""What a producer may say about a job: the Celery header ``dispatch``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from dispatcher.errors import Invalid

Labels = dict[str, str | list[str]]


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
        """What is wrong with the values, in a few words."""
        if self.cost is not None and not 0 <= self.cost < 1e9:
            return f"cost is {self.cost}: expected seconds, from 0 to a billion"
        if self.deadline_s is not None and not self.deadline_s > 0:
            return f"deadline_s is {self.deadline_s}: expected seconds, more than 0"
        for name in ("model", "session", "tenant"):
            if getattr(self, name) == "":
                return f"{name} is empty: leave it out instead"
        return None


FIELDS = JobHeader.__struct_fields__
HEEDED = ("model", "cost")
"""Fields that something here acts on. The others are checked and carried, for the policies that will."""


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

    ``model``: name or ``name@version``; only workers that name it get the job. ``cost``: expected work in seconds on a worker of weight 1.

    Not acted on by this version, though checked and carried (the dispatcher warns once of each): ``session``, whose jobs belong on one
    worker; ``tenant``, whom to be fair to; ``requires`` (hard) and ``prefers`` (soft), labels of the worker,
    ``{"region": "eu", "gpu": ["a100", "h100"]}``; ``prefix``, hashes of the prompt's leading blocks, longest shared first;
    ``deadline_s``, after which it is of no use. Raises :class:`Invalid` for an unknown field or a wrong value.
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
    """The header in a message, and the names of its fields that nothing here acts on.

    Cached: producers send few different headers. Raises :class:`Invalid` for wrong types or values.
    """
    try:
        header = msgspec.json.decode(raw, type=JobHeader)
        names = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError as exc:
        raise Invalid(f"header dispatch: {exc}") from exc
    if problem := header.problem():
        raise Invalid(f"header dispatch: {problem}")
    return header, tuple(name for name in names if name not in HEEDED)
