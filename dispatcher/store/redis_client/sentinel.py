"""Redis found through Sentinel: ``sentinel://a:26379;sentinel://b:26379;sentinel://c:26379/0?master_name=cell``.

The URL is Celery's, one part for each sentinel, with the name of the master at its end, or in the ``master_name`` of Celery's
transport options. Login and database are those of the master; how to log in to the sentinels is ``sentinel_kwargs`` there.
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
"""How long a sentinel may take to answer before the next one is asked. One that died with its master answers never."""


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """Such a URL in parts. ``master_name`` is empty where the URL has none."""

    sentinels: tuple[tuple[str, int], ...]
    master_name: str
    database: int
    username: str | None
    password: str | None


def is_sentinel(url: str) -> bool:
    return url.startswith("sentinel:")


def read_sentinel_url(url: str) -> SentinelUrl:
    """Raises :class:`Invalid` for what is none."""
    refuse_unquoted(url)
    parts = [urlsplit(one.strip()) for one in url.split(SEPARATOR) if one.strip()]
    if any(one.scheme != "sentinel" or not one.hostname for one in parts):
        raise Invalid("the URL of a sentinel is sentinel://host:26379, several are separated by ';', the last may end in /0?master_name=…")
    named = [name for one in parts for name in parse_qs(one.query).get("master_name", ())]
    databases = [one.path.strip("/") for one in parts if one.path.strip("/")]
    login = next((one for one in parts if one.password), parts[0])
    if databases and not databases[-1].isdigit():
        raise Invalid(f"the database in the URL of the sentinels is {databases[-1]!r}: it must be a number")
    return SentinelUrl(
        sentinels=tuple((str(one.hostname), one.port or SENTINEL_PORT) for one in parts),
        master_name=named[-1] if named else "",
        database=int(databases[-1]) if databases else 0,
        username=unquote(login.username) if login.username else None,
        password=unquote(login.password) if login.password else None,
    )


def without_master_name(url: str) -> str:
    """The URL as Celery takes it; the name goes into its transport options."""
    return SEPARATOR.join(urlunsplit(urlsplit(one)._replace(query="")) for one in url.split(SEPARATOR))


def transport_options(url: str) -> dict[str, Any]:
    """What Celery's ``broker_transport_options`` and ``result_backend_transport_options`` must hold for ``url``; nothing for others."""
    name = read_sentinel_url(url).master_name if is_sentinel(url) else ""
    return {"master_name": name} if name else {}


def patient_enough(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """``sentinel_kwargs``, with a sentinel that does not answer given up soon: redis-py would try each for half a minute."""
    short = {"socket_timeout": SENTINEL_WAIT_S, "socket_connect_timeout": SENTINEL_WAIT_S, "retry": Retry(NoBackoff(), 0)}
    return short | dict(options or {})


def master_of(url: str, transport: Mapping[str, Any], options: Mapping[str, Any]) -> redis.Redis:
    """A client of whichever Redis the sentinels call master at each new connection. ``transport``: Celery's transport options;
    ``options``: redis-py's, for the master.

    Raises :class:`Invalid` where neither names the master.
    """
    found = read_sentinel_url(url)
    name = found.master_name or str(transport.get("master_name") or "")
    if not name:
        raise Invalid("sentinels are named, but no master: end the URL in ?master_name=…, or set it in broker_transport_options")
    master = dict(options)
    if (connection_class := master.pop("connection_class", None)) is not None:
        master["ssl"] = issubclass(connection_class, redis.SSLConnection)
    sentinel = Sentinel(
        list(found.sentinels),
        min_other_sentinels=int(transport.get("min_other_sentinels") or 0),
        sentinel_kwargs=patient_enough(transport.get("sentinel_kwargs")),
    )
    client: redis.Redis = sentinel.master_for(
        name, db=found.database, username=found.username, password=found.password, **master
    )
    return client
