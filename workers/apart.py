"""Runs the lines of a chunk one by one in a process of their own, so that a line which kills its process fails alone.

For chunks that died with their process or worker before. ``python -m workers.apart`` is the other side: it reads a
chunk from its standard input and writes one JSON answer a line. Slow, for it loads the model anew and batches nothing;
a chunk seldom comes here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from dispatcher.errors import Unavailable
from workers.chunk import USAGE_FIELDS, run_chunk
from workers.runtimes import LoadedRuntimes, Rejected

PROCESS_DIED = "process_died"
"""Code of the error of a line that killed the process it ran in."""


def run_apart(chunk: dict[str, Any], *, request_id: str) -> dict[str, Any]:
    """As :func:`workers.chunk.run_chunk`, but a line whose process dies gets an error of its own, and no response.

    Raises :class:`Unavailable` where the process cannot begin: it dies before the first line, or lacks something.
    """
    lines: list[dict[str, Any]] = chunk["lines"]
    answered: list[dict[str, Any]] = []
    usage = dict.fromkeys(USAGE_FIELDS, 0)
    result = {"lines": answered, "usage": usage}
    while len(answered) < len(lines):
        with _process(chunk | {"lines": lines[len(answered) :]}, request_id) as (process, answers):
            ready = False
            for raw in answers:
                if not raw.endswith(b"\n"):
                    break  # torn: it died while it wrote
                answer = json.loads(raw)
                if "error" in answer:
                    raise Unavailable(answer["error"])
                if ready:
                    answered += answer["lines"]
                    for field in USAGE_FIELDS:
                        usage[field] += answer["usage"][field]
                if len(answered) == len(lines):
                    return result  # a thread of the model may keep its process for ever
                ready = True
            code = process.wait()
        if not ready:
            raise Unavailable(f"the model {chunk['model']!r} brings its process down before the first line: {_how(code)}")
        answered.append(_died(lines[len(answered)], code))
    return result


def _died(line: dict[str, Any], code: int) -> dict[str, Any]:
    error = {"code": PROCESS_DIED, "message": f"the process died while it ran this line: {_how(code)}"}
    return {"index": line["index"], "custom_id": line["custom_id"], "response": None, "error": error}


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


@contextmanager
def _process(chunk: dict[str, Any], request_id: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The other side, at work on the chunk; it does not outlive the ``with``, nor this process: its input ends with
    either.
    """
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ,
        process_group=0,  # Ctrl-C is the worker's, which finishes what it runs: no line has died of it
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with suppress(BrokenPipeError):  # it died at once; its answers say so
            process.stdin.write(json.dumps({"chunk": chunk, "request_id": request_id}).encode() + b"\n")
            process.stdin.flush()
        yield process, process.stdout
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.close()


def main() -> None:
    """Answer the chunk that comes in: one line to say that the model is loaded, then one for each of its lines."""
    asked = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a model prints is no answer
    chunk, runtimes = asked["chunk"], LoadedRuntimes()

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer).encode() + b"\n")

    try:
        with suppress(Rejected), runtimes.use(chunk["model"]):
            pass
        say({"ready": True})
        for line in chunk["lines"]:
            say(run_chunk(chunk | {"lines": [line]}, runtimes, request_id=asked["request_id"], may_exit=True))
    except Exception as exc:  # noqa: BLE001 (the other side raises it)
        say({"error": f"{type(exc).__name__}: {exc}"})


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not sys.stdin.read(): an interpreter that ends aborts over its lock
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
