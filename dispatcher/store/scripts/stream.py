"""Runs Lua transitions for the dispatcher: several under way at once, on one connection that is kept for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from dispatcher.store.redis_client.connection import is_demoted
from dispatcher.store.scripts.call import Call, pack, with_script
from dispatcher.store.scripts.sources import names, source

SEND_BYTES = 4096
"""Calls are gathered up to this size before they are sent: each send wakes Redis up."""


class ScriptRunner:
    """Calls the transitions of one client over one connection. Not thread-safe: the dispatcher's loop alone uses it."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._connection: Any = None

    def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """What one transition returns."""
        return self.ask([(name, keys, args)])[0]

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        """Make the calls in one round trip: a single call, or calls that write nothing.

        If Redis does not know the scripts (a new or restarted server), they are loaded and all calls are made again.
        """
        return with_script(self.load, self._ask, calls)

    def _ask(self, calls: Sequence[Call]) -> list[Any]:
        with self._open() as stream:
            for call in calls:
                stream.send(call)
            return stream.replies()

    @contextmanager
    def stream(self) -> Iterator[Stream]:
        """Send calls one by one, then read all replies. Left before that, the connection is closed: its replies are
        lost.

        If Redis does not know the scripts, they are loaded and ``NoScriptError`` is raised: some calls may have run, so
        the caller decides what to repeat.
        """
        try:
            with self._open() as stream:
                yield stream
        except redis.exceptions.NoScriptError:
            self.load()
            raise

    def _open(self) -> Stream:
        if self._connection is None:
            self._connection = self._client.connection_pool.get_connection()
        if self._connection._sock is None:
            self._connection.connect()  # sending would connect too, but not to where a Sentinel says
        return Stream(self._connection)

    def load(self) -> None:
        """Give Redis every script."""
        with self._client.pipeline(transaction=False) as pipe:
            for name in names():
                pipe.script_load(source(name))
            pipe.execute()


class Stream:
    """Calls that are under way on one connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self.under_way = 0
        """Calls whose reply was not read yet."""

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        if self.under_way:
            self._connection.disconnect()

    def send(self, call: Call) -> None:
        """Send a call, together with the next ones if it is small. Does not wait for its reply."""
        self.under_way += 1
        packed = pack(call)
        self._unsent.append(packed)
        self._unsent_bytes += len(packed)
        if self._unsent_bytes > SEND_BYTES:
            self.flush()

    def replies(self) -> list[Any]:
        """What the transitions returned, in order. Raises the first error once all replies have been read."""
        self.flush()
        replies: list[Any] = []
        error: Exception | None = None
        while self.under_way:
            try:
                replies.append(self._connection.read_response())
            except redis.ResponseError as exc:
                error = error or exc
            self.under_way -= 1
        if error is not None:
            if is_demoted(error):
                self._connection.disconnect()
            raise error
        return replies

    def flush(self) -> None:
        """Send the calls that were gathered."""
        if self._unsent:
            self._connection.send_packed_command([b"".join(self._unsent)], check_health=False)
            self._unsent, self._unsent_bytes = [], 0
