"""A chunk that runs apart, in real processes: a line that kills its process fails alone."""

from __future__ import annotations

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


def test_where_no_line_is_at_fault_the_chunk_fails() -> None:
    """The model cannot be loaded."""
    with pytest.raises(Unavailable, match="nothing"):
        run_apart(chunk("a", "b", model="missing"), request_id="r")
