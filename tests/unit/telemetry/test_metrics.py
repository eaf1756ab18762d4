"""Metrics: only names that Prometheus would take, each once; numbers that add up; one that production counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dispatcher.core.admission.rules import Refused
from dispatcher.errors import Invalid
from dispatcher.leader.ingress import Ingress
from dispatcher.store.leader.admit_batch import AdmitBatch
from dispatcher.telemetry.metrics import JOBS_ADMITTED, REGISTRY, Metric, Reading, Registry

WAITS = Metric("dispatcher_wait_seconds", "histogram", "How long jobs waited.", "seconds", buckets=(0.1, 1.0))
DEPTH = Metric("dispatcher_lane_depth", "gauge", "Jobs that wait.", labels=("model",))


@pytest.mark.parametrize(
    "facts",
    [
        {"name": "jobs_total", "kind": "counter"},
        {"name": "dispatcher_jobs", "kind": "counter"},
        {"name": "dispatcher_Jobs_total", "kind": "counter"},
        {"name": "dispatcher_wait", "kind": "gauge", "unit": "seconds"},
        {"name": "dispatcher_wait_ms", "kind": "gauge", "unit": "ms"},
        {"name": "dispatcher_depth", "kind": "gauge", "labels": ("job-id",)},
        {"name": "dispatcher_wait_seconds", "kind": "histogram", "unit": "seconds"},
        {"name": "dispatcher_wait_seconds", "kind": "histogram", "unit": "seconds", "buckets": (1.0, 0.1)},
        {"name": "dispatcher_depth", "kind": "gauge", "buckets": (1.0,)},
    ],
)
def test_a_name_that_breaks_the_conventions_is_refused(facts: dict[str, Any]) -> None:
    """With an error that says what is wrong."""
    with pytest.raises(Invalid, match=facts["name"]):
        Metric(help="", **facts)


def test_a_name_is_registered_once() -> None:
    """Another metric of that name would mix two meanings."""
    registry = Registry([DEPTH])
    with pytest.raises(Invalid, match="registered already"):
        registry.register(Metric(DEPTH.name, "gauge", "Something else."))


def test_what_does_not_fit_its_metric_is_refused() -> None:
    """Another kind, other labels, less than nothing, or a metric of another registry."""
    registry = Registry([WAITS, DEPTH, JOBS_ADMITTED])
    for wrong in (
        lambda: registry.add(WAITS), lambda: registry.set(JOBS_ADMITTED, 1), lambda: registry.observe(DEPTH, 1.0),
        lambda: registry.add(DEPTH, 1.0), lambda: registry.add(JOBS_ADMITTED, -1), lambda: Registry().add(JOBS_ADMITTED),
    ):  # fmt: skip
        with pytest.raises(Invalid):
            wrong()
    assert all(not series for series in registry.read().values())


def test_numbers_add_up_over_threads() -> None:
    """What is read is a copy."""
    registry = Registry([WAITS, DEPTH, JOBS_ADMITTED])
    with ThreadPoolExecutor(4) as pool:
        for _ in range(1_000):
            pool.submit(registry.add, JOBS_ADMITTED, 2)
    registry.set(DEPTH, 7, ("chat",))
    registry.add(DEPTH, -2, ("chat",))
    for seconds in (0.05, 0.1, 0.5, 9.0):
        registry.observe(WAITS, seconds)
    numbers = registry.read()

    assert numbers[JOBS_ADMITTED] == {(): Reading(2_000)}
    assert numbers[DEPTH] == {("chat",): Reading(5)}
    assert numbers[WAITS] == {(): Reading(pytest.approx(9.65), (2, 1, 1))}
    registry.set(DEPTH, 0, ("chat",))
    assert numbers[DEPTH] == {("chat",): Reading(5)}


def test_the_leader_counts_the_jobs_it_admits() -> None:
    """Without those that it refused, and those that Redis did not move."""
    before = REGISTRY.read()[JOBS_ADMITTED].get((), Reading()).value
    decisions = cast("Any", [SimpleNamespace(), Refused("not_json", ""), SimpleNamespace(), SimpleNamespace()])
    ingress = cast("Any", SimpleNamespace(_emit=lambda _: None, _admission=SimpleNamespace(unknown_fields={}), _warned_fields=set()))
    Ingress.report(ingress, [AdmitBatch(cast("Any", None), [], decisions)], [3])

    assert REGISTRY.read()[JOBS_ADMITTED][()].value == before + 2
