"""Where a job is, which workers may have it, and what was decided about it: the facts that `dispatcher explain` shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec
import redis

from dispatcher.core.choosing.explain import candidates, in_words
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.choosing.strategies import STRATEGIES
from dispatcher.core.facts.every import waits_since_ms
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from dispatcher.settings import Settings
from dispatcher.settings.rules import policy_of
from dispatcher.store.frame import Entry
from dispatcher.store.keys import Keys
from dispatcher.store.leader.decision_store import DecisionStore, LoggedAssignment
from dispatcher.store.leader.leader_view import LeaderView, read_leader_view
from dispatcher.store.leader.look_store import LookStore
from dispatcher.store.leader.views import learned_from_json, lost_worker_view, worker_view
from dispatcher.store.operator.whereabouts import Dead, Finder, InIngress, InLane, Leased, Scheduled, Whereabouts

PLACE_OF_STATE = {"SUCCESS": "done", "FAILURE": "failed", "REVOKED": "revoked", "RETRY": "retrying"}


@dataclass(frozen=True, slots=True)
class Explainer:
    """Explains jobs of one cell."""

    client: redis.Redis
    """Answers with bytes."""
    keys: Keys
    settings: Settings
    queues: Sequence[str]
    """Ingress queues to look for the job in."""
    result_of: Callable[[str], dict[str, Any] | None]
    """Task id → Celery's ``status``, ``detail`` and ``date_done``, ``None`` where the result backend has none. Called
    only for jobs that are not in keeping.
    """

    def explain(self, job_id: str) -> dict[str, Any]:
        """All of it as JSON. ``job_id`` is Celery's task id, or a job's number.

        ``place``: ingress, scheduled, lane, leased, running or dead for a job in keeping; then done, failed, revoked or
        retrying by its stored result; ended if there is none, but the decision log knows it; else unknown. ``story``:
        its runs that ended with their worker or process. ``revoked_s_ago``: if it was revoked, as far as that is
        remembered (``revokes_kept_s``). ``candidates`` is there for what waits, as of now;
        ``decisions`` are those of the log, the oldest first.
        """
        finder = Finder(self.client, self.keys)
        task_id = finder.task_id(job_id) or job_id
        numbers, logged = DecisionStore(self.client, self.keys).find(task_id, [job_id] if task_id != job_id else [])
        now_ms = finder.now_ms()
        facts: dict[str, Any] = {"job_id": task_id, "job": numbers[-1] if numbers else None, "place": "unknown"}
        facts["decisions"] = [_decision(assignment, now_ms) for assignment in logged]
        job, whereabouts = self._find(finder, task_id, numbers)
        message = whereabouts.message if isinstance(whereabouts, InIngress) else finder.message(job) if job else None
        if (revoked_ms := finder.revoked_ms(task_id, message)) is not None:
            facts["revoked_s_ago"] = _seconds(max(0, now_ms - revoked_ms))
        if whereabouts is not None:
            facts |= {"job": job, "story": finder.story(job) if job else []}
            return facts | self._place(whereabouts, now_ms)
        result = self.result_of(task_id)
        if result is not None:
            facts["place"] = PLACE_OF_STATE.get(result["status"], "unknown")
            facts["result"] = result
        elif logged:
            facts["place"] = "ended"
        return facts

    def _find(self, finder: Finder, task_id: str, numbers: Sequence[str]) -> tuple[str | None, Whereabouts | None]:
        """The newest of its jobs that is in keeping: the log's numbers first, for to look through all messages takes
        long.
        """
        for job in reversed(numbers):
            if (whereabouts := finder.where(job)) is not None:
                return job, whereabouts
        lists = [key for queue in self.queues for key in self.keys.ingress(queue)]
        if (waits := finder.in_ingress(task_id, lists)) is not None:
            return None, waits
        for job in reversed(finder.jobs_of(task_id)):
            if (whereabouts := finder.where(job)) is not None:
                return job, whereabouts
        return None, None

    def _place(self, whereabouts: Whereabouts, now_ms: int) -> dict[str, Any]:
        match whereabouts:
            case InIngress(key, before, _):
                paused = bool(self.client.exists(self.keys.paused))
                leads = bool(self.client.exists(self.keys.leader))
                why = "queues are paused" if paused else "the dispatcher has not come to it" if leads else "no dispatcher leads"
                return {"place": "ingress", "list": key, "before": before, "why": why}
            case Scheduled(entry, due_ms):
                return {"place": "scheduled", "due_in_s": _seconds(due_ms - now_ms), **_of_entry(entry, now_ms)}
            case Leased(entry, epoch, taken_ms):
                place: dict[str, Any] = {"place": "running" if taken_ms else "leased", "worker": self._name(epoch), "epoch": epoch}
                if taken_ms:
                    place["running_s"] = _seconds(now_ms - taken_ms)
                return place | _of_entry(entry, now_ms)
            case Dead(reason, detail, died_ms, story):
                dead = {"place": "dead", "reason": reason, "detail": detail, "died_s_ago": _seconds(now_ms - died_ms)}
                return dead | ({"story": story} if story else {})
            case InLane(entry, before, depth):
                return {"place": "lane", "before": before, "depth": depth, **_of_entry(entry, now_ms), **self._wait(whereabouts)}

    def _wait(self, whereabouts: InLane) -> dict[str, Any]:
        """Why it waits, and its candidates, by what the leader published last and what Redis says now."""
        entry = whereabouts.entry
        published = read_leader_view(self.client, self.keys) or LeaderView("")
        policy = self._policy(published)
        snapshot = self._snapshot(published)
        # As if it were next: what is before it in its lane, it can only wait for.
        lane = LaneView(
            entry.lane, parse_lane(entry.lane), whereabouts.depth, entry.cost_ms, waits_since_ms(entry.admitted_ms, snapshot.now_ms),
            entry.deadline_ms, int(entry.job),
        )  # fmt: skip
        hold = next((hold for hold in published.holds if hold.lane == entry.lane), None)
        if snapshot.is_paused(lane.lane.ingress):
            why = "its queue is paused"
        elif not self.client.exists(self.keys.leader):
            why = "no dispatcher leads"
        elif hold is not None:
            why = in_words(hold.reason, hold.refusals)
        else:
            why = "its turn has not come"
        return {
            "why": why,
            "strategy": policy.strategy_of(lane.lane.model).name,
            "candidates": [asdict(candidate) for candidate in candidates(lane, snapshot, policy)],
        }

    def _policy(self, published: LeaderView) -> Policy:
        """That of the settings here, with the strategy that the leader says it has."""
        policy = policy_of(self.settings)
        return replace(policy, strategy=STRATEGIES.get(published.strategy, policy.strategy))

    def _snapshot(self, published: LeaderView) -> Snapshot:
        cell = LookStore(self.client, self.keys)
        look = cell.look()
        registrations = cell.registrations().learn([row.epoch for row in look.workers]).new
        views: list[WorkerView] = []
        for row in look.workers:
            if (registration := registrations.get(row.epoch)) is None:
                views.append(lost_worker_view(row))
                continue
            learned = {"window": registration.concurrency + self.settings.window_extra}
            with suppress(msgspec.ValidationError):  # the leader is of another version
                learned |= learned_from_json(published.workers.get(row.epoch, {}))
            views.append(worker_view(row, registration, **learned))
        return Snapshot(look.now_ms, True, look.paused, look.lanes, tuple(views), load_ms=published.load_ms)

    def _name(self, epoch: str) -> str:
        registrations = LookStore(self.client, self.keys).registrations().learn([epoch]).new
        return registrations[epoch].name if epoch in registrations else epoch


def _of_entry(entry: Entry, now_ms: int) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "lane": entry.lane,
        "admitted_s_ago": _seconds(now_ms - entry.admitted_ms),
        "cost_s": _seconds(entry.cost_ms),
        "came_back": {name: count for name in ("crashes", "rejects", "reaps", "recalls") if (count := getattr(entry, name))},
    }
    if entry.deadline_ms:
        facts["deadline_in_s"] = _seconds(entry.deadline_ms - now_ms)
    return facts


def _decision(logged: LoggedAssignment, now_ms: int) -> dict[str, Any]:
    decision, given = logged.decision, logged.given
    return {
        "s_ago": _seconds(now_ms - decision.at_ms),
        "worker": given.worker,
        "epoch": given.epoch,
        "lane": decision.lane,
        "strategy": decision.strategy,
        "score": given.score,
        "together_with": given.jobs - 1,
        "waited_s": _seconds(max(0, decision.at_ms - logged.entry.admitted_ms)),
        "cost_s": _seconds(logged.entry.cost_ms),
        "ranking": [
            {"worker": ranked.worker, "score": ranked.score, "terms": ranked.terms, "full": ranked.full} for ranked in decision.ranking
        ],
        "refused": {kind: {"workers": count, "example": example} for kind, (count, example) in decision.refused.items()},
    }


def _seconds(span_ms: int) -> float:
    return round(span_ms / 1000, 3)
