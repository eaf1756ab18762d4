"""The node that Flower sees: ``dispatcher@<host>``, in a thread of the dispatcher's process, with connections of its own.

Flower shows the length of those queues only that some live node says it consumes; nobody consumes the ingress and the lanes but
the dispatcher, so the dispatcher must say so. Nothing here blocks or breaks the dispatch loop: a Redis that is away, a Flower
that hangs and a question that makes no sense end in a log line at most.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery, states
from celery.events import EventDispatcher
from kombu.connection import Connection
from kombu.entity import Exchange
from kombu.messaging import Producer
from kombu.pidbox import Node

import dispatcher
from dispatcher.clock import Clock, SystemClock
from dispatcher.events import Event, LeadGained, LeadLost, WorkerReaped, WorkerRegistered
from dispatcher.observe.answers import NOT_FOR_US, answers
from dispatcher.observe.refresh import FlowerRefresh
from dispatcher.store.worker.revoke_store import RevokeStore

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 2.0
"""As Celery's workers. Whoever listens takes a node for gone that was silent for twice as long."""
LOOK_S: Final = 0.25
"""Longest wait for a question before events are sent; a worker found dead is offline in Flower that much later."""
SOCKET_TIMEOUT_S: Final = 5.0
PUBSUB_CHECK_S: Final = 25.0
RECONNECT_S: Final = (0.2, 0.5, 1.0, 2.0)
STOP_TIMEOUT_S: Final = 3.0
OFFLINE_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker that lives.

    ``running`` above 0: its pool (solo) runs a job and cannot send events until that ends, so the node stands in for it.
    """

    name: str
    pid: int
    running: int = 0
    done: int = 0


class FlowerNode:
    """Answers remote control and sends worker events under ``hostname``; tells Flower when there is something new to ask for.

    ``queues``: kombu names of the lists to show; ``live_workers``: whoever lives now. Both are called from threads of this
    object, may ask Redis, and may raise. ``start`` and ``stop`` never raise; all methods may be called from any thread.
    """

    def __init__(
        self,
        app: Celery,
        hostname: str,
        queues: Callable[[], Sequence[str]],
        flower_url: str = "",
        *,
        live_workers: Callable[[], Iterable[LiveWorker]] = tuple,
        revokes: RevokeStore | None = None,
        leads: bool = True,
        succeeded: Callable[[], bool] = bool,
        clock: Clock | None = None,
    ) -> None:
        """``revokes`` remembers what is revoked while it listens.

        ``leads``: whether its dispatcher leads at the start; the events tell on. That of a standby listens, and says nothing: Flower
        sees the leader alone. ``succeeded``: whether another dispatcher of the same name leads now; then the name is not said to go
        offline.
        """
        self._app = app
        self._hostname = hostname
        self._queues = queues
        self._live_workers = live_workers
        self._revokes = revokes
        self._leads = leads
        self._succeeded = succeeded
        self._clock = clock or SystemClock()
        self._refresh = FlowerRefresh(flower_url, queues, self._clock) if flower_url else None
        self._offline: deque[tuple[str, int]] = deque(maxlen=OFFLINE_MAX)
        self._stopping = threading.Event()
        self._failures = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; returns at once, Redis need not answer yet."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="flower-node", daemon=True)
        self._thread.start()
        if self._refresh is not None:
            self._refresh.start()

    def stop(self) -> None:
        """Say that the node goes offline and end, within a few seconds even where Redis hangs."""
        self._stopping.set()
        if self._refresh is not None:
            self._refresh.stop()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
            self._thread = None

    def worker_offline(self, name: str, pid: int = 0) -> None:
        """Have Flower show a dead worker as offline now, unless another life of the same name goes on. Returns at once."""
        self._offline.append((name, pid))

    def on_event(self, event: Event) -> None:
        """The subscriber for the dispatcher's events. Returns at once."""
        match event:
            case LeadGained():
                self._leads = True
                if self._refresh is not None:
                    self._refresh.ask()
            case LeadLost():
                self._leads = False
            case WorkerReaped(name=name):
                self.worker_offline(name)
            case WorkerRegistered():
                if self._refresh is not None:
                    self._refresh.ask()
            case _:
                pass

    # -- the thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._serve()
            except Exception as exc:  # noqa: BLE001 (kombu's transports raise anything; the dispatcher must not end for it)
                level = logging.DEBUG if self._failures else logging.WARNING
                log.log(level, "Flower does not see this dispatcher until Redis answers: %s: %s", type(exc).__name__, exc)
                self._stopping.wait(RECONNECT_S[min(self._failures, len(RECONNECT_S) - 1)])
                self._failures += 1

    def _serve(self) -> None:
        """Answer and beat over one connection until it breaks or the node stops."""
        with self._connect() as connection:
            channel = connection.channel()
            handlers = answers(self._app, connection, self._queues, self._clock, self._revoked)
            mailbox = self._app.control.mailbox(connection)
            node: Any = _Node(self._hostname, None, channel, handlers, mailbox)
            node.is_heard = lambda: self._leads
            node.listen(channel)
            self._failures = 0
            events = _Events(self._app, connection)
            shown = False
            beat_ms = check_ms = self._clock.monotonic_ms()
            while not self._stopping.is_set():
                if shown != self._leads:
                    shown = not shown
                    if shown:
                        self._say(events, "worker-online")
                    else:
                        self._disappear(events)
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=LOOK_S)
                now_ms = self._clock.monotonic_ms()
                if self._offline:
                    self._send_offline(events)
                if shown and now_ms - beat_ms >= 1000 * HEARTBEAT_S:
                    beat_ms = now_ms
                    self._beat(events)
                if now_ms - check_ms >= 1000 * PUBSUB_CHECK_S:
                    check_ms = now_ms
                    _check_pubsub(connection)
            if shown:
                self._disappear(events)

    def _disappear(self, events: _Events) -> None:
        if not self._succeeded():
            self._say(events, "worker-offline")

    def _connect(self) -> Connection:
        connection: Connection = self._app.connection_for_write()
        options = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S}
        connection.transport_options = {**options, **(connection.transport_options or {})}
        return connection

    def _say(self, events: _Events, kind: str) -> None:
        load = tuple(round(one, 2) for one in os.getloadavg())
        software = {"sw_ident": "inference-dispatcher", "sw_ver": dispatcher.__version__, "sw_sys": os.uname().sysname}
        events.send(self._hostname, kind, pid=os.getpid(), freq=HEARTBEAT_S, active=0, processed=0, loadavg=load, **software)

    def _beat(self, events: _Events) -> None:
        self._say(events, "worker-heartbeat")
        for worker in self._live():
            if worker.running:
                facts = {"freq": HEARTBEAT_S, "active": worker.running, "processed": worker.done}
                events.send(worker.name, "worker-heartbeat", pid=worker.pid, **facts)

    def _send_offline(self, events: _Events) -> None:
        living = {worker.name for worker in self._live()}
        while self._offline:
            name, pid = self._offline[0]
            if name not in living:
                events.send(name, "worker-offline", pid=pid, active=0)
            self._offline.popleft()

    def _revoked(self, task_ids: Sequence[str], members: Sequence[str]) -> None:
        if self._revokes is not None:
            self._revokes.add(members)
            if task_ids and not self._live():  # else the workers say it, who know what they run
                mark_revoked(self._app, task_ids)

    def _live(self) -> Iterable[LiveWorker]:
        try:
            return tuple(self._live_workers())
        except Exception as exc:  # noqa: BLE001 (a caller's function that asks Redis)
            log.debug("cannot list the live workers for Flower: %s: %s", type(exc).__name__, exc)
            return ()


