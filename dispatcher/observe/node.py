"""The node that Flower sees: ``dispatcher@<host>``, in a thread of the dispatcher's process, with its own connections.

Flower shows the length of a queue only if a live node says that it consumes it. Only the dispatcher consumes the
ingress and the lanes, so it must say so. Nothing here blocks or breaks the dispatch loop: if Redis is away, Flower
hangs, or a question makes no sense, at most a log line says so.
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
"""As Celery's workers. Listeners take a node for gone that was silent for twice as long."""
WAIT_S: Final = 0.25
"""Longest wait for a question before events are sent: Flower shows a dead worker as offline this much later."""
SOCKET_TIMEOUT_S: Final = 5.0
PUBSUB_CHECK_S: Final = 25.0
RECONNECT_S: Final = (0.2, 0.5, 1.0, 2.0)
STOP_TIMEOUT_S: Final = 3.0
OFFLINE_MAX: Final = 10_000

TO_ALL: Final = frozenset({"active_queues", "scheduled", "revoke", "revoke_by_stamped_headers"})
"""What the node answers to a question or command for all nodes. All else, such as ``ping``, it answers only where the
question names it: whoever asks all nodes counts the answers as workers.
"""


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker that lives."""

    name: str
    """Celery's node name."""
    pid: int
    running: int = 0
    """Above 0: its solo pool runs a job and sends no events until that job ends, so the node sends them instead."""
    done: int = 0
    """Jobs that it has done, for those events."""


