"""The stable hash that sessions, prefixes, workers and rollouts are placed by. It must never change: with it all of
them would move.
"""

from __future__ import annotations

from hashlib import blake2b


def stable_hash(text: str, *, errors: str = "surrogatepass") -> int:
    """64 bits of ``text`` that are the same in every process, on every machine. ``errors`` says how half a surrogate
    pair is encoded.
    """
    return int.from_bytes(blake2b(text.encode(errors=errors), digest_size=8).digest(), "big")
