"""Divides a batch into chunks. The same lines and budgets give the same chunks, so that a batch can be resumed.

Lines of similar length go together, because a chunk is padded to its longest line: in arrival order, padding made
all-MiniLM-L6-v2 on a CPU 4 times slower than no batching at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from dispatcher.batches.lines import Line

CHUNK_COST_S: Final = 0.005
TOKEN_COST_S: Final = 0.0004
"""Expected work on a worker of weight 1: a small encoder on one CPU core (all-MiniLM-L6-v2 took 0.35 ms a token)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines that one task runs: all of one model and one URL, the shortest first."""

    number: int
    lines: tuple[Line, ...]

    @property
    def model(self) -> str:
        return self.lines[0].model

    @property
    def url(self) -> str:
        return self.lines[0].url

    @property
    def cost_s(self) -> float:
        """Expected seconds of work on a worker of weight 1."""
        return cost_s(self.lines)


def cost_s(lines: Sequence[Line]) -> float:
    """Expected seconds of work on a worker of weight 1."""
    return round(CHUNK_COST_S + TOKEN_COST_S * sum(line.tokens for line in lines), 6)


def plan_chunks(lines: Sequence[Line], *, tokens_max: int, lines_max: int) -> list[Chunk]:
    """Put every line in exactly one chunk of at most ``lines_max`` lines and ``tokens_max`` padded tokens.

    A line that alone exceeds ``tokens_max`` gets a chunk of its own. Large chunks come first, so that only small chunks
    are left for the end, when some workers have nothing to do.
    """
    ordered = sorted(lines, key=lambda line: (line.model, line.url, line.tokens, line.index))
    packed: list[tuple[Line, ...]] = []
    for _, group in groupby(ordered, key=lambda line: (line.model, line.url)):
        chunk: list[Line] = []
        for line in group:  # shortest first, so this line is the longest of the chunk it joins
            if chunk and (len(chunk) == lines_max or line.tokens * (len(chunk) + 1) > tokens_max):
                packed.append(tuple(chunk))
                chunk = []
            chunk.append(line)
        packed.append(tuple(chunk))
    packed.sort(key=lambda chunk: (-sum(line.tokens for line in chunk), chunk[0].index))
    return [Chunk(number, chunk) for number, chunk in enumerate(packed)]
