"""Finds what a Redis will refuse Celery's consumers: keys of another type, rights that a user lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import redis

from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import sentence_of

CONTROL_EXCHANGES: Final = ("celery.pidbox", "reply.celery.pidbox", "celeryev")
"""Those that every worker binds its queues of remote control and events to."""

TYPES_OF_KOMBU: Final[Mapping[str, str]] = {"unacked": "hash", "unacked_index": "zset"}


def kombu_types(keys: Keys, queues: Iterable[str], exchanges: Iterable[str] = ()) -> dict[str, str]:
    """The keys that kombu's consumers of these queues use, each with the type that it must have. ``exchanges``: those
    of queues whose exchange is not named after them.
    """
    names = sorted(set(queues))
    types = {key: "list" for queue in names for key in keys.ingress(queue)}
    for exchange in sorted({*names, *exchanges, *CONTROL_EXCHANGES}):
        types[f"{keys.prefix}_kombu.binding.{exchange}"] = "set"
    return types | {keys.prefix + name: kind for name, kind in TYPES_OF_KOMBU.items()}


def refusals(client: redis.Redis, types: Mapping[str, str], queues: Iterable[str], keys: Keys) -> Iterator[str]:
    """Why this Redis refuses workers, a sentence each. Writes nothing. ``client`` answers with text."""
    with client.pipeline(transaction=False) as pipe:
        for key in types:
            pipe.type(key)
        replies = pipe.execute(raise_on_error=False)
    for (key, wanted), kind in zip(types.items(), replies, strict=True):
        if isinstance(kind, str) and kind not in {wanted, "none"}:
            yield (
                f"the key {key!r} is a {kind}, and workers, which need a {wanted} there, end for it: another program "
                "wrote it; rename or delete it, and keep that program off this Redis"
            )
    yield from _denials(client, sorted(set(queues)), keys)


def _denials(client: redis.Redis, queues: Iterable[str], keys: Keys) -> Iterator[str]:
    """What the user of this connection may not do, though every consumer does. Redis refuses a command when it is
    queued for a transaction, and this one is never executed.
    """
    commands: list[tuple[str, ...]] = [("EVALSHA", "0" * 40, "1", keys.workers)]
    for queue in queues:
        binding, ingress = f"{keys.prefix}_kombu.binding.{queue}", keys.ingress(queue)[0]
        commands += [("SADD", binding, ""), ("SMEMBERS", binding), ("LLEN", ingress), ("LPUSH", ingress, "")]
    commands.append(("BRPOP", keys.worker_queue("0" * 12), "1"))
    connection = client.connection_pool.make_connection()
    try:
        connection.connect()
        connection.send_command("MULTI")
        connection.read_response()
        for command in commands:
            connection.send_command(*command)
            try:
                connection.read_response()
            except redis.exceptions.NoPermissionError as exc:
                yield f"the user of this URL may not {command[0]} {command[1]!r}, as workers do: {sentence_of(exc)}"
    except redis.ResponseError:
        return  # no transactions for this user: workers have one of their own
    finally:
        connection.disconnect()
