"""A Redis behind TLS, as a Celery app names it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from dispatcher.settings import Settings
from dispatcher.store.redis_client.connection import connect, tls_options
from dispatcher.wiring import build_dispatcher
from tests.redis_server import RedisServer
from tests.tls import TlsProxy


@pytest.fixture
def proxy(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> Iterator[TlsProxy]:
    made = TlsProxy(redis_server.socket, tmp_path)
    yield made
    made.close()


def test_an_app_s_tls_is_used(proxy: TlsProxy) -> None:
    """``broker_use_ssl`` counts where the URL says nothing of TLS: a dispatcher of that app gets the lead."""
    app = Celery("theirs", broker=f"redis://localhost:{proxy.port}/0", set_as_current=False)
    app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(proxy.certificate)}
    dispatcher = build_dispatcher(Settings(), app).dispatcher
    assert dispatcher.step().leads
    dispatcher.resign()


@pytest.mark.parametrize("word", ["CERT_REQUIRED", "required"])
def test_celery_s_words_in_the_url(proxy: TlsProxy, word: str) -> None:
    """The URL that Celery takes is taken here."""
    with connect(f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={proxy.certificate}&ssl_cert_reqs={word}") as client:
        assert client.ping()


def test_a_certificate_that_nobody_vouches_for_is_refused(proxy: TlsProxy) -> None:
    """TLS without a check would let anybody in between read and answer."""
    with connect(f"rediss://localhost:{proxy.port}/0") as client, pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        client.ping()


def test_tls_of_the_broker_is_not_asked_of_a_local_socket(redis_url: str) -> None:
    """``DISPATCHER_REDIS_URL`` may name another Redis than the app does."""
    with connect(redis_url, options=tls_options({"ssl_cert_reqs": ssl.CERT_REQUIRED})) as client:
        assert client.ping()
    assert tls_options(None) == {}
