"""TLS in front of a Redis: not every Redis was built with it, and what matters is how its clients ask."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

CHUNK_BYTES = 65536


class TlsProxy:
    """A port of the loopback interface that speaks TLS and forwards to the unix socket of a Redis, from a thread of its own.

    Its certificate is its own, for ``localhost``; ``certificate`` vouches for it.
    """

    def __init__(self, target: Path, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl to make a certificate with")
        self._target = str(target)
        self.certificate, key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
             "subjectAltName=DNS:localhost", "-keyout", key, "-out", self.certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._ask(asyncio.start_server(self._forward, "127.0.0.1", 0, ssl=context))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def url(self, db: int = 0) -> str:
        """With all that a client needs to trust it."""
        return f"rediss://localhost:{self.port}/{db}?ssl_cert_reqs=required&ssl_ca_certs={self.certificate}"

    def close(self) -> None:
        """End every connection, and the thread."""
        self._ask(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _ask(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._target)
        await asyncio.gather(_copy(reader, back), _copy(there, writer), return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
            await target.drain()
    finally:
        target.close()
