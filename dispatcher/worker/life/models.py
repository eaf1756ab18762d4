"""Which models this worker has in memory. The code that loads them reports it, in any of the worker's processes.

The processes of a prefork pool are forked from the worker's main process and inherit a pipe to it, so a report needs
neither Redis nor a thread of its own; the next beat carries it on. A line of the pipe is one change, and short enough
to be written in one piece.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from select import PIPE_BUF

import msgspec

from dispatcher.clock import SystemClock
from dispatcher.core.facts.evidence import Memory

LOADS_KEPT = 1_000
"""How many loads are remembered: their time is subtracted from that of the jobs that waited for them."""

_clock = SystemClock()
"""The same in all processes of a machine; Celery's, by which jobs begin, is too."""

_lock = threading.Lock()
_memory: ModelMemory | None = None
_resident: frozenset[str] | None = None
"""The models that this process reported last; ``None``: it has reported nothing yet. The lock guards this and the names
below.
"""
_sent: dict[str, str] = {}
"""The part of it that is in the outbox or the pipe: model → ``has`` or ``loads``."""
_outbox: deque[bytes] = deque()
_models_max = 0


def models_max() -> int:
    """How many models each process of this worker may have in memory at once (``--models-max``); 0: any number."""
    return _models_max


def report_models(
    resident: Iterable[str], load_s: Mapping[str, float] | None = None, *, loading: Iterable[str] = ()
) -> None:
    """Say which models this process has in memory now, and how long those took that it has just loaded, one after the
    other.

    ``report_models({"chat@1"}, {"chat@1": 12.0})``: names as jobs have them, version included. To be called after a
    model was loaded and after one was dropped, from any thread; before a load too, with what is ``loading``, where that
    is easy. The dispatcher then prefers a worker that has a job's model until waiting for it would take longer than a
    load, and takes the time of a load for no part of the job. A worker of which no process ever reports anything is
    taken to have nothing to load.

    Does nothing that can fail or wait; outside a worker it only remembers.
    """
    global _resident
    with _lock:
        _resident = frozenset(resident)
        now_ms = at_ms = _clock.monotonic_ms()
        lines = []
        for model, seconds in reversed(list((load_s or {}).items())):
            took_ms = round(seconds * 1000)
            lines.append(_line("loaded", model, at_ms, took_ms))
            at_ms -= took_ms
        _outbox.extend(reversed(lines))
        _send_changes(dict.fromkeys(sorted(loading), "loads") | dict.fromkeys(sorted(_resident), "has"), now_ms)


def _send_changes(now: dict[str, str], now_ms: int) -> None:
    """Send what has changed. Where the pipe is full, the rest goes with the next report."""
    if _memory is None:
        _outbox.clear()
        return
    _outbox.append(_line("says"))
    _outbox.extend(_line(what, model, now_ms) for model, what in now.items() if _sent.get(model) != what)
    _outbox.extend(_line("dropped", model, now_ms) for model in sorted(_sent.keys() - now.keys()))
    _sent.clear()
    _sent.update(now)
    with suppress(OSError):
        while _outbox:
            if len(_outbox[0]) <= PIPE_BUF:
                os.write(_memory.write_end, _outbox[0])
            _outbox.popleft()


def _line(what: str, model: str = "", at_ms: int = 0, took_ms: int = 0) -> bytes:
    return msgspec.json.encode([os.getpid(), what, model, at_ms, took_ms]) + b"\n"


def _forked() -> None:
    """A child has reported nothing yet; what its parent has in memory the parent reports."""
    global _lock, _resident
    _lock = threading.Lock()
    _resident = None
    _sent.clear()
    _outbox.clear()


os.register_at_fork(after_in_child=_forked)


class ModelMemory:
    """The main process' end of the pipe: what all of the worker's processes have reported. Made before the pool; any
    thread may use it.
    """

    def __init__(self, models_max: int = 0) -> None:
        global _memory, _models_max
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self.write_end, False)
        self._unread = b""
        self._closed = self._heard = False
        self._lock = threading.Lock()
        self._has: dict[int, dict[str, tuple[str, int]]] = {}  # pid → model → has or loads, since when
        self._loads: dict[str, tuple[int, int]] = {}
        self._spans: deque[tuple[int, str, int, int]] = deque(maxlen=LOADS_KEPT)  # pid, model, from and to when it was loaded
        with _lock:
            _memory, _models_max = self, models_max
            _sent.clear()
            if _resident is not None:  # what the main process loaded before the worker was made
                _send_changes(dict.fromkeys(sorted(_resident), "has"), _clock.monotonic_ms())

    def read(self) -> Memory | None:
        """All of it, as a beat carries it; ``None`` while no process has said anything.

        Resident are the models that at least half of those processes have in memory that have any.
        """
        with self._lock:
            self._listen()
            if not self._heard:
                return None
            for pid in [pid for pid in self._has if not _lives(pid)]:
                del self._has[pid]
            has = [{model for model, (what, _) in states.items() if what == "has"} for states in self._has.values()]
            return Memory(sorted(resident(has)), dict(self._loads))

    def loading_ms(self, pid: int, model: str, from_ms: int, to_ms: int) -> int:
        """For how much of that time a job of ``model`` in process ``pid`` waited for a load: one of its model, or of
        any in a process that does one job at a time.
        """
        alone, total_ms = pid != os.getpid(), 0
        with self._lock:
            self._listen()
            for whose, which, began_ms, ended_ms in reversed(self._spans):
                if ended_ms <= from_ms:
                    break
                if whose == pid and (alone or which == model):
                    total_ms += max(0, min(ended_ms, to_ms) - max(began_ms, from_ms))
            for which, (what, since_ms) in self._has.get(pid, {}).items():
                if what == "loads" and (alone or which == model):
                    total_ms += max(0, to_ms - max(since_ms, from_ms))
        return min(total_ms, to_ms - from_ms)

    def _listen(self) -> None:
        for line in self._lines():
            pid, what, model, at_ms, took_ms = msgspec.json.decode(line, type=tuple[int, str, str, int, int])
            self._heard = True
            has = self._has.setdefault(pid, {})
            if what in ("has", "loads"):
                has[model] = what, at_ms
            elif what == "dropped":
                has.pop(model, None)
            elif what == "loaded":
                count, total_ms = self._loads.get(model, (0, 0))
                self._loads[model] = count + 1, total_ms + took_ms
                self._spans.append((pid, model, at_ms - took_ms, at_ms))

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
    """The models that at least half of the processes with a model have in memory: a job's chance to find its model is
    even or better.

    A process without any model has run nothing yet, so it says nothing about the next job: a lightly loaded pool uses
    few processes.
    """
    holders = [models for models in has if models]
    return {model for model in set().union(*holders) if 2 * sum(model in models for models in holders) >= len(holders)}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody's
        return True
    return True
