"""What a batch file says of a chunk that nobody finished, without Redis."""

from __future__ import annotations

import pytest
from celery import states

from dispatcher.batches.lines import Line
from dispatcher.batches.outcomes import outcome
from dispatcher.core.returns.ending import DEADLINE_PASSED
from dispatcher.errors import JobDead


@pytest.mark.parametrize(
    ("reason", "code"),
    [(DEADLINE_PASSED, "batch_expired"), ("unknown_model", "model_not_found"), ("worker_died", "job_dead")],
)
def test_a_dead_letter_is_told_in_openais_words(reason: str, code: str) -> None:
    """Where they have one for its reason; the text is the dead letter's own."""
    meta = {"status": states.FAILURE, "result": JobDead(reason, "why")}
    (line,) = outcome(meta, [Line(0, "a", "minilm", "/v1/embeddings", 1, 0, 2)], "p").lines
    assert (line["custom_id"], line["response"], line["error"]) == ("a", None, {"code": code, "message": f"{reason}: why"})
