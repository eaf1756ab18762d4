"""Turns events into log lines: only this file chooses their level and wording."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final, assert_never

from dispatcher.events import (
    Event,
    FleetPanic,
    FleetScaled,
    FleetSilent,
    JobSettled,
    JobsLate,
    JobsRecalled,
    JobsRefused,
    JobsRerouted,
    LaneRoutable,
    LaneUnroutable,
    LeadGained,
    LeadLost,
    RedisBack,
    RedisLost,
    RolloutChanged,
    RolloutRolledBack,
    RolloutStepped,
    ScalingAdvised,
    StandsBy,
    SuspectIsolated,
    UnknownHeaderField,
    Unreadable,
    WorkerDraining,
    WorkerEjected,
    WorkerReaped,
    WorkerRegistered,
    WorkerReturned,
    WorkerSilent,
)

log = logging.getLogger("dispatcher.events")

TOKEN_SHOWN: Final = 8
"""Characters of a leader's id in the log: enough to tell leaders apart, too few to act as the leader."""


def log_event(event: Event) -> None:
    """Write the line of ``event``. Never raises (``logging`` keeps its handlers' errors to itself)."""
    level, line = log_line(event)
    log.log(level, "%s", line)


def log_line(event: Event) -> tuple[int, str]:
    """The level and text of an event. An operator should look at WARNING and above."""
    match event:
        case WorkerRegistered(name, epoch, concurrency, weight):
            facts = f"epoch {epoch}, concurrency {concurrency}, weight {weight:g}"
            return logging.INFO, f"worker {name} registered: {facts}"
        case WorkerSilent(name, epoch, silent_ms):
            return logging.WARNING, f"worker {name} is dead: epoch {epoch} was silent for {_seconds(silent_ms)}"
        case WorkerReaped(name, epoch, reason, returned, buried):
            level = logging.INFO if reason == "goodbye" and not buried else logging.WARNING
            ended = "said goodbye" if reason == "goodbye" else f"ended ({reason})"
            return level, (
                f"worker {name} {ended}: epoch {epoch}, {_count(returned, 'job')} back in line"
                + (f", {_count(buried, 'job')} to dead letters" if buried else "")
            )
        case WorkerDraining(name, epoch):
            return logging.INFO, f"worker {name} is draining: epoch {epoch} gets no new jobs"
        case WorkerEjected(name, epoch, reason, span_ms):
            return logging.WARNING, f"worker {name} is ejected for {_seconds(span_ms)}: epoch {epoch}, {reason}"
        case WorkerReturned(name, epoch, reason):
            return logging.INFO, f"worker {name} gets jobs again: epoch {epoch}, ejected because {reason}"
        case FleetPanic(True, healthy, total):
            workers = _count(total, "worker")
            return logging.ERROR, f"only {healthy} of {workers} are healthy: ejections are ignored until more are"
        case FleetPanic(_, healthy, total):
            return logging.WARNING, f"{healthy} of {_count(total, 'worker')} are healthy: ejections count again"
        case JobsRecalled(name, epoch, count):
            return logging.INFO, (
                f"{_count(count, 'job')} that {name} had not begun went back in line, other workers are free: "
                f"epoch {epoch}"
            )
        case SuspectIsolated(name, epoch, lane):
            return logging.WARNING, (
                f"a job of lane {lane} died with its workers before: it runs alone on {name}, epoch {epoch}"
            )
        case JobsRefused(count, reason):
            return logging.WARNING, (
                f"{_count(count, 'message')} refused ({reason}): `dispatcher dead list` shows what was wrong"
            )
        case JobsLate(count):
            return logging.WARNING, (
                f"{_count(count, 'job')} not begun by the deadline: dead letters now (deadline_passed)"
            )
        case JobSettled(job, task_id, reason):
            return logging.INFO, f"{_job(job, task_id)} has its state FAILURE in the result backend: {reason}"
        case LeadGained(token):
            return logging.INFO, f"this dispatcher leads now: {token[:TOKEN_SHOWN]}"
        case LeadLost(token, True):
            return logging.INFO, f"this dispatcher gave up the lead: {token[:TOKEN_SHOWN]}"
        case LeadLost(token):
            return logging.WARNING, f"this dispatcher lost the lead and stands by: {token[:TOKEN_SHOWN]}"
        case StandsBy():
            return logging.INFO, "another dispatcher leads, this one stands by"
        case RedisLost(error):
            return logging.ERROR, f"Redis does not answer or refuses; nothing is dispatched meanwhile: {error}"
        case RedisBack(gap_ms):
            gap = _seconds(gap_ms)
            return logging.WARNING, (
                f"Redis serves the dispatcher again after {gap}; that time does not count as silence of workers"
            )
        case FleetSilent(silent, total):
            return logging.ERROR, (
                f"{silent} of {_count(total, 'worker')} are silent at once: their jobs wait one more lease_ttl_s, in "
                "case the network is at fault"
            )
        case LaneUnroutable(lane, depth, refusals):
            why = "; ".join(refusals) or "there is no worker"
            return logging.ERROR, f"no worker may run the {_count(depth, 'job')} of lane {lane}: {why}"
        case LaneRoutable(lane):
            return logging.WARNING, f"lane {lane} is not unroutable any more"
        case UnknownHeaderField(name):
            return logging.WARNING, (
                f"the dispatch header field {name!r} has no effect in this version; check the producer"
            )
        case Unreadable(what):
            return logging.ERROR, (
                f"{what} cannot be read and is passed over: did another program or version write to this Redis?"
            )
        case RolloutChanged(alias, shares):
            return logging.INFO, f"rollout {alias}: {', '.join(shares) or 'no alias any more'}"
        case RolloutStepped(alias, version, share, reason):
            return logging.INFO, f"rollout {alias}: {version} has {share} now; {reason}"
        case RolloutRolledBack(alias, version, to, reason):
            return logging.ERROR, f"rollout {alias}: {version} was rolled back, all jobs go to {to}; {reason}"
        case JobsRerouted(version, count):
            return logging.WARNING, (
                f"{_count(count, 'job')} waited for {version}, which was withdrawn, and wait for another version now"
            )
        case FleetScaled(start, drain, reason, workers):
            what = _scaling("starting", "draining", start, drain)
            return logging.INFO, f"{what}, of {_count(workers, 'worker')}: {reason}"
        case ScalingAdvised(start, drain, reason, workers):
            what = _scaling("start", "drain", start, drain)
            return logging.INFO, f"advice: {what}, of {_count(workers, 'worker')}: {reason}"
        case _:
            assert_never(event)


def _scaling(to_start: str, to_drain: str, start: tuple[str, ...], drain: tuple[str, ...]) -> str:
    started = ", ".join(f"{number} × {kind}" for kind, number in Counter(start).items())
    parts = (f"{to_start} {started}" if start else "", f"{to_drain} {', '.join(drain)}" if drain else "")
    return "; ".join(part for part in parts if part)


def _seconds(span_ms: int) -> str:
    return f"{span_ms / 1000:.1f} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _job(job: str, task_id: str) -> str:
    return f"job {job} (task {task_id})" if task_id else f"job {job}"
