"""Calls Lua transitions: the command as it goes over the wire, the script loaded where Redis lacks it, and refusals
turned into errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from hashlib import sha1
from typing import Any, Final, TypeVar, TypeVarTuple

import redis
from hiredis import pack_command

from dispatcher.errors import EpochEnded, NotLeader
from dispatcher.store.scripts.sources import source

Args = TypeVarTuple("Args")
T = TypeVar("T")

Call = tuple[str, Sequence[Any], Sequence[Any]]
"""Name of the transition, KEYS, ARGV."""

_pack: Final[Callable[[tuple[Any, ...]], bytes]] = pack_command
"""redis-py's own packing looks at the type of each part first, which takes longer than the packing."""

REFUSED: Final = -1
"""What a transition returns, alone or as the first element, when the caller's lead or worker life has ended. Then it
wrote nothing.
"""


@cache
def sha_of(name: str) -> str:
    """The id that EVALSHA asks for."""
    return sha1(source(name).encode()).hexdigest()  # noqa: S324 (Redis defines it so)


def command(call: Call) -> tuple[Any, ...]:
    """The call as a Redis command, in parts."""
    name, keys, args = call
    return "EVALSHA", sha_of(name), len(keys), *keys, *args


def pack(call: Call) -> bytes:
    """The call as it goes over the wire."""
    return _pack(command(call))


def with_script(load: Callable[[], object], call: Callable[[*Args], T], *args: *Args) -> T:
    """Make a call; if Redis does not know its script (a new or restarted server), load the script and call again.

    The refused call changed nothing, so it may be repeated.
    """
    try:
        return call(*args)
    except redis.exceptions.NoScriptError:
        load()
        return call(*args)


class FixedCall:
    """A transition whose keys never change, packed but for its arguments. ``ask`` sends a packed command and reads the
    reply.
    """

    def __init__(self, name: str, keys: Sequence[str], ask: Callable[[bytes], Any]) -> None:
        self._ask = ask
        self._load = partial(ask, _pack(("SCRIPT", "LOAD", source(name))))
        parts = command((name, keys, ()))
        self._parts = len(parts)
        # Packed parts come after a line that says how many there are.
        self._head = _pack(parts).partition(b"\r\n")[2]

    def __call__(self, args: Sequence[bytes]) -> Any:
        """What the transition returns."""
        body = _pack((*args,)).partition(b"\r\n")[2]
        return with_script(self._load, self._ask, b"*%d\r\n%b%b" % (self._parts + len(args), self._head, body))


def led(reply: Any) -> Any:
    """The reply to a transition that only the leader may make. Raises :class:`NotLeader` if Redis refused it."""
    if reply == REFUSED or (isinstance(reply, list) and reply[:1] == [REFUSED]):
        raise NotLeader("another dispatcher leads this cell")
    return reply


def lived(reply: int, epoch: str) -> int:
    """The reply to a transition that only a living worker may make. Raises :class:`EpochEnded` if Redis refused it."""
    if reply == REFUSED:
        raise EpochEnded(f"worker life {epoch} was declared dead")
    return reply


def call_script(execute: Callable[..., Any], call: Call) -> Any:
    """What the transition returns. ``execute`` is a client's ``execute_command``."""
    return with_script(lambda: execute("SCRIPT LOAD", source(call[0])), execute, *command(call))


class Scripts:
    """Calls transitions through a client. Thread-safe as the client is."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def __call__(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """What the transition ``name`` returns."""
        return call_script(self._client.execute_command, (name, keys, args))
