"""``hash-384``: a lexical embedding by feature hashing. No weights, no learning: texts are near when they share
letters.

Character 3- to 5-grams of each word (the word between two spaces, as scikit-learn's ``char_wb`` has it) are hashed with
CRC-32 into 384 signed buckets, and the sum is scaled to length 1. The same on every machine; standard library only.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import Final
from zlib import crc32

from workers.runtimes.base import Answer, Body
from workers.runtimes.embeddings import EMBEDDINGS_URL, run_embeddings

DIMENSIONS: Final = 384
GRAM_SIZES: Final = (3, 4, 5)


@lru_cache(maxsize=50_000)
def _buckets(word: str) -> tuple[tuple[int, int], ...]:
    """(bucket, signed count) of every gram of one word; words repeat, so this is worth remembering."""
    padded = f" {word} ".encode()
    counts: Counter[int] = Counter()
    for size in GRAM_SIZES:
        for start in range(max(1, len(padded) - size + 1)):
            value = crc32(padded[start : start + size])
            counts[value % DIMENSIONS] += 1 if value & 0x8000_0000 else -1
    return tuple(counts.items())


def embed(text: str) -> list[float]:
    """384 numbers, length 1; all zero only for a text without any word."""
    vector = [0.0] * DIMENSIONS
    for word in text.lower().split():
        for bucket, count in _buckets(word):
            vector[bucket] += count
    norm = math.sqrt(sum(x * x for x in vector))
    return [x / norm for x in vector] if norm else vector


class HashRuntime:
    """Serves ``/v1/embeddings`` with :func:`embed`; a token is a word."""

    endpoints = frozenset({EMBEDDINGS_URL})

    def load(self) -> None:
        """Nothing to load."""

    def run(self, batch: list[Body]) -> list[Answer]:
        return run_embeddings(batch, model="hash-384", dimensions=DIMENSIONS, encode=self._encode)

    def probe(self) -> None:
        if not math.isclose(math.hypot(*embed("probe")), 1.0, rel_tol=1e-9):
            raise RuntimeError("hash-384 gave a vector whose length is not 1")

    def close(self) -> None:
        """Nothing to close."""

    @staticmethod
    def _encode(texts: list[str]) -> tuple[list[list[float]], list[int]]:
        return [embed(text) for text in texts], [len(text.split()) for text in texts]
