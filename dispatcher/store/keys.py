"""Names of the Redis keys of a cell. ``key_catalogue.py`` lists them all, with what each holds.

Every key starts with the broker's ``global_keyprefix`` (usually empty) and then the cell's name, ``dispatch:`` by
default. Only the lists that Celery itself consumes, or that Flower measures with ``LLEN`` (ingress, lanes, worker
queues), are also kombu queues; such a queue's name is its key without the ``global_keyprefix``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dispatcher.core.facts.lane import parse_lane


def text_names(members: Iterable[str]) -> set[str]:
    """The members of a set that are text. Other bytes name nothing of ours, and a text client could not send them back."""
    return {member for member in members if not any("\ud800" <= character <= "\udfff" for character in member)}


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds key names for one cell. ``prefix`` is the broker's ``global_keyprefix``; all names here include it."""

    cell: str = "dispatch"
    prefix: str = ""
    separator: str = "\x06\x16"
    priority_steps: tuple[int, ...] = (0, 3, 6, 9)

    @classmethod
    def of_broker(cls, cell: str, options: Mapping[str, Any]) -> Keys:
        """The keys of a cell over a broker with these transport options (``global_keyprefix``, ``sep``,
        ``priority_steps``).
        """
        kombus = cls(cell)
        return cls(
            cell,
            prefix=options.get("global_keyprefix", kombus.prefix),
            separator=options.get("sep", kombus.separator),
            priority_steps=tuple(options.get("priority_steps", kombus.priority_steps)),
        )

    def _key(self, *parts: str) -> str:
        return ":".join((self.prefix + self.cell, *parts))

    # -- of the cell
    @property
    def messages(self) -> str:
        return self._key("messages")

    @property
    def lanes(self) -> str:
        return self._key("lanes")

    @property
    def scheduled(self) -> str:
        return self._key("scheduled")

    @property
    def sequence(self) -> str:
        return self._key("sequence")

    @property
    def workers(self) -> str:
        return self._key("workers")

    @property
    def gone(self) -> str:
        return self._key("gone")

    @property
    def totals(self) -> str:
        return self._key("totals")

    @property
    def policy(self) -> str:
        return self._key("policy")

    @property
    def dead_letters(self) -> str:
        return self._key("dead_letters")

    @property
    def dead_reasons(self) -> str:
        return self._key("dead_reasons")

    @property
    def unsettled(self) -> str:
        return self._key("unsettled")

    @property
    def ingress_queues(self) -> str:
        return self._key("ingress_queues")

    @property
    def models(self) -> str:
        return self._key("models")

    @property
    def rollouts(self) -> str:
        return self._key("rollouts")

    @property
    def revoked(self) -> str:
        return self._key("revoked")

    @property
    def revoked_at(self) -> str:
        return self._key("revoked_at")

    @property
    def paused(self) -> str:
        return self._key("paused")

    @property
    def leader(self) -> str:
        return self._key("leader")

    @property
    def leader_info(self) -> str:
        return self._key("leader_info")

    @property
    def formats(self) -> str:
        return self._key("formats")

    @property
    def leader_view(self) -> str:
        return self._key("leader_view")

    @property
    def decisions(self) -> str:
        return self._key("decisions")

    @property
    def wake(self) -> str:
        return self._key("wake")

    @property
    def alone(self) -> str:
        return self._key("alone")

    @property
    def story_prefix(self) -> str:
        """What stands before a job's number in the key of its story."""
        return self._key("story", "")

    def story(self, job: str) -> str:
        return self._key("story", job)

    def sent(self, sender: str) -> str:
        return self._key("sent", sender)

    def turn(self, task_id: str) -> str:
        return self._key("turn", task_id)

    def submission(self, digest: str) -> str:
        return self._key("submission", digest)

    # -- of a lane
    def lane(self, lane: str) -> str:
        return self._key("lane", lane)

    @property
    def lane_prefix(self) -> str:
        """What stands before a lane's name in the key of its list."""
        return self._key("lane", "")

    # -- of a worker life
    def worker(self, epoch: str) -> str:
        return self._key("worker", epoch)

    def alive(self, epoch: str) -> str:
        return self._key("alive", epoch)

    def dead(self, epoch: str) -> str:
        return self._key("dead", epoch)

    def leases(self, epoch: str) -> str:
        return self._key("leases", epoch)

    def taken(self, epoch: str) -> str:
        return self._key("taken", epoch)

    def worker_queue(self, epoch: str) -> str:
        return self._key("wq", epoch)

    # -- of an ingress queue
    def ingress(self, queue: str) -> tuple[str, ...]:
        """The lists of one ingress queue, the one served first at the front (kombu: lower step, higher priority)."""
        return tuple(self.prefix + (queue if step == 0 else f"{queue}{self.separator}{step}") for step in self.priority_steps)

    # -- kombu
    def queue_name(self, key: str) -> str:
        """The kombu queue name whose list is ``key``: kombu puts ``global_keyprefix`` before it by itself."""
        return key.removeprefix(self.prefix)


def lane_ingress(keys: Keys, lane: str) -> str:
    """The ingress list that the jobs of a lane came from."""
    parsed = parse_lane(lane)
    steps = keys.priority_steps
    return keys.ingress(parsed.ingress)[steps.index(parsed.step) if parsed.step in steps else 0]
