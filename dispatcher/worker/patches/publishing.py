"""What a task sends (its retry, the rest of a chain, a chord's body) waits for Redis, for Redis to say that it has it,
and is sent once.

Celery's retry policy sees to the waiting once there is a connection. To open one takes ``broker_connection_timeout`` at
most, 4 s, whatever the policy says, and so the first message that a pool process sends in an outage was given up: a
retry was refused, and its job ran again.

And where a connection breaks between a message and its answer, the policy sends the message again, so that it was there
twice and its job ran twice. Here each thread that sends is a sender that counts its messages, and Redis refuses the
number that it saw last.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Final
from uuid import uuid4

import redis
from celery._state import get_current_task
from kombu.connection import ConnectionPool
from kombu.pools import ProducerPool
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import RESULT_WAIT_S
from dispatcher.store.scripts.call import call_script
from dispatcher.worker.patches.forced import PUBLISH_TRIES

WAITS: Final = {
    # A message is sent again where its answer did not come.
    "socket_timeout": RESULT_WAIT_S,
    "connect_retries_timeout": PUBLISH_TRIES,
    "interval_start": 0,
    "interval_step": 0.2,
    "interval_max": 1,
}
"""Transport options of connections that tasks send by. Only they: the loop of a worker must not wait for so long."""

SENT_TTL_MS: Final = 24 * 3600 * 1000
"""How long an outage may last in which a message is sent again."""


class _Sender(threading.local):
    """This thread as a sender of messages. A forked process is another sender."""

    pid = 0
    name = ""
    number = 0
    is_sending = False

    @contextmanager
    def message(self) -> Iterator[None]:
        """What is put on a queue in here is one message, and its repetitions."""
        if self.pid != os.getpid():
            self.pid, self.name, self.number = os.getpid(), uuid4().hex[:16], 0
        self.number += 1
        outer, self.is_sending = self.is_sending, True
        try:
            yield
        finally:
            self.is_sending = outer


_sender = _Sender()


class _OnceMixin:
    """A channel that puts a message of :data:`_sender` on its queue once."""

    cell = ""

    def basic_publish(self: Any, *args: Any, **kwargs: Any) -> Any:
        # kombu declares the queue first. Where the connection breaks there, it declares on a new one and publishes on
        # the old channel, which is closed: an AttributeError, for which Celery drops a retry. At a connection error the
        # producer uses the new channel.
        if self.connection is None:
            raise redis.ConnectionError("this channel was closed while its queue was being declared")
        return super().basic_publish(*args, **kwargs)  # type: ignore[misc]

    def _put(self: Any, queue: str, message: Any, **options: Any) -> None:
        if not _sender.is_sending or queue in (self._expires or ()) or options.get("_publish_batch") is not None:
            super()._put(queue, message, **options)  # type: ignore[misc]
            return
        keys = Keys(cell=self.cell, prefix=self.global_keyprefix)
        list_key = self.global_keyprefix + self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        args = [_sender.number, dumps(message), SENT_TTL_MS]  # type: ignore[no-untyped-call]
        with self.conn_or_acquire() as client:
            # Not the client's own method: kombu's puts its prefix before one key of a script.
            call_script(partial(redis.Redis.execute_command, client), ("publish", [keys.sent(_sender.name), list_key], args))


@cache
def _once(transport: type, cell: str) -> type:
    """That transport of kombu's, with such channels; itself where it is none for Redis."""
    if not issubclass(transport, kombu_redis.Transport):
        return transport
    channel = type("OnceChannel", (_OnceMixin, transport.Channel), {"cell": cell})
    return type("OnceTransport", (transport,), {"Channel": channel})


class _OncePool(ConnectionPool):
    """Connections over :func:`_once`."""

    def __init__(self, connection: Any, limit: int | None, cell: str) -> None:
        self._transport = _once(connection.get_transport_cls(), cell)
        super().__init__(connection, limit)  # type: ignore[no-untyped-call]

    def new(self) -> Any:
        connection: Any = super().new()  # type: ignore[no-untyped-call]
        # Not ``transport_cls``: a URL with a "+" sets that anew, and so does a failover between sentinels.
        connection.get_transport_cls = lambda: self._transport
        return connection


class _TasksAMQP:
    """Celery's ``app.amqp`` in a worker: what tasks send goes by other connections than what else is sent."""

    cell = ""
    _pool_of_tasks: tuple[int, Any] | None = None

    @property
    def producer_pool(self: Any) -> Any:
        """Celery's, and inside a task one whose connections wait."""
        if get_current_task() is None:
            return super().producer_pool  # type: ignore[misc]
        if self._pool_of_tasks is None or self._pool_of_tasks[0] != os.getpid():
            connection = self.app.connection_for_write()
            given = connection.transport_options
            waits = WAITS | {"socket_timeout": max(RESULT_WAIT_S, given.get("socket_timeout") or 0)}
            connection.transport_options = {**given, **waits}
            limit = self.app.pool.limit
            self._pool_of_tasks = os.getpid(), ProducerPool(_OncePool(connection, limit, self.cell), limit)  # type: ignore[no-untyped-call]
        return self._pool_of_tasks[1]

    def _create_task_sender(self: Any) -> Any:
        send = super()._create_task_sender()  # type: ignore[misc]

        def send_once(*args: Any, **kwargs: Any) -> Any:
            if get_current_task() is None:
                return send(*args, **kwargs)
            with _sender.message():
                return send(*args, **kwargs)

        return send_once


@cache
def _of_tasks(base: type) -> type:
    return type("TasksAMQP", (_TasksAMQP, base), {"__module__": __name__})


def send_once_from_tasks(app: Any, *, cell: str) -> None:
    """Make what tasks of ``app`` send in this process, and in those it forks, wait for Redis and arrive once."""
    if not isinstance(app.amqp, _TasksAMQP):
        kind: type = type(app.amqp)
        app.amqp.__class__ = _of_tasks(kind)
        app.amqp.__dict__.pop("send_task_message", None)  # a cached one of Celery's
    app.amqp.cell = cell


def send_as_ever(app: Any) -> None:
    """Undo :func:`send_once_from_tasks`, and forget the connections that tasks sent by."""
    if isinstance(app.amqp, _TasksAMQP):
        app.amqp.__class__ = type(app.amqp).__bases__[1]
        for name in ("send_task_message", "_pool_of_tasks", "cell"):
            app.amqp.__dict__.pop(name, None)
