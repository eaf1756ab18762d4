"""The stable hash, and the three numbers made of it. If a value here changes, running cells change under their users."""

from __future__ import annotations

import pytest

from dispatcher.core.admission.prefix import slot_of_text
from dispatcher.core.facts.hashing import stable_hash
from dispatcher.core.rollout.aliases import point

KNOWN = [
    ("", 0xE4A6A0577479B2B4, 692, 6640),
    ("0", 0x842B7D9D43CDDF75, 1909, 9127),
    ("user-7", 0x3ED2300010177099, 153, 2379),
    ("gpu1@host", 0x77A4B33BE58F3A7F, 639, 1578),
    ("slot 17", 0x8B81574BF92AF2D3, 723, 4148),
    ("naïve ✓", 0xC49EED55DD4CFBF0, 1008, 1357),
    ("half \ud800 pair", 0x19F9F37237701687, 1671, 9755),
]


@pytest.mark.parametrize(("text", "bits", "slot", "place"), KNOWN)
def test_hashes_never_change(text: str, bits: int, slot: int, place: int) -> None:
    """In every process, on every machine, after every upgrade: a session keeps its slot and its side of a rollout, a worker its slots."""
    assert stable_hash(text) == bits
    assert slot_of_text(text) == slot
    assert point("chat", text) == place


def test_an_alias_and_a_key_do_not_run_together() -> None:
    """The alias is hashed too: not the same users try the canaries of every model."""
    assert point("user-7", "user-7") == 8741
    assert point("0", "user-7") == 1498