class FlowerNode:
    """Answers remote control and sends worker events under ``hostname``; makes Flower inspect when something is new.

    ``queues`` returns kombu names of the lists to show, ``live_workers`` the workers that live now, ``scheduled`` the
    jobs that wait for their eta (by default none). Threads of this object call them; they may ask Redis, and may raise.
    ``start`` and ``stop`` never raise. Any thread may call any method.
    """

    def __init__(
        self,
        app: Celery,
        hostname: str,
        queues: Callable[[], Sequence[str]],
        flower_url: str = "",
        *,
        live_workers: Callable[[], Iterable[LiveWorker]] | None = None,
        scheduled: Callable[[], Sequence[object]] = tuple,
        revokes: RevokeStore | None = None,
        leads: bool = True,
        succeeded: Callable[[], bool] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``revokes`` keeps what is revoked while this node listens.

        ``leads``: True if the dispatcher leads at the start; later its events say. A standby's node listens and says
        nothing, so that Flower sees the leader only. ``succeeded`` returns True if another dispatcher with the same
        node name leads now: then this node does not say that the name goes offline.
        """
        self._app = app
        self._hostname = hostname
        self._queues = queues
        self._live_workers = live_workers or (lambda: ())
        self._scheduled = scheduled
        self._revokes = revokes
        self._leads = leads
        self._succeeded = succeeded or (lambda: False)
        self._clock = clock or SystemClock()
        self._refresh = FlowerRefresh(flower_url, queues, self._clock) if flower_url else None
        self._offline: deque[tuple[str, int]] = deque(maxlen=OFFLINE_MAX)
        self._stopping = threading.Event()
        self._failures = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. Returns at once; Redis need not answer yet."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="flower-node", daemon=True)
        self._thread.start()
        if self._refresh is not None:
            self._refresh.start()

    def stop(self) -> None:
        """Say that the node goes offline, and end: within a few seconds, even if Redis hangs."""
        self._stopping.set()
        if self._refresh is not None:
            self._refresh.stop()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
            self._thread = None

    def worker_offline(self, name: str, pid: int = 0) -> None:
        """Let Flower show a dead worker as offline, unless another life of the same name goes on. Returns at once."""
        self._offline.append((name, pid))

    def on_event(self, event: Event) -> None:
        """Subscribes to the dispatcher's events. Returns at once."""
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
            except Exception as exc:  # noqa: BLE001 (kombu's transports raise anything; the dispatcher must go on)
                level = logging.DEBUG if self._failures else logging.WARNING
                reason = f"{type(exc).__name__}: {exc}"
                log.log(level, "Flower does not see this dispatcher until Redis answers: %s", reason)
                self._stopping.wait(RECONNECT_S[min(self._failures, len(RECONNECT_S) - 1)])
                self._failures += 1

    def _serve(self) -> None:
        """Answer and beat over one connection until it breaks or the node stops."""
        with self._connect() as connection:
            channel = connection.channel()
            handlers = answers(self._app, connection, self._queues, self._clock, self._revoked, self._scheduled)
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
                    connection.drain_events(timeout=WAIT_S)
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
        facts = {
            "freq": HEARTBEAT_S, "active": 0, "processed": 0,
            "loadavg": tuple(round(load, 2) for load in os.getloadavg()),
            "sw_ident": "inference-dispatcher", "sw_ver": dispatcher.__version__, "sw_sys": os.uname().sysname,
        }  # fmt: skip
        events.send(self._hostname, kind, pid=os.getpid(), **facts)

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
            if task_ids and not self._live():  # live workers store it themselves: they know what they run
                mark_revoked(self._app, task_ids)

    def _live(self) -> Iterable[LiveWorker]:
        try:
            return tuple(self._live_workers())
        except Exception as exc:  # noqa: BLE001 (a caller's function, which asks Redis)
            log.debug("cannot list the live workers for Flower: %s: %s", type(exc).__name__, exc)
            return ()


class _Events:
    """Sends worker events in the name of any node. Facts that an event leaves out stay as the worker itself sent them.

    Raises kombu's errors as they are: events are not sent again after a reconnect, when they would be out of date.
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
    """kombu's node, but it is silent where a worker would act, and never retries a reply."""

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
        """Answer a question that names this node or is in :data:`TO_ALL`; refuse a command for workers (``shutdown``, …)
        that names this node.
        """
        if method in self.handlers and (destination or method in TO_ALL):
            return super().dispatch(method, arguments, reply_to, ticket, destination=destination, **kwargs)
        refusal = {"error": NOT_FOR_US}
        if reply_to and destination:
            self.reply({self.hostname: refusal}, reply_to["exchange"], reply_to["routing_key"], ticket)
        return refusal

    def reply(self, data: object, exchange: str, routing_key: str, ticket: str | None, **_options: Any) -> None:
        """Reply once, over this node's own channel: kombu's reply would try for ever to reach a client that is gone."""
        if not self.is_heard():
            return
        to = Exchange(exchange, type="direct", delivery_mode="transient", durable=False)
        headers = {"ticket": ticket, "clock": self.mailbox.clock.forward()}
        producer = Producer(self.channel, auto_declare=False, serializer=self.mailbox.serializer)
        producer.publish(data, exchange=to, routing_key=routing_key, declare=[to], headers=headers, retry=False)


def mark_revoked(app: Celery, task_ids: Iterable[str]) -> None:
    """Give tasks that have not begun the state REVOKED at once, as Celery's workers do.

    The worker that later drops such a task lets its canvas know.
    """
    for task_id in task_ids:
        try:
            if app.backend.get_state(task_id) in (states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED):
                app.backend.mark_as_revoked(task_id, reason="revoked", store_result=True)
        except Exception as exc:  # noqa: BLE001 (a backend may raise anything; the revoke itself is kept)
            log.warning("cannot store REVOKED for %s yet: %s: %s", task_id, type(exc).__name__, exc)


def _check_pubsub(connection: Connection) -> None:
    """Notice a subscription whose other end is silently gone. In a worker, Celery's event loop does this."""
    check = getattr(getattr(connection.transport, "cycle", None), "maybe_check_subclient_health", None)
    if check is not None:
        check()


def node_name() -> str:
    """The name under which Flower shows the dispatcher of this host."""
    return f"dispatcher@{socket.gethostname()}"
