"""Quick starts of ``celery`` and ``dispatcher``: processes forked off an interpreter that has imported all they import.

To import Celery, with Flower among its commands, takes most of a second of processor time; the suite starts some hundred workers.
A fork has nothing that a fresh interpreter has not but those modules: none of them reads the environment, a clock or the process id
when it is imported. It has its own session, environment and output, and runs ``python -m MODULE`` from its first line to its last.
What is promised of the command itself (``dispatcher up``, the demo, the wheel) is tried with fresh interpreters.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import random
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parent.parent

PYTHONPATH = os.environ.get("PYTHONPATH")
"""As the interpreters have it: a test may set another."""

IMPORTS = {
    "celery": (
        "celery.bin.celery", "celery.apps.worker", "celery.backends.redis", "celery.concurrency.prefork", "celery.concurrency.solo",
        "celery.concurrency.thread", "celery.worker.components", "celery.worker.consumer", "celery.worker.control",
        "concurrent.futures.thread", "kombu.transport.redis", "dispatcher.settings", "dispatcher.worker",
    ),
    "dispatcher": ("dispatcher.cli", "dispatcher.wiring", "celery.backends.redis", "kombu.transport.redis"),
}  # fmt: skip
"""What a program imports before it imports the app. A worker's has no numpy, as a worker has none."""


class Child:
    """A process that an interpreter forked: as much of a ``Popen`` as tests use."""

    def __init__(self, interpreter: Interpreter, pid: int) -> None:
        self._interpreter = interpreter
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; ``None`` while the process lives."""
        if self.returncode is None:
            self.returncode = self._interpreter.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline_s = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline_s:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, sig: int) -> None:
        """Does nothing when the process has ended: its id may be another's by now."""
        if self.poll() is None:
            os.kill(self.pid, sig)


class Interpreter:
    """An interpreter with the modules of one program. It ends when the process that made it does."""

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.interpreters", module, str(theirs.fileno())], cwd=ROOT, pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONWARNINGS": "ignore"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._stream = ours.makefile("rw")
        self._lock = threading.Lock()

    def ask(self, **question: Any) -> Any:
        with self._lock:
            print(json.dumps(question), file=self._stream, flush=True)
            answer = self._stream.readline()
        assert answer, f"the interpreter has ended with {self._process.poll()}"
        return json.loads(answer)


@functools.cache
def interpreter(module: str) -> Interpreter:
    return Interpreter(module)


def start_python(command: Sequence[str], env: dict[str, str], log: Path) -> Child | subprocess.Popen[bytes]:
    """Start ``python -m MODULE …`` in the folder of the repository and a session of its own, its output appended to a file.

    A fresh interpreter runs it where the module is none of :data:`IMPORTS`, or ``env`` says where else to import from.
    """
    python, option, module, *arguments = command
    if (python, option) == (sys.executable, "-m") and module in IMPORTS and env.get("PYTHONPATH") == PYTHONPATH:
        log.touch()
        parent = interpreter(module)
        return Child(parent, parent.ask(start=arguments, env=env, log=str(log)))
    with log.open("ab") as file:
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def serve(stream: TextIO) -> list[str] | None:
    """Fork and report as asked. Returns the arguments of the program in each process that was forked, ``None`` in the end."""
    for line in stream:
        question = json.loads(line)
        if "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif answer := os.fork():
            pass
        else:
            become(question["env"], question["log"])
            return list(question["start"])
        print(json.dumps(answer), file=stream, flush=True)
    return None


def become(env: dict[str, str], log: str) -> None:
    """Part from the interpreter: session, environment, output and luck."""
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    random.seed()


def main(module: str, descriptor: str) -> None:
    for name in IMPORTS[module]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(descriptor)) as channel, channel.makefile("rw") as stream:
        arguments = serve(stream)
    if arguments is not None:
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
