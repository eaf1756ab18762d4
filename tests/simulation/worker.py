"""A worker process: the production life, keeper, pipe and delivery, with a pool and a loop that are made up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import redis

import dispatcher.worker.life.life
from dispatcher.core.returns.ending import Cause, GiveBack
from dispatcher.store.frame import parse_entry
from dispatcher.store.registration import Registration
from dispatcher.store.worker.lease_pipe import TRANSIENT
from dispatcher.worker.leasing.transport import LeaseChannelMixin
from dispatcher.worker.life.held import Held, Outcome
from dispatcher.worker.life.host import Host
from dispatcher.worker.life.life import WorkerLife
from dispatcher.worker.life.lifeline import LOOK_AGAIN_S, Lifeline
from tests.simulation.account import PROBE, Run, name_of
from tests.simulation.world import Process, World

LOOP_S = 0.04
"""How often the consumer's loop turns."""


class NoMemory:
    """A worker that never tells of models."""

    loading_ms = staticmethod(lambda *_: 0)

    def read(self) -> None:
        return None

    def close(self) -> None:
        pass


class Channel(LeaseChannelMixin):
    """Only what production's own ``_deliver_lease`` asks of a kombu channel."""

    def __init__(self, life: WorkerLife, deliver: Callable[[Any], None]) -> None:
        self.life = life
        self.connection = SimpleNamespace(_callbacks={life.queue_name: deliver})


