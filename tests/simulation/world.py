"""Time, luck and processes: what everything in a simulation shares."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

import redis

from dispatcher.settings import Settings
from dispatcher.store.keys import Keys
from tests.simulation.account import CLOCK_SKEW, Account
from tests.simulation.server import BORN_S, Line, Server

QUEUES = ("dispatch", "gpu")
LISTS = tuple(key for queue in QUEUES for key in (queue, f"{queue}\x06\x163", f"{queue}\x06\x166", f"{queue}\x06\x169"))
HELD_UP_IN_WHICH_MAX = 2
"""While a process is held up inside a command others run, and may be held up in turn; so deep."""

HELD_UP_LONG = 0.0006
"""How often a command takes so long that a lease may end meanwhile."""


class Killed(BaseException):
    """The process that runs is killed, here and now."""


class Process:
    """An operating system's process: its own clock, its own line to Redis, and one thing at a time."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_dead = False
        self.is_busy = False
        self.overlaps = False
        """It is held up where another of its threads may run."""
        self.frozen_until_us = 0
        self.holds_up = world.holds_up
        """How often others run while a command of it is on its way."""
        self.clock = ProcessClock(self, world.rng)
        self.line = Line(world.rng, lambda _: world.hold_up(self), world.sent, lambda: world.outages > 0)
        world.processes.append(self)

    def client(self, *, text: bool) -> redis.Redis:
        return self.world.server.client(self.line, text=text)

    def soon(self, seconds: float, act: Callable[[], None]) -> None:
        self.world.at(self.world.now_us + round(seconds * 1e6), self, act)

    def kill(self) -> None:
        """SIGKILL."""
        if not self.is_dead:
            self.world.say(f"{self.name} is killed")
            self.is_dead = True
            self.died()

    def died(self) -> None:
        """For the account and the supervisor."""

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.world.say(f"{self.name} is frozen for {seconds:.1f} s")
        self.frozen_until_us = max(self.frozen_until_us, self.world.now_us + round(seconds * 1e6))


class ProcessClock:
    """Monotonic, from an arbitrary start, and a little too fast or too slow."""

    def __init__(self, process: Process, rng: Random) -> None:
        self._process = process
        self._start_ms = rng.randrange(10**9)
        self._rate = 1 + rng.uniform(-CLOCK_SKEW, CLOCK_SKEW)

    def monotonic_ms(self) -> int:
        return self._start_ms + int(self._process.world.now_us / 1000 * self._rate)

    def sleep(self, seconds: float) -> None:
        self._process.world.run_for(seconds)
        if self._process.is_dead:
            raise Killed


