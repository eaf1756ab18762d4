"""What a dispatcher is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dispatcher.core.choosing.window import Windows
from dispatcher.core.learning.residency import Residency
from dispatcher.leader.formats import CellFormats
from dispatcher.leader.health.watch import HealthWatch
from dispatcher.leader.ingress import Ingress
from dispatcher.leader.learning import Learning
from dispatcher.leader.mistyped import MistypedKeys
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
from dispatcher.leader.workers import Workers
from dispatcher.store.leader.dispatch_store import DispatchStore


class Remembers(Protocol):
    """A part that remembers something which holds only while this process leads."""

    def restart(self) -> None:
        """The lead was gained: forget what was true in an earlier lead, for another may have led since, and read what a
        leader must know. May raise what redis-py raises, and is called again then.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one dispatcher, in the order in which a step uses them.
    :func:`~dispatcher.leader.build.make_dispatcher` makes them.
    """

    store: DispatchStore
    sleep: Sleep
    """Waits between steps."""
    unbegun: UnbegunJobs
    """What workers have not begun, as this step reads it; shared by all parts that take jobs back."""
    unreadable: UnreadableReport
    """Reports what in Redis cannot be read."""
    mistyped: MistypedKeys
    """Moves aside what is of another type than the cell's keys are."""
    formats: CellFormats
    """Which format is written, and which workers read it."""
    ingress: Ingress
    """Which lists are looked at, and how their messages are admitted."""
    workers: Workers
    """Makes the plan's view of each worker."""
    rollouts: Rollouts
    """What aliases stand for, and the guards of canaries."""
    withdrawn: WithdrawnJobs
    """Moves jobs away from withdrawn versions."""
    late_jobs: LateJobs
    """Buries jobs whose deadline has passed."""
    suspects: Suspects
    """Runs jobs alone that may kill their workers."""
    residency: Residency
    """Which models workers have in memory, and how long models take to load."""
    planner: Planner
    """Decides which jobs go to which workers."""
    windows: Windows
    """How many leases workers may hold."""
    decision_log: DecisionLog
    """Writes down what was decided."""
    waiting: WaitingReport
    """Publishes why jobs wait."""
    reaper: Reaper
    """Takes jobs back from workers that ended, drain, stall or are ejected."""
    recaller: Recaller
    """Takes jobs back that another worker could begin at once."""
    learning: Learning
    """Lets the policies learn from what workers report, and keeps what they have learned."""
    health: HealthWatch
    """Ejects faulty workers, and probes."""

    def restart(self) -> None:
        """The lead was gained: restart every part that remembers. Raises what redis-py raises."""
        remembering: tuple[Remembers, ...] = (
            self.formats,  # first: nothing may be read or written by a process that must not lead
            self.ingress,
            self.rollouts,  # before `learning`, which hands it what its guards have seen
            self.late_jobs,
            self.suspects,
            self.decision_log,
            self.waiting,
            self.reaper,
            self.learning,
        )
        for part in remembering:
            part.restart()
