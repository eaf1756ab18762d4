"""What a worker says of itself, and where it may be said."""

from __future__ import annotations

import pytest
from celery import Celery

from dispatcher.errors import Invalid
from dispatcher.worker.leasing.request import lease_request
from dispatcher.worker.leasing.transport import transport_for
from dispatcher.worker.options import (
    WorkerOptions,
    read_labels,
    read_models,
    read_models_max,
    read_options,
    read_threads,
    read_weight,
)
from dispatcher.worker.patches.forced import FORCED, force_settings, force_task, runs_at_most_once
from dispatcher.worker.refusal import WorkerRefused
from dispatcher.worker.steps import pool_name

NOTHING_GIVEN = {"weight": None, "models": None, "models_max": None, "label": (), "queues": None}


def test_command_line_beats_environment_beats_attach() -> None:
    """Each option is read from the first place that says it."""
    environ = {"DISPATCHER_WORKER_WEIGHT": "2", "DISPATCHER_WORKER_LABELS": "region=eu, gpu=a100"}
    told = WorkerOptions(3.0, ("from-attach",), {"region": "us"})
    assert read_options(NOTHING_GIVEN, {}, told) == told
    assert read_options(NOTHING_GIVEN, environ, told) == WorkerOptions(2.0, ("from-attach",), {"region": "eu", "gpu": "a100"})
    given = {"weight": 4.0, "models": "a, b,a,", "label": ("region=de",), "models_max": 0}
    environ["DISPATCHER_WORKER_MODELS_MAX"] = "2"
    assert read_options(NOTHING_GIVEN, environ, told).models_max == 2
    assert read_options(given, environ, told) == WorkerOptions(4.0, ("a", "b"), {"region": "de"}, 0)


@pytest.mark.parametrize("weight", [0, -1, "much", None, float("nan"), float("inf")])
def test_a_weight_is_a_number_above_zero(weight: object) -> None:
    """Anything else is refused with the value that was given."""
    with pytest.raises(Invalid, match="above 0"):
        read_weight(weight)


@pytest.mark.parametrize("most", [-1, "many", None, 1.5, "1.5"])
def test_a_limit_on_models_is_a_whole_number(most: object) -> None:
    """0 is none; anything else is refused with the value that was given."""
    assert read_models_max("3") == 3
    with pytest.raises(Invalid, match="--models-max 3"):
        read_models_max(most)


@pytest.mark.parametrize("threads", [-1, "many", None, 1.5, "1.5"])
def test_threads_are_a_whole_number(threads: object) -> None:
    """0 is the slot's share; from the option, the environment or ``attach``, and anything else is refused with the value."""
    assert read_threads("3") == 3
    with pytest.raises(Invalid, match="--threads 2"):
        read_threads(threads)
    environ = {"DISPATCHER_WORKER_THREADS": "5"}
    assert read_options(NOTHING_GIVEN | {"threads": 0}, environ, WorkerOptions(threads=7)).threads == 0
    assert read_options(NOTHING_GIVEN, environ, WorkerOptions(threads=7)).threads == 5
    assert read_options(NOTHING_GIVEN, {}, WorkerOptions(threads=7)).threads == 7


@pytest.mark.parametrize("labels", ["region", "=eu", ["a=1", "b"]])
def test_a_label_has_a_key_and_a_value(labels: object) -> None:
    """A label without one of them is refused."""
    with pytest.raises(Invalid, match="KEY=VALUE"):
        read_labels(labels)


def test_models_and_labels_come_in_any_shape() -> None:
    """Strings, lists and mappings mean the same; a label's value may hold an equals sign or be empty."""
    assert read_models(["a", " b "]) == read_models("a,b") == ("a", "b")
    assert read_labels({"a": "1"}) == read_labels("a=1") == read_labels(["a=1"]) == {"a": "1"}
    assert read_labels("query=x=y,spot=") == {"query": "x=y", "spot": ""}


def _nothing() -> None:
    pass


