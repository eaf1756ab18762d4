"""Builds the real objects: the only module that joins settings, Celery app, Redis client and loops."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from random import Random
from typing import Final

import redis
from celery import Celery

from dispatcher.clock import Clock, SystemClock
from dispatcher.core.choosing.recorded import Recorder
from dispatcher.errors import NoCluster
from dispatcher.events import Event
from dispatcher.leader.build import make_dispatcher
from dispatcher.leader.canvas import content_types
from dispatcher.leader.dispatcher import Dispatcher, new_token
from dispatcher.leader.settle import Settler
from dispatcher.leader.wake import Waker
from dispatcher.observe.cell_reader import CellReader
from dispatcher.observe.log_lines import log_event
from dispatcher.observe.node import FlowerNode, node_name
from dispatcher.settings import Settings
from dispatcher.settings.rules import admission_of
from dispatcher.store.keys import Keys
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.redis_client.connection import bound_waits, connect, tls_options
from dispatcher.store.worker.revoke_store import RevokeStore

log = logging.getLogger(__name__)

PAUSE_S: Final = 0.5
"""How often new dead letters are looked for."""
PAUSE_MAX_S: Final = 5.0
"""How often a result backend that keeps failing is tried again."""


def broker_url(settings: Settings, app: Celery | None = None) -> str:
    """The Redis that carries the jobs: settings before app. Raises :class:`NoCluster` if neither names one."""
    url = settings.redis_url or (app_broker(app) if app is not None else "")
    if not url:
        raise NoCluster
    return url


def app_broker(app: Celery) -> str:
    """The broker that the app names; several (sentinels) as one URL; empty if it names none."""
    url = app.conf.broker_read_url or app.conf.broker_url or ""
    return url if isinstance(url, str) else ";".join(url)


def connect_cell(settings: Settings, app: Celery | None = None, *, text: bool = True) -> redis.Redis:
    """A client of the cell's Redis, over TLS if the app's ``broker_use_ssl`` says so."""
    options = tls_options(app.conf.broker_use_ssl) if app is not None else {}
    transport = app.conf.broker_transport_options if app is not None else None
    return connect(broker_url(settings, app), text=text, options=options, transport=transport)


def keys_of(settings: Settings, app: Celery | None = None) -> Keys:
    """The keys of the cell, with the app's ``global_keyprefix``, ``sep`` and ``priority_steps``."""
    return Keys.of_broker(settings.cell, (app.conf.broker_transport_options if app is not None else None) or {})


def build_dispatcher(
    settings: Settings,
    app: Celery,
    *,
    clock: Clock | None = None,
    rng: Random | None = None,
    emit: Callable[[Event], None] = log_event,
    recorder: Recorder | None = None,
) -> DispatcherProcess:
    """A dispatcher over the broker and the result backend of ``app``; settings win over the app.

    ``recorder`` writes every plan down.
    """
    bound_waits(app.conf)
    client = connect_cell(settings, app, text=False)
    keys = keys_of(settings, app)
    store = DispatchStore(client, keys, new_token())
    text_client = connect_cell(settings, app)
    cell = CellReader(text_client, keys, settings.ingress_queues)
    revokes = RevokeStore(text_client, keys, kept_s=settings.revokes_kept_s)
    node = FlowerNode(
        app, node_name(), cell.queues, settings.flower_url, live_workers=cell.live_workers,
        scheduled=cell.scheduled, revokes=revokes, leads=False, succeeded=cell.is_led_from_here,
    )  # fmt: skip

    def emit_to_all(event: Event) -> None:
        emit(event)
        node.on_event(event)

    dispatcher = make_dispatcher(
        store,
        settings.checked(),
        admission=admission_of(settings, content_types(app), own_compressions()),
        clock=clock or SystemClock(),
        rng=rng or Random(),
        emit=emit_to_all,
        waker=Waker(client, keys.wake),
        recorder=recorder,
    )
    return DispatcherProcess(dispatcher, Settler(store.unsettled(), app, emit), node)


class DispatcherProcess:
    """A dispatcher, the thread that stores the results of dead jobs, and the node that Flower sees."""

    def __init__(self, dispatcher: Dispatcher, settler: Settler, node: FlowerNode) -> None:
        self.dispatcher = dispatcher
        self.settler = settler
        self.node = node

    def run(self, stop: threading.Event) -> None:
        """Dispatch until ``stop`` is set."""
        thread = threading.Thread(target=self._settle, args=(stop,), name="settle", daemon=True)
        thread.start()
        self.node.start()
        try:
            self.dispatcher.run(stop)
        finally:
            stop.set()
            self.node.stop()
            thread.join(timeout=5)

    def _settle(self, stop: threading.Event) -> None:
        said, pause_s = "", PAUSE_S
        while not stop.is_set():
            try:
                settled = self.settler.step()
                said, pause_s = "", PAUSE_S
            except Exception as exc:  # noqa: BLE001 (a backend may raise anything; unsettled jobs stay marked)
                settled, sentence = 0, f"{type(exc).__name__}: {exc}"
                level = logging.DEBUG if sentence == said else logging.WARNING  # log an outage once
                log.log(level, "cannot store the state of dead jobs yet: %s", sentence)
                said, pause_s = sentence, min(2 * pause_s, PAUSE_MAX_S)
            stop.wait(0.01 if settled else pause_s)


def own_compressions() -> frozenset[str]:
    """The content types for which the app has registered a compression of its own in the place of kombu's."""
    import bz2
    import lzma
    import zlib

    from kombu.compression import get_decoder

    of_kombu = {"x-gzip": zlib.decompress, "x-bz2": bz2.decompress, "x-lzma": lzma.decompress}
    now = {f"application/{name}": (get_decoder(f"application/{name}"), of_kombu[name]) for name in of_kombu}  # type: ignore[no-untyped-call]
    return frozenset(content for content, (own, kombus) in now.items() if own is not kombus)
