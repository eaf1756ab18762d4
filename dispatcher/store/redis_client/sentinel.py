"""Finds Redis through Sentinel: ``sentinel://a:26379;sentinel://b:26379;sentinel://c:26379/0?master_name=cell``.

The URL is Celery's, with a part for each sentinel. The name of the master is at its end, or is ``master_name`` in
Celery's transport options. Login and database are the master's; ``sentinel_kwargs`` in those options has the login for
the sentinels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from dispatcher.errors import Invalid
from dispatcher.store.redis_client.redaction import refuse_unquoted

SEPARATOR = ";"
SENTINEL_PORT = 26379
SENTINEL_WAIT_S = 1.0
"""How long a sentinel may take to answer before the next is asked. A sentinel that died with its master never answers.
"""


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """A URL of sentinels, in parts."""

    sentinels: tuple[tuple[str, int], ...]
    master_name: str
    """Empty if the URL names no master."""
    database: int
    username: str | None
    password: str | None


def is_sentinel(url: str) -> bool:
    return url.startswith("sentinel:")


def read_sentinel_url(url: str) -> SentinelUrl:
    """Take a URL of sentinels apart. Raises :class:`Invalid` for anything else."""
    refuse_unquoted(url)
    parts = [urlsplit(part.strip()) for part in url.split(SEPARATOR) if part.strip()]
    if any(part.scheme != "sentinel" or not part.hostname for part in parts):
        raise Invalid("the URL of a sentinel is sentinel://host:26379, several are separated by ';', the last may end in /0?master_name=…")
    named = [name for part in parts for name in parse_qs(part.query).get("master_name", ())]
    databases = [part.path.strip("/") for part in parts if part.path.strip("/")]
    login = next((part for part in parts if part.password), parts[0])
    if databases and not databases[-1].isdigit():
        raise Invalid(f"the database in the URL of the sentinels is {databases[-1]!r}: it must be a number")
    return SentinelUrl(
        sentinels=tuple((str(part.hostname), part.port or SENTINEL_PORT) for part in parts),
        master_name=named[-1] if named else "",
        database=int(databases[-1]) if databases else 0,
        username=unquote(login.username) if login.username else None,
        password=unquote(login.password) if login.password else None,
    )


def without_master_name(url: str) -> str:
    """The URL as Celery takes it; the name goes into its transport options."""
    return SEPARATOR.join(urlunsplit(urlsplit(part)._replace(query="")) for part in url.split(SEPARATOR))


def transport_options(url: str) -> dict[str, Any]:
    """Options that Celery's ``broker_transport_options`` must have for ``url``, and the result backend's too; empty
    unless sentinels.
    """
    name = read_sentinel_url(url).master_name if is_sentinel(url) else ""
    return {"master_name": name} if name else {}


def patient_enough(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """``sentinel_kwargs`` that soon give up a sentinel that does not answer: redis-py would try each for half a minute."""
    short = {"socket_timeout": SENTINEL_WAIT_S, "socket_connect_timeout": SENTINEL_WAIT_S, "retry": Retry(NoBackoff(), 0)}
    return short | dict(options or {})


def master_of(url: str, transport: Mapping[str, Any], options: Mapping[str, Any]) -> redis.Redis:
    """A client that asks the sentinels for the master at each new connection.

    ``transport``: Celery's transport options. ``options``: redis-py's, for the master. Raises :class:`Invalid` if
    neither the URL nor ``transport`` names the master.
    """
    parts = read_sentinel_url(url)
    name = parts.master_name or str(transport.get("master_name") or "")
    if not name:
        raise Invalid("sentinels are named, but no master: end the URL in ?master_name=…, or set it in broker_transport_options")
    master = dict(options)
    if (connection_class := master.pop("connection_class", None)) is not None:
        master["ssl"] = issubclass(connection_class, redis.SSLConnection)
    sentinel = Sentinel(
        list(parts.sentinels),
        min_other_sentinels=int(transport.get("min_other_sentinels") or 0),
        sentinel_kwargs=patient_enough(transport.get("sentinel_kwargs")),
    )
    client: redis.Redis = sentinel.master_for(
        name, db=parts.database, username=parts.username, password=parts.password, **master
    )
    return client