def test_only_an_explicit_acks_late_false_means_at_most_once() -> None:
    """Said in a decorator or in a class, bound or not, before or after the configuration; a default never counts."""
    app = Celery("said", set_as_current=False)
    app.conf.task_acks_late = False

    class Base(app.Task):
        abstract = True
        acks_late = False

    class Registered(app.Task):
        name = "registered"
        acks_late = False

    app.register_task(Registered())
    said = [
        app.task(name="decorated", shared=False, acks_late=False)(_nothing),
        app.task(name="based", shared=False, base=Base)(_nothing),
        app.tasks["registered"],
    ]
    unsaid = [
        app.task(name="default", shared=False)(_nothing),
        app.task(name="late", shared=False, acks_late=True)(_nothing),
        app.task(name="overridden", shared=False, base=Base, acks_late=True)(_nothing),
        app.tasks["celery.chord"],
    ]
    app.finalize()
    for _ in range(2):  # the second time as a second worker in the same process finds them
        assert [runs_at_most_once(app.tasks[task.name]) for task in said] == [True] * 3
        assert [runs_at_most_once(app.tasks[task.name]) for task in unsaid] == [False] * 4
        for task in app.tasks.values():
            force_task(task)
    assert all(task.acks_late and task.reject_on_worker_lost for task in app.tasks.values())


NEEDED: dict[str, object] = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_enable_prefetch_count_reduction": False,
    "broker_channel_error_retry": True,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "result_backend_always_retry": True,
    "task_publish_retry": True,
    "worker_deduplicate_successful_tasks": False,
}
"""By hand: a line that goes missing from what is forced must be missed here."""


@pytest.mark.parametrize("name", NEEDED)
def test_each_setting_that_the_promises_rest_on_is_forced(name: str) -> None:
    """Whatever the app says, a worker has the value that the promises need."""
    app = Celery("forced", set_as_current=False)
    wanted = NEEDED[name]
    app.conf[name] = not wanted if isinstance(wanted, bool) else 8
    assert app.conf[name] != wanted
    force_settings(app.conf)
    assert app.conf[name] == wanted


def test_what_a_task_sends_is_tried_for_an_hour() -> None:
    """About once a second, from at once on."""
    app = Celery("forced", set_as_current=False)
    force_settings(app.conf)
    policy = app.conf.task_publish_retry_policy
    assert policy["max_retries"] * policy["interval_max"] >= 3600
    assert policy["interval_start"] == 0
    assert {*NEEDED, "task_publish_retry_policy"} == set(FORCED), "what is forced has a test here"


def test_only_pools_whose_jobs_can_be_counted_on_are_accepted() -> None:
    """prefork, threads and solo, and what is derived from them; any other pool is refused with the remedy."""
    from celery.concurrency.base import BasePool
    from celery.concurrency.gevent import TaskPool as GeventPool
    from celery.concurrency.thread import TaskPool

    assert pool_name(type("Own", (TaskPool,), {})) == "threads"
    for green in (GeventPool, type("Own", (BasePool,), {})):
        with pytest.raises(WorkerRefused, match="choose -P prefork, threads or solo"):
            pool_name(green)


def test_a_broker_other_than_redis_is_refused() -> None:
    """Dispatched workers need Redis; several failover brokers are refused too, as a cell has one."""
    with pytest.raises(WorkerRefused, match="need Redis or Valkey"):
        transport_for(Celery(broker="memory://", set_as_current=False).connection_for_read())
    with pytest.raises(WorkerRefused, match="a cell has one Redis"):
        transport_for(Celery(broker="redis://a;redis://b", set_as_current=False).connection_for_read())
    for url in ("redis://a", "rediss://a?ssl_cert_reqs=required", "redis+socket:///tmp/r.sock", "sentinel://a;sentinel://b"):
        assert "Lease" in transport_for(Celery(broker=url, set_as_current=False).connection_for_read()).__name__


def test_a_request_class_is_extended_once() -> None:
    """A task's own request class is kept, and a second worker in one process does not wrap it again."""
    from celery.worker.request import Request

    class Own(Request):
        pass

    made = lease_request(Own)
    assert issubclass(made, Own)
    assert lease_request(made) is made is lease_request(Own)
