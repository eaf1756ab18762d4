"""Format numbers of what lies in Redis: which of them a process reads, and what several processes may write. Pure.

One number stands for the layout of all stored records: frames, leases, lanes, registrations, totals, what the leader
has learned, rollouts, decisions, dead letters. `docs/formats.json` has each layout under its number, and `make check`
compares it with the code. A process reads all formats of its range, and writes the newest that every live process
reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple


class Formats(NamedTuple):
    """The formats that a process reads, or that lie in Redis: ``oldest``, ``newest``, and all between."""

    oldest: int
    newest: int

    def covers(self, other: Formats) -> bool:
        """Each format of ``other`` is in this range too."""
        return self.oldest <= other.oldest and other.newest <= self.newest

    def __str__(self) -> str:
        return f"format {self.oldest}" if self.oldest == self.newest else f"formats {self.oldest} to {self.newest}"


FORMATS: Final = Formats(1, 1)
"""What this version reads. Raise ``newest`` with any change that a reader of the last format would misread."""

FORMATS_UNSAID: Final = Formats(1, 1)
"""What a process reads that does not say so, as 0.1.0, and what lies in a cell that was only ever led by such
processes.
"""

_TEXT: Final = re.compile(r"(\d{1,9}) (\d{1,9})")


def encode_formats(formats: Formats) -> str:
    """How a range lies in Redis outside JSON: two numbers and a space, which a script can match."""
    return f"{formats.oldest} {formats.newest}"


def read_formats(text: object) -> Formats:
    """The range that lies in Redis; :data:`FORMATS_UNSAID` where there is none."""
    raw = text.decode(errors="replace") if isinstance(text, bytes) else text
    matched = _TEXT.fullmatch(raw) if isinstance(raw, str) else None
    return FORMATS_UNSAID if matched is None else Formats(int(matched[1]), int(matched[2]))


def agreed(ranges: Iterable[Formats]) -> int | None:
    """The newest format that all these processes read; ``None`` if they share none. ``ranges`` must not be empty."""
    processes = list(ranges)
    newest = min(formats.newest for formats in processes)
    return newest if all(formats.oldest <= newest for formats in processes) else None


def refusal(process: str, own: Formats, others: Mapping[str, Formats], stored: Formats | None) -> str | None:
    """Why ``process`` must not start beside ``others``, in one sentence; ``None`` if it may.

    ``own``: what it reads. ``others``: what each live process reads, by its name. ``stored``: what lies in Redis,
    ``None`` if nothing does.
    """
    if stored is not None and not own.covers(stored):
        if own.newest < stored.newest:
            do = "start a newer version here"
        else:
            do = f"first start a version that reads {stored} too"
        return f"{process} reads {own}, but Redis holds {stored}: {do}"
    for name, formats in others.items():
        if agreed((own, formats)) is None:
            do = f"upgrade {name} first" if formats.newest < own.oldest else "start a newer version here"
            return f"{process} reads {own}, but {name} reads {formats}: {do}"
    return None
