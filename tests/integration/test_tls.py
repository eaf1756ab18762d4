"""A Redis behind TLS, as a Celery app names it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from dispatcher.settings import Settings
from dispatcher.store.connection import connect, tls_options
from dispatcher.wiring import build_dispatcher
from tests.support import eventually


@pytest.fixture
def port(tmp_path: Path, redis_executable: str) -> Iterator[int]:
    """A server that speaks TLS alone, with a certificate of its own that ``tmp_path/cert.pem`` vouches for."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    server = subprocess.Popen(
        [redis_executable, "--port", "0", "--tls-port", str(free), "--tls-cert-file", tmp_path / "cert.pem", "--tls-key-file",
         tmp_path / "key.pem", "--tls-ca-cert-file", tmp_path / "cert.pem", "--tls-auth-clients", "no", "--save", "", "--dir", tmp_path],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def listens() -> bool:
        if server.poll() is not None:
            pytest.skip("this Redis was built without TLS")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", free)) == 0

    try:
        eventually(listens)
        yield free
    finally:
        server.terminate()
        server.wait(10)


def test_an_app_s_tls_is_used(port: int, tmp_path: Path) -> None:
    """``broker_use_ssl`` counts where the URL says nothing of TLS: a dispatcher of that app gets the lead."""
    app = Celery("theirs", broker=f"redis://localhost:{port}/0", set_as_current=False)
    app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(tmp_path / "cert.pem")}
    dispatcher = build_dispatcher(Settings(), app).dispatcher
    assert dispatcher.step().leads
    dispatcher.resign()


@pytest.mark.parametrize("word", ["CERT_REQUIRED", "required"])
def test_celery_s_words_in_the_url(port: int, tmp_path: Path, word: str) -> None:
    """The URL that Celery takes is taken here."""
    with connect(f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path / 'cert.pem'}&ssl_cert_reqs={word}") as client:
        assert client.ping()


def test_tls_of_the_broker_is_not_asked_of_a_local_socket(redis_url: str) -> None:
    """``DISPATCHER_REDIS_URL`` may name another Redis than the app does."""
    with connect(redis_url, options=tls_options({"ssl_cert_reqs": ssl.CERT_REQUIRED})) as client:
        assert client.ping()
    assert tls_options(None) == {}
