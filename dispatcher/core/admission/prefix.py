"""Which slot a prompt's prefix belongs to, so that jobs that share a cached beginning meet on one worker, while a
beginning that all jobs share does not pull them all onto it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from dispatcher.core.facts.hashing import stable_hash
from dispatcher.core.facts.lane import SLOTS

NOWHERE: Final = -1
"""The slot of a job that is as well off on any worker."""

SHARE: Final = 1 / 32
"""A block that more than this share of recent jobs begins with is *common*: many slots' worth of jobs, which one worker
should not have to itself, and so many that every worker has it cached anyway.
"""

COMMON_MIN: Final = 8
"""A block that fewer recent jobs begin with is not common."""

RECENT_JOBS: Final = 1024
"""After so many jobs, what was counted before counts half."""

DEPTH_MAX: Final = 512
"""Blocks of a prefix that are looked at."""


class SlotOfPrefix(Protocol):
    """Maps the hashes of a prompt's leading blocks to a slot from 0 to ``SLOTS`` - 1, or to ``NOWHERE``."""

    def __call__(self, prefix: Iterable[str | int], /) -> int: ...


@dataclass(slots=True)
class PrefixSlots:
    """The slot of a prefix is a stable hash of its first block that is not common: a conversation keeps its slot while
    it grows.

    Which blocks are common is counted here, over recent jobs, in a tree that grows by at most one block a job: a job is
    looked at as far as its blocks are known. The counts are a cache: a new leader has them again after some dozens of
    jobs, and the slots are the same. Memory is bounded, whatever comes.
    """

    _seen: float = 0.0
    _counts: dict[str | int, int] = field(default_factory=dict)
    _common: set[str | int] = field(default_factory=set)
    _until_fading: int = RECENT_JOBS

    def slot_of_prefix(self, prefix: Iterable[str | int], /) -> int:
        """Count a job that begins with these blocks, and return its slot; ``NOWHERE`` if all its blocks are common."""
        if self._until_fading == 0:
            self._fade()
        self._until_fading -= 1
        self._seen += 1
        common_above = max(COMMON_MIN, self._seen * SHARE)
        counts, common, slot = self._counts, self._common, NOWHERE
        for depth, block in enumerate(prefix, 1):
            count = counts[block] = counts.get(block, 0) + 1
            if slot == NOWHERE and block not in common:
                if count > common_above:
                    common.add(block)
                else:
                    slot = slot_of_text(str(block))
            if count == 1 or depth == DEPTH_MAX:
                break
        return slot

    def _fade(self) -> None:
        """Halve all counts. A common block stays common until it has half the share that made it so: it does not come
        and go.
        """
        self._until_fading = RECENT_JOBS
        self._seen /= 2
        self._counts = {block: count // 2 for block, count in self._counts.items() if count > 1}
        common_from = max(COMMON_MIN, self._seen * SHARE) / 2
        self._common = {block for block in self._common if self._counts.get(block, 0) >= common_from}


def slot_of_text(text: str) -> int:
    """The hash bucket of a session, or of a block: the same in every process, for ever."""
    return stable_hash(text) % SLOTS
