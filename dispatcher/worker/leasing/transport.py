"""kombu's Redis transport, for one difference: the channel of a worker's task consumer pops lease ids and takes their
jobs.

All other channels (remote control, events, replies) are kombu's own, except that nothing here ever restores the unacked
messages of others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Empty
from typing import Any

import redis
from kombu.transport import memory
from kombu.transport import redis as kombu_redis
from kombu.utils.json import loads as kombu_loads

from dispatcher.clock import SystemClock
from dispatcher.core.facts.header import ALONE_HEADER, DEFAULT_MODEL, MODEL_HEADER
from dispatcher.core.facts.message import read_whole
from dispatcher.core.returns.ending import Cause, GiveBack
from dispatcher.store.redis_client.transports import own_transport
from dispatcher.store.worker.lease_pipe import TRANSIENT
from dispatcher.worker.life.held import Held, Outcome
from dispatcher.worker.life.life import WorkerLife
from dispatcher.worker.refusal import WorkerRefused

log = logging.getLogger(__name__)

_clock = SystemClock()


class NoRestoreQoS(kombu_redis.QoS):
    """kombu's, without its visibility timeout: a job runs as long as its worker lives."""

    def restore_visible(self, *_args: Any, **_kwargs: Any) -> None:
        """Restores nothing."""


class LeaseQoS(NoRestoreQoS):
    """Credit is what the keeper holds, not what this channel delivered: a reconnect makes a new channel and ends no
    job.
    """

    def __init__(self, channel: LeaseChannel, prefetch_count: int, life: WorkerLife) -> None:
        super().__init__(channel, prefetch_count)  # type: ignore[no-untyped-call]
        self._keeper = life.keeper

    def can_consume(self) -> bool:
        return self._keeper.can_take(self.prefetch_count)

    def append(self, message: Any, delivery_tag: str) -> None:
        """The keeper holds it already."""

    def ack(self, delivery_tag: str) -> None:
        self._keeper.ack(delivery_tag, Outcome.DONE)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self._keeper.give_back(GiveBack.rejected(delivery_tag))
        else:
            self._keeper.ack(delivery_tag, Outcome.FAILED)

    def restore_unacked(self, client: Any = None) -> None:
        """Restores nothing."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Restores nothing; is also what kombu runs when the channel goes."""
        self._on_collect.cancel()


