"""Reads a batch file and finds all its mistakes at once.

A line is ``{"custom_id": str, "method": "POST", "url": "/v1/…", "body": {…}}``, or in one of the other forms that
:mod:`dispatcher.batches.dialects` knows. The codes of mistakes are the codes that Azure documents for OpenAI's batches.
A byte-order mark and blank lines at the end are no mistakes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from dispatcher.batches.dialects import (
    URLS,
    body_field,
    names_its_url,
    plain_url,
    url_of,
    why_no_json_lines,
    why_not_read,
)
from dispatcher.batches.tokens import estimate_tokens
from dispatcher.errors import Invalid

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
                request = msgspec.json.decode(file.read(line.length))
                bodies.append(request[body_field(request)] | {"model": line.model})
        return bodies


def read_batch(
    path: Path, *, model: str | None = None, url: str | None = None, lines_max: int | None = None
) -> BatchFile:
    """Read and check the file; ``model`` replaces the model of every line, ``url`` is that of lines which name none.

    Raises :class:`InvalidBatch` with every mistake, or :class:`Invalid` if the file cannot be read, or for the url.
    """
    if url is not None and plain_url(url) is None:
        raise Invalid(f"there is no url {url!r}: write one of {', '.join(sorted(URLS))}")
    reader = _Reader(model, plain_url(url))
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

    def __init__(self, model: str | None, default_url: str | None) -> None:
        self.lines: list[Line] = []
        self.mistakes: list[Mistake] = []
        self._model = model
        self._default_url = default_url
        self._refused: set[str] = set()
        self._begun = False
        self._is_no_batch = False
        self._decoder = msgspec.json.Decoder()
        self._first_seen: dict[str, int] = {}
        self._url: str | None = None
        self._blank: list[int] = []

    def add(self, number: int, offset: int, raw: bytes) -> None:
        if self._is_no_batch:
            return
        if not raw.strip():
            self._blank.append(number)  # a mistake only if a request follows
            return
        if not self._begun:
            self._begun = True
            if what := why_no_json_lines(raw):
                self._is_no_batch = True
                self.mistakes.append(Mistake("invalid_json_line", what))
                return
        self.mistakes += [Mistake("invalid_json_line", "the line is blank", blank) for blank in self._blank]
        self._blank.clear()
        try:
            request = self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            self.mistakes.append(Mistake("invalid_json_line", f"not JSON: {exc}", number))
            return
        except RecursionError:
            self.mistakes.append(Mistake("invalid_json_line", "nested too deep", number))
            return
        if not isinstance(request, dict):
            self.mistakes.append(Mistake("invalid_json_line", "not a JSON object", number))
            return
        if refusal := why_not_read(request):
            if refusal not in self._refused:  # for all lines of this form
                self._refused.add(refusal)
                self.mistakes.append(Mistake("invalid_request", refusal, number))
            return
        mistakes = list(self._check(number, request))
        self.mistakes += mistakes
        if not mistakes:
            body, url = request[body_field(request)], url_of(request, self._default_url)
            assert url is not None
            line = Line(
                index=len(self.lines), custom_id=request["custom_id"], model=self._model or body["model"],
                url=url, tokens=estimate_tokens(body), offset=offset, length=len(raw),
            )  # fmt: skip
            self.lines.append(line)

    def _check(self, number: int, request: dict[str, Any]) -> Iterator[Mistake]:
        field = body_field(request)
        custom_id, url, body = request.get("custom_id"), url_of(request, self._default_url), request.get(field)
        if not isinstance(custom_id, str) or not custom_id:
            yield Mistake("invalid_request", "custom_id must be a string that is not empty", number, "custom_id")
        elif (first := self._first_seen.setdefault(custom_id, number)) != number:
            message = f"custom_id {custom_id!r} was used on line {first}"
            yield Mistake("duplicate_custom_id", message, number, "custom_id")
        if names_its_url(request) and request.get("method") != "POST":
            yield Mistake("invalid_request", "method must be 'POST'", number, "method")
        if url is None and not names_its_url(request):
            message = "url is missing, and the body does not tell it: give one for all lines"
            yield Mistake("invalid_request", message, number, "url")
        elif url is None:
            yield Mistake("invalid_request", f"url must be one of {', '.join(sorted(URLS))}", number, "url")
        else:
            self._url = self._url or url
            if url != self._url:
                yield Mistake("url_mismatch", f"url is {url!r}; the first line has {self._url!r}", number, "url")
        if not isinstance(body, dict):
            yield Mistake("invalid_request", f"{field} must be an object", number, field)
            return
        if self._model is None and (not isinstance(body.get("model"), str) or not body["model"]):
            message = f"{field}.model must name a model, or give one for all lines"
            yield Mistake("invalid_request", message, number, f"{field}.model")
        if body.get("stream"):
            message = f"{field}.stream must not be set: a batch has no stream"
            yield Mistake("invalid_request", message, number, f"{field}.stream")
