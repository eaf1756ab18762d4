"""Builds a plan: serves lanes, places their jobs one at a time, and notes why others wait."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from dispatcher.core.choosing.order.caps import Allowance
from dispatcher.core.choosing.order.fairness import Accounts
from dispatcher.core.choosing.order.ordering import is_urgent
from dispatcher.core.choosing.place.loads import Loads, Ranking
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.facts.decisions import Hold
from dispatcher.core.facts.snapshot import LaneView, Snapshot

PATIENCE_LOADS: Final = 8
"""A job that needs a load is served after those that need none, unless it has waited for so many loads longer: so that
a busy worker spends a ninth of its time with loading at most, and no model waits for ever.
"""

_Ranked = tuple[int, float, int, int, str, LaneView]
"""A lane behind what it is ordered by. Lanes that rank the same take turns, for each placed job sends its lane back."""


class WaitingLane(msgspec.Struct):
    """A lane while its jobs are placed."""

    view: LaneView
    left: int
    """Jobs that are neither placed nor held yet."""
    ranking: Ranking
    """The workers that may have its jobs, the best first."""
    home: int
    """The place (see :class:`~dispatcher.core.choosing.place.roster.Candidates`) of its slot's worker; -1 without a
    slot.
    """
    home_wait_ms: float
    """Another worker gets a job only if it is done this much sooner than the home. 0: no job waits for a full home any
    more.
    """
    may_leave_home: bool
    """False if the setting ``sticky`` is ``require``."""
    placed: dict[int, list[float]] = msgspec.field(default_factory=dict)
    """Index of a worker → [how many jobs it is given, the score of the first]."""
    held: dict[int, int] = msgspec.field(default_factory=dict)
    """Index of a full worker → jobs that wait for it."""
    reason: str = "full"
    """Why jobs of the lane wait, if any do; see :class:`~dispatcher.core.facts.decisions.Hold`."""
    deferred: bool = False
    """True if the lane is served once more, after lanes whose jobs need no load."""


class PlanBuilder:
    """Builds one plan. Call :meth:`serve` for each group of lanes; then read ``waiting`` and ``holds``."""

    def __init__(
        self,
        snapshot: Snapshot,
        policy: Policy,
        accounts: Accounts,
        loads: Loads,
        allowance: Allowance | None,
        *,
        jobs_left: int,
        turn: int,
    ) -> None:
        self.waiting: dict[str, WaitingLane] = {}
        """The lanes that were begun, by name."""
        self.holds: list[Hold] = []
        """Lanes of which jobs wait, with the reason."""
        self.turn = turn
        """How many choices were made by strategies that take turns."""
        self._snapshot = snapshot
        self._policy = policy
        self._accounts = accounts
        self._loads = loads
        self._allowance = allowance
        self._jobs_left = jobs_left
        self._oldest_ms: Mapping[str, int] = {}
        """Model → since when jobs of it wait. A job that needs a load may be deferred for these. Empty: loads may be
        made at once.
        """

    def serve(self, lanes: Sequence[LaneView]) -> None:
        """Place jobs of these lanes, which have one priority, until all are placed or held, or no more may be placed.

        Jobs whose worker would have to load their model come last, if that worker has the models of others that wait: a
        free worker goes on with what is in its memory, or all of them would do nothing but load.
        """
        deferred = self._serve_in_turn(lanes, _oldest_ms(lanes) if self._snapshot.load_ms else {})
        if deferred:
            self._serve_in_turn(deferred, {})

    def _serve_in_turn(self, lanes: Sequence[LaneView], oldest_ms: Mapping[str, int]) -> list[LaneView]:
        """Give the tenants turns, and return the lanes that were deferred."""
        loads, accounts = self._loads, self._accounts
        if self._jobs_left <= 0 or not loads.has_room():
            self._leave(lanes)
            return []
        self._oldest_ms = oldest_ms
        queues = self._queues_by_tenant(lanes)
        tenants = [(accounts.given[tenant], tenant) for tenant in queues]
        heapq.heapify(tenants)
        while tenants and self._jobs_left > 0:
            tenant = tenants[0][1]
            queue = queues[tenant]
            view = queue[0][-1]
            is_last = len(tenants) == 1 and len(queue) == 1
            given, goes_on = self._serve_lane(view, self._jobs_left if is_last else 1)
            if given:
                accounts.charge(tenant, given * view.cost_ms, self._policy.tenant_weights)
            if goes_on:
                heapq.heapreplace(queue, self._ranked(view))
            else:
                heapq.heappop(queue)
            if queue:
                heapq.heapreplace(tenants, (accounts.given[tenant], tenant))
            else:
                heapq.heappop(tenants)
            if not goes_on and not given and not loads.has_room():
                break
        deferred = self._take_deferred(lanes)
        self._leave(ranked[-1] for _, tenant in tenants for ranked in queues[tenant])
        return deferred

    # -- which lane is next

    def _queues_by_tenant(self, lanes: Sequence[LaneView]) -> dict[str, list[_Ranked]]:
        """Tenant → a heap of its lanes, the one to be served first at the front."""
        queues: dict[str, list[_Ranked]] = {}
        for view in lanes:
            queues.setdefault(view.lane.tenant, []).append(self._ranked(view))
        for queue in queues.values():
            heapq.heapify(queue)
        return queues

    def _ranked(self, view: LaneView) -> _Ranked:
        waiting = self.waiting.get(view.name)
        placed = view.depth - waiting.left if waiting is not None else 0
        now_ms = self._snapshot.now_ms
        if view.deadline_ms and is_urgent(view, now_ms):
            return 0, view.deadline_ms, placed, view.job, view.name, view
        return 1, self._policy.order.rank(view, now_ms, placed), placed, view.job, view.name, view

    def _take_deferred(self, lanes: Sequence[LaneView]) -> list[LaneView]:
        deferred = []
        for view in lanes:
            waiting = self.waiting.get(view.name)
            if waiting is not None and waiting.deferred:
                waiting.deferred = False
                deferred.append(view)
        return deferred

    def _leave(self, lanes: Iterable[LaneView]) -> None:
        """No more can be placed. Lanes that no worker has room for become holds; lanes whose turn did not come do not."""
        cut_short = self._jobs_left <= 0
        for view in lanes:
            waiting = self.waiting.get(view.name)
            if waiting is None:
                if not self._loads.has_room(self._loads.candidates(view.lane)):
                    self.holds.append(self._none_goes(view))
            elif not cut_short:
                self._note_held(waiting)

    # -- one lane

    def _serve_lane(self, view: LaneView, jobs_max: int) -> tuple[int, bool]:
        """Place up to ``jobs_max`` jobs. Returns how many jobs were placed, and True if more of the lane can be
        placed later.
        """
        waiting = self.waiting.get(view.name) or self._begin(view)
        if waiting is None:
            return 0, False
        given, goes_on = self._place(waiting, jobs_max)
        if not goes_on and not waiting.deferred:
            self._note_held(waiting)
        return given, goes_on

    def _begin(self, view: LaneView) -> WaitingLane | None:
        """The lane with its candidates; ``None`` where none has room, which is noted as a hold."""
        loads, policy, lane = self._loads, self._policy, view.lane
        candidates = loads.candidates(lane)
        if not loads.has_room(candidates):
            self.holds.append(self._none_goes(view))
            return None
        strategy = policy.strategy_of(lane.model)
        age_ms = self._snapshot.now_ms - view.admitted_ms
        hold, sticky = policy.hold, policy.sticky
        ratio = hold.ratio if hold is not None and strategy.timed and age_ms <= hold.hold_max_ms else 0.0
        ranking = loads.ranking(candidates, strategy, max(1, view.cost_ms), ratio)
        waiting = WaitingLane(view, view.depth, ranking, home=-1, home_wait_ms=0.0, may_leave_home=True)
        if sticky is not None and lane.slot >= 0:
            waiting.home = loads.home(candidates, lane.slot)
            waiting.may_leave_home = not sticky.required
            if age_ms <= (sticky.hold_max_ms if strategy.timed else sticky.wait_ms):
                waiting.home_wait_ms = sticky.wait_ms
        self.waiting[view.name] = waiting
        return waiting

    def _none_goes(self, view: LaneView) -> Hold:
        """The hold of a lane none of whose jobs goes anywhere."""
        return Hold(view.name, "full" if self._loads.candidates(view.lane).indices else "unroutable", view.depth, {})

    def _note_held(self, waiting: WaitingLane) -> None:
        held = sum(waiting.held.values())
        if waiting.left or held:
            waits_for = {self._snapshot.workers[index].epoch: count for index, count in waiting.held.items()}
            self.holds.append(Hold(waiting.view.name, waiting.reason, waiting.left + held, waits_for))

    # -- who gets the job

    def _place(self, waiting: WaitingLane, jobs_max: int) -> tuple[int, bool]:
        """Place or hold up to ``jobs_max`` jobs of a lane. Returns as :meth:`_serve_lane`."""
        loads, ranking, placed, allowance = self._loads, waiting.ranking, waiting.placed, self._allowance
        candidates, cost_ms, takes_turns = ranking.candidates, ranking.cost_ms, ranking.strategy.turns != ""
        given = decided = 0
        is_filled = True  # by the job before: then the others may be full as well
        while decided < jobs_max and waiting.left > 0:
            if is_filled and not loads.has_room(candidates):
                return given, False
            if allowance is not None and (refusal := allowance.refuses(waiting.view.lane, cost_ms)) is not None:
                waiting.reason = refusal
                return given, False
            place, score = self._choose(waiting)
            if place < 0:
                return given, False
            index = candidates.indices[place]
            is_cold = candidates.cold_ms > 0 and loads.is_cold(candidates, place)
            if is_cold and self._oldest_ms and self._warm_jobs_wait(waiting.view, index, candidates.cold_ms):
                waiting.deferred = True
                return given, False
            decided += 1
            waiting.left -= 1
            if loads.is_full(index):
                # The job waits for this worker. Jobs after it see the worker as if it had it already.
                waiting.held[index] = waiting.held.get(index, 0) + 1
                waiting.reason = "sticky" if place == waiting.home else "sooner_elsewhere"
                loads.owe(index, cost_ms)
                continue
            is_filled = loads.owe(index, cost_ms)
            if is_cold:
                loads.will_load(candidates, place)
            self._jobs_left -= 1
            given += 1
            if allowance is not None:
                allowance.take(waiting.view.lane, cost_ms)
            if takes_turns:
                self.turn += 1
                loads.took_turn(index, self.turn)
            if index in placed:
                placed[index][0] += 1
            else:
                placed[index] = [1, score]
        return given, waiting.left > 0

    def _choose(self, waiting: WaitingLane) -> tuple[int, float]:
        """Place and score of the worker that the next job goes to, or waits for if that worker is full; place -1 where
        all are full.
        """
        loads, ranking, home = self._loads, waiting.ranking, waiting.home
        jobs = min(waiting.left, self._jobs_left)
        if home < 0:
            return loads.best(ranking, jobs)
        timed = ranking.strategy.timed
        full = loads.is_full(ranking.candidates.indices[home])
        score = loads.score(ranking.candidates, home, ranking.strategy, ranking.cost_ms)
        if not waiting.may_leave_home or (not timed and (not full or waiting.home_wait_ms)):
            return home, score
        place, best_score = loads.best(ranking, jobs)
        if full and (place < 0 or not waiting.home_wait_ms):
            return place, best_score
        if place < 0 or score - waiting.home_wait_ms <= best_score:
            return home, score
        return place, best_score

    def _warm_jobs_wait(self, view: LaneView, index: int, cold_ms: int) -> bool:
        """True if jobs wait whose model the worker has, and the next job of this lane may be served after them."""
        if view.deadline_ms and is_urgent(view, self._snapshot.now_ms):
            return False
        oldest_ms, latest_ms = self._oldest_ms, view.admitted_ms + PATIENCE_LOADS * cold_ms
        resident = self._snapshot.workers[index].resident or ()
        return any(oldest_ms[model] < latest_ms for model in resident if model in oldest_ms)


def _oldest_ms(lanes: Sequence[LaneView]) -> dict[str, int]:
    """Model → since when jobs of it have been waiting."""
    oldest_ms: dict[str, int] = {}
    for view in lanes:
        oldest_ms[view.lane.model] = min(view.admitted_ms, oldest_ms.get(view.lane.model, view.admitted_ms))
    return oldest_ms
