"""Runs Lua transitions for the dispatcher: several under way at once, on one connection that is kept for them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import redis
from hiredis import pack_command

from dispatcher.store.redis_client.connection import is_demoted
from dispatcher.store.scripts.sources import names, source

SEND_BYTES = 4096
"""Calls are gathered up to this size before they are sent: each send wakes Redis up."""

Call = tuple[str, list[str], list[Any]]
"""Name of the transition, KEYS, ARGV."""


class ScriptRunner:
    """The transitions of one client. Not thread-safe: the dispatcher's loop alone uses it."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._connection: Any = None
        self._shas = {name: hashlib.sha1(source(name).encode()).hexdigest() for name in names()}  # noqa: S324 (Redis' own id)

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        """Runs the calls in one round trip.

        Where Redis does not know the scripts (it is new, or was restarted) they are loaded, and a single call is made again; of
        several some may have run, so whoever made them decides.
        """
        try:
            with self.stream() as stream:
                for call in calls:
                    stream.send(call)
                return stream.replies()
        except redis.exceptions.NoScriptError:
            if len(calls) > 1:
                raise
            return self.ask(calls)

    def stream(self) -> Stream:
        """Send calls one by one, then read all replies. Left before that, the connection is closed: its replies are lost."""
        if self._connection is None:
            self._connection = self._client.connection_pool.get_connection()
        if self._connection._sock is None:
            self._connection.connect()  # sending would connect too, but not to where a Sentinel says
        return Stream(self, self._connection, self._shas)

    def pack(self, call: Call) -> bytes:
        """The call as it goes over the wire."""
        return _packed(call, self._shas)

    def load(self) -> None:
        """Gives Redis every script."""
        with self._client.pipeline(transaction=False) as pipe:
            for name in self._shas:
                pipe.script_load(source(name))
            pipe.execute()


class Stream:
    """What :meth:`ScriptRunner.stream` gives: calls on their way."""

    def __init__(self, runner: ScriptRunner, connection: Any, shas: dict[str, str]) -> None:
        self._runner = runner
        self._connection = connection
        self._shas = shas
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self.under_way = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.under_way:
            self._connection.disconnect()
        if kind is redis.exceptions.NoScriptError:
            self._runner.load()

    def send(self, call: Call) -> None:
        """Send a call, together with the next ones if it is small. Does not wait for its reply."""
        self.under_way += 1
        packed = _packed(call, self._shas)
        self._unsent.append(packed)
        self._unsent_bytes += len(packed)
        if self._unsent_bytes > SEND_BYTES:
            self.flush()

    def replies(self) -> list[Any]:
        """What the scripts returned, in order; raises the first error, when all have been read."""
        self.flush()
        found: list[Any] = []
        error: Exception | None = None
        while self.under_way:
            try:
                found.append(self._connection.read_response())
            except redis.ResponseError as exc:
                error = error or exc
            self.under_way -= 1
        if error is not None:
            if is_demoted(error):
                self._connection.disconnect()
            raise error
        return found

    def flush(self) -> None:
        """Send what was gathered."""
        if self._unsent:
            self._connection.send_packed_command([b"".join(self._unsent)], check_health=False)
            self._unsent, self._unsent_bytes = [], 0


def _packed(call: Call, shas: dict[str, str]) -> bytes:
    # redis-py's own packing looks at the type of each part first, which takes longer than the packing.
    name, keys, args = call
    packed: bytes = pack_command(("EVALSHA", shas[name], len(keys), *keys, *args))
    return packed