class WorkerProcess(Process):
    """``behave``: what becomes of a job, by its message: (outcome, seconds). ``ended``: called when the process is gone, with whether a
    supervisor should start it again.
    """

    def __init__(
        self, world: World, registration: Registration, behave: Callable[[bytes, int], tuple[str, float]],
        ended: Callable[[WorkerProcess, bool], None], *, has_loop: bool,
    ) -> None:  # fmt: skip
        super().__init__(world, registration.name)
        self.registration = registration
        self._behave = behave
        self._ended = ended
        self._soon: list[Callable[[], None]] = []
        self._runs: dict[str, Run | None] = {}
        self._leaving = False
        self.loses_pop = False
        """Redis will lose its next pop."""
        self._is_cut_off = False
        host = Host(
            call_soon=self._soon.append, has_loop=has_loop, stop_warm=self._stop_warm, stop_dead=self._stop_dead,
            kill_pool=self._kill_pool, stop_short=self._stop_short, switch_queue=lambda: None,
            is_reserved=self._runs.__contains__, runs_at_most_once=registration.at_most_once.__contains__, loop_runs_jobs=False,
        )  # fmt: skip
        dispatcher.worker.life.life.new_epoch = world.new_epoch
        self._lifeline = Lifeline(self.clock, lease_ttl_s=world.settings.lease_ttl_s)
        client = self.client(text=True)
        self.life = WorkerLife(
            registration, world.settings, world.keys, client, self.clock, host, cast("Any", NoMemory()), self._lifeline
        )  # fmt: skip
        self.life.keeper.limit = registration.concurrency
        self._overlap_heartbeats()
        self._tell_of_dropped_turns()
        self._consumer = self.client(text=False)
        self._channel = Channel(self.life, self._deliver)
        self.soon(0.0, self._begin)

    @property
    def epoch(self) -> str:
        return self.life.epoch

    def _overlap_heartbeats(self) -> None:
        """The beat has a thread of its own: while it waits for its answer, the loop goes on."""
        store: Any = self.life._store
        beat = store.heartbeat

        def heartbeat(*args: Any) -> Any:
            self.overlaps = True
            try:
                return beat(*args)
            finally:
                self.overlaps = False

        store.heartbeat = heartbeat

    def _tell_of_dropped_turns(self) -> None:
        life: Any = self.life
        asked = life.has_later_turn

        def has_later_turn(held: Held, headers: dict[str, Any]) -> bool:
            account = self.world.account
            must = account.must_pass_over(held.message)
            is_later = bool(asked(held, headers))
            account.demand(is_later or not must, f"{name_of(held.message)} is run again after its retry began")
            if is_later:
                account.passed_over(held.message)
            return is_later

        life.has_later_turn = has_later_turn

    # -- its life

    def _begin(self) -> None:
        try:
            self.life._register()
        except redis.RedisError:
            self._exit(again=True)  # as a worker does that cannot register
            return
        self.world.say(f"{self.name} begins life {self.epoch}")
        self.soon(0.0, self._turn)
        self.soon(0.0, self._beat)

    def _beat(self) -> None:
        with contextlib.suppress(redis.RedisError):
            self.life.step()
        if not self.is_dead:
            self.soon(self.world.settings.heartbeat_s * self.world.rng.uniform(0.95, 1.05), self._beat)

    def _turn(self) -> None:
        due, self._soon[:] = self._soon[:], []
        for act in due:
            act()
        wait_s = LOOP_S * self.world.rng.uniform(0.5, 1.5)
        keeper = self.life.keeper
        try:
            if self._is_cut_off:
                self._consumer.ping()
                self._is_cut_off = False
                self.life.loop_restarts()
                keeper.looked()
            while keeper.can_take(keeper.limit):
                if self._waits_in_vain():
                    keeper.looked()
                    break
                popped = cast("bytes | None", self._consumer.rpop(self.life.queue_key))
                keeper.looked()
                if popped is None:
                    break
                if self.loses_pop:  # with its last write, before the job is taken: the id is popped, and is in the queue
                    self.loses_pop = False
                    self.world.say(f"Redis forgets that {self.name} popped {popped.decode()}")
                    self.world.wire.rpush(self.life.queue_key, popped)
                cast("Any", self._channel)._deliver_lease(popped)
        except TRANSIENT:
            self._is_cut_off = True
            wait_s = 0.5
        if self._leaving and not keeper.held():
            self.life.finish()
            self.world.say(f"{self.name} has left")
            self._exit(again=self._starts_again)
        elif not self.is_dead:
            self.soon(wait_s, self._turn)

    def _waits_in_vain(self) -> bool:
        """Whether a blocking pop would get no answer: then none is made, for a command costs more than all else."""
        return not self.line.is_dead and not self.world.server.list(self.life.queue_key) and self.world.rng.random() < 0.9

    _starts_again = True

    def terminate(self, *, again: bool, within_s: float | None = None) -> None:
        """SIGTERM; what runs after ``within_s`` is cut short."""
        self._starts_again = again
        self.life.leave(within_s)
        if within_s is not None:
            self.soon(within_s, self._cut_short)

    def _cut_short(self) -> None:
        if not self.is_dead:
            self.life._cut_short()

    def _stop_warm(self) -> None:
        self._leaving = True

    def _stop_dead(self) -> None:
        self.world.say(f"{self.name} learns that it is dead")
        self._exit(again=True)

    def _stop_short(self) -> None:
        self.world.say(f"{self.name} has no more time to stop")
        self._exit(again=self._starts_again)

    def _kill_pool(self) -> None:
        """As when a life is cut short: nothing is told of what ran."""
        self.world.account.lost_worker(self)
        self._runs.clear()

    def _exit(self, *, again: bool) -> None:
        if not self.is_dead:
            self.is_dead = True
            self.world.account.lost_worker(self)
            self._ended(self, again)

    def died(self) -> None:
        self.world.account.lost_worker(self)
        self._ended(self, True)

    # -- its pool

    def _deliver(self, payload: Any) -> None:
        lease_id = payload["properties"]["delivery_tag"]
        held = self.life.keeper.held()[lease_id]
        entry = parse_entry(held.entry.decode())
        outcome, seconds = self._behave(held.message, entry.deaths + entry.rejects)
        if outcome == "cannot be delivered":
            raise RuntimeError(outcome)
        self._runs[lease_id] = None
        self._run(lease_id, held, outcome, seconds)

    def _run(self, lease_id: str, held: Held, outcome: str, seconds: float) -> None:
        """As production's pool begins a job: not while this life may have been declared dead."""
        if lease_id not in self._runs:
            return  # its process was killed meanwhile
        if self._lifeline.is_silent():
            self.soon(LOOK_AGAIN_S, lambda: self._run(lease_id, held, outcome, seconds))
            return
        account = self.world.account
        if PROBE not in held.message and account.must_know(held.message):
            account.demand(held.runs_again, f"{name_of(held.message)} does not know that it began before")
        self._runs[lease_id] = account.began(self, lease_id, held.message, parse_entry(held.entry.decode()))
        self.world.say(f"{self.name} begins {name_of(held.message)} by lease {lease_id}, {outcome} in {seconds} s")
        self.life.keeper.started(lease_id, self.clock.monotonic_ms())
        self.soon(seconds / self.registration.weight, lambda: self._end(lease_id, held.message, outcome))

    def _end(self, lease_id: str, message: bytes, outcome: str) -> None:
        if lease_id not in self._runs:
            return  # its process was killed meanwhile
        run, keeper = self._runs.pop(lease_id), self.life.keeper
        self.world.say(f"{self.name}: {name_of(message)} by lease {lease_id} is {outcome}")
        if outcome == "kills its worker":
            self.kill()
            return
        if outcome in ("rejected", "kills its process"):
            if run is not None:
                run.state = "rejected" if outcome == "rejected" else "returned"
            if outcome == "rejected":
                keeper.give_back(GiveBack.rejected(lease_id))
            else:
                self.life.end_badly(lease_id, Cause.PROCESS_DIED, "its process died")
            return
        if outcome == "retried":
            self.world.republish(message)
        if run is not None:
            self.world.account.finished(run)
        keeper.ack(lease_id, {"done": Outcome.DONE, "failed": Outcome.FAILED, "retried": Outcome.RETRIED}[outcome])
