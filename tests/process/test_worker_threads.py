"""Real workers whose jobs compute with NumPy: how many threads its BLAS has there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.worker.threads import COUNTS, cores_here
from tests.worker_harness import Cell, log_lines, open_cell


@pytest.fixture
def cell(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cell]:
    for name in (*COUNTS, "TOKENIZERS_PARALLELISM"):
        monkeypatch.delenv(name, raising=False)
    with open_cell(redis_url, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
@pytest.mark.parametrize("first", ["numpy", "attach"])
def test_a_workers_slots_share_the_cores(cell: Cell, pool: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every pool, also where the app imports NumPy before it attaches; the log and ``status`` say so."""
    if first == "numpy":
        monkeypatch.setenv("TEST_NUMPY_FIRST", "1")
    slots = 1 if pool == "solo" else cores_here()
    worker = cell.spawn(pool=pool, concurrency=slots)
    share = cores_here() // slots
    assert cell.send("threads_of_blas")[0].get() == share
    (shown,) = AdminStore(cell.client, cell.keys).status()["workers"]
    assert shown["threads"] == share
    assert log_lines(worker, rf"{share} threads? of BLAS, .* for each of {slots} slots?")


def test_a_worker_may_be_given_more(cell: Cell) -> None:
    """As many as ``--threads`` says, whatever the environment does."""
    cell.spawn(concurrency=cores_here(), options=("--threads", "2"))
    assert cell.send("threads_of_blas")[0].get() == min(2, cores_here())
