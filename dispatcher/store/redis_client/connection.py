"""Makes our Redis clients, and shapes Celery's connections. kombu's client prefixes only some commands, redis-py's
retries.

A retried script may run twice (a caller asks for 2 jobs, is told 2, and 4 are leased), so our client never retries: the
caller decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import redis
from kombu.exceptions import KombuError, OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from dispatcher.errors import Invalid
from dispatcher.store.redis_client.redaction import redact, refuse_unquoted
from dispatcher.store.redis_client.sentinel import (
    is_sentinel,
    master_of,
    patient_enough,
    read_sentinel_url,
    transport_options,
    without_master_name,
)

# Celery writes these as the constants of `ssl`, redis-py as plain words, and kombu takes both.
_CERT_WORDS = re.compile(r"(?<=[?&]ssl_cert_reqs=)CERT_(?:NONE|OPTIONAL|REQUIRED)")
_SOCKET_SCHEMES = ("redis+socket", "unix")

T = TypeVar("T")

CONNECT_WAIT_S = 5.0
BROKER_WAITS: Final[Mapping[str, float]] = {
    "socket_timeout": 5.0,
    "socket_connect_timeout": CONNECT_WAIT_S,
    "health_check_interval": 2.5,
}
"""For kombu's connections; its defaults are never, never, and 25 s.

