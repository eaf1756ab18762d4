"""The cost of a job whose producer does not say it: learned from jobs of its kind that were done."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dispatcher.core.facts.evidence import Delta, WorkerReport
from dispatcher.core.learning.speeds import Speeds

STEP = 1.25
"""A cost in use is replaced once the learned cost differs by this factor: each small change at the edge of a size class
would make another lane.
"""


class Costs:
    """The learned costs of one leader. Must learn after the ``speeds`` that it reads; admission reads ``seconds``."""

    def __init__(self, speeds: Speeds) -> None:
        self._speeds = speeds
        self.seconds: dict[tuple[str, str], float] = {}
        """(task, model) → seconds of work at speed 1. Changed in place."""

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport], now_ms: int) -> None:
        """See :class:`~dispatcher.core.facts.evidence.Learner`."""
        for task, model, cost_ms in self._speeds.costs_ms():
            in_use_s = self.seconds.get((task, model))
            cost_s = float(f"{cost_ms / 1000:.2g}")
            if in_use_s is None or not in_use_s / STEP < cost_s < in_use_s * STEP:
                self.seconds[task, model] = cost_s

    def dump(self) -> bytes:
        """As JSON: task, model, seconds."""
        return msgspec.json.encode([(*kind, cost_s) for kind, cost_s in self.seconds.items()])

    def load(self, state: bytes) -> None:
        """See :class:`~dispatcher.core.facts.evidence.Learner`."""
        saved = msgspec.json.decode(state, type=list[tuple[str, str, float]])
        self.seconds.clear()
        self.seconds.update({(task, model): cost_s for task, model, cost_s in saved})
