"""What a runtime is: the piece that turns request bodies into response bodies, inside a worker process."""

from __future__ import annotations

from typing import Any, Protocol

Body = dict[str, Any]
"""A request or response body in the OpenAI shape, JSON values only."""


class Rejected(Exception):
    """The model refuses this one request; the fields are those of an OpenAI error answer. Never retried."""

    def __init__(self, status_code: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(status_code, message, param, code)
        self.status_code = status_code
        self.message = message
        self.param = param
        self.code = code

    def __str__(self) -> str:
        return f"{self.status_code}: {self.message}"


Answer = Body | Rejected


class Runtime(Protocol):
    """One model in one process. ``run`` may be called from several threads once ``load`` has returned."""

    endpoints: frozenset[str]
    """The URLs it answers, such as ``/v1/embeddings``; empty means any."""

    def load(self) -> None:
        """Make ready; called once, before anything else. Raises ``Unavailable`` where something needed is missing."""
        ...

    def run(self, batch: list[Body]) -> list[Answer]:
        """One answer a body, in order. A body that cannot be served gets :class:`Rejected` in its place.

        Any exception means that the batch as a whole failed: the caller runs it again in halves, down to the line.
        """
        ...

    def probe(self) -> None:
        """Serve one small real request; raises when the answer is wrong."""
        ...

    def close(self) -> None:
        """Let go of what ``load`` took; safe to call twice."""
        ...
