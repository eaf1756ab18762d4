"""Real text that every CPython carries: the language reference behind ``help()``, split into paragraphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

import msgspec

CHARACTERS_MIN: Final = 60
"""Shorter paragraphs are headings and scraps of code."""

STATEMENTS_FIRST: Final[tuple[str, ...]] = ("compound", "function", "calls", "assignment", "execmodel", "import", "types", "comparisons",
                           "attribute-access", "strings", "raise", "lambda", "yield")
"""What most questions are about; the other topics follow by name."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One paragraph on one line; ``name`` is ``<topic>-<number within it>``."""

    name: str
    topic: str
    text: str


def paragraphs(limit: int | None = None) -> list[Paragraph]:
    """Each different paragraph once, in reading order; the first ``limit`` of them, or all."""
    reading_order = [topic for topic in STATEMENTS_FIRST if topic in topics]
    reading_order += sorted(set(topics) - set(reading_order))
    unique: dict[str, Paragraph] = {}
    for topic in reading_order:
        for number, block in enumerate(topics[topic].split("\n\n")):
            text = " ".join(block.split())
            if len(text) >= CHARACTERS_MIN:
                unique.setdefault(text, Paragraph(f"{topic}-{number}", topic, text))
    return list(unique.values())[:limit]


def write_batch(path: Path, texts: list[Paragraph], model: str) -> None:
    """The paragraphs as a batch file of embedding requests, ``custom_id`` being the paragraph's name."""
    with path.open("wb") as file:
        for paragraph in texts:
            file.write(msgspec.json.encode({"custom_id": paragraph.name, "method": "POST", "url": "/v1/embeddings",
                                            "body": {"model": model, "input": paragraph.text}}) + b"\n")