class World:
    """One cell and all that happens to it. Everything random comes from one seed, everything happens in one thread."""

    wire: redis.Redis
    """For whoever stands outside: its commands take no time, and none is lost."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now_us = 0
        self.redis_skew_us = 0
        self.clock_luck = Random(f"clock {seed}")
        self.pop_luck = Random(f"pop {seed}")
        self.hours_us = 0
        """By how much Redis' clock was set, where that was hours."""
        self.outages = 0
        self._outage_us = 0
        self._outage_began_us = 0
        self.windows: dict[str, int] = {}
        self.is_faulty = True
        self.processes: list[Process] = []
        self.said: deque[str] = deque(maxlen=10_000)
        # What is wrong between a look and what follows from it shows only where others run in between.
        self.holds_up = self.rng.choice((0.002, 0.01, 0.05))
        self.server = Server(Random(seed + 1), self._command_takes_time)
        self.keys = Keys()
        rng = self.rng
        self.settings = Settings(
            redis_url="redis://simulated", window_hide_ms=rng.choice((0.0, 25.0)), window_extra=rng.choice((0, 1, 2)), models=("minilm",),
            attempts_max=3, hold_max_s=rng.choice((1.0, 5.0)), probe_interval_s=rng.choice((3.0, 10.0)),
            batch_size=rng.choice((3, 50, 500)), lease_ttl_s=rng.choice((3.0, 5.0)), autoscaler_stabilization_s=5.0,
            autoscaler_target_wait_s=2.0, reject_backoff_s=0.5,
        ).checked()  # fmt: skip
        self.account = Account(
            self.server, self.keys, LISTS, round(self.settings.lease_ttl_s * 1000), self.redis_ms, self.true_ms, self.heard_ms,
            self.windows,
        )  # fmt: skip
        self.epochs: list[str] = []
        self._epoch_numbers = count(1)
        self._heap: list[tuple[int, int, Process | None, Callable[[], None]]] = []
        self._order = count()
        self._held_up = 0

    # -- time

    def redis_s(self) -> float:
        return BORN_S + (self.now_us + self.redis_skew_us) / 1e6

    def redis_ms(self) -> int:
        return int(self.redis_s() * 1000)

    def true_ms(self) -> int:
        return self.now_us // 1000

    def heard_ms(self) -> int:
        """Time in which Redis could be heard."""
        away_us = self.now_us - self._outage_began_us if self.outages else 0
        return (self.now_us - self._outage_us - away_us) // 1000

    def begin_outage(self, seconds: float) -> None:
        """Redis answers nobody."""
        self.say(f"Redis is away for {seconds} s")
        if not self.outages:
            self._outage_began_us = self.now_us
        self.outages += 1
        self.at(self.now_us + round(seconds * 1e6), None, self._end_outage)

    def _end_outage(self) -> None:
        self.outages -= 1
        if not self.outages:
            self._outage_us += self.now_us - self._outage_began_us
            self.say("Redis is back")

    def start_dispatcher(self) -> None:
        """A supervisor starts another."""
        raise NotImplementedError

    def republish(self, message: bytes) -> None:
        """A task asks to be run again."""
        raise NotImplementedError

    def _command_takes_time(self) -> None:
        self.now_us += 20

    def at(self, when_us: int, process: Process | None, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when_us, next(self._order), process, act))

    def run_for(self, seconds: float) -> None:
        """Let everything happen that is due within so long."""
        end_us = self.now_us + round(seconds * 1e6)
        while self._heap and self._heap[0][0] <= end_us:
            when_us, _, process, act = heapq.heappop(self._heap)
            self.now_us = max(self.now_us, when_us)
            if process is None:
                act()
            elif process.is_dead:
                continue
            elif process.frozen_until_us > self.now_us:
                self.at(process.frozen_until_us, process, act)
                continue
            elif process.is_busy and not process.overlaps:
                self.at(max(self.now_us, when_us) + 5_000, process, act)
                continue
            else:
                self._run(process, act)
            self.account.look_at_redis()
        self.now_us = max(self.now_us, end_us)

    def _run(self, process: Process, act: Callable[[], None]) -> None:
        before = process.is_busy, process.overlaps
        process.is_busy, process.overlaps = True, False
        try:
            act()
        except Killed:
            pass
        finally:
            process.is_busy, process.overlaps = before

    # -- luck

    def hold_up(self, process: Process) -> None:
        """A process may be held up at any command: a slow network, or a SIGSTOP just here. Or killed."""
        if process.is_dead:
            raise Killed
        luck = self.rng.random()
        if not self.is_faulty or self._held_up >= HELD_UP_IN_WHICH_MAX or luck >= process.holds_up:
            return
        is_long = luck < min(HELD_UP_LONG, process.holds_up)
        seconds = self.rng.uniform(0.3, 2 * self.settings.lease_ttl_s) if is_long else self.rng.uniform(0, 0.3)
        self.say(f"{process.name} is held up for {seconds:.2f} s in a command")
        self._held_up += 1
        try:
            self.run_for(seconds)
        finally:
            self._held_up -= 1
        if is_long and self.rng.random() < 0.1:
            process.kill()
        if process.is_dead:
            raise Killed

    def sent(self, may_have_moved: bool) -> None:
        self.account.look_at_lives(self.epochs)
        if may_have_moved:
            self.account.is_looked_at = False

    def new_epoch(self) -> str:
        self.epochs.append(f"{next(self._epoch_numbers):012x}")
        return self.epochs[-1]

    def say(self, what: str) -> None:
        self.said.append(f"{self.now_us / 1e6:9.4f} {what}")

    def living(self, kind: type) -> list[Any]:
        return [one for one in self.processes if isinstance(one, kind) and not one.is_dead]
