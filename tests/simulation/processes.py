"""The processes of a cell beside its workers: dispatchers, and an autoscaler with what starts workers for it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from random import Random
from typing import Any, cast

import redis

from dispatcher.core.admission.rules import Admission
from dispatcher.core.facts.decisions import Assign
from dispatcher.core.health.ejection import Ejection
from dispatcher.leader.build import make_dispatcher
from dispatcher.leader.leadership import STANDBY_WAIT_S
from dispatcher.leader.settle import Settler
from dispatcher.provision.autoscaler import Autoscaler
from dispatcher.provision.base import WorkerHandle, WorkerKind
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.unsettled_store import UnsettledStore
from tests.simulation.worker import WorkerProcess
from tests.simulation.world import Process, World


class RecordingStore(DispatchStore):
    """Production's, for one difference: it notes the windows that a leader went by."""

    windows: dict[str, int]

    def _assign_call(self, assignments: Sequence[Assign]) -> Any:
        for one in assignments:
            self.windows[one.epoch] = max(one.window, self.windows.get(one.epoch, 0))
        return super()._assign_call(assignments)

    def assign_probe(self, epoch: str, **options: Any) -> bool:
        self.windows[epoch] = max(options["window"], self.windows.get(epoch, 0))
        return super().assign_probe(epoch, **options)


class DispatcherProcess(Process):
    """The loop around the production ``step``."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        token = f"{name}-{world.rng.getrandbits(64):x}"
        self.store = RecordingStore(self.client(text=False), world.keys, token)
        self.store.windows = world.windows
        self.dispatcher = make_dispatcher(
            self.store, world.settings, admission=Admission(routes={}, default_cost_s=0.3), clock=self.clock,
            rng=Random(world.rng.getrandbits(32)), emit=lambda event: world.say(f"{name}: {event}"),
        )  # fmt: skip
        self.read_at_ms = 0
        """When it last read what workers did, by time itself."""
        self._note_reads()
        self.settler = Settler(UnsettledStore(self.client(text=False), world.keys, token), cast("Any", world.backend), lambda _: None)
        self.soon(world.rng.uniform(0, 0.1), self._step)
        self.soon(0.5, self._settle)

    def _note_reads(self) -> None:
        learning: Any = self.dispatcher.parts.learning
        read = learning._read

        def noted(*args: Any) -> Any:
            self.read_at_ms = self.world.true_ms()
            return read(*args)

        learning._read = noted

    @property
    def ejections(self) -> dict[str, Ejection]:
        """By epoch."""
        return self.dispatcher.parts.health.learner._state.ejections

    def _step(self) -> None:
        try:
            report = self.dispatcher.step()
        except (redis.ConnectionError, redis.exceptions.NoScriptError):
            self.dispatcher.recover()
            self.soon(self.world.rng.uniform(0.1, 1.0), self._step)
            return
        wait_s = STANDBY_WAIT_S if not report.leads else 0.002 if report.more else self.world.rng.uniform(0.005, report.wait_s + 0.01)
        self.soon(wait_s, self._step)

    def _settle(self) -> None:
        with contextlib.suppress(redis.ConnectionError):
            self.settler.step()
        self.soon(0.5, self._settle)

    def terminate(self) -> None:
        """SIGTERM."""
        self.dispatcher.resign()
        self.kill()

    def died(self) -> None:
        self.world.at(self.world.now_us + self.world.rng.randrange(3_000_000), None, self.world.start_dispatcher)


class SimulatedProvisioner:
    """Starts workers of one kind for the autoscaler, after a while."""

    def __init__(self, world: World, kind: WorkerKind) -> None:
        self._world = world
        self._kind = kind
        self._started = 0
        self._of: dict[str, WorkerProcess | None] = {}

    def start(self, kind: WorkerKind) -> WorkerHandle:
        self._started += 1
        name = f"auto{self._started}@sim"
        self._of[name] = None
        delay_us = self._world.rng.randrange(100_000, 3_000_000)
        self._world.at(self._world.now_us + delay_us, None, lambda: self._born(name))
        return WorkerHandle(name, kind, 1)

    def _born(self, name: str) -> None:
        self._of[name] = self._world.start_worker(name, ended=lambda _worker, _again: self._of.pop(name, None))

    def stop(self, name: str) -> None:
        if (worker := self._of.get(name)) is not None:
            worker.terminate(again=False)

    def kill(self, name: str) -> None:
        if (worker := self._of.get(name)) is not None:
            worker.kill()

    def list(self) -> list[WorkerHandle]:
        return [WorkerHandle(name, self._kind, 1, stopping=bool(worker and worker._leaving)) for name, worker in self._of.items()]


class AutoscalerProcess(Process):
    def __init__(self, world: World) -> None:
        super().__init__(world, "autoscaler")
        kind = WorkerKind("auto", concurrency=2, models=("minilm",))
        self.autoscaler = Autoscaler(
            self.client(text=False), world.keys, world.settings, kinds=[kind], provisioner=SimulatedProvisioner(world, kind),
            clock=self.clock, emit=lambda event: world.say(f"autoscaler: {event}"),
        )  # fmt: skip
        self.soon(1.0, self._step)

    def _step(self) -> None:
        with contextlib.suppress(redis.ConnectionError):
            self.autoscaler.step()
        self.soon(self.world.settings.autoscaler_interval_s, self._step)
