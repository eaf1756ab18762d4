"""The models in memory of one process: each is loaded when first asked for, and closed when its place is needed for
another.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from dispatcher.clock import Clock, SystemClock
from dispatcher.worker import models_max, report_models
from dispatcher.worker.threads import limit_threads_outside_workers
from workers.runtimes.base import Runtime

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Place:
    """One model in memory, or on its way there."""

    runtime: Runtime
    users: int = 0
    """Jobs that run on it now."""
    loaded: bool = False


class ResidentModels:
    """At most ``models_max`` models at once, 0 for any number; the one used longest ago goes first. Safe to share
    between threads.

    The limit holds at every moment, for memory does: a model that is in use stays, so a job whose model finds no place
    waits for one. What is loaded, and how long that took, is reported to the worker.
    """

    def __init__(
        self, make: Callable[[str], Runtime], *, limit: Callable[[], int] = models_max, clock: Clock | None = None
    ) -> None:
        """``make`` gives the runtime of a model, not loaded, or raises where there is none. ``limit`` is asked at each
        load.
        """
        self._make = make
        self._limit = limit
        self._clock = clock or SystemClock()
        self._places: dict[str, _Place] = {}  # the one used longest ago is first
        self._changed = threading.Condition()

    @contextmanager
    def use(self, model: str) -> Iterator[Runtime]:
        """The runtime of ``model``, loaded, for the time of the ``with``. Raises what making or loading it raises."""
        place = self._enter(model)
        try:
            yield place.runtime
        finally:
            with self._changed:
                place.users -= 1
                self._changed.notify_all()

    def probe(self) -> None:
        """Let each model that is in memory serve its small request; loads none. Raises where one cannot."""
        with self._changed:
            resident = [model for model, place in self._places.items() if place.loaded]
        for model in resident:
            with self.use(model) as runtime:
                runtime.probe()

    def close(self) -> None:
        """Close every model. No job may be running."""
        with self._changed:
            for model, place in self._places.items():
                _close(model, place.runtime)
            self._places.clear()
            self._report()
            self._changed.notify_all()

    def _enter(self, model: str) -> _Place:
        with self._changed:
            while True:
                place = self._places.get(model)
                if place is None:
                    place = _Place(self._make(model), users=1)  # before anything is closed: there may be no such model
                    has_place, oldest = self._find_place()
                    if has_place:
                        self._places[model] = place
                        break
                elif place.loaded:
                    place.users += 1
                    self._places[model] = self._places.pop(model)
                    return place
                # One thread loads, the others wait: two copies of the weights help nobody.
                self._changed.wait()
            self._report()
        self._load(model, place, oldest)
        return place

    def _find_place(self) -> tuple[bool, tuple[str, Runtime] | None]:
        """True if there is a place, and the model that had it, which must be closed first."""
        limit = self._limit()
        if not limit or len(self._places) < limit:
            return True, None
        for model, place in self._places.items():
            if place.loaded and not place.users:
                return True, (model, self._places.pop(model).runtime)
        return False, None

    def _load(self, model: str, place: _Place, oldest: tuple[str, Runtime] | None) -> None:
        began_ms = self._clock.monotonic_ms()
        if oldest is not None:
            log.info("closing the model %s: its place is needed for %s", oldest[0], model)
            _close(*oldest)
        limit_threads_outside_workers()
        try:
            place.runtime.load()
        except BaseException:
            with suppress(Exception):
                place.runtime.close()
            with self._changed:
                del self._places[model]
                self._report()
                self._changed.notify_all()
            raise
        took_s = (self._clock.monotonic_ms() - began_ms) / 1000
        with self._changed:
            place.loaded = True
            self._report({model: took_s})
            self._changed.notify_all()

    def _report(self, load_s: dict[str, float] | None = None) -> None:
        has: dict[bool, list[str]] = {True: [], False: []}
        for model, place in self._places.items():
            has[place.loaded].append(model)
        report_models(has[True], load_s, loading=has[False])


def _close(model: str, runtime: Runtime) -> None:
    try:
        runtime.close()
    except Exception:
        log.exception("closing the model %s failed; going on", model)
