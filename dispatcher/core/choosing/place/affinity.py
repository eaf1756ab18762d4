"""Which worker a session or a prefix belongs to: weighted rendezvous hashing of its slot, so that no table is kept.

Each (slot, worker) pair has a number that depends on nothing else; the worker with the lowest is the slot's *home*. So
a worker that leaves moves only its own slots, each to wherever it comes second, and one that joins takes only its share
of each other's. Thaler and Ravishankar, 1998; the weighted form, -ln(u) / capacity, gives each worker a share of slots
that is its share of the capacity (Schindelhauer and Schomaker, 2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dispatcher.core.facts.hashing import stable_hash
from dispatcher.core.facts.snapshot import WorkerView

Array = np.ndarray[Any, Any]


_stable_hash = lru_cache(maxsize=65536)(stable_hash)


class Rendezvous:
    """Homes among given workers, each known by an index. Their names count, not their epochs: one that is restarted has
    its slots again.
    """

    def __init__(self, indices: Sequence[int], workers: Sequence[WorkerView]) -> None:
        self._indices = indices
        self._hashes = np.array([_stable_hash(worker.name) for worker in workers], dtype=np.uint64)
        self._capacities = np.array([max(worker.capacity, 1e-9) for worker in workers])
        self._homes: dict[int, int] = {}

    def home(self, slot: int) -> int:
        """Index of the worker that the slot belongs to. There must be one at least."""
        home = self._homes.get(slot)
        if home is None:
            mixed = _mix(self._hashes ^ np.uint64(_stable_hash(f"slot {slot}")))
            uniform = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # 53 bits, never 0 and never 1
            home = self._homes[slot] = self._indices[int(np.argmin(-np.log(uniform) / self._capacities))]
        return home


def _mix(bits: Array) -> Array:
    """The finalizer of splitmix64: every bit of the answer depends on every bit given."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = bits ^ (bits >> np.uint64(31))
    return mixed
