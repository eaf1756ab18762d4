"""Makes a dispatcher and its parts from settings."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from dispatcher.clock import Clock
from dispatcher.core.admission.rules import Admission
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.recorded import Recorder
from dispatcher.core.facts.evidence import Learner
from dispatcher.core.health.ejection import Health
from dispatcher.core.health.liveness import Liveness
from dispatcher.core.learning.costs import Costs
from dispatcher.events import Event
from dispatcher.leader.dispatcher import Dispatcher
from dispatcher.leader.formats import CellFormats
from dispatcher.leader.health.probe import Prober
from dispatcher.leader.health.watch import HealthWatch
from dispatcher.leader.ingress import Ingress
from dispatcher.leader.leadership import Leadership
from dispatcher.leader.learning import Learning
from dispatcher.leader.mistyped import MistypedKeys
from dispatcher.leader.outage import Outage
from dispatcher.leader.parts import Parts
from dispatcher.leader.planning import Planner
from dispatcher.leader.returns.deadlines import LateJobs
from dispatcher.leader.returns.reap import Reaper
from dispatcher.leader.returns.recall import Recaller
from dispatcher.leader.returns.suspects import Suspects
from dispatcher.leader.returns.unbegun import UnbegunJobs
from dispatcher.leader.returns.withdrawn import WithdrawnJobs
from dispatcher.leader.rollout import Rollouts
from dispatcher.leader.sleep import Sleep
from dispatcher.leader.telling.decision_log import DecisionLog
from dispatcher.leader.telling.unreadable import UnreadableReport
from dispatcher.leader.telling.waiting import WaitingReport
from dispatcher.leader.wake import Waker
from dispatcher.leader.workers import Workers
from dispatcher.settings import Settings
from dispatcher.settings.rules import (
    health_rule_of,
    ms,
    policy_of,
    probing_of,
    recall_rule_of,
    residency_of,
    speeds_of,
    windows_of,
)
from dispatcher.store.formats import FORMATS, Formats
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.look import LookAt
from dispatcher.store.leader.rollout_store import SUBJECT

DECIDE_SHARE = 4
"""A step reads messages for such a part of ``leader_ttl_s`` at most."""


def make_dispatcher(
    store: DispatchStore,
    settings: Settings,
    *,
    admission: Admission,
    clock: Clock,
    rng: Random,
    emit: Callable[[Event], None],
    waker: Waker | None = None,
    recorder: Recorder | None = None,
    reads: Formats = FORMATS,
) -> Dispatcher:
    """A dispatcher over ``store``. Without a ``waker`` nothing but the time ends its sleep; ``recorder`` writes its
    plans down; ``reads`` are the formats that it says it reads.
    """
    policy, windows, speeds, residency = policy_of(settings), windows_of(settings), speeds_of(settings), residency_of(settings)
    heartbeat_ms = ms(settings.heartbeat_s)
    look_at = LookAt(limit=settings.batch_size, message_bytes_max=settings.message_bytes_max, by_lane=bool(policy.caps))
    planner = Planner(policy, rng, settings.batch_size, plan if recorder is None else recorder.plan, PolicyState())
    unbegun, unreadable = UnbegunJobs(store), UnreadableReport(emit)
    ingress = Ingress(
        store, admission, emit, clock, queues=settings.ingress_queues, models=settings.models,
        reading_ms_max=ms(settings.leader_ttl_s / DECIDE_SHARE),
    )  # fmt: skip
    withdrawn = WithdrawnJobs(store.rollouts(), unbegun, admission.routes, emit)
    rollouts = Rollouts(store.rollouts(), withdrawn, emit)
    probing = probing_of(settings, admission.accept_content)
    health = HealthWatch(Health(health_rule_of(settings), probing), Prober(store, probing), emit, interval_ms=heartbeat_ms)
    costs = Costs(speeds)
    if settings.learn_costs:
        admission.costs = costs.seconds
    learners: dict[str, Learner] = {
        "speeds": speeds, "costs": costs, "residency": residency, "health": health.learner, SUBJECT: rollouts,
    }  # fmt: skip
    formats = CellFormats(store.formats(), reads)
    workers = Workers(
        store, ingress, emit, windows=windows, speeds=speeds, residency=residency, health=health, unreadable=unreadable,
        formats=formats,
    )  # fmt: skip
    parts = Parts(
        store=store,
        sleep=Sleep(store, waker, clock, tick_interval_ms=settings.tick_interval_ms, look_at=look_at),
        unbegun=unbegun,
        unreadable=unreadable,
        mistyped=MistypedKeys(store, unreadable, interval_ms=heartbeat_ms),
        formats=formats,
        ingress=ingress,
        workers=workers,
        rollouts=rollouts,
        withdrawn=withdrawn,
        late_jobs=LateJobs(store, unbegun, emit),
        suspects=Suspects(store.suspects(), unbegun, policy.filters, emit),
        residency=residency,
        planner=planner,
        windows=windows,
        decision_log=DecisionLog(store, kept=settings.decisions_kept, policy=policy),
        waiting=WaitingReport(
            store, policy.filters, emit, strategy=settings.strategy, unroutable_after_ms=ms(settings.unroutable_after_s)
        ),
        reaper=Reaper(
            store, unbegun, unreadable, emit, liveness=Liveness(ms(settings.lease_ttl_s)), stall_ms=ms(settings.stall_s),
            attempts_max=settings.attempts_max,
        ),
        recaller=Recaller(unbegun, recall_rule_of(settings), policy.filters, emit, interval_ms=heartbeat_ms),
        learning=Learning(
            store.policy(), learners, kept={"accounts": planner.state.accounts}, interval_ms=heartbeat_ms,
            heed=workers.heed,
        ),
        health=health,
    )  # fmt: skip
    leadership = Leadership(store, ttl_ms=ms(settings.leader_ttl_s), clock=clock, emit=emit, begin=parts.restart, formats=reads)
    return Dispatcher(parts, leadership, Outage(clock, emit), clock, look_at=look_at, idle_wait_s=settings.idle_wait_s)