class LeaseChannelMixin:
    """A channel that :meth:`lease_to` turns into the one that consumes a worker's own list, and nothing else."""

    QoS = NoRestoreQoS
    life: WorkerLife | None = None

    def lease_to(self: Any, life: WorkerLife) -> None:
        """From here on this channel consumes for ``life``."""
        prefetch_count = self.qos.prefetch_count
        self.qos.restore_unacked_once()
        self.life = life
        self._qos = LeaseQoS(self, prefetch_count, life)
        self.do_restore = False
        life.keeper.limit = prefetch_count
        life.keeper.looked()

    def basic_qos(self: Any, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        super().basic_qos(prefetch_size, prefetch_count, apply_global)  # type: ignore[misc]
        if self.life is not None:
            self.life.keeper.limit = prefetch_count

    def basic_consume(self: Any, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        if self.life is not None and queue != self.life.queue_name:
            raise WorkerRefused(f"a dispatched worker consumes its own list only, not {queue!r}: name queues with -Q at its start")
        return super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[misc]

    def _brpop_start(self: Any, timeout: float | None = None) -> None:
        if self.life is None:
            super()._brpop_start(timeout)  # type: ignore[misc]
            return
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = _clock.monotonic_ms() / 1000
        # At most a second, whatever ``polling_interval`` says: the beat reports how long ago the last answer came.
        connection.send_command("BRPOP", self.life.queue_key, min(1, self.brpop_timeout or 1))

    def _brpop_read(self: Any, **options: Any) -> bool:
        if self.life is None:
            return bool(super()._brpop_read(**options))  # type: ignore[misc]
        connection = self.client.connection
        try:
            try:
                reply = connection.read_response(disable_decoding=True)
            except self.connection_errors:
                connection.disconnect()
                raise
            self.life.keeper.looked()
            if not reply:
                raise Empty
            self._deliver_lease(reply[1])
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver_lease(self: Any, lease_id: bytes) -> None:
        """Take the job, and as many behind it as there is room for, and hand them to Celery. Whatever goes wrong with a
        job, the worker lives.
        """
        life: WorkerLife = self.life
        deliver = self.connection._callbacks.get(life.queue_name)
        if deliver is None or life.keeper.paused:
            life.keeper.return_untaken(lease_id.decode(errors="replace"))
            return
        try:
            taken = life.keeper.take(lease_id)
        except redis.ResponseError as exc:  # a Redis that is full, say: no reason to connect anew
            name = lease_id.decode(errors="replace")
            log.warning("cannot start the job of lease %s, it goes back in line: %s", name, exc)
            life.keeper.return_untaken(name)
            return
        left = iter(taken)
        try:
            for name, held in left:
                self._deliver_job(life, deliver, name, held)
        finally:
            for name, _ in left:  # the connection is lost, or the worker is told to stop: Celery has not heard of these
                life.keeper.give_back(GiveBack.uncounted(name))

    def _deliver_job(self: Any, life: WorkerLife, deliver: Callable[[Any], None], name: str, held: Held) -> None:
        try:
            payload = as_payload(held, name)
        except Exception as exc:  # noqa: BLE001 (what the app's own types for kombu's JSON raise, too)
            life.end_badly(name, Cause.UNREADABLE, f"its message cannot be read: {type(exc).__name__}: {exc}")
            return
        try:
            if held.runs_again and life.has_later_turn(held, payload["headers"]):
                log.info("the job of lease %s was sent on, as a retry or as another task, before its worker ended: not run again", name)
                life.keeper.ack(name, Outcome.RETRIED)
                return
            life.revokes.heed(payload["headers"].get("id"), life.keeper.revoked_at)
            deliver(payload)
        except Exception as exc:
            if life.is_reserved(name):
                raise  # Celery has it, and will end it
            if isinstance(exc, TRANSIENT):
                # Not the job's fault: a connection was lost on the way (that of the result backend, say).
                life.keeper.give_back(GiveBack.uncounted(name))
                raise
            if isinstance(exc, redis.RedisError):  # nor is this: a Redis that is full, say, or was demoted
                log.warning("cannot deliver the job of lease %s, it goes back in line: %s", name, exc)
                life.keeper.give_back(GiveBack.rejected(name))
                return
            log.exception("cannot deliver the job of lease %s: it goes back in line", name)
            life.end_badly(name, Cause.DELIVERY_FAILED, f"{type(exc).__name__}: {exc}")


class LeaseChannel(LeaseChannelMixin, kombu_redis.Channel):  # type: ignore[misc]
    """Over redis://, rediss:// and unix sockets."""


class LeaseSentinelChannel(LeaseChannelMixin, kombu_redis.SentinelChannel):  # type: ignore[misc]
    """Over sentinel://."""


class LeaseTransport(kombu_redis.Transport):
    """The transport of a dispatched worker's consumer."""

    Channel = LeaseChannel


class LeaseSentinelTransport(kombu_redis.SentinelTransport):
    """The same, through Redis Sentinel."""

    Channel = LeaseSentinelChannel


def is_in_memory(connection: Any) -> bool:
    """True if the kombu ``connection`` is to ``memory://``, which no other process can reach: an app under test."""
    return issubclass(connection.get_transport_cls(), memory.Transport)


def transport_for(connection: Any) -> type:
    """The transport that consumes leases where the kombu ``connection`` would have consumed messages.

    Raises :class:`WorkerRefused` for anything but Redis.
    """
    kind = connection.get_transport_cls()
    if issubclass(kind, kombu_redis.SentinelTransport):
        return LeaseSentinelTransport
    if issubclass(kind, kombu_redis.Transport):
        if len(connection.alt or ()) > 1:
            raise WorkerRefused("this app names several brokers; a cell has one Redis: use Sentinel for failover")
        return LeaseTransport
    if (why := own_transport(connection)) is not None:
        raise WorkerRefused(why)
    raise WorkerRefused(
        f"this app's broker is {connection.as_uri()}: dispatched workers need Redis or Valkey, so let broker_url begin "
        "with redis://"
    )


def as_payload(held: Held, lease_id: str) -> Any:
    """The message as kombu wants it. In this process' memory, and only there, its delivery tag is the lease id, and
    a header names the model that it was resolved to.
    """
    payload = read_whole(held.message, kombu_loads)
    headers, properties = payload["headers"], payload["properties"]
    for name in (MODEL_HEADER, ALONE_HEADER, "redelivered"):  # a retry sends them again, and they may not be true of it
        headers.pop(name, None)
    if (model := held.model) != DEFAULT_MODEL:
        headers[MODEL_HEADER] = model
    properties["delivery_tag"] = lease_id
    said = payload["headers"].get("dispatch")
    held.guessed = not isinstance(said, dict) or said.get("cost") is None
    if held.runs_again:
        headers["redelivered"] = True
        if held.is_suspect:
            headers[ALONE_HEADER] = True
        properties["delivery_info"] = {**(properties.get("delivery_info") or {}), "redelivered": True}
    return payload
