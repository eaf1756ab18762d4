"""Which workers get no work for a while, which get little, and when that ends. Symptoms come from ``failing``,
``slowing``, ``probing``.

The rules are Envoy's outlier detection, slow start and panic threshold
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier), for workers that pull jobs: an
ejected worker gets no new jobs for ``base_ms`` times the number of its ejections so far; so few may be ejected at once
that the rest can carry the load, but one may always be; and where too few are left healthy, the cause is elsewhere, and
ejections are ignored.

An ejection ends with the life of its worker: a restart is the cure for most faults, and a fault that is still there is
found again within seconds. How often a node has been ejected is remembered by its name, over restarts: next time it is
away for longer, and it starts slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import structs

from dispatcher.core.facts.evidence import Delta, WorkerReport
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.health.failing import Failing
from dispatcher.core.health.probing import Probing
from dispatcher.core.health.slowing import Slowing

TIMES_MAX: Final = 10
"""An ejection lasts for at most so many times ``base_ms``; a node that was well for twice as long has a clean record
again.
"""

WARMTH_MIN: Final = 0.1
"""Share of its speed that a returning worker, and one under suspicion, is trusted with."""


@dataclass(frozen=True, slots=True)
class HealthRule:
    """What an operator sets."""

    failures_in_row: int = 5
    """A worker is looked at after so many failures without a success; 0: never."""
    slow_ratio: float = 5.0
    """A worker is looked at when it is so many times slower than it was; 0: never."""
    base_ms: int = 30_000
    """The first ejection of a node lasts so long, the second twice as long, and so on; 0: nobody is ejected."""
    share_max: float = 0.1
    """Of all workers so many are ejected at once at most, but one always may be."""
    panic_share: float = 0.5
    """If fewer than this share are healthy, ejections are ignored."""
    slow_start_ms: int = 10_000
    """Slow start of workers that return from an ejection."""
    new_start_ms: int = 0
    """Slow start of lives that begin."""
    stall_ms: int = 3_000
    """A worker whose event loop is later, or that has not looked at its queue for longer, hangs."""


class Ejection(msgspec.Struct, frozen=True):
    """Why a life gets no work, since when and until when (Redis ms)."""

    epoch: str
    name: str
    reason: str
    since_ms: int
    until_ms: int


class Record(msgspec.Struct, frozen=True):
    """What is remembered of a node, over restarts."""

    times: int
    """How often it was ejected."""
    until_ms: int
    """When its last ejection was to end."""


class State(msgspec.Struct):
    """What survives a takeover."""

    ejections: dict[str, Ejection] = {}
    """By epoch."""
    records: dict[str, Record] = {}
    """By node name."""
    warming: dict[str, tuple[int, int]] = {}
    """Epoch → when its slow start began, and how long it takes."""


@dataclass(frozen=True, slots=True)
class Ejected:
    """A worker gets no work from now on, for ``span_ms``."""

    ejection: Ejection
    span_ms: int


@dataclass(frozen=True, slots=True)
class Returned:
    """A worker gets work again."""

    ejection: Ejection


@dataclass(frozen=True, slots=True)
class Panic:
    """Ejections are ignored from now on, or are not any more."""

    on: bool
    """True if so few workers are healthy that ejections are ignored."""
    healthy: int
    total: int


Change = Ejected | Returned | Panic


@dataclass(slots=True)
class Health:
    """Learns from evidence. Call :meth:`observe`, then :meth:`judge`, once a beat; :meth:`standing` at any time."""

    rule: HealthRule
    probing: Probing
    panic: bool = False
    _failing: Failing = field(init=False)
    _slowing: Slowing = field(init=False)
    _state: State = field(default_factory=State)
    _symptoms: dict[str, str] = field(default_factory=dict)
    _seen: set[str] | None = None

    def __post_init__(self) -> None:
        self._failing = Failing(self.rule.failures_in_row)
        self._slowing = Slowing(self.rule.slow_ratio)

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport], now_ms: int) -> None:
        """Look for symptoms in what workers report."""
        self._symptoms = (
            self.probing.observe(reports, now_ms) | self._slowing.observe(deltas, reports, now_ms) | self._failing.observe(deltas, reports)
        )

    def judge(self, workers: Sequence[WorkerView], now_ms: int) -> list[Change]:
        """Eject, let return, and say so."""
        alive = {worker.epoch: worker for worker in workers if worker.ended is None and worker.concurrency > 0}
        self._redate(now_ms)
        self._meet(alive, now_ms)
        changes: list[Change] = list(self._let_return(alive, now_ms))
        changes += self._eject(alive, now_ms)
        serving = [worker for worker in alive.values() if not worker.draining]
        healthy = sum(worker.epoch not in self._state.ejections and not self._hangs(worker) for worker in serving)
        panic = bool(self._state.ejections) and healthy < self.rule.panic_share * len(serving)
        if panic != self.panic:
            self.panic = panic
            changes.append(Panic(panic, healthy, len(serving)))
        return changes

    def standing(self, epoch: str, now_ms: int) -> tuple[str, float]:
        """Why the worker gets no work (empty if it gets work), and the share of its speed that it is trusted with."""
        state = self._state
        ejection = state.ejections.get(epoch)
        warmth = 1.0
        if epoch in state.warming:
            since_ms, span_ms = state.warming[epoch]
            warmth = min(1.0, max(WARMTH_MIN, (now_ms - since_ms) / span_ms))
        if epoch in self._failing.suspects or epoch in self._slowing.suspects:
            warmth = WARMTH_MIN  # so that others get such jobs, and there is something to compare with
        return ("" if ejection is None or self.panic else ejection.reason), warmth

    def dump(self) -> bytes:
        return msgspec.json.encode(self._state, order="sorted")

    def load(self, state: bytes) -> None:
        self._state = msgspec.json.decode(state, type=State)
        self._seen = None

    # -- judging

    def _redate(self, now_ms: int) -> None:
        """Let begin now what began in the future: Redis' clock was set back since. So nothing lasts for longer than
        twice its time.
        """
        state = self._state
        for epoch, ejection in state.ejections.items():
            if ejection.since_ms > now_ms:
                span_ms = ejection.until_ms - ejection.since_ms
                state.ejections[epoch] = structs.replace(ejection, since_ms=now_ms, until_ms=now_ms + span_ms)
        for epoch, (began_ms, span_ms) in state.warming.items():
            state.warming[epoch] = (min(began_ms, now_ms), span_ms)
        for name, record in state.records.items():
            latest_ms = now_ms + record.times * self.rule.base_ms
            if record.until_ms > latest_ms:
                state.records[name] = structs.replace(record, until_ms=latest_ms)

    def _meet(self, alive: dict[str, WorkerView], now_ms: int) -> None:
        """Forget lives that have ended; lives that begin start slowly. Lives that were there before this leader was are
        not new.
        """
        state = self._state
        for epoch in [epoch for epoch in state.ejections if epoch not in alive]:
            del state.ejections[epoch]
        for epoch in [epoch for epoch, (at, span) in state.warming.items() if epoch not in alive or now_ms - at >= span]:
            del state.warming[epoch]
        for name in [name for name, record in state.records.items() if self._is_clean(record, now_ms)]:
            del state.records[name]
        if self._seen is not None:
            for epoch in alive.keys() - self._seen:
                known = alive[epoch].name in state.records
                if span := max(self.rule.new_start_ms, self.rule.slow_start_ms if known else 0):
                    state.warming[epoch] = (now_ms, span)
        self._seen = set(alive)

    def _is_clean(self, record: Record, now_ms: int) -> bool:
        return now_ms - record.until_ms > 2 * TIMES_MAX * self.rule.base_ms

    def _let_return(self, alive: dict[str, WorkerView], now_ms: int) -> list[Returned]:
        """Let those return whose time is over, and whose last probe, if they are probed, was good."""
        state = self._state
        back = [
            ejection
            for ejection in state.ejections.values()
            if now_ms >= ejection.until_ms
            and not self._hangs(alive[ejection.epoch])
            and (not self.probing.can_be(alive[ejection.epoch]) or self.probing.passed_since(ejection.epoch, ejection.since_ms))
        ]
        for ejection in back:
            del state.ejections[ejection.epoch]
            if self.rule.slow_start_ms:
                state.warming[ejection.epoch] = (now_ms, self.rule.slow_start_ms)
            self._forget(ejection.epoch)
        return [Returned(ejection) for ejection in back]

    def _eject(self, alive: dict[str, WorkerView], now_ms: int) -> list[Ejected]:
        if not self.rule.base_ms:
            return []
        state = self._state
        room = max(1, int(self.rule.share_max * len(alive))) - len(state.ejections) if len(alive) > 1 else 0
        ill = {epoch: symptom for epoch, symptom in self._symptoms.items() if epoch in alive}
        # The event loop of a worker that leaves has ended, and lags behind ever more.
        lagging = {epoch: worker.loop_lag_ms for epoch, worker in alive.items() if self._lags(worker) and not worker.draining}
        ill |= {epoch: f"its event loop hangs ({lag_ms} ms late)" for epoch, lag_ms in lagging.items()}
        changes = []
        for epoch in sorted(ill.keys() - state.ejections.keys())[: max(0, room)]:
            name = alive[epoch].name
            record = state.records.get(name)
            times = min(TIMES_MAX, record.times + 1 if record is not None else 1)
            span_ms = times * self.rule.base_ms
            ejection = Ejection(epoch, name, ill[epoch], now_ms, now_ms + span_ms)
            state.ejections[epoch] = ejection
            state.records[name] = Record(times, ejection.until_ms)
            state.warming.pop(epoch, None)
            self._forget(epoch)
            changes.append(Ejected(ejection, span_ms))
        return changes

    def _forget(self, epoch: str) -> None:
        self._symptoms.pop(epoch, None)
        self._failing.forget(epoch)
        self._slowing.forget(epoch)

    def _lags(self, worker: WorkerView) -> bool:
        return worker.loop_lag_ms > self.rule.stall_ms

    def _hangs(self, worker: WorkerView) -> bool:
        return self._lags(worker) or worker.consume_age_ms > self.rule.stall_ms
