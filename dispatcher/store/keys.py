"""The one list of Redis keys: name, type, what it holds, who writes it, who reads it, how long it lives.

``docs/redis_keys.md`` is generated from :data:`KEYS` (``make docs``) and a test holds it fresh. Every key starts with
the broker's ``global_keyprefix`` (usually empty) and then the cell's name, ``dispatch:`` by default. Only the lists
that Celery itself consumes or that Flower measures with ``LLEN`` (ingress, lanes, worker queues) are also kombu
queue names; their queue name is the key without the ``global_keyprefix``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyDoc:
    """One row of the key catalogue."""

    name: str
    type: str
    holds: str
    writers: str
    readers: str
    lifetime: str


KEYS: tuple[KeyDoc, ...] = (
    KeyDoc("<queue>, <queue>\\x06\\x163, …6, …9", "list", "Ingress: Celery messages as the producer sent them, one list a "
           "priority step", "producers (Celery), release, requeue_dead", "read_ingress, admit", "until admitted"),
    KeyDoc("<cell>:messages", "hash", "job number → raw message, from admission to the end of the job", "admit, adopt, ack, giveback, "
           "assign_probe, release, purge, requeue_dead", "take, settle, dead list, find_job", "until acked, released or purged"),
    KeyDoc("<cell>:lanes", "set", "names of the lanes that are not empty", "admit, promote_scheduled, assign, assign_alone, giveback, "
           "reroute, bury_late, release, purge, adopt", "snapshot, ack", "permanent"),
    KeyDoc("<cell>:lane:<lane>", "list", "frames of waiting jobs of one kind; the left end is next", "admit, promote_scheduled, "
           "assign, assign_alone, giveback, reroute, bury_late, release, purge, adopt", "snapshot, Flower", "while jobs wait"),
    KeyDoc("<cell>:lane:<lane>:aside", "any", "what lay under a lane's key and was no list", "admit, promote_scheduled, giveback, reroute",
           "nobody", "until somebody looks at it"),
    KeyDoc("<cell>:scheduled", "zset", "frame+lane of jobs not yet due, scored by due time in ms", "admit, giveback, "
           "promote_scheduled, release, purge", "snapshot", "until due"),
    KeyDoc("<cell>:scheduled:aside", "zset", "members of `scheduled` that were no jobs, scored by ms when they were found",
           "promote_scheduled", "nobody", "until somebody looks at it"),
    KeyDoc("<cell>:sequence", "string", "last number given to a job or a lease; µs of Redis time, never repeats", "admit, assign, "
           "assign_alone, assign_probe", "admit, assign, assign_alone, assign_probe", "permanent"),
    KeyDoc("<cell>:workers", "set", "epochs of the workers that are registered", "register_worker, forget_worker", "snapshot",
           "permanent"),
    KeyDoc("<cell>:gone", "zset", "epochs forgotten lately, scored by when, in ms", "forget_worker", "status", "a minute"),
    KeyDoc("<cell>:worker:<epoch>", "hash", "registration (JSON), draining flag, totals of the last beat, last probe", "register_worker, "
           "heartbeat, drain_worker, assign_probe", "assign, heartbeat, snapshot, status", "until forgotten; then a minute"),
    KeyDoc("<cell>:alive:<epoch>", "string", "exists while the epoch may take jobs; its TTL dates the last beat",
           "register_worker, heartbeat, end_epoch", "take, ack, assign, giveback, drain_worker, snapshot", "a day after the last beat"),
    KeyDoc("<cell>:dead:<epoch>", "string", "why the epoch ended: silent, goodbye", "end_epoch", "heartbeat, snapshot", "a day"),
    KeyDoc("<cell>:wq:<epoch>", "list", "the worker's queue: lease ids, right end next", "assign, assign_alone, assign_probe, giveback, "
           "take, the worker (BRPOP)", "the worker (BRPOP), take, heartbeat", "until forgotten"),
    KeyDoc("<cell>:leases:<epoch>", "hash", "lease id → frame+lane: what this worker owes", "assign, assign_alone, assign_probe, ack, "
           "giveback, adopt", "take, heartbeat, snapshot", "until forgotten"),
    KeyDoc("<cell>:taken:<epoch>", "hash", "lease id → ms when the job was started", "take, ack, giveback, adopt", "giveback, snapshot",
           "until forgotten"),
    KeyDoc("<cell>:totals", "hash", "epoch → JSON: what that worker did, by kind of job, and what it runs", "heartbeat, forget_worker",
           "dispatch, status", "until the epoch is forgotten"),
    KeyDoc("<cell>:policy", "hash", "what the leader has learned, by subject (JSON): a successor goes on from there", "save_policy",
           "dispatch, rollout status", "permanent"),
    KeyDoc("<cell>:dead_letters", "zset", "job numbers of dead letters, scored by ms of burial", "admit, giveback, bury_late, "
           "promote_scheduled, requeue_dead", "dead list", "until requeued or purged"),
    KeyDoc("<cell>:dead_reasons", "hash", "job number → JSON: reason, detail, task id, task, lane, frame, ingress", "admit, giveback, "
           "bury_late, promote_scheduled, requeue_dead", "dead list, settle", "until requeued or purged"),
    KeyDoc("<cell>:unsettled", "set", "job numbers of dead letters whose FAILURE is not yet in the result backend", "admit, giveback, "
           "bury_late, promote_scheduled, settle, requeue_dead", "settle", "until settled"),
    KeyDoc("<cell>:story:<job>", "list", "JSON of each run that ended with its worker or process: which, when, how", "giveback",
           "giveback (into the reason of a burial), explain", "7 days after the last line, or until buried"),
    KeyDoc("<cell>:turn:<task id>", "string", "the last turn (Celery's retries and replacements) of that task id that was admitted, if "
           "not the first, and when", "note_turns", "workers, of a job that runs again", "a day after it was admitted"),
    KeyDoc("<cell>:sent:<sender>", "hash", "list → number of the last message that a task put there in that thread of a worker", "publish",
           "publish: a message whose answer was lost is sent again, and must not be there twice", "a day after the last message"),
    KeyDoc("<cell>:alone", "hash", "epoch → lease id of the suspect that runs there with nothing beside it", "assign_alone, free_alone",
           "dispatch, assign_probe", "until the suspect's lease has ended"),
    KeyDoc("<cell>:ingress_queues", "set", "ingress queues that workers have named", "register_worker", "dispatch, status",
           "permanent"),
    KeyDoc("<cell>:models", "set", "models any worker has ever served; what is in neither here nor the settings is unknown",
           "register_worker", "dispatch", "permanent"),
    KeyDoc("<cell>:rollouts", "hash", "alias → JSON: which versions have which ranges, how it was before, and who watches a canary",
           "change_rollout", "dispatch, rollout status", "until the alias is removed"),
    KeyDoc("<cell>:revoked", "zset", "`id:<task id>` or `stamp:<JSON>` that must not be started, by µs when it was revoked; at most "
           "50,000", "revoke", "workers", "revokes_kept_s after the last revoke"),
    KeyDoc("<cell>:revoked_at", "string", "µs of the last revoke: whoever has seen less reads `revoked`", "revoke", "take",
           "revokes_kept_s after the last revoke"),
    KeyDoc("<cell>:paused", "set", "ingress queues whose jobs are neither admitted nor assigned; `*` is every queue", "pause, resume, "
           "release", "snapshot, status", "until resumed"),
    KeyDoc("<cell>:leader", "string", "random id of the leading dispatcher", "elect", "every script of the dispatcher",
           "leader_ttl_s after the last renewal"),
    KeyDoc("<cell>:leader_info", "hash", "the leading dispatcher's host, pid, time to live and formats", "elect",
           "status, register_worker", "permanent"),
    KeyDoc("<cell>:formats", "string", "oldest and newest format of what may lie in the cell; no key: format 1", "raise_format",
           "register_worker, raise_format, dispatch", "permanent"),
    KeyDoc("<cell>:leader_view", "string", "JSON: why lanes wait, and what the leader has learned of each worker; at most one write a "
           "second", "tell, elect", "status, explain, top", "6 s after the last write"),
    KeyDoc("<cell>:decisions", "stream", "JSON of a tick: task ids of the jobs it admitted, frames of those it assigned, to whom and "
           "why; of the last decisions_kept jobs", "log_decisions", "explain", "a day after the last decision"),
    KeyDoc("<cell>:wake", "list", "at most one element: something changed while the dispatcher slept", "ack, register_worker, "
           "drain_worker, giveback, end_epoch, change_rollout, resume", "dispatch (BRPOP)", "until read"),
    KeyDoc("<cell>:submission:<digest>", "hash", "a resumable `submit`: chunk → task id", "submit", "submit --resume",
           "30 days"),
)


def text_names(members: Iterable[str]) -> set[str]:
    """The members of a set that are text. Bytes that somebody else put there name nothing of ours, and no client could send them."""
    return {one for one in members if not any("\ud800" <= character <= "\udfff" for character in one)}


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds key names for one cell. ``prefix`` is the broker's ``global_keyprefix``; all names here include it."""

    cell: str = "dispatch"
    prefix: str = ""
    separator: str = "\x06\x16"
    priority_steps: tuple[int, ...] = (0, 3, 6, 9)

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
