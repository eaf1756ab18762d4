"""Reads a batch file in OpenAI's JSONL shape and finds all its mistakes at once.

A line is ``{"custom_id": str, "method": "POST", "url": "/v1/…", "body": {…}}``. The codes of mistakes are those that
Azure documents for OpenAI's batches. A byte-order mark and blank lines at the end are no mistakes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from dispatcher.errors import Invalid

ENDPOINTS: Final = frozenset({
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/images/edits", "/v1/images/generations", "/v1/moderations",
    "/v1/responses", "/v1/videos",
})
MISTAKES_SHOWN: Final = 20
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch; its body stays in the file, at ``offset``, so that a large file needs little memory."""

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
    """What is wrong, where; the fields of OpenAI's ``errors.data[]``. ``line`` is 1-based, ``None`` for the whole file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        return f"{place}{self.code}: {self.message}"


class InvalidBatch(Invalid):
    """The file cannot be submitted; nothing was sent. ``mistakes`` holds all of them."""

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
    """A batch file that was found in order."""

    path: Path
    lines: tuple[Line, ...]
    digest: str
    """sha256 of the file, in hex."""

    def bodies(self, lines: list[Line]) -> list[dict[str, Any]]:
        """The bodies of ``lines``, read from the file again."""
        found = []
        with self.path.open("rb") as file:
            for line in lines:
                file.seek(line.offset)
                found.append(msgspec.json.decode(file.read(line.length))["body"] | {"model": line.model})
        return found


def read_batch(path: Path, *, model: str | None = None, lines_max: int | None = None) -> BatchFile:
    """Read and check the file; ``model`` stands in for the model of every line.

    Raises :class:`InvalidBatch` with every mistake, or :class:`Invalid` when the file cannot be read.
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
        reader.mistakes.append(Mistake("too_many_tasks", f"the file holds {len(reader.lines)} requests; the most is {lines_max}"))
    if reader.mistakes:
        raise InvalidBatch(str(path), tuple(reader.mistakes))
    return BatchFile(path, tuple(reader.lines), digest.hexdigest())


class _Reader:
    """Takes line after line; keeps what the next must be compared with."""

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
            self._blank.append(number)  # a mistake only if something follows
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
        found = list(self._problems(number, request))
        self.mistakes += found
        if not found:
            body = request["body"]
            self.lines.append(Line(index=len(self.lines), custom_id=request["custom_id"], model=self._model or body["model"],
                                   url=request["url"], tokens=estimate_tokens(body), offset=offset, length=len(raw)))

    def _problems(self, number: int, request: dict[str, Any]) -> Iterator[Mistake]:
        custom_id, url, body = request.get("custom_id"), request.get("url"), request.get("body")
        if not isinstance(custom_id, str) or not custom_id:
            yield Mistake("invalid_request", "custom_id must be a string that is not empty", number, "custom_id")
        elif (first := self._first_seen.setdefault(custom_id, number)) != number:
            yield Mistake("duplicate_custom_id", f"custom_id {custom_id!r} was used on line {first}", number, "custom_id")
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
            yield Mistake("invalid_request", "body.model must name a model, or give one for all lines", number, "body.model")
        if body.get("stream"):
            yield Mistake("invalid_request", "body.stream must not be set: a batch has no stream", number, "body.stream")


_TEXT_FIELDS: Final = ("input", "prompt", "messages", "instructions")
_CHARACTERS_PER_TOKEN: Final = 4


def estimate_tokens(body: dict[str, Any]) -> int:
    """Tokens of a request's text, at four characters each; a list of numbers is tokens already. At least 1."""
    return 1 + sum(_count(body.get(field)) for field in _TEXT_FIELDS)


def _count(value: Any) -> int:
    """Walks with a stack of its own: a line may be nested as deep as its author likes."""
    tokens, stack = 0, [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            tokens += -(-len(one) // _CHARACTERS_PER_TOKEN)
        elif isinstance(one, list):
            stack += one
        elif isinstance(one, dict):
            stack += one.values()
        elif isinstance(one, int | float):
            tokens += 1
    return tokens
