"""What is sent: made from a seed, as plain Celery messages, at an even pace or in bursts; and what must therefore have run."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

from celery import Celery, chord

from benchmarks.battle import odd
from dispatcher.store.redis_client.connection import celery_url

NAP_MAX_S = 3.0
"""The longest job."""
CHUNK_S = 4.0
"""Jobs of so long are sent evenly or all at once."""


@dataclass(slots=True)
class Expected:
    """What was sent. A job is ``<task id>:<retries>``."""

    after: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Job → the jobs whose end published it: of a retry the try before, of a chord's body its headers."""
    unsure: set[str] = field(default_factory=set)
    """Jobs whose send failed: they may run or not, for Redis may have had them."""
    odd: dict[str, str] = field(default_factory=dict)
    """Task id of a job that no worker can do → its kind; those whose send failed are left out."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is sent at once: one job, or a chord of ``ids``, the body last."""

    task: str
    ids: tuple[str, ...]
    number: float = 0
    odd: str = ""
    """The kind of a job that no worker can do; empty for all others."""

    def jobs(self) -> dict[str, tuple[str, ...]]:
        """Every job that follows from it and must end well, with those that publish it."""
        if self.odd:
            return {}
        if self.task == "battle.again":
            names = [f"{self.ids[0]}:{retries}" for retries in range(int(self.number) + 1)]
            return {name: tuple(names[at - 1 : at]) for at, name in enumerate(names)}
        *headers, last = (f"{id_}:0" for id_ in self.ids)
        return dict.fromkeys(headers, ()) | {last: tuple(headers)}


def plan_jobs(count: int, rng: Random) -> list[Unit]:
    """``count`` messages, those of chords included, retries not."""
    units: list[Unit] = []
    left = count

    def ids(number: int) -> tuple[str, ...]:
        return tuple(str(UUID(int=rng.getrandbits(128), version=4)) for _ in range(number))

    while left > 0:
        dice = rng.random()
        if dice < 0.01 and left > 4:
            units.append(Unit("battle.total", ids(4)))
        elif dice < 0.03:
            units.append(Unit("battle.again", ids(1), rng.choice((1, 1, 2))))
        elif dice < 0.04:
            units.append(Unit("battle.nap", ids(1), round(rng.uniform(0.5, NAP_MAX_S), 3)))
        elif dice < 0.20:
            units.append(Unit("battle.nap", ids(1), round(min(0.5, rng.expovariate(25)), 3)))
        else:
            units.append(Unit("battle.noop", ids(1)))
        left -= len(units[-1].ids)
    return units


def plan_odd(units: list[Unit], share: float, rng: Random) -> tuple[list[Unit], int]:
    """The units, with so many of them replaced by jobs that no worker can do; and how many lines of batches besides kill their worker."""
    count = round(share * sum(len(unit.ids) for unit in units))
    kinds = [kind for kind, part in odd.SHARES.items() for _ in range(round(part * count))]
    lines = kinds.count("line")
    plain = [at for at, unit in enumerate(units) if unit.task == "battle.noop"]
    replaced = dict(zip(rng.sample(plain, len(kinds) - lines), (kind for kind in kinds if kind != "line"), strict=True))
    return [Unit("battle.odd", unit.ids, odd=replaced[at]) if at in replaced else unit for at, unit in enumerate(units)], lines


class Producer(threading.Thread):
    """Sends the units, in order, over ``seconds``. Knows nothing of a dispatcher. A send that fails is not repeated, for it may have
    arrived: a new one goes on where it stopped.
    """

    def __init__(self, broker: str, units: list[Unit], seconds: float, rng: Random) -> None:
        super().__init__(name="producer", daemon=True)
        self._app = Celery("producer", broker=celery_url(broker), set_as_current=False)
        self._app.conf.update(
            result_backend=celery_url(broker.replace("db=0", "db=1")),
            task_default_queue="dispatch",
            task_publish_retry=False,
            result_backend_thread_safe=True,
            redis_socket_timeout=10,
            broker_transport_options={"socket_timeout": 10},
        )
        # It waits for no result, so it subscribes to none.
        self._app.backend.on_task_call = self._app.backend.remove_pending_result = lambda *_: None
        odd.register_values()
        self._units = units
        self._seconds = seconds
        self._rng = rng
        self.expected = Expected()
        self.failures: list[tuple[float, str]] = []
        self.sent = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as exc:
            self.error = exc
            raise

    def _run(self) -> None:
        began = time.monotonic()
        rate = len(self._units) / self._seconds
        chunk = max(1, int(CHUNK_S * rate))
        for at in range(0, len(self._units), chunk):
            burst = self._rng.random() < 0.25
            for number, unit in enumerate(self._units[at : at + chunk], at):
                due = began + (at if burst else number) / rate
                if (rest := due - time.monotonic()) > 0:
                    time.sleep(rest)
                self._send(unit)

    def _send(self, unit: Unit) -> None:
        jobs = unit.jobs()
        self.expected.after |= jobs
        try:
            if unit.task == "battle.total":
                *headers, body = unit.ids
                parts = [self._signature("battle.part", id_, number) for number, id_ in enumerate(headers)]
                chord(parts, app=self._app)(self._signature("battle.total", body))
            elif unit.odd:
                odd.send(self._app, unit.odd, unit.ids[0])
                self.expected.odd[unit.ids[0]] = unit.odd
            else:
                args = (unit.number,) if unit.task != "battle.noop" else ()
                self._app.send_task(unit.task, args, task_id=unit.ids[0], ignore_result=True)
            self.sent += len(unit.ids)
        except Exception as exc:  # noqa: BLE001 (whatever it was, it may have arrived)
            self.failures.append((time.time(), f"{unit.task} {unit.ids[0]} {type(exc).__name__}: {exc}"))
            self.expected.unsure |= jobs.keys() or {f"{unit.ids[0]}:0"}
            time.sleep(0.05)

    def _signature(self, task: str, id_: str, *args: Any) -> Any:
        return self._app.signature(task, args=args, task_id=id_)
