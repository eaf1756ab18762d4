"""The autoscaler's loop: read the cell, let :func:`dispatcher.core.scaling.decide` decide, start and drain workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Event as Signal

import redis

from dispatcher.clock import Clock
from dispatcher.core.facts.header import DEFAULT_MODEL
from dispatcher.core.facts.snapshot import ALL_QUEUES, is_paused
from dispatcher.core.scaling import (
    Member,
    ScalingDecision,
    ScalingMemory,
    ScalingView,
    Startable,
    Waiting,
    decide,
)
from dispatcher.errors import Unavailable
from dispatcher.events import Event, FleetScaled, ScalingAdvised
from dispatcher.provision.base import Provisioner, WorkerKind
from dispatcher.settings import Settings
from dispatcher.settings.rules import scaling_limits_of
from dispatcher.store.keys import Keys
from dispatcher.store.leader.look import Look
from dispatcher.store.leader.look_store import LookStore
from dispatcher.store.scripts.call import Scripts

log = logging.getLogger(__name__)


class Autoscaler:
    """Keeps the waiting work near ``autoscaler_target_wait_s``. It need not lead the cell: all it
    writes to Redis is which worker drains.

    It drains only workers that its provisioner started: nothing here could start another worker again. Without a
    provisioner (``--advise``) it starts and drains nothing and only emits its advice.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        settings: Settings,
        *,
        kinds: Sequence[WorkerKind],
        provisioner: Provisioner | None,
        clock: Clock,
        emit: Callable[[Event], None],
    ) -> None:
        """``client`` returns bytes.

        ``kinds``: the kinds of worker that may be started; the first is the usual choice.
        """
        self._client = client
        self._keys = keys
        self._cell = LookStore(client, keys)
        self._run_script = Scripts(client)
        self._settings = settings
        self._limits = scaling_limits_of(settings)
        self._kinds = {kind.name: kind for kind in kinds}
        self._choices = [Startable(kind.name, kind.capacity, frozenset(kind.models)) for kind in kinds]
        self._provisioner = provisioner
        self._clock = clock
        self._emit = emit
        self._memory = ScalingMemory()
        self._registrations = self._cell.registrations()
        self._advised: tuple[int, int] = (0, 0)

    def run(self, stop: Signal) -> None:
        """Step every ``autoscaler_interval_s`` until ``stop`` is set. While Redis is away it decides nothing."""
        while not stop.is_set():
            try:
                self.step()
            except (redis.RedisError, Unavailable) as exc:
                self._memory = ScalingMemory()  # a decision needs reads that agree in a row: this one is missing
                log.warning("the autoscaler cannot read the cell, and scales nothing until it can: %s", exc)
            except Exception:
                self._memory = ScalingMemory()
                log.exception("a step of the autoscaler failed; it goes on with the next")
            stop.wait(self._settings.autoscaler_interval_s)

    def step(self) -> ScalingDecision:
        """Read the cell once, decide, act. Never waits for a worker."""
        epochs, view = self._view()
        decision, self._memory = decide(view, self._choices, self._limits, self._memory)
        if self._provisioner is None:
            self._advise(decision)
        elif decision.acts:
            self._emit(FleetScaled(decision.start, decision.drain, decision.reason, decision.workers))
            for name in decision.start:
                self._provisioner.start(self._kinds[name])
            for name in decision.drain:
                for epoch in epochs.get(name, ()):
                    keys = self._keys
                    self._run_script("drain_worker", [keys.alive(epoch), keys.worker(epoch), keys.wake], ["exit"])
        return decision

    def _advise(self, decision: ScalingDecision) -> None:
        """Emit the advice, unless it is the same as in the step before."""
        advice = (len(decision.start), len(decision.drain))
        if decision.acts and advice != self._advised:
            self._emit(ScalingAdvised(decision.start, decision.drain, decision.reason, decision.workers))
        self._advised = advice

    def _view(self) -> tuple[dict[str, list[str]], ScalingView]:
        """The epochs of each worker name, and what the decision is made from."""
        look = self._cell.look()
        self._registrations.learn([row.epoch for row in look.workers])
        handles = {handle.name: handle for handle in self._provisioner.list()} if self._provisioner is not None else {}
        epochs: dict[str, list[str]] = {}
        members = []
        for row in look.workers:
            registration = self._registrations.known.get(row.epoch)
            if row.ended is not None or registration is None or row.beat_age_ms > self._settings.lease_ttl_s * 1000:
                continue
            epochs.setdefault(registration.name, []).append(row.epoch)
            handle = handles.get(registration.name)
            members.append(
                Member(
                    registration.name,
                    registration.weight * registration.concurrency,
                    frozenset(registration.models),
                    leases=row.leases,
                    leased_cost_s=row.leased_cost_ms / 1000,
                    draining=bool(row.draining) or (handle is not None and handle.stopping),
                    # With --advise no worker is ours, and the advice is about all of them.
                    ours=self._provisioner is None or handle is not None,
                )
            )
        members += [
            Member(
                name, handle.kind.capacity, frozenset(handle.kind.models), starting=not handle.stopping,
                draining=handle.stopping,
            )
            for name, handle in handles.items()
            if name not in epochs
        ]
        return epochs, ScalingView(self._clock.monotonic_ms(), self._waiting(look), tuple(members))

    def _waiting(self, look: Look) -> tuple[Waiting, ...]:
        """Work that waits, by model.

        A lane counts at the cost of its next job: costs in a lane differ by less than a factor of two. Jobs that are
        not admitted yet count at the default cost.
        """
        if ALL_QUEUES in look.paused:
            return ()
        waiting = [
            Waiting(lane.lane.model, lane.depth * lane.cost_ms / 1000)
            for lane in look.lanes
            if not is_paused(lane.lane.ingress, look.paused)
        ]
        queues = {*self._settings.ingress_queues, *self._cell.ingress_queues()} - look.paused
        with self._client.pipeline(transaction=False) as pipe:
            for queue in queues:
                for key in self._keys.ingress(queue):
                    pipe.llen(key)
            not_admitted = sum(pipe.execute())
        if not_admitted:
            waiting.append(Waiting(DEFAULT_MODEL, not_admitted * self._settings.default_cost_s))
        return tuple(waiting)
