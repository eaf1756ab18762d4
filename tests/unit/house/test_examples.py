"""What lies in ``examples/`` is what the product accepts."""

from __future__ import annotations

from pathlib import Path

from dispatcher.batches import read_batch

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_the_example_batch_is_in_order() -> None:
    """A newcomer's first file must not fail."""
    batch = read_batch(EXAMPLES / "embeddings.jsonl")

    assert {line.model for line in batch.lines} == {"hash-384"}


def test_the_python_example_compiles() -> None:
    """With the names it imports spelled right."""
    source = (EXAMPLES / "submit_batch.py").read_text()

    compile(source, "submit_batch.py", "exec")
