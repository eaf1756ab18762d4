"""What an operator does to a cell: look, drain, pause; and the ways to its aliases and jobs. None of it needs a leader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import redis

from dispatcher.clock import Clock, SystemClock
from dispatcher.core.facts.snapshot import ALL_QUEUES
from dispatcher.errors import Invalid
from dispatcher.store.keys import Keys, text_names
from dispatcher.store.leader.rollout_store import RolloutStore
from dispatcher.store.operator.dead_letters import DeadLetters
from dispatcher.store.operator.emptying import Emptying
from dispatcher.store.operator.status import ENDED, read_status
from dispatcher.store.scripts.call import Scripts


class AdminStore:
    """The operator's store of one cell. ``client`` answers with text
    (:func:`~dispatcher.store.redis_client.connection.connect`).
    """

    def __init__(self, client: redis.Redis, keys: Keys, queues: Sequence[str] = (), clock: Clock | None = None) -> None:
        """``queues``: ingress queues to count besides those that workers have named."""
        self.keys = keys
        self._client = client
        self._run = Scripts(client)
        self._queues = tuple(queues)
        self._clock = clock or SystemClock()

    def status(self) -> dict[str, Any]:
        """The cell now, as ``dispatcher status --json`` prints it."""
        return read_status(self._client, self._run, self.keys, self._queues)

    def rollouts(self) -> RolloutStore:
        """The aliases of the cell, as an operator reads and changes them."""
        return RolloutStore(self._client, self.keys)

    def dead_letters(self) -> DeadLetters:
        """The jobs that were refused or given up."""
        return DeadLetters(self._client, self.keys, self.ingress_queues)

    def emptying(self) -> Emptying:
        """The ways to return or to forget all jobs that wait."""
        return Emptying(self._client, self.keys, self.ingress_queues, self._clock)

    # -- workers

    def drain(self, worker: str, *, keep: bool = False) -> str:
        """Give the worker no new jobs; it finishes what it runs, then exits, or stays if ``keep``. Returns its node
        name.

        Raises :class:`Invalid` if no such worker lives, or if it is to stay but exits already.
        """
        return self._drain(worker, "keep" if keep else "exit")

    def undrain(self, worker: str) -> str:
        """Take back a drain with ``keep``. Raises :class:`Invalid` if the worker exits, or if none of that name lives."""
        return self._drain(worker, "")

    def _drain(self, worker: str, mode: str) -> str:
        keys = self.keys
        live: dict[str, str] = {life["epoch"]: life["name"] for life in self.status()["workers"] if life["state"] not in ENDED}
        epochs = [epoch for epoch, name in live.items() if worker in (name, epoch)]
        epochs = epochs or [epoch for epoch, name in live.items() if name.partition("@")[0] == worker]
        names = sorted({live[epoch] for epoch in epochs})
        if len(names) > 1:
            raise Invalid(f"{worker!r} may be {' or '.join(names)}: write the whole name")
        drained = [self._run("drain_worker", [keys.alive(epoch), keys.worker(epoch), keys.wake], [mode]) for epoch in epochs]
        if not any(drained):
            raise Invalid(f"no worker {worker!r} lives: there are {', '.join(sorted(set(live.values()))) or 'none'}")
        if max(drained) < 0:
            raise Invalid(f"{names[0]} is about to exit, and that cannot be taken back: start another")
        return names[0]

    # -- pausing

    def pause(self, queue: str | None = None) -> None:
        """Leave the queue's jobs where they are, also those in its lanes; ``None``: every queue. Running jobs go on."""
        self._check_queue(queue)
        self._client.sadd(self.keys.paused, queue or ALL_QUEUES)

    def resume(self, queue: str | None = None) -> None:
        """Take a pause back; ``None``: every pause. Raises :class:`Invalid` if the queue is not paused by its name."""
        if queue is None:
            self._client.delete(self.keys.paused)
        elif not self._client.srem(self.keys.paused, queue):
            everything = self._client.sismember(self.keys.paused, ALL_QUEUES)
            raise Invalid("all queues are paused together: resume without a name" if everything else f"queue {queue!r} is not paused")
        with self._client.pipeline() as pipe:
            pipe.lpush(self.keys.wake, "1")
            pipe.ltrim(self.keys.wake, 0, 0)
            pipe.execute()

    def paused(self) -> set[str]:
        """Names of paused queues; ``*`` for all."""
        return cast("set[str]", self._client.smembers(self.keys.paused))

    def ingress_queues(self) -> set[str]:
        """Every known ingress queue."""
        return {*self._queues, *text_names(cast("set[str]", self._client.smembers(self.keys.ingress_queues)))}

    def _check_queue(self, queue: str | None) -> None:
        known = self.ingress_queues()
        if queue is not None and queue not in known:
            raise Invalid(f"no ingress queue {queue!r}: there are {', '.join(sorted(known))}")
