"""The Celery app that worker tests start real workers of: ``celery -A tests.worker_app worker``.

``TEST_BROKER`` names the Redis, ``TEST_LEDGER`` a file that every run of a task is written to, so that what a worker says of itself
can be compared with what it did. With ``TEST_DIES_BEFORE_ACK`` it kills itself where it would ack its first job. With
``TEST_NUMPY_FIRST`` it has NumPy before it attaches. ``TEST_REFUSED_MAX_S`` is how long it bears Redis' refusals.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject
from celery.signals import worker_ready

import tests.unsendable  # noqa: F401 (jobs carry its values)
from dispatcher.settings import load_settings
from dispatcher.store.redis_client.connection import celery_url
from dispatcher.worker import attach, report_models
from dispatcher.worker.life import refusals
from dispatcher.worker.life.keeper import LeaseKeeper
from tests.blas import blas_threads
from workers.runtimes import ResidentModels

consumers: list[Any] = []
"""Those of the workers in this process: a fault may stop their loop."""


@worker_ready.connect
def _remember(sender: Any = None, **_: Any) -> None:
    consumers.append(sender)


def make_app(broker_url: str, ledger: Path, *, attached: bool = True, **conf: Any) -> Celery:
    """An app of its own, so that what a worker forces on one stays there."""
    made = Celery("worker_app", broker=celery_url(broker_url), backend=celery_url(broker_url), set_as_current=False)
    made.conf.update(
        task_default_queue="dispatch",
        worker_hijack_root_logger=False,
        result_expires=600,
        broker_connection_retry_on_startup=True,
        worker_soft_shutdown_timeout=float(os.environ.get("TEST_SOFT_SHUTDOWN_S", "0")),
        **conf,
    )
    add_tasks(made, Ledger(ledger))
    if attached:
        attach(made, load_settings(os.environ))
    return made


class Ledger:
    """Who ran what: a line when a run begins, before the task does anything, and one when it ended.

    A file, so that nothing that is done to Redis touches it. Appending a short line is atomic.
    """

    def __init__(self, path: Path) -> None:
        self.path = self._path = path
        path.touch()

    def start(self, request: Any) -> None:
        self._write("started", request)

    def end(self, request: Any) -> None:
        self._write("ended", request)

    def _write(self, what: str, request: Any) -> None:
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps([what, request.id, bool(request.delivery_info.get("redelivered"))]).encode() + b"\n")

    def model(self, what: str, name: str) -> None:
        """A model was ``load``-ed or ``close``-d by the process that asks."""
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps([what, f"{name} {os.getpid()}", False]).encode() + b"\n")

    def models(self, what: str) -> list[str]:
        """Names of the models that were ``load``-ed or ``close``-d, in order, by all processes together."""
        return [one.split()[0] for one, _ in self._read(what)]

    def _read(self, what: str) -> list[tuple[str, bool]]:
        lines = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [(job, again) for kind, job, again in lines if kind == what]

    def started(self) -> list[str]:
        """Task ids, one for each run that began, in order."""
        return [job for job, _ in self._read("started")]

    def redelivered(self) -> list[bool]:
        """For each run that began, whether the task was told that it had begun before."""
        return [again for _, again in self._read("started")]

    def ended(self) -> list[str]:
        """Task ids, one for each run that came to its end."""
        return [job for job, _ in self._read("ended")]


class CountedModel:
    """A model that answers with nothing, and writes down when it is loaded and closed."""

    endpoints: frozenset[str] = frozenset()

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name = name
        self._ledger = ledger

    def load(self) -> None:
        self._ledger.model("load", self.name)
        time.sleep(1.0 if self.name == "heavy" else 0.01)

    def run(self, batch: list[Any]) -> list[Any]:
        return batch

    def probe(self) -> None: ...

    def close(self) -> None:
        self._ledger.model("close", self.name)


def add_tasks(app: Celery, ledger: Ledger) -> None:
    memory = ResidentModels(lambda name: CountedModel(name, ledger))

    @app.task(name="ask", shared=False)
    def ask(model: str, seconds: float = 0.0) -> int:
        """Use a model for a while; the process it was in."""
        with memory.use(model):
            time.sleep(seconds)
        return os.getpid()

    @app.task(name="threads_of_blas", shared=False)
    def threads_of_blas() -> int:
        return blas_threads()

    @app.task(name="noop", shared=False)
    def noop() -> None:
        pass

    @app.task(name="quiet", shared=False)
    def quiet(seconds: float) -> None:
        """Writes nothing, so it can run while Redis is away."""
        time.sleep(seconds)

    @app.task(name="work", shared=False, bind=True)
    def work(self: Any, seconds: float = 0.0) -> str:
        ledger.start(self.request)
        time.sleep(seconds)
        ledger.end(self.request)
        return self.request.id

    @app.task(name="after", shared=False, bind=True)
    def after(self: Any, results: Any) -> None:
        """What a chain or a chord goes on with."""
        ledger.start(self.request)
        ledger.end(self.request)

    @app.task(name="limited", shared=False, bind=True, rate_limit="4/s")
    def limited(self: Any) -> None:
        ledger.start(self.request)

    @app.task(name="toll", shared=False, bind=True, rate_limit="1/m", acks_late=False)
    def toll(self: Any) -> None:
        """Must not run twice, nor often."""
        ledger.start(self.request)

    @app.task(name="ill", shared=False, bind=True)
    def ill(self: Any, seconds: float) -> str:
        """Work, unless a file beside the ledger says that this worker has a fault; the name of the worker."""
        host = str(self.request.hostname)
        try:
            fault = (ledger.path.parent / f"fault-{host}").read_text()
        except OSError:
            fault = ""
        if fault == "fails":
            raise RuntimeError("everything fails here")
        if fault == "model":
            time.sleep(0.1)
            raise RuntimeError("the model does not load")
        if fault == "hangs":
            (ledger.path.parent / f"fault-{host}").unlink(missing_ok=True)
            consumers[-1].hub.call_soon(time.sleep, 3.0)
        time.sleep(seconds * 10 if fault == "slow" else seconds)
        return host

    @app.task(name="fail", shared=False, bind=True)
    def fail(self: Any) -> None:
        ledger.start(self.request)
        raise ValueError("as asked")

    @app.task(name="retry", shared=False, bind=True, max_retries=1)
    def retry(self: Any, seconds: float = 0.0) -> str:
        ledger.start(self.request)
        time.sleep(seconds)
        if self.request.retries == 0:
            # Celery sends the second run before it stores RETRY for the first: at once, a quick second run may store SUCCESS before.
            raise self.retry(countdown=0.3)
        return "second"

    @app.task(name="ignore", shared=False, bind=True)
    def ignore(self: Any) -> None:
        ledger.start(self.request)
        raise Ignore

    @app.task(name="reject", shared=False, bind=True)
    def reject(self: Any, requeue: bool) -> str:
        """Rejects itself at the first run."""
        ledger.start(self.request)
        if not self.request.delivery_info.get("redelivered"):
            raise Reject("as asked", requeue=requeue)
        return "again"

    @app.task(name="die", shared=False, bind=True)
    def die(self: Any) -> None:
        """Kills the process it runs in."""
        ledger.start(self.request)
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="greedy", shared=False, bind=True)
    def greedy(self: Any) -> None:
        """Asks for more memory than there is."""
        ledger.start(self.request)
        raise MemoryError("Unable to allocate 1. EiB")

    class Hooked(app.Task):  # type: ignore[misc]  # Celery is untyped
        def after_return(self, *_: Any) -> None:
            raise Reject("as asked", requeue=not self.request.delivery_info.get("redelivered"))

    @app.task(name="hook", shared=False, bind=True, base=Hooked)
    def hook(self: Any) -> None:
        """A hook rejects it after its run, the first time so that it runs again."""
        ledger.start(self.request)

    @app.task(name="leave", shared=False, bind=True)
    def leave(self: Any) -> None:
        """Would end the process it runs in, and that in order."""
        ledger.start(self.request)
        sys.exit(3)

    @app.task(name="misdirected", shared=False, bind=True)
    def misdirected(self: Any) -> None:
        """Sends its next try to a queue whose list is a key of another type."""
        ledger.start(self.request)
        raise self.retry(queue="no-list", countdown=0)

    @app.task(name="misdirected_once", shared=False, bind=True, acks_late=False)
    def misdirected_once(self: Any) -> None:
        """The same, and must not run twice."""
        ledger.start(self.request)
        raise self.retry(queue="no-list", countdown=0)

    @app.task(name="pay", shared=False, bind=True, acks_late=False)
    def pay(self: Any) -> None:
        """Must not run twice; kills the process it runs in."""
        ledger.start(self.request)
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="endless", shared=False, bind=True, time_limit=1, acks_on_failure_or_timeout=False)
    def endless(self: Any) -> None:
        ledger.start(self.request)
        time.sleep(60)


def die_before_ack() -> None:
    """Make this worker kill itself where it would ack its first job: by then the task has ended and its result is stored."""

    def ack(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    LeaseKeeper.ack = ack


if broker := os.environ.get("TEST_BROKER"):
    if "TEST_NUMPY_FIRST" in os.environ:
        import numpy  # noqa: F401, ICN001
    timeout_s = int(os.environ.get("TEST_VISIBILITY_TIMEOUT", "3600"))
    options = {"visibility_timeout": timeout_s, "unacked_restore_interval": 1}
    app = make_app(broker, Path(os.environ["TEST_LEDGER"]), broker_transport_options=options)
    if refused_max_s := os.environ.get("TEST_REFUSED_MAX_S"):
        refusals.REFUSED_MAX_S = float(refused_max_s)  # type: ignore[misc]
    report_models(())  # its processes begin with none, and will tell what they load
    if "TEST_DIES_BEFORE_ACK" in os.environ:
        die_before_ack()
