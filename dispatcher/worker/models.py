"""Which models this worker has in memory, told by whoever loads them, in whichever of the worker's processes that happens.

The processes of a prefork pool are forked from the worker's main one and inherit a pipe to it, so a report needs neither Redis nor
a thread of its own; the next beat carries it on. A line of the pipe is one change, and short enough to be written in one piece.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from select import PIPE_BUF

import msgspec

from dispatcher.core.evidence import Memory

_lock = threading.Lock()
_memory: ModelMemory | None = None
_resident: frozenset[str] | None = None
"""What this process said last; ``None``: nothing yet. Guarded by the lock, as what follows."""
_told: set[str] = set()
"""What of it has been put into the outbox."""
_outbox: deque[bytes] = deque()
_models_max = 0


def models_max() -> int:
    """How many models each process of this worker may have in memory at once (``--models-max``); 0: any number."""
    return _models_max


def report_models(resident: Iterable[str], load_s: Mapping[str, float] | None = None) -> None:
    """Say which models this process has in memory now, and how long those took that it has loaded since its last report.

    ``report_models({"chat@1"}, {"chat@1": 12.0})``: names as jobs have them, version included. To be called after a model was
    loaded and after one was dropped, from any thread. The dispatcher then prefers a worker that has a job's model until waiting for
    it would take longer than a load. A worker of which no process ever reports anything is taken to have nothing to load.

    Does nothing that can fail or wait; outside a worker it only remembers.
    """
    global _resident
    with _lock:
        _resident = frozenset(resident)
        _outbox.extend(_line("load", model, round(seconds * 1000)) for model, seconds in (load_s or {}).items())
        _tell()


def _tell() -> None:
    """Send what has changed. Where the pipe is full, the rest goes with the next report."""
    if _memory is None or _resident is None:
        _outbox.clear()
        return
    _outbox.append(_line("says"))
    _outbox.extend(_line("has", model) for model in sorted(_resident - _told))
    _outbox.extend(_line("dropped", model) for model in sorted(_told - _resident))
    _told.clear()
    _told.update(_resident)
    with suppress(OSError):
        while _outbox:
            if len(_outbox[0]) <= PIPE_BUF:
                os.write(_memory.write_end, _outbox[0])
            _outbox.popleft()


def _line(what: str, model: str = "", load_ms: int = 0) -> bytes:
    return msgspec.json.encode([os.getpid(), what, model, load_ms]) + b"\n"


def _forked() -> None:
    """A child has said nothing yet; what its parent holds is the parent's to tell."""
    global _lock, _resident
    _lock = threading.Lock()
    _resident = None
    _told.clear()
    _outbox.clear()


os.register_at_fork(after_in_child=_forked)


class ModelMemory:
    """The main process' end: what all of a worker's processes have said. Made before the pool is; one thread may use it at a time."""

    def __init__(self, models_max: int = 0) -> None:
        global _memory, _models_max
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self.write_end, False)
        self._unread = b""
        self._closed = self._heard = False
        self._has: dict[int, set[str]] = {}
        self._loads: dict[str, tuple[int, int]] = {}
        with _lock:
            _memory, _models_max = self, models_max
            _told.clear()
            _tell()  # what the main process loaded before the worker was made

    def read(self) -> Memory | None:
        """All of it, as a beat carries it; ``None`` while no process has said anything.

        Resident are the models that at least half of those processes have in memory that have any.
        """
        for line in self._lines():
            pid, what, model, load_ms = msgspec.json.decode(line, type=tuple[int, str, str, int])
            self._heard = True
            has = self._has.setdefault(pid, set())
            if what == "has":
                has.add(model)
            elif what == "dropped":
                has.discard(model)
            elif what == "load":
                count, total_ms = self._loads.get(model, (0, 0))
                self._loads[model] = count + 1, total_ms + load_ms
        if not self._heard:
            return None
        for pid in [pid for pid in self._has if not _lives(pid)]:
            del self._has[pid]
        return Memory(sorted(resident(self._has.values())), dict(self._loads))

    def _lines(self) -> list[bytes]:
        with _lock, suppress(BlockingIOError):
            while not self._closed and (part := os.read(self._read_end, 65536)):
                self._unread += part
        *lines, self._unread = self._unread.split(b"\n")
        return lines

    def close(self) -> None:
        """What is reported from here on is only remembered."""
        global _memory
        with _lock:
            if self._closed:
                return
            self._closed = True
            if _memory is self:
                _memory = None
            os.close(self._read_end)
            os.close(self.write_end)


def resident(has: Iterable[set[str]]) -> set[str]:
    """The models that at least half of those processes have that have any: a job's chance to find its model there is even or better.

    A process without any has run nothing yet, so it says nothing about the next job either: a lightly loaded pool uses few of them.
    """
    holders = [one for one in has if one]
    return {model for model in set().union(*holders) if 2 * sum(model in one for one in holders) >= len(holders)}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody's
        return True
    return True
