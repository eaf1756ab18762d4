"""Child processes that cannot outlive this process: own process group, output in a file, stopped within a bound."""

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

# Runs in the child before the program. It asks Linux to signal the child when the thread that started it ends. That
# thread may have ended before it could ask, so it compares the parent's pid. Then the program replaces this process.
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
        """``None`` while the process runs; negative: the signal that ended it. Reading it reaps the process."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Signal the process, not its group. Does nothing if it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the whole group, at once."""
        # Until the child is reaped, no other process can get its pid, which is also the id of its group.
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self._process.kill()
            self._process.wait()

    def log_tail(self, lines: int = 3) -> str:
        """The last lines that the process wrote, joined by `` | ``; empty if it wrote none."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 8192))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])


class Children:
    """Starts processes, and knows which of them have not been reaped. Thread-safe.

    On Linux they die with this process, however it dies. One thread starts them all: for Linux the parent is the thread
    that started the child, and callers' threads come and go.
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
        """Start ``command`` in its own process group, so that Ctrl-C in the terminal reaches only this process.

        Its output goes to the end of ``log``. ``death_signal`` is sent to it if this process dies without stopping it.
        Raises :class:`Unavailable` if the system has no room for another process or file now.
        """
        return self._starter.submit(self._start, name, list(command), log, dict(environ), death_signal).result()

    def _start(
        self, name: str, command: list[str], log: Path, environ: dict[str, str], death_signal: signal.Signals
    ) -> Child:
        if _TIES:
            tie = [sys.executable, "-I", "-S", "-c", _TIE_TO_PARENT, str(os.getpid()), str(int(death_signal))]
            command = [*tie, *command]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                child = Child(name, _popen(command, output, environ), log)
        except OSError as exc:
            raise Unavailable(f"cannot start {name}, with its log in {log}: {exc.strerror or exc}") from exc
        self._children.append(child)
        return child

    def forget(self, child: Child) -> None:
        """Do not stop this child any more: it has ended."""
        if child in self._children:
            self._children.remove(child)

    def stop(self, children: Iterable[Child], *, timeout_s: float) -> None:
        """Send SIGTERM to all, and after ``timeout_s`` SIGKILL to those that still run. Returns when all have ended."""
        left = [child for child in children if child.exit_code is None]
        try:
            for child in left:
                child.signal(signal.SIGTERM)
            deadline_ms = self._clock.monotonic_ms() + round(timeout_s * 1000)
            while left and self._clock.monotonic_ms() < deadline_ms:
                self._clock.sleep(0.02)
                left = [child for child in left if child.exit_code is None]
        finally:  # a second Ctrl-C comes here too
            for child in left:
                child.kill()

    def close(self) -> None:
        """Kill every child that still runs. Nothing can be started afterwards."""
        self._starter.shutdown(wait=True)
        for child in self._children:
            child.kill()


def how_it_ended(exit_code: int) -> str:
    """``exited with 1``, or ``was killed by signal 9``."""
    return f"exited with {exit_code}" if exit_code >= 0 else f"was killed by signal {-exit_code}"


def ended_early(child: Child) -> str:
    """How a process ended that should have become ready, with the end of its log."""
    assert child.exit_code is not None
    return f"{how_it_ended(child.exit_code)} before it was ready: {child.log_tail() or 'it wrote nothing'}"


def _popen(command: list[str], output: BinaryIO, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    # A process group, not a session: Linux divides the processor among sessions first (autogroup), so a worker with two
    # slots would get no more of a busy machine than a worker with one slot.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environ, process_group=0
    )
