"""The state folder of a user's local cluster: it lets one cluster run, and other commands find that cluster's Redis."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final
from urllib.parse import unquote, urlsplit

from dispatcher.errors import Invalid

STATE_VARIABLE: Final = "DISPATCHER_STATE_DIR"

_URL_FILE, _LOCK_FILE = "redis_url", "cluster.lock"


class ClusterRuns(Invalid):
    """A cluster runs in that state folder already."""


def state_folder(environ: Mapping[str, str]) -> Path:
    """The folder where this user's local cluster keeps its socket, data and logs. This function does not create it."""
    if chosen := environ.get(STATE_VARIABLE):
        return Path(chosen).absolute()
    home = environ.get("XDG_STATE_HOME")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".local" / "state"
    return base / "inference-dispatcher"


def find_redis_url(environ: Mapping[str, str]) -> str | None:
    """The Redis URL of the local cluster in this user's state folder; ``None`` if no cluster runs there (any more)."""
    folder = state_folder(environ)
    try:
        url = (folder / _URL_FILE).read_text("utf-8").strip()
    except OSError:
        return None
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return url if _listens(unquote(parts.path)) else None
    return url if _is_locked(folder / _LOCK_FILE) else None


class StateFolder:
    """The state folder while a cluster runs in it: private, locked, and with the URL of the cluster's Redis in a file.

    Entering raises :class:`ClusterRuns` if a cluster runs there already.
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
            raise Invalid(
                f"cannot use {self.path}: {exc.strerror}; set {STATE_VARIABLE} to a folder you can write"
            ) from exc
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
        """Write ``url`` down; from now on other commands find the cluster there."""
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
