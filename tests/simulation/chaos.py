"""What goes wrong, and what people do meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from dispatcher.core.health.ejection import Ejection
from tests.simulation.account import Job
from tests.simulation.processes import DispatcherProcess
from tests.simulation.worker import WorkerProcess
from tests.simulation.world import LISTS, QUEUES, Process

if TYPE_CHECKING:
    from tests.simulation.cell import Simulation

SHAPES: tuple[tuple[str, bytes], ...] = (
    ("not_json", b"\xff\x00 %d"), ("not_json", b"!%d"), ("not_json", b"[%d"), ("wrong_type", b'{"headers": %d}'), ("wrong_type", b"%d"),
)  # fmt: skip


BY_HOURS = 0.125
"""How many seeds have Redis' clock set by hours, once. Its luck is its own, so the histories of the others do not depend on it."""


POPS_LOST = 0.5
"""How many seeds have Redis forget pops that were answered, before what was popped is taken. Their luck is their own, too."""


class Chaos:
    """Each of its events happens now and then, as often as this seed likes it."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.rng = sim.rng

    def begin(self, seconds: float) -> None:
        """Plan all of it."""
        rng, end_us = self.rng, round(seconds * 1e6)
        faults: list[Callable[[], None]] = [
            self.kill_worker, self.kill_worker, self.terminate_worker, self.freeze_worker, self.freeze_worker, self.kill_dispatcher,
            self.terminate_dispatcher, self.freeze_dispatcher, self.cut_line, self.outage, self.lose_leader, self.lose_scripts,
            self.lose_sequence, self.lose_pop, self.set_clock, self.drain_worker, self.pause, self.requeue_dead, self.steal, self.garbage,
            self.publish_twice, self.publish_at_the_head,
        ]  # fmt: skip
        # Each seed has its favourites: all faults at once hide each other.
        liked = rng.sample(faults, rng.randint(3, len(faults)))
        for _ in range(rng.randint(0, 25)):
            self.sim.at(rng.randrange(end_us), None, rng.choice(liked))
        for _ in range(rng.randint(5, 25)):
            self.sim.at(rng.randrange(end_us * 9 // 10), None, self.publish)
        if self.sim.clock_luck.random() < BY_HOURS:
            self.sim.at(self.sim.clock_luck.randrange(end_us // 4, end_us), None, self.set_clock_by_hours)
        if self.sim.pop_luck.random() < POPS_LOST:
            for _ in range(3):
                self.sim.at(self.sim.pop_luck.randrange(end_us), None, self.lose_next_pops)

    def publish(self) -> None:
        for _ in range(self.rng.choice((1, 1, 3, 8))):
            self.sim.publish()

    def publish_twice(self) -> None:
        """A producer that retries a publish: one delivery tag, two messages."""
        raw = self.sim.publish()
        self.sim._push(self.sim.account.jobs[raw], self.rng.choice(LISTS))
        job = self.sim.account.jobs[raw]
        job.copies = max(job.copies, 2)

    def publish_at_the_head(self) -> None:
        self.sim.publish(at_the_head=True)

    def garbage(self) -> None:
        self.sim.sent_jobs += 1
        reason, shape = self.rng.choice(SHAPES)
        raw = shape % self.sim.sent_jobs
        self.sim._push(Job(raw, reasons=frozenset(("not_json", "wrong_type", reason))), self.rng.choice(LISTS))

    def steal(self) -> None:
        """A stock worker consumes the queue too."""
        raw = cast("bytes | None", self.sim.wire.rpop(self.rng.choice(LISTS)))
        if raw is not None:
            self.sim.account.stolen(raw)

    # -- processes

    def _one(self, of: type[Process]) -> Any:
        living = self.sim.living(of)
        return self.rng.choice(living) if living else None

    def kill_worker(self) -> None:
        if worker := self._one(WorkerProcess):
            worker.kill()

    def terminate_worker(self) -> None:
        if worker := self._one(WorkerProcess):
            again = self.rng.random() < 0.8 or len(self.sim.living(WorkerProcess)) == 1
            worker.terminate(again=again, within_s=self.rng.choice((None, None, 0.0, 2.0)))

    def freeze_worker(self) -> None:
        if worker := self._one(WorkerProcess):
            worker.freeze(self.rng.choice((0.5, 3.0, 7.0, 15.0)))

    def kill_dispatcher(self) -> None:
        if dispatcher := self._one(DispatcherProcess):
            dispatcher.kill()

    def terminate_dispatcher(self) -> None:
        if (dispatcher := self._one(DispatcherProcess)) and not dispatcher.is_busy:
            self.sim.at(self.sim.now_us, dispatcher, dispatcher.terminate)

    def freeze_dispatcher(self) -> None:
        if dispatcher := self._one(DispatcherProcess):
            dispatcher.freeze(self.rng.choice((0.5, 2.0, 5.0, 12.0)))

    def drain_worker(self) -> None:
        if worker := self._one(WorkerProcess):
            worker.life.drain("keep")
            self.sim.at(self.sim.now_us + self.rng.randrange(5_000_000), worker, lambda: worker.life.drain(""))

    # -- Redis, and the way there

    def cut_line(self) -> None:
        process, seconds = self._one(Process), self.rng.choice((0.5, 2.0, 9.0))
        if process is not self.sim.operator:
            process.line.is_cut = True
            self.sim.say(f"{process.name} is cut off for {seconds} s")
            self.sim.at(self.sim.now_us + round(seconds * 1e6), None, lambda: setattr(process.line, "is_cut", False))

    def outage(self) -> None:
        """Redis answers nobody. It is nobody's silence."""
        self.sim.begin_outage(self.rng.choice((0.5, 3.0, 8.0)))

    def lose_leader(self) -> None:
        self.sim.wire.delete(self.sim.keys.leader)

    def lose_scripts(self) -> None:
        self.sim.wire.script_flush()

    def lose_sequence(self) -> None:
        self.sim.wire.delete(self.sim.keys.sequence)

    def lose_pop(self) -> None:
        """With its last writes: the id of a job that runs is in the queue again."""
        if (worker := self._one(WorkerProcess)) and worker._runs and worker.epoch not in self.sim.account.ended:
            self.sim.wire.rpush(worker.life.queue_key, self.rng.choice(sorted(worker._runs)))

    def lose_next_pops(self) -> None:
        """One of each worker: Redis ends after it has answered, and comes back without its last write."""
        for worker in self.sim.living(WorkerProcess):
            worker.loses_pop = True

    def set_clock_by_hours(self) -> None:
        """A failover to a host whose clock is wrong, while the leader has just ejected a worker. See ``Simulation._clock_stays_wrong``."""
        sim, luck = self.sim, self.sim.clock_luck
        for dispatcher in sim.living(DispatcherProcess):
            workers = [worker for worker in sim.living(WorkerProcess) if worker.epoch not in sim.account.ended]
            if sim.leads(dispatcher) and len(workers) > 1:
                worker, now_ms = luck.choice(workers), sim.redis_ms()
                dispatcher.ejections[worker.epoch] = Ejection(worker.epoch, worker.name, "made up", now_ms, now_ms + 2_000)
        sim.account.clock_is_set()
        sim.hours_us = luck.choice((-5, -1, -1, 1, 5)) * 3_600_000_000
        sim.redis_skew_us += sim.hours_us
        sim.say(f"Redis' clock is set by {sim.hours_us / 3.6e9:g} hours")

    def set_clock(self) -> None:
        self.sim.account.clock_is_set()
        self.sim.redis_skew_us += self.rng.randrange(-2_000_000, 2_000_000)

    # -- operators

    def pause(self) -> None:
        self.sim.admin.pause(self.rng.choice((None, *QUEUES)))
        self.sim.at(self.sim.now_us + self.rng.randrange(6_000_000), None, self.sim.admin.resume)

    def requeue_dead(self) -> None:
        """What he sends back may run again, whatever it is."""
        account = self.sim.account
        for number in account.server.members(account.keys.dead_letters):
            for run in account.runs_of.get(account.server.hash(account.keys.messages)[number], ()):
                run.is_forgiven = True
        self.sim.admin.dead_letters().requeue()
