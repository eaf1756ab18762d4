"""Which queues a dispatcher reads: those of its settings and those that workers name, unless they are paused."""

from __future__ import annotations

from dispatcher.wiring import keys_of
from tests.integration.stage import Stage, make_app
from tests.messages import message


def test_a_queue_that_a_worker_names_is_watched(stage: Stage) -> None:
    """Its jobs go to the workers that named it and to no other, whatever name it has."""
    worker = stage.worker("w1")
    gpu = stage.worker("w2", ingress=("aaa gpu/1",))
    (plain,) = stage.send()
    (special,) = stage.send(queue="aaa gpu/1")
    stage.steps()

    assert gpu.run_all() == [special]
    assert worker.run_all() == [plain]


def test_a_worker_may_name_several_queues(stage: Stage) -> None:
    """All queues that it was told to consume."""
    worker = stage.worker(ingress=("dispatch", "celery"), concurrency=4)
    sent = {*stage.send(), *stage.send(queue="celery")}
    stage.steps()

    assert set(worker.run_all()) == sent


def test_queues_named_before_this_leaders_time_are_watched(stage: Stage) -> None:
    """Jobs of a queue whose workers are gone are admitted, and wait for the next one."""
    stage.worker("gone", ingress=("gpu",)).store.goodbye()
    stage.steps()
    stage.dispatcher.resign()
    stage.dispatcher = stage.make_dispatcher("leader-2")
    sent = stage.send(queue="gpu")
    stage.steps()
    assert len(stage.waiting()) == 1

    worker = stage.worker("new", ingress=("gpu",))
    stage.steps()
    assert worker.run_all() == sent


def test_a_paused_queue_stays_where_it_is(stage: Stage) -> None:
    """Its messages are not admitted, what waits in its lanes is not assigned; other queues go on; resumed, all of it runs in order."""
    waiting = stage.send(2)
    stage.steps()
    stage.text.sadd(stage.keys.paused, "dispatch")
    behind = stage.send(2)
    worker = stage.worker(ingress=("dispatch", "gpu"), concurrency=8)
    other = stage.send(queue="gpu")
    stage.steps()

    assert worker.run_all() == other
    assert stage.text.llen("dispatch") == 2
    assert len(stage.waiting()) == 2
    stage.text.delete(stage.keys.paused)
    stage.steps()
    assert worker.run_all() == waiting + behind


def test_everything_can_be_paused(stage: Stage) -> None:
    """With a star."""
    worker = stage.worker(ingress=("dispatch", "gpu"))
    stage.text.sadd(stage.keys.paused, "*")
    stage.send()
    stage.send(queue="gpu")
    stage.steps()

    assert worker.run_all() == []
    assert stage.text.llen("dispatch") == stage.text.llen("gpu") == 1


def test_the_backlog_of_a_paused_queue_hides_no_other(stage: Stage) -> None:
    """A look reads a bounded number of messages; those that may not be admitted must not use it up."""
    worker = stage.worker(ingress=("dispatch", "gpu"))
    stage.text.sadd(stage.keys.paused, "dispatch")
    stage.client.lpush("dispatch", *[message() for _ in range(600)])
    sent = stage.send(queue="gpu")
    stage.step()
    stage.steps()

    assert worker.run_all() == sent


def test_a_queue_whose_key_is_no_list_stops_nothing(stage: Stage) -> None:
    """Somebody's string under its name; the others go on."""
    stage.text.set("dispatch", "a string")
    stage.text.hset("gpu", "a", "hash")
    worker = stage.worker(ingress=("dispatch", "gpu", "celery"))
    sent = stage.send(queue="celery")
    stage.steps()

    assert worker.run_all() == sent
    assert stage.text.get("dispatch") == "a string"


def test_a_key_prefix_is_before_every_key(redis_url: str) -> None:
    """Beside another app on the same Redis, with kombu's `global_keyprefix`: whole lives, refusals and reaps included."""
    app = make_app(redis_url, prefix="acme:")
    stage = Stage(redis_url, prefix="acme:", app=app)
    assert keys_of(stage.settings, app) == stage.keys
    worker = stage.worker()
    sent = stage.send(3, priority=5)
    stage.send(countdown=3600)
    stage.client.lpush("acme:dispatch", b"garbage")
    stage.steps()

    assert worker.run_all() == sent
    worker.store.goodbye()
    stage.steps()
    stray = [key for key in stage.text.scan_iter("*") if not key.startswith("acme:")]
    stage.close()
    assert stray == []
