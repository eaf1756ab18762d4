"""The two result files: successes in one, failures in the other; each ``custom_id`` stands in one of them, once.

Lines are appended as chunks finish. A process that dies while it writes leaves at most an incomplete line at the end of
a file, which is cut off when the files are opened again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from dispatcher.errors import Invalid

ResultLine = dict[str, Any]
"""``{"id", "custom_id", "response", "error"}``, as OpenAI writes it."""


def succeeded(line: ResultLine) -> bool:
    """True if the request succeeded. It failed if the line has an error, or a response with status 400 or more."""
    return line["error"] is None and line["response"] is not None and line["response"]["status_code"] < 400


def default_errors_path(out: Path) -> Path:
    """The file for failures, if the user names none: beside the results."""
    return out.with_name(out.name + ".errors.jsonl")


class ResultFiles:
    """The two files, open for one writer at a time (a file lock). A context manager."""

    def __init__(self, out: Path, errors: Path, *, resume: bool, custom_ids: frozenset[str]) -> None:
        """Raises :class:`Invalid` if a file exists (without ``resume``), is in use, or belongs to another batch."""
        if out.resolve() == errors.resolve():
            raise Invalid(f"results and errors cannot both go to {out}: name two files")
        if not resume:
            for path in (out, errors):
                if path.exists():
                    raise Invalid(f"{path} exists already: finish it with --resume, or name another file")
        self.out = out
        self.errors = errors
        self.succeeded: set[str] = set()
        self.failed: set[str] = set()
        self._custom_ids = custom_ids
        self._errors_file: BinaryIO | None = None
        self._out_file = self._open(out, self.succeeded, lock=True)
        try:
            if errors.exists():
                self._errors_file = self._open(errors, self.failed)
            if twice := self.succeeded & self.failed:
                raise Invalid(f"{min(twice)!r} is in both {out} and {errors}: these files are not of one batch")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._out_file.close()
        if self._errors_file is not None:
            self._errors_file.close()

    def has(self, custom_id: str) -> bool:
        """True if the line's result is in one of the files."""
        return custom_id in self.succeeded or custom_id in self.failed

    def append(self, lines: Iterable[ResultLine]) -> None:
        """Write the lines that the files do not hold yet. They are on disk when this returns."""
        good: list[ResultLine] = []
        bad: list[ResultLine] = []
        for line in lines:
            if not self.has(line["custom_id"]):
                (good if succeeded(line) else bad).append(line)
        if good:
            _write(self._out_file, good)
            self.succeeded.update(line["custom_id"] for line in good)
        if bad:
            if self._errors_file is None:  # made when first needed: no failures, no file
                self._errors_file = self._open(self.errors, self.failed)
            _write(self._errors_file, bad)
            self.failed.update(line["custom_id"] for line in bad)

    def _open(self, path: Path, custom_ids: set[str], *, lock: bool = False) -> BinaryIO:
        """Open a file to append after its last whole line, and add the custom_ids of its lines to ``custom_ids``."""
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        except OSError as exc:
            raise Invalid(f"cannot write {path}: {exc.strerror}; name a file that can be written") from exc
        try:
            if lock:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as exc:
                    raise Invalid(f"another submit is writing {path}: wait for it, or name another file") from exc
            file.truncate(self._read(path, custom_ids))
            file.seek(0, os.SEEK_END)
        except BaseException:
            file.close()
            raise
        return file

    def _read(self, path: Path, custom_ids: set[str]) -> int:
        """Add the custom_ids of all whole lines to ``custom_ids``; returns how many bytes those lines take."""
        end = 0
        decoder = msgspec.json.Decoder(_Written)
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    break
                end += len(raw)
                try:
                    custom_id = decoder.decode(raw).custom_id
                except msgspec.MsgspecError as exc:
                    raise Invalid(
                        f"{path} line {number} is not a result line ({exc}): it is no file to resume"
                    ) from exc
                if custom_id not in self._custom_ids:
                    raise Invalid(
                        f"{path} line {number} is of {custom_id!r}, which is not in the batch: it is no file to resume"
                    )
                if custom_id in custom_ids:
                    raise Invalid(f"{path} line {number} repeats {custom_id!r}: it is no file to resume")
                custom_ids.add(custom_id)
        return end


class _Written(msgspec.Struct):
    custom_id: str


def _write(file: BinaryIO, lines: list[ResultLine]) -> None:
    data = memoryview(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    while data:  # an unbuffered write may write less than it was given
        data = data[file.write(data) :]
    os.fsync(file.fileno())