class _Events:
    """Sends worker events in anybody's name; what ``facts`` leave out stays as the worker itself has told it.

    Raises what kombu raises: an event is worth nothing after the next connect.
    """

    def __init__(self, app: Celery, connection: Connection) -> None:
        self._app = app
        self._connection = connection
        self._senders: dict[str, EventDispatcher] = {}

    def send(self, hostname: str, kind: str, *, pid: int, **facts: Any) -> None:
        sender = self._senders.get(hostname)
        if sender is None:
            if len(self._senders) > OFFLINE_MAX:
                self._senders.clear()
            sender = EventDispatcher(self._connection, hostname=hostname, app=self._app, buffer_while_offline=False)
            self._senders[hostname] = sender
        sender.pid = pid
        sender.send(kind, **facts)


class _Node(Node):
    """kombu's node, which keeps silent where a worker would act, and never retries a reply."""

    handlers: dict[str, Any]
    mailbox: Any
    is_heard: Callable[[], bool]

    def dispatch(
        self,
        method: str,
        arguments: Mapping[str, Any] | None = None,
        reply_to: Mapping[str, str] | None = None,
        ticket: str | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer what a node is asked; a command for workers (``shutdown``, ``pool_grow`` …) is refused where it names this node."""
        if method in self.handlers:
            return super().dispatch(method, arguments, reply_to, ticket, destination=destination, **kwargs)
        refusal = {"error": NOT_FOR_US}
        if reply_to and destination:
            self.reply({self.hostname: refusal}, reply_to["exchange"], reply_to["routing_key"], ticket)
        return refusal

    def reply(self, data: object, exchange: str, routing_key: str, ticket: str | None, **_options: Any) -> None:
        """Over this node's own channel, once: kombu's would try for ever to answer somebody who has long gone."""
        if not self.is_heard():
            return
        to = Exchange(exchange, type="direct", delivery_mode="transient", durable=False)
        headers = {"ticket": ticket, "clock": self.mailbox.clock.forward()}
        producer = Producer(self.channel, auto_declare=False, serializer=self.mailbox.serializer)
        producer.publish(data, exchange=to, routing_key=routing_key, declare=[to], headers=headers, retry=False)


def mark_revoked(app: Celery, task_ids: Iterable[str]) -> None:
    """Give tasks that have not begun the state REVOKED at once, as Celery's workers do; the worker that drops one tells its canvas."""
    for task_id in task_ids:
        try:
            if app.backend.get_state(task_id) in (states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED):
                app.backend.mark_as_revoked(task_id, reason="revoked", store_result=True)
        except Exception as exc:  # noqa: BLE001 (a backend may raise anything; the revoke itself is kept)
            log.warning("cannot store REVOKED for %s yet: %s: %s", task_id, type(exc).__name__, exc)


def _check_pubsub(connection: Connection) -> None:
    """Notice a subscription whose other end is gone without a word; Celery's event loop does this for a worker."""
    check = getattr(getattr(connection.transport, "cycle", None), "maybe_check_subclient_health", None)
    if check is not None:
        check()


def node_name() -> str:
    """The name under which Flower shows the dispatcher of this host."""
    return f"dispatcher@{socket.gethostname()}"
