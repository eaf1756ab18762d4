"""The one list of Redis keys: name, type, what it holds, who writes it, who reads it, how long it lives.

``docs/redis_keys.md`` is generated from :data:`KEYS` (``make docs``), and a test holds it fresh. ``keys.py`` builds the
names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dispatcher.store.keys import Keys


@dataclass(frozen=True, slots=True)
class KeyDoc:
    """One row of the list."""

    name: str
    type: str
    holds: str
    writers: str
    readers: str
    lifetime: str


KEYS: tuple[KeyDoc, ...] = (
    KeyDoc(
        "<queue>, <queue>\\x06\\x163, …6, …9",
        type="list",
        holds="Ingress: Celery messages as the producer sent them, one list a priority step",
        writers="producers (Celery), release, requeue_dead",
        readers="read_ingress, admit",
        lifetime="until admitted",
    ),
    KeyDoc(
        "<cell>:messages",
        type="hash",
        holds="job number → raw message, from admission to the end of the job",
        writers="admit, adopt, ack, giveback, assign_probe, release, purge, requeue_dead",
        readers="take, settle, dead list, find_job",
        lifetime="until acked, released or purged",
    ),
    KeyDoc(
        "<cell>:lanes",
        type="set",
        holds="names of the lanes that are not empty",
        writers="admit, promote_scheduled, assign, assign_alone, giveback, reroute, bury_late, release, purge, adopt",
        readers="snapshot, ack",
        lifetime="permanent",
    ),
    KeyDoc(
        "<cell>:lane:<lane>",
        type="list",
        holds="frames of waiting jobs of one kind; the left end is next",
        writers="admit, promote_scheduled, assign, assign_alone, giveback, reroute, bury_late, release, purge, adopt",
        readers="snapshot, Flower",
        lifetime="while jobs wait",
    ),
    KeyDoc(
        "<cell>:lane:<lane>:aside",
        type="any",
        holds="what lay under a lane's key and is not a list",
        writers="admit, promote_scheduled, giveback, reroute",
        readers="nobody",
        lifetime="until somebody deletes it",
    ),
    KeyDoc(
        "<cell>:<key>:aside",
        type="any",
        holds="what lay under one of the keys without a second part, and is of another type",
        writers="free_keys, admit, giveback, bury_late, promote_scheduled, log_decisions",
        readers="free_keys (the leader's log names it)",
        lifetime="until somebody deletes it",
    ),
    KeyDoc(
        "<cell>:scheduled",
        type="zset",
        holds="frame+lane of jobs not yet due, scored by due time in ms",
        writers="admit, giveback, promote_scheduled, release, purge",
        readers="snapshot",
        lifetime="until due",
    ),
    KeyDoc(
        "<cell>:scheduled:aside",
        type="zset",
        holds="members of `scheduled` that are not jobs, scored by ms when they were found",
        writers="promote_scheduled",
        readers="nobody",
        lifetime="until somebody deletes it",
    ),
    KeyDoc(
        "<cell>:sequence",
        type="string",
        holds="last number given to a job or a lease; µs of Redis time, never repeats",
        writers="admit, assign, assign_alone, assign_probe",
        readers="admit, assign, assign_alone, assign_probe",
        lifetime="permanent",
    ),
    KeyDoc(
        "<cell>:workers",
        type="set",
        holds="epochs of the workers that are registered",
        writers="register_worker, forget_worker",
        readers="snapshot",
        lifetime="permanent",
    ),
    KeyDoc(
        "<cell>:gone",
        type="zset",
        holds="epochs of workers forgotten in the last minute, scored by ms when",
        writers="forget_worker",
        readers="status",
        lifetime="a minute",
    ),
    KeyDoc(
        "<cell>:worker:<epoch>",
        type="hash",
        holds="registration (JSON), draining flag, totals of the last beat, lease id of the last probe",
        writers="register_worker, heartbeat, drain_worker, assign_probe",
        readers="assign, heartbeat, snapshot, status",
        lifetime="until forgotten; then a minute",
    ),
    KeyDoc(
        "<cell>:alive:<epoch>",
        type="string",
        holds="exists while the epoch may take jobs; its TTL dates the last beat",
        writers="register_worker, heartbeat, end_epoch",
        readers="take, ack, assign, giveback, drain_worker, snapshot",
        lifetime="a day after the last beat",
    ),
    KeyDoc(
        "<cell>:dead:<epoch>",
        type="string",
        holds="why the epoch ended: silent, goodbye",
        writers="end_epoch",
        readers="heartbeat, snapshot, status",
        lifetime="a day",
    ),
    KeyDoc(
        "<cell>:wq:<epoch>",
        type="list",
        holds="the worker's queue: lease ids, right end next",
        writers="assign, assign_alone, assign_probe, giveback, take, the worker (BRPOP)",
        readers="the worker (BRPOP), take, heartbeat",
        lifetime="until forgotten",
    ),
    KeyDoc(
        "<cell>:leases:<epoch>",
        type="hash",
        holds="lease id → frame+lane of each job that is leased to this worker",
        writers="assign, assign_alone, assign_probe, ack, giveback, adopt",
        readers="take, heartbeat, snapshot",
        lifetime="until forgotten",
    ),
    KeyDoc(
        "<cell>:taken:<epoch>",
        type="hash",
        holds="lease id → ms when the job was started",
        writers="take, ack, giveback, adopt",
        readers="giveback, snapshot",
        lifetime="until forgotten",
    ),
    KeyDoc(
        "<cell>:totals",
        type="hash",
        holds="epoch → JSON: what that worker has done, by kind of job, and what it runs",
        writers="heartbeat, forget_worker",
        readers="dispatch, status",
        lifetime="until the epoch is forgotten",
    ),
    KeyDoc(
        "<cell>:policy",
        type="hash",
        holds="subject → JSON: what the leader has learned; its successor starts from that",
        writers="save_policy",
        readers="dispatch, rollout status",
        lifetime="permanent",
    ),
    KeyDoc(
        "<cell>:dead_letters",
        type="zset",
        holds="job numbers of dead letters, scored by ms of burial",
        writers="admit, giveback, bury_late, promote_scheduled, requeue_dead",
        readers="dead list",
        lifetime="until requeued or purged",
    ),
    KeyDoc(
        "<cell>:dead_reasons",
        type="hash",
        holds="job number → JSON: reason, detail, task id, task, lane, frame, ingress",
        writers="admit, giveback, bury_late, promote_scheduled, requeue_dead",
        readers="dead list, settle",
        lifetime="until requeued or purged",
    ),
    KeyDoc(
        "<cell>:unsettled",
        type="set",
        holds="job numbers of dead letters whose FAILURE is not yet in the result backend",
        writers="admit, giveback, bury_late, promote_scheduled, settle, requeue_dead",
        readers="settle, status, check",
        lifetime="until settled",
    ),
    KeyDoc(
        "<cell>:story:<job>",
        type="list",
        holds="JSON of each run that ended with its worker or process: which, when, how",
        writers="giveback",
        readers="giveback (into the reason of a burial), explain",
        lifetime="7 days after the last line, or until buried",
    ),
    KeyDoc(
        "<cell>:turn:<task id>",
        type="string",
        holds=(
            "the last turn of that task id that was admitted (Celery's retries and replacements count turns), and "
            "when; not for the first turn"
        ),
        writers="note_turns",
        readers="workers, of a job that runs again",
        lifetime="a day after it was admitted",
    ),
    KeyDoc(
        "<cell>:sent:<sender>",
        type="hash",
        holds="list → number of the last message that a task in that thread of a worker put there",
        writers="publish",
        readers="publish: a message whose answer was lost is sent again, and must not arrive twice",
        lifetime="a day after the last message",
    ),
    KeyDoc(
        "<cell>:alone",
        type="hash",
        holds="epoch → lease id of the suspect that runs alone on that worker",
        writers="assign_alone, free_alone",
        readers="dispatch, assign_probe",
        lifetime="until the suspect's lease has ended",
    ),
    KeyDoc(
        "<cell>:ingress_queues",
        type="set",
        holds="ingress queues that workers have named",
        writers="register_worker",
        readers="dispatch, status",
        lifetime="permanent",
    ),
    KeyDoc(
        "<cell>:models",
        type="set",
        holds="models that any worker has ever served; a model that is neither here nor in the settings is unknown",
        writers="register_worker",
        readers="dispatch",
        lifetime="permanent",
    ),
    KeyDoc(
        "<cell>:rollouts",
        type="hash",
        holds="alias → JSON: the share of each version, earlier shares, and the guard of a canary",
        writers="change_rollout",
        readers="dispatch, rollout status",
        lifetime="until the alias is removed",
    ),
    KeyDoc(
        "<cell>:revoked",
        type="zset",
        holds="`id:<task id>` or `stamp:<JSON>` that must not be started, by µs when it was revoked; at most 50,000",
        writers="revoke",
        readers="workers",
        lifetime="revokes_kept_s after the last revoke",
    ),
    KeyDoc(
        "<cell>:revoked_at",
        type="string",
        holds="µs of the last revoke: a worker that has read less of `revoked` reads the rest",
        writers="revoke",
        readers="take",
        lifetime="revokes_kept_s after the last revoke",
    ),
    KeyDoc(
        "<cell>:paused",
        type="set",
        holds="ingress queues whose jobs are neither admitted nor assigned; `*` is every queue",
        writers="pause, resume, release",
        readers="snapshot, status",
        lifetime="until resumed",
    ),
    KeyDoc(
        "<cell>:leader",
        type="string",
        holds="random id of the leading dispatcher",
        writers="elect",
        readers="every script of the dispatcher, heartbeat",
        lifetime="leader_ttl_s after the last renewal",
    ),
    KeyDoc(
        "<cell>:leader_info",
        type="hash",
        holds="the leading dispatcher's host, pid, time to live and formats",
        writers="elect",
        readers="status, register_worker",
        lifetime="permanent",
    ),
    KeyDoc(
        "<cell>:formats",
        type="string",
        holds="oldest and newest format of what may lie in the cell; no key: format 1",
        writers="raise_format",
        readers="register_worker, raise_format, dispatch",
        lifetime="permanent",
    ),
    KeyDoc(
        "<cell>:leader_view",
        type="string",
        holds="JSON: why lanes wait, and what the leader has learned of each worker; at most one write a second",
        writers="tell, elect",
        readers="status, explain, top",
        lifetime="6 s after the last write",
    ),
    KeyDoc(
        "<cell>:decisions",
        type="stream",
        holds=(
            "JSON of each tick: task ids of the jobs it admitted, frames of the jobs it assigned, to which workers "
            "and why; for the last decisions_kept jobs"
        ),
        writers="log_decisions",
        readers="explain",
        lifetime="a day after the last decision",
    ),
    KeyDoc(
        "<cell>:wake",
        type="list",
        holds="at most one element: something changed, so the dispatcher must wake up",
        writers="ack, register_worker, drain_worker, giveback, end_epoch, change_rollout, resume",
        readers="dispatch (BRPOP)",
        lifetime="until read",
    ),
    KeyDoc(
        "<cell>:submission:<digest>",
        type="hash",
        holds="a resumable `submit`: chunk → task id",
        writers="submit",
        readers="submit --resume",
        lifetime="30 days",
    ),
)


def typed_keys(keys: Keys) -> tuple[list[str], list[str]]:
    """The keys of which a cell has one, and the type of each."""
    single = [(match[1], key.type) for key in KEYS if (match := re.fullmatch(r"<cell>:(\w+)", key.name))]
    return [getattr(keys, name) for name, _ in single], [type_ for _, type_ in single]
