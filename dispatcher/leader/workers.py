"""What a plan sees of the workers: a row of the look, what the worker said when its life began, and what the leader has
learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import ceil

from dispatcher.core.choosing.window import Windows
from dispatcher.core.facts.evidence import WorkerReport
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.learning.residency import Residency
from dispatcher.core.learning.speeds import Speeds
from dispatcher.events import Event, WorkerRegistered
from dispatcher.leader.formats import CellFormats
from dispatcher.leader.health.watch import HealthWatch
from dispatcher.leader.ingress import Ingress
from dispatcher.leader.telling.unreadable import UnreadableReport
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.look import Look, WorkerRow
from dispatcher.store.leader.views import lost_worker_view, worker_view
from dispatcher.store.registration import Registration


class Workers:
    """The registrations that the leader knows, and the views it makes with them."""

    def __init__(
        self,
        store: DispatchStore,
        ingress: Ingress,
        emit: Callable[[Event], None],
        *,
        windows: Windows,
        speeds: Speeds,
        residency: Residency,
        health: HealthWatch,
        unreadable: UnreadableReport,
        formats: CellFormats,
    ) -> None:
        self._ingress = ingress
        self._emit = emit
        self._windows = windows
        self._speeds = speeds
        self._residency = residency
        self._health = health
        self._unreadable = unreadable
        self._formats = formats
        self._registrations = store.registrations()
        self._apart: set[str] = set()
        """Workers that do not read the format that is written."""

    def __len__(self) -> int:
        """How many registrations are known."""
        return len(self._registrations.known)

    def views(self, look: Look) -> tuple[WorkerView, ...]:
        """The workers of a look, as a plan sees them. Reads the registrations that are new, and forgets those of
        workers that are gone.

        Here the cell moves on to a newer format, before anything is given to the workers that let it.
        """
        rows = look.workers
        learned = self._registrations.learn([row.epoch for row in rows])
        if learned.new:
            self._greet(learned.new)
        if learned.unreadable:
            lost = [row.epoch for row in rows if row.epoch in learned.unreadable and not row.ended]
            self._unreadable.report(f"the registration of worker {epoch}" for epoch in lost)
        if learned.has_forgotten:
            self._windows.forget({row.epoch for row in rows})
        if self._formats.step(self._registrations.known) or learned.new:
            self._set_apart()
        return tuple(self._view(row, look.now_ms) for row in rows)

    def heed(self, reports: Iterable[WorkerReport]) -> None:
        """Have the registrations read again that workers report to have changed since."""
        known = self._registrations.known
        for report in reports:
            if (registration := known.get(report.epoch)) is not None and registration.changes != report.totals.changes:
                self._registrations.forget(report.epoch)

    def _set_apart(self) -> None:
        """Give nothing to workers that cannot read what is written here."""
        formats, known = self._formats, self._registrations.known
        self._apart = {epoch for epoch, registration in known.items() if not formats.is_read_by(registration)}
        apart = [known[epoch] for epoch in self._apart]
        self._unreadable.report(f"what is written here in format {formats.writes}, by worker {worker.name}," for worker in apart)

    def _greet(self, registrations: Mapping[str, Registration]) -> None:
        for epoch, registration in registrations.items():
            self._emit(WorkerRegistered(registration.name, epoch, registration.concurrency, registration.weight))
        self._ingress.learn(
            (queue for registration in registrations.values() for queue in registration.ingress),
            (model for registration in registrations.values() for model in registration.models),
        )

    def _view(self, row: WorkerRow, now_ms: int) -> WorkerView:
        registration = self._registrations.known.get(row.epoch)
        if registration is None or row.epoch in self._apart:
            return lost_worker_view(row)
        window = self._windows.window(row.epoch, concurrency=registration.concurrency, done=row.done, now_ms=now_ms)
        resident, loading_ms = self._residency.of(row.epoch, now_ms, registration.resident)
        if loading_ms:  # the worker owes that time too, before it begins with the next job
            row = row._replace(leased_cost_ms=row.leased_cost_ms + round(loading_ms * registration.weight))
        ejected, warmth = self._health.standing(row.epoch, now_ms)
        return worker_view(
            row, registration, window=ceil(window * warmth), speeds=self._speeds.of(registration.name), resident=resident,
            loading=self._residency.loading(row.epoch), ejected=ejected, warmth=warmth,
        )  # fmt: skip
