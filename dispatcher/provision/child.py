"""Child processes that cannot outlive us: own process group, output in a file, stopped within a bound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from dispatcher.clock import Clock, SystemClock
from dispatcher.errors import Unavailable

# Runs in the child before the program does. Linux then signals the child when the thread that started it ends; the look
# at the parent closes the gap in which that happened before the request. The program replaces this interpreter.
_TIE_TO_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
if os.getppid() != int(sys.argv[1]): os._exit(1)
os.execvp(sys.argv[3], sys.argv[3:])
"""
_TIES = sys.platform == "linux"


class Child:
    """One process, its group, and its log. Made by :class:`Children`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """``None`` while it runs; negative: the signal that ended it. Reaps it."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Signal the process alone; nothing happens when it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the whole group, at once."""
        # While the child is not reaped its pid, which is the group's, can be nobody else's.
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self._process.kill()
            self._process.wait()

    def log_tail(self, lines: int = 3) -> str:
        """The last lines it wrote, joined by `` | ``; empty when it wrote none."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 8192))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])


class Children:
    """Starts processes and knows those that have not been reaped. Thread-safe.

    On Linux they die with us, however we die. One thread starts them all, because Linux means the thread when it says
    parent, and callers' threads come and go.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="start-processes")
        self._children: list[Child] = []

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str],
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> Child:
        """Start ``command`` in its own process group, so that Ctrl-C in the terminal reaches only us; output goes to the end of ``log``.
        Raises :class:`Unavailable` where the system has no room for another process or file now.

        ``death_signal`` is what it gets should we die without a word.
        """
        return self._starter.submit(self._start, name, list(command), log, dict(environ), death_signal).result()

    def _start(self, name: str, command: list[str], log: Path, environ: dict[str, str], death_signal: signal.Signals) -> Child:
        if _TIES:
            command = [sys.executable, "-I", "-S", "-c", _TIE_TO_PARENT, str(os.getpid()), str(int(death_signal)), *command]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                child = Child(name, _popen(command, output, environ), log)
        except OSError as exc:
            raise Unavailable(f"cannot start {name}, with its log in {log}: {exc.strerror or exc}") from exc
        self._children.append(child)
        return child

    def forget(self, child: Child) -> None:
        """No longer ours to stop: it has ended."""
        if child in self._children:
            self._children.remove(child)

    def stop(self, children: Iterable[Child], *, timeout_s: float) -> None:
        """SIGTERM to all of them; SIGKILL to those that have not ended after ``timeout_s``. Returns when all have ended."""
        left = [child for child in children if child.exit_code is None]
        try:
            for child in left:
                child.signal(signal.SIGTERM)
            deadline_ms = self._clock.monotonic_ms() + round(timeout_s * 1000)
            while left and self._clock.monotonic_ms() < deadline_ms:
                self._clock.sleep(0.02)
                left = [child for child in left if child.exit_code is None]
        finally:  # a second Ctrl-C lands here
            for child in left:
                child.kill()

    def close(self) -> None:
        """Kill whatever is left. Nothing can be started afterwards."""
        self._starter.shutdown(wait=True)
        for child in self._children:
            child.kill()


def _popen(command: list[str], output: BinaryIO, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    # Not a session of its own: Linux shares the processor out among sessions first (autogroup), so a worker with two
    # slots would get no more of a busy machine than one with one.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environ, process_group=0)
