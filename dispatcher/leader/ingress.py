"""Which Redis lists jobs are admitted from, and what is decided about the messages on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from dispatcher.clock import Clock
from dispatcher.core.admission.rules import Admission, Refused
from dispatcher.core.facts.snapshot import is_paused
from dispatcher.core.rollout.aliases import Split
from dispatcher.events import Event, JobsRefused, UnknownHeaderField
from dispatcher.store.leader.admit_batch import AdmitBatch, IngressList
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.look import Look
from dispatcher.telemetry.metrics import JOBS_ADMITTED, REGISTRY

ADMIT_BATCH = 250
"""Messages in one batch. Redis moves one batch while the next is decided about."""


class Ingress:
    """The ingress lists of one cell, and the admission rules that their messages are read by."""

    def __init__(
        self,
        store: DispatchStore,
        admission: Admission,
        emit: Callable[[Event], None],
        clock: Clock,
        *,
        queues: Iterable[str],
        models: Iterable[str],
        reading_ms_max: int,
    ) -> None:
        """``queues`` and ``models``: those known before any worker names some. ``reading_ms_max``: how long one step
        may read messages. Large compressed messages take long: without this limit a leader would lose the lead before
        it admits any of them, and so would each successor.
        """
        self._store = store
        self._admission = admission
        self._emit = emit
        self._clock = clock
        self._reading_ms_max = reading_ms_max
        self._queues = set(queues)
        self._models = set(models)
        self._lists: list[IngressList] = []
        self._paused: frozenset[str] = frozenset()
        self._warned_fields: set[str] = set()
        self._set_lists()

    def restart(self) -> None:
        """The lead was gained: learn of the queues and models that workers named before. Raises what redis-py raises."""
        self.learn(self._store.ingress_queues(), self._store.models())

    def learn(self, queues: Iterable[str], models: Iterable[str]) -> None:
        """Workers named these."""
        self._queues.update(queues)
        self._models.update(models)
        self._set_lists()

    def resolve_by(self, splits: Mapping[str, Split]) -> None:
        """From now on admit jobs by these aliases."""
        self._admission.splits = splits

    def open_lists(self) -> list[IngressList]:
        """The lists to look at: all but those of queues that were paused at the last look. The backlog of a paused
        queue must neither use up a look nor wake the dispatcher.
        """
        return [source for source in self._lists if not self._is_paused(source)] if self._paused else self._lists

    def read(self, look: Look, lists: Sequence[IngressList]) -> Iterator[AdmitBatch]:
        """Decide about the messages of a look at ``lists``, batch by batch, until the time is up; about one message at
        least.

        Messages of queues that the look shows as paused stay where they are: else jobs that `release` returned would be
        admitted again.
        """
        self._paused = look.paused
        return self._batches(look, lists)

    def _batches(self, look: Look, lists: Sequence[IngressList]) -> Iterator[AdmitBatch]:
        until_ms = self._clock.monotonic_ms() + self._reading_ms_max

        def is_enough() -> bool:
            return self._clock.monotonic_ms() >= until_ms

        for index, messages in look.messages.items():
            source = lists[index]
            if self._is_paused(source):
                continue
            for at in range(0, len(messages), ADMIT_BATCH):
                part = messages[at : at + ADMIT_BATCH]
                decisions = self._admission.read_all(part, ingress=source.queue, step=source.step, now_ms=look.now_ms, is_enough=is_enough)
                yield AdmitBatch(source, part[: len(decisions)], decisions)
                if is_enough():
                    return

    def report(self, batches: Sequence[AdmitBatch], admitted: Sequence[int]) -> None:
        """Emit how many jobs were refused and why, and the header fields that nobody knows. ``admitted``: per batch,
        how many messages Redis moved as it was told.
        """
        refused: dict[str, int] = {}
        for batch, count in zip(batches, admitted, strict=True):
            for decision in batch.decisions[:count]:
                if isinstance(decision, Refused):
                    refused[decision.reason] = refused.get(decision.reason, 0) + 1
        if moved := sum(admitted):
            REGISTRY.add(JOBS_ADMITTED, moved - sum(refused.values()))
        for reason, count in refused.items():
            self._emit(JobsRefused(count, reason))
        for name in self._admission.unknown_fields.keys() - self._warned_fields:
            self._warned_fields.add(name)
            self._emit(UnknownHeaderField(name))

    def _is_paused(self, source: IngressList) -> bool:
        return is_paused(source.queue, self._paused)

    def _set_lists(self) -> None:
        """Priority-major, as kombu reads: every queue's first step before any queue's second."""
        keys = self._store.keys
        self._lists = [
            IngressList(key, queue, step)
            for at, step in enumerate(keys.priority_steps)
            for queue in sorted(self._queues)
            for key in (keys.ingress(queue)[at],)
        ]
        self._admission.known_models = frozenset(self._models) or None
