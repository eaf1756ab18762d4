"""``celery purge``, ``celery worker --purge`` and ``app.control.purge()`` of an attached app: what waits in lanes and
for its eta is discarded too. Celery discards what its queues hold, and the dispatcher has moved that on.

As Celery does, this discards without a word to those who wait for the results: ``dispatcher purge`` stores FAILURE.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import cache, wraps
from typing import Any

import click
from celery.utils.text import pluralize
from kombu.transport.redis import Channel

from dispatcher.clock import SystemClock
from dispatcher.settings import Settings
from dispatcher.store.operator.emptying import Emptying
from dispatcher.worker.broker import client_of, keys_of

SettingsOf = Callable[[Any], Settings | None]
"""The settings of an app that is attached; ``None`` of any other."""


def purge_waiting(settings: Settings | None, connection: Any, queues: Collection[str]) -> int:
    """Discard the jobs of ``queues`` that wait with the dispatcher. How many. Leased jobs are left alone."""
    channel = connection.default_channel
    if settings is None or not isinstance(channel, Channel):
        return 0
    with client_of(channel, settings) as client:
        return Emptying(client, keys_of(channel, settings), lambda: set(queues), SystemClock()).purge(queues=queues)


class _PurgingControl:
    settings_of: SettingsOf

    def purge(self: Any, connection: Any = None) -> int:
        """Discard all waiting tasks, those that wait with the dispatcher too. How many."""
        with self.app.connection_or_acquire(connection) as given:
            discarded: int = super().purge(given)  # type: ignore[misc]
            return discarded + purge_waiting(self.settings_of(self.app), given, self.app.amqp.queues.consume_from)

    discard_all = purge


@cache
def purging_control(base: type, settings_of: SettingsOf) -> type:
    """The class of ``app.control`` where it was ``base``."""
    facts = {"__module__": __name__, "settings_of": staticmethod(settings_of)}
    return type("Control", (_PurgingControl, base), facts)


def extend_command(settings_of: SettingsOf) -> None:
    """Make ``celery purge`` discard what waits with the dispatcher too, if this process is Celery's command line."""
    command = getattr(sys.modules.get("celery.bin.purge"), "purge", None)
    if command is None or hasattr(command.callback, "discards_waiting"):
        return
    stock = command.callback

    @wraps(stock)
    def callback(*args: Any, **options: Any) -> None:
        stock(*args, **options)
        obj = click.get_current_context().obj
        queues = set(options["queues"] or obj.app.amqp.queues) - set(options["exclude_queues"] or ())
        with obj.app.connection_for_write() as connection:
            purged = purge_waiting(settings_of(obj.app), connection, queues)
        if purged:
            obj.echo(f"Purged {purged} {pluralize(purged, 'message')} that waited with the dispatcher.")

    callback.discards_waiting = True  # type: ignore[attr-defined]
    command.callback = callback
