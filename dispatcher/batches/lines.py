"""Reads a batch file in OpenAI's JSONL shape and finds all its mistakes at once.

A line is ``{"custom_id": str, "method": "POST", "url": "/v1/…", "body": {…}}``. The codes of mistakes are the codes
that Azure documents for OpenAI's batches. A byte-order mark and blank lines at the end are no mistakes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from dispatcher.batches.tokens import estimate_tokens
from dispatcher.errors import Invalid

ENDPOINTS: Final = frozenset({
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/images/edits", "/v1/images/generations",
    "/v1/moderations", "/v1/responses", "/v1/videos",
})
MISTAKES_SHOWN: Final = 20
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A request of a batch. Its body stays in the file, so that a large file needs little memory."""

    index: int
    """0-based position among the requests."""
    custom_id: str
    model: str
    url: str
    tokens: int
    """Estimated size of the request, at least 1."""
    offset: int
    """Bytes from the start of the file to the line."""
    length: int
    """Bytes of the line."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake in a batch file, with the fields of OpenAI's ``errors.data[]``."""

    code: str
    message: str
    line: int | None = None
    """The line's number, from 1; ``None`` for the whole file."""
    param: str | None = None
    """The field of the request, such as ``body.model``."""

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        return f"{place}{self.code}: {self.message}"


class InvalidBatch(Invalid):
    """The file cannot be submitted; nothing was sent. ``mistakes`` holds all its mistakes."""

    def __init__(self, path: str, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__(path, mistakes)
        self.path = path
        self.mistakes = mistakes

    def __str__(self) -> str:
        shown = [f"{self.path}: {mistake}" for mistake in self.mistakes[:MISTAKES_SHOWN]]
        if more := len(self.mistakes) - len(shown):
            shown.append(f"{self.path}: and {more} more mistakes")
        return "\n".join(shown)


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A batch file without mistakes."""

    path: Path
    lines: tuple[Line, ...]
    digest: str
    """sha256 of the file, in hex."""

    def bodies(self, lines: list[Line]) -> list[dict[str, Any]]:
        """The bodies of ``lines``, which this reads from the file again."""
        bodies = []
        with self.path.open("rb") as file:
            for line in lines:
                file.seek(line.offset)
                bodies.append(msgspec.json.decode(file.read(line.length))["body"] | {"model": line.model})
        return bodies


def read_batch(path: Path, *, model: str | None = None, lines_max: int | None = None) -> BatchFile:
    """Read and check the file; ``model`` replaces the model of every line.

    Raises :class:`InvalidBatch` with every mistake, or :class:`Invalid` if the file cannot be read.
    """
    reader = _Reader(model)
    digest = hashlib.sha256()
    offset = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                digest.update(raw)
                start = offset
                offset += len(raw)
                if number == 1 and raw.startswith(_BOM):
                    start, raw = start + len(_BOM), raw.removeprefix(_BOM)
                reader.add(number, start, raw)
    except OSError as exc:
        raise Invalid(f"cannot read {path}: {exc.strerror}; name a file of one JSON request a line") from exc
    if not reader.lines and not reader.mistakes:
        reader.mistakes.append(Mistake("empty_file", "the file holds no request"))
    if lines_max is not None and len(reader.lines) > lines_max:
        count = len(reader.lines)
        reader.mistakes.append(Mistake("too_many_tasks", f"the file holds {count} requests; the most is {lines_max}"))
    if reader.mistakes:
        raise InvalidBatch(str(path), tuple(reader.mistakes))
    return BatchFile(path, tuple(reader.lines), digest.hexdigest())


class _Reader:
    """Takes line after line, and remembers what the next lines must be compared with."""

    def __init__(self, model: str | None) -> None:
        self.lines: list[Line] = []
        self.mistakes: list[Mistake] = []
        self._model = model
        self._decoder = msgspec.json.Decoder()
        self._first_seen: dict[str, int] = {}
        self._url: str | None = None
        self._blank: list[int] = []

    def add(self, number: int, offset: int, raw: bytes) -> None:
        if not raw.strip():
            self._blank.append(number)  # a mistake only if a request follows
            return
        self.mistakes += [Mistake("invalid_json_line", "the line is blank", blank) for blank in self._blank]
        self._blank.clear()
        try:
            request = self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            self.mistakes.append(Mistake("invalid_json_line", f"not JSON: {exc}", number))
            return
        if not isinstance(request, dict):
            self.mistakes.append(Mistake("invalid_json_line", "not a JSON object", number))
            return
        mistakes = list(self._check(number, request))
        self.mistakes += mistakes
        if not mistakes:
            body = request["body"]
            line = Line(
                index=len(self.lines), custom_id=request["custom_id"], model=self._model or body["model"],
                url=request["url"], tokens=estimate_tokens(body), offset=offset, length=len(raw),
            )  # fmt: skip
            self.lines.append(line)

    def _check(self, number: int, request: dict[str, Any]) -> Iterator[Mistake]:
        custom_id, url, body = request.get("custom_id"), request.get("url"), request.get("body")
        if not isinstance(custom_id, str) or not custom_id:
            yield Mistake("invalid_request", "custom_id must be a string that is not empty", number, "custom_id")
        elif (first := self._first_seen.setdefault(custom_id, number)) != number:
            message = f"custom_id {custom_id!r} was used on line {first}"
            yield Mistake("duplicate_custom_id", message, number, "custom_id")
        if request.get("method") != "POST":
            yield Mistake("invalid_request", "method must be 'POST'", number, "method")
        if url not in ENDPOINTS:
            yield Mistake("invalid_request", f"url must be one of {', '.join(sorted(ENDPOINTS))}", number, "url")
        else:
            self._url = self._url or url
            if url != self._url:
                yield Mistake("url_mismatch", f"url is {url!r}; the first line has {self._url!r}", number, "url")
        if not isinstance(body, dict):
            yield Mistake("invalid_request", "body must be an object", number, "body")
            return
        if self._model is None and (not isinstance(body.get("model"), str) or not body["model"]):
            message = "body.model must name a model, or give one for all lines"
            yield Mistake("invalid_request", message, number, "body.model")
        if body.get("stream"):
            message = "body.stream must not be set: a batch has no stream"
            yield Mistake("invalid_request", message, number, "body.stream")
