"""Which of pytest-xdist's processes runs which test.

Tests of ``tests/process`` and ``tests/integration`` wait most of their time, for processes of their own; the others keep a processor
busy. So one process computes and the others wait beside it, more of them than there are processors, and whoever is done first helps.
What waits goes out test by test, a file only where its tests share a fixture: none is left alone at the end with a long file.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

WAITING = ("tests/process", "tests/integration")
COMPUTING = ("tests/simulation", "tests/unit", "tests/lua")
COMPUTES = "gw0"
"""The process that begins with what computes."""


@functools.cache
def shares_a_fixture(file: str) -> bool:
    return 'scope="module"' in Path(file).read_text()


class Schedule(LoadScopeScheduling):
    """Units of work are tests of :data:`WAITING`, and files of the rest."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.startswith(WAITING) and not shares_a_fixture(file) else file

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """xdist compares a list with the tuple of a process that replaces one that was killed, and fails."""
        super().add_node_collection(node, list(collection))

    def _assign_work_unit(self, node: WorkerController) -> None:
        order = (COMPUTING + WAITING) if node.gateway.id == COMPUTES else (WAITING + COMPUTING)

        def rank(unit: str) -> int:
            return next((at for at, folder in enumerate(order) if unit.startswith(folder)), len(order))

        self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
        super()._assign_work_unit(node)