A consumer drops a connection that has been silent for 1 s plus two health checks.
"""

CELERY_RESULT_WAIT_S = 120.0
"""Celery's own default for a result backend's answer."""
RESULT_WAIT_S = 30.0
"""Our wait for a result backend: longer than the broker's, because a job's result is sent only once."""


def connect(
    url: str,
    *,
    timeout_s: float = 5.0,
    text: bool = True,
    options: Mapping[str, Any] | None = None,
    transport: Mapping[str, Any] | None = None,
) -> redis.Redis:
    """A client that answers with ``str`` (``bytes`` unless ``text``) and does not retry.

    ``url`` may be redis://, rediss://, redis+socket://, unix://, or sentinel://
    (:mod:`dispatcher.store.redis_client.sentinel`).

    ``timeout_s`` bounds connecting and each reply; a blocking command must block for less. ``options`` go to redis-py
    as they are (``ssl_ca_certs`` …). ``transport`` is Celery's ``broker_transport_options``: the options for Sentinel
    are read. Raises :class:`Invalid` for any other scheme. The client connects at its first command.
    """
    common: dict[str, Any] = {
        "decode_responses": text,
        "encoding_errors": "surrogateescape",
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
    }
    if is_sentinel(url):
        return master_of(url, transport or {}, common | dict(options or {}))
    url = client_url(url)
    if url.startswith("unix:"):  # a socket of this machine has no TLS
        options = {name: value for name, value in (options or {}).items() if name != "connection_class" and name[:4] != "ssl_"}
    return redis.Redis.from_url(url, **common, **(options or {}))


def if_of_its_type(read: Callable[[], T]) -> T | None:
    """The result of ``read``; ``None`` if the key is of another type than it should be, which is as good as no key."""
    try:
        return read()
    except redis.ResponseError as exc:
        if not str(exc).startswith("WRONGTYPE"):
            raise
        return None


def replies_of_its_type(pipe: Any) -> list[Any]:
    """The replies of a pipeline; ``None`` for a key of another type than it should be."""
    replies = pipe.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
            raise reply
    return [None if isinstance(reply, Exception) else reply for reply in replies]


def is_demoted(error: Exception) -> bool:
    """True if the server that answered with this error was the primary and is a replica now.

    Only a new connection finds the new primary, and the old connection may stay open for ever: close it.
    """
    # In a script, Redis 6.2 puts other words before the word by which redis-py knows this error.
    return isinstance(error, redis.exceptions.ReadOnlyError) or "READONLY" in str(error)


PASSING: Final = (
    "READONLY", "UNBLOCKED", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "NOREPLICAS", "BUSY",
    "NOSCRIPT", "EXECABORT",
)  # fmt: skip
"""Words of a Redis that fails over, loads, is full, has lost its disk or its replicas, or runs a long script: it
will answer otherwise, by itself or once it has room. The last word only says that another answer came before it.
"""

SENTENCE_MAX: Final = 300


def is_lasting(error: BaseException) -> bool:
    """True if Redis will go on answering with this error until somebody changes a key, a user or a setting."""
    if not isinstance(error, redis.ResponseError) or error.status_code in PASSING:
        return False
    # A script or a pipeline puts other words before it.
    return not any(re.search(rf"\b{word}\b", str(error)) for word in PASSING)


def sentence_of(error: BaseException) -> str:
    """What Redis said, with the word before it that redis-py takes away; at most :data:`SENTENCE_MAX` characters."""
    text, code = str(error), getattr(error, "status_code", None) or ""
    return (text if text.startswith(code) else f"{code} {text}")[:SENTENCE_MAX]


BROKEN: Final = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RecursionError, KombuError, redis.DataError)
"""What Celery raises for a canvas that makes no sense."""


def is_outage(error: BaseException) -> bool:
    """True if something that Celery could not send or store may succeed later.

    kombu raises OperationalError for a lost connection, but also for a message that cannot be packed, or whose queue is
    a key of another type: its cause tells them apart.
    """
    while isinstance(error, OperationalError) and error.__cause__ is not None:
        error = error.__cause__
    # Of an error from another process, only the text is left of its cause.
    if str(error).rpartition("caused error: ")[2].startswith("WRONGTYPE"):
        return False
    return isinstance(error, OperationalError) or not isinstance(error, BROKEN)


def bound_waits(conf: Any) -> None:
    """Bound the waits of all connections that Celery makes with ``conf``. What the app has set itself is kept.

    If the other end vanishes without a word (a failover, a firewall that forgot the connection), an unbounded wait
    never ends.
    """
    options = dict(conf.broker_transport_options or {})
    for name, value in BROKER_WAITS.items():
        if options.get(name) is None:
            options[name] = value
    if options.get("master_name"):
        options["sentinel_kwargs"] = patient_enough(options.get("sentinel_kwargs"))
    conf.broker_transport_options = options
    results = dict(conf.result_backend_transport_options or {})
    if results.get("master_name"):
        conf.result_backend_transport_options = results | {"sentinel_kwargs": patient_enough(results.get("sentinel_kwargs"))}
    if conf.redis_socket_timeout == CELERY_RESULT_WAIT_S:
        conf.redis_socket_timeout = RESULT_WAIT_S
    if conf.redis_socket_connect_timeout is None:
        conf.redis_socket_connect_timeout = CONNECT_WAIT_S


def tls_options(broker_use_ssl: Any) -> dict[str, Any]:
    """Options for :func:`connect` with the meaning of Celery's ``broker_use_ssl``: nothing, ``True``, or ``ssl_…``
    names.
    """
    if not broker_use_ssl:
        return {}
    return {"connection_class": redis.SSLConnection, **(broker_use_ssl if isinstance(broker_use_ssl, Mapping) else {})}


def client_url(url: str) -> str:
    """The URL in redis-py's form. A URL of sentinels has no such form: raises :class:`Invalid`."""
    refuse_unquoted(url)
    parts = urlsplit(url)
    if parts.scheme in _SOCKET_SCHEMES:
        query = parse_qs(parts.query)
        database = (query.get("virtual_host") or query.get("db") or ["0"])[0]
        login = f"{parts.netloc.rsplit('@', 1)[0]}@" if "@" in parts.netloc else ""
        return f"unix://{login}{parts.path}?db={database.strip('/')}"
    if parts.scheme in ("redis", "rediss"):
        return _CERT_WORDS.sub(lambda word: word[0].replace("CERT_", "").lower(), url)
    raise Invalid(f"cannot use {redact(url)}: the URL of Redis begins with redis://, rediss://, redis+socket://, unix:// or "
                  "sentinel://")


def celery_url(url: str) -> str:
    """The URL in the form of Celery, kombu and Flower. For sentinels it lacks the master's name: see
    :func:`point_broker_at`.
    """
    if is_sentinel(url):
        read_sentinel_url(url)
        return without_master_name(url)
    parts = urlsplit(client_url(url))
    if parts.scheme != "unix":
        return url
    database = parse_qs(parts.query)["db"][0]
    return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={database}"


def point_broker_at(conf: Any, url: str) -> None:
    """Make an app with ``conf`` use the broker at ``url``, which may have any form that :func:`connect` takes."""
    conf.update(broker_url=celery_url(url), broker_read_url=None, broker_write_url=None)
    conf.broker_transport_options = dict(conf.broker_transport_options or {}) | transport_options(url)


def point_results_at(conf: Any, url: str) -> None:
    """Make an app with ``conf`` use the result backend at ``url``, in any such form."""
    conf.result_backend = celery_url(url)
    conf.result_backend_transport_options = dict(conf.result_backend_transport_options or {}) | transport_options(url)
