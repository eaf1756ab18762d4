"""A made-up fleet of true speeds that tells what it did, second by second, for tests of what is learned from that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random

from dispatcher.core.facts.evidence import Delta, Memory, Running, WorkerReport, WorkerTotals
from dispatcher.core.learning.speeds import Speeds

TASK, MODEL = "t", "m"


class Fleet:
    """Workers of true ``speeds`` that run jobs of mean cost ``cost_s`` back to back, and tell of it once a second."""

    def __init__(
        self,
        speeds: Mapping[str, float],
        *,
        weights: Mapping[str, float] | None = None,
        cost_s: float = 0.4,
        cv: float = 0.0,
        declared: float | None = None,
        seed: int = 1,
        **options: float,
    ) -> None:
        self.true = dict(speeds)
        self.weights = weights or {}
        self.cost_s = cost_s
        self.sigma = math.sqrt(math.log(1 + cv * cv))
        self.declared = declared
        self.rng = Random(seed)
        self.epochs = {name: f"{name}-1" for name in speeds}
        self.running: dict[str, Running] = {}
        self.memory: Memory | None = None
        self.options = {"prior_jobs": 5.0} | options
        self.speeds = Speeds(**self.options)
        self.owed = dict.fromkeys(speeds, 0.0)
        self.now_ms = 1_000_000

    def run(self, seconds: int, only: Sequence[str] = ()) -> Fleet:
        for _ in range(seconds):
            self.now_ms += 1_000
            self.speeds.observe([one for name in only or self.true for one in self.work(name)], self.told(), self.now_ms)
        return self

    def told(self) -> list[WorkerReport]:
        return [
            WorkerReport(self.epochs[name], name, 1, self.weights.get(name, 1.0), WorkerTotals([], 0, self.ran(name), self.memory))
            for name in self.true
        ]

    def ran(self, name: str) -> list[Running]:
        return [self.running[name]] if name in self.running else []

    def work(self, name: str) -> list[Delta]:
        """A second's worth of jobs, the one begun before included."""
        self.owed[name] += 1.0
        done, busy_s, cost_s = 0, 0.0, 0.0
        while self.owed[name] > 0:
            cost = self.cost_s * self.rng.lognormvariate(-self.sigma**2 / 2, self.sigma)
            done, busy_s, cost_s = done + 1, busy_s + cost / self.true[name], cost_s + cost
            self.owed[name] -= cost / self.true[name]
        return [self.delta(name, done, busy_s, cost_s)] if done else []

    def delta(self, name: str, done: int, busy_s: float, cost_s: float) -> Delta:
        busy_ms, guessed = round(busy_s * 1000), self.declared is None
        cost_ms = round(1000 * (done if guessed else cost_s * self.declared))
        counts = (done, busy_ms, cost_ms) if guessed else (0, 0, 0)
        return Delta(self.epochs[name], name, TASK, MODEL, done, 0, busy_ms, cost_ms, 0, *counts)

    def found(self) -> dict[str, float]:
        return {name: self.speeds.of(name).get(MODEL, self.weights.get(name, 1.0)) for name in self.true}

    def cost(self) -> float:
        """Learned seconds of a job at speed 1."""
        return {(task, model): cost_ms / 1000 for task, model, cost_ms in self.speeds.costs_ms()}[TASK, MODEL]

    def times_s(self) -> dict[str, float]:
        """How long a job is expected to take."""
        return {name: self.cost() / speed for name, speed in self.found().items()}


UNLIKE = {"a": 8.0, "b": 4.0, "c": 2.0, "d": 1.0}
