"""Counters, gauges and histograms, and the registry that an exporter reads.

``prometheus_client`` is not imported here: the core install stays small for GPU workers, and a process without an
exporter needs no more than the numbers. An exporter (in ``dispatcher/observe/``) translates :meth:`Registry.read` into
the format that it serves.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, Literal

from dispatcher.errors import Invalid

Kind = Literal["counter", "gauge", "histogram"]

NAME: Final = re.compile(r"dispatcher_[a-z][a-z0-9_]*[a-z0-9]")
LABEL: Final = re.compile(r"[a-z][a-z0-9_]*")
UNITS: Final = ("", "seconds", "bytes", "ratio")
"""Base units, as Prometheus wants them. "" counts things, which the name says."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric is called and what it means, after https://prometheus.io/docs/practices/naming/."""

    name: str
    """Begins with ``dispatcher_``; ends in its unit, a counter in ``_total`` after that."""
    kind: Kind
    help: str
    """One sentence for people."""
    unit: str = ""
    labels: tuple[str, ...] = ()
    """Names of labels whose values are few: never the id of a job or of a worker's life."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, rising; what is above the last is counted too."""

    def __post_init__(self) -> None:
        ending = "_".join(part for part in ("", self.unit, "total" if self.kind == "counter" else "") if part)
        if not NAME.fullmatch(self.name) or (ending and not self.name.endswith(f"_{ending}")):
            raise Invalid(f"a {self.kind} cannot be called {self.name!r}: it must begin with dispatcher_ and end in {ending!r}")
        if self.unit not in UNITS:
            raise Invalid(f"{self.name} has the unit {self.unit!r}: it must be one of {UNITS}")
        if bad := [label for label in self.labels if not LABEL.fullmatch(label)]:
            raise Invalid(f"{self.name} has labels that Prometheus refuses: {', '.join(bad)}")
        if (self.kind == "histogram") != bool(self.buckets) or list(self.buckets) != sorted(set(self.buckets)):
            raise Invalid(f"{self.name} has the buckets {self.buckets}: a histogram needs some, rising; nothing else has any")


Labels = tuple[str, ...]
"""Values of a metric's labels, in the order of their names."""


@dataclass(slots=True)
class Reading:
    """One time series."""

    value: float = 0.0
    """The count, the level, or the sum of what a histogram observed."""
    counts: tuple[int, ...] = ()
    """Observations of a histogram in each bucket, not cumulated; the last are those above all bounds."""


class Registry:
    """The metrics of one process, and their numbers. Thread-safe."""

    def __init__(self, metrics: Sequence[Metric] = ()) -> None:
        self._lock = Lock()
        self._readings: dict[Metric, dict[Labels, Reading]] = {}
        for metric in metrics:
            self.register(metric)

    def register(self, metric: Metric) -> None:
        """Raises :class:`Invalid` where a metric of that name is there."""
        with self._lock:
            if any(known.name == metric.name for known in self._readings):
                raise Invalid(f"a metric called {metric.name} is registered already: give this one another name")
            self._readings[metric] = {}

    def add(self, metric: Metric, amount: float = 1.0, labels: Labels = ()) -> None:
        """Count. Only a gauge may be given less than nothing."""
        if metric.kind == "histogram" or (metric.kind == "counter" and amount < 0):
            raise Invalid(f"{metric.name} is a {metric.kind}: {amount} cannot be added")
        with self._lock:
            self._reading(metric, labels).value += amount

    def set(self, gauge: Metric, level: float, labels: Labels = ()) -> None:
        """Say how much there is now."""
        if gauge.kind != "gauge":
            raise Invalid(f"{gauge.name} is a {gauge.kind}: it cannot be set")
        with self._lock:
            self._reading(gauge, labels).value = level

    def observe(self, histogram: Metric, amount: float, labels: Labels = ()) -> None:
        """Count one observation in its bucket."""
        if histogram.kind != "histogram":
            raise Invalid(f"{histogram.name} is a {histogram.kind}: it observes nothing")
        with self._lock:
            reading = self._reading(histogram, labels)
            counts = list(reading.counts or (0,) * (len(histogram.buckets) + 1))
            counts[bisect_left(histogram.buckets, amount)] += 1
            reading.value, reading.counts = reading.value + amount, tuple(counts)

    def read(self) -> dict[Metric, dict[Labels, Reading]]:
        """All numbers as they are at one instant: a copy."""
        with self._lock:
            return {
                metric: {labels: Reading(reading.value, reading.counts) for labels, reading in series.items()}
                for metric, series in self._readings.items()
            }

    def _reading(self, metric: Metric, labels: Labels) -> Reading:
        series = self._readings.get(metric)
        if series is None or len(labels) != len(metric.labels):
            raise Invalid(f"{metric.name} is not registered here, or its labels are not {metric.labels}")
        return series.setdefault(labels, Reading())


JOBS_ADMITTED: Final = Metric("dispatcher_jobs_admitted_total", "counter", "Jobs that this process admitted as the leader.")

REGISTRY: Final = Registry([JOBS_ADMITTED])
"""The metrics of this process."""
