"""A chunk that runs apart, in real processes: a line that kills its process fails alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from dispatcher.errors import Unavailable
from workers.apart import run_apart


def chunk(*inputs: str, model: str = "deadly", url: str = "/v1/embeddings") -> dict[str, Any]:
    lines = [{"index": 10 + n, "custom_id": f"c{n}", "body": {"input": text}} for n, text in enumerate(inputs)]
    return {"model": model, "url": url, "lines": lines}


@pytest.fixture(autouse=True)
def _deadly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS_CALLABLES", "deadly=tests.deadly_model:answer,missing=tests.deadly_model:nothing")


def test_only_the_lines_that_kill_fail() -> None:
    """Each with how its process died; the others are answered, in order, whatever the model prints; what fails as ever fails as ever."""
    result = run_apart(chunk("a", "die", "print", "fail", "exit", "b"), request_id="r")

    lines = result["lines"]
    assert [(one["index"], one["custom_id"]) for one in lines] == [(10 + n, f"c{n}") for n in range(6)]
    assert [lines[n]["error"] for n in (0, 2, 3, 5)] == [None] * 4
    assert [lines[n]["response"]["body"]["said"] for n in (0, 2, 5)] == ["a", "print", "b"]
    assert lines[3]["response"]["status_code"] == 500
    assert [lines[n]["response"] for n in (1, 4)] == [None, None]
    assert lines[1]["error"] == {"code": "process_died", "message": "the process died while it ran this line: SIGKILL"}
    assert lines[4]["error"]["message"].endswith("exit code 3")
    assert result["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}


@pytest.mark.parametrize(("model", "text", "code"), [
    ("deadly", "a", 0), ("deadly", "cancel", 0), ("deadly", "sys.exit", 3), ("hash-384", "a", 0),
])  # fmt: skip
def test_the_process_ends_as_its_model_ends_it(model: str, text: str, code: int) -> None:
    """In order, after its last line; where the model calls ``sys.exit``, with the code that it says; never by a signal."""
    asked = {"chunk": chunk(text, model=model), "request_id": "r"}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-m", "workers.apart"], stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin is not None
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    process.stdin.flush()  # and stays open, as that of a worker does

    assert (process.wait(30), process.stderr and process.stderr.read()) == (code, b"")

    for end in (process.stdin, process.stdout, process.stderr):
        assert end is not None
        end.close()


def test_a_line_that_ends_its_process_is_told_with_the_code() -> None:
    """And one that raises no ``Exception`` is answered as others that raise."""
    lines = run_apart(chunk("a", "sys.exit", "cancel", "b"), request_id="r")["lines"]

    assert lines[1]["error"] == {"code": "process_died", "message": "the process died while it ran this line: exit code 3"}
    assert lines[2]["response"]["body"]["error"]["message"] == "CancelledError"
    assert [lines[n]["response"]["body"]["said"] for n in (0, 3)] == ["a", "b"]


def test_a_thread_of_the_model_does_not_keep_the_chunk() -> None:
    """Its process would never end by itself; the answers are there."""
    lines = run_apart(chunk("thread", "a"), request_id="r")["lines"]

    assert [line["response"]["body"]["said"] for line in lines] == ["thread", "a"]


def test_ctrl_c_is_not_for_the_process_of_a_line() -> None:
    """It would die of it, and its line with it, while the worker, in whose terminal it was typed, finishes what it runs."""
    (line,) = run_apart(chunk("group"), request_id="r")["lines"]

    assert line["response"]["body"]["said"] != os.getpgrp()


def test_where_no_line_is_at_fault_the_chunk_fails() -> None:
    """The model cannot be loaded."""
    with pytest.raises(Unavailable, match="nothing"):
        run_apart(chunk("a", "b", model="missing"), request_id="r")
