"""Jobs for the simulator: read from published traces, or made up by a seeded generator."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Final, TextIO

from dispatcher.errors import Invalid
from dispatcher.simulation.trace_formats import FORMATS, Row, TraceFormat, format_of, stranger

GZIP_MAGIC: Final = b"\x1f\x8b"
RATE_MAX: Final = 200
"""Jobs a second, on average, of a trace that is believed: published ones of the same keys have 3 to 7."""
JOBS_JUDGED: Final = 50
"""Fewer say nothing of a rate: times may be rounded to seconds."""

COSTS: Final = "const:SECONDS, exp:MEAN or lognormal:MEAN,CV"


@dataclass(frozen=True, slots=True)
class SimJob:
    """A job of a simulation."""

    at_ms: float
    """When it arrives; the first job arrives at 0."""
    cost_ms: float
    """Its work at speed 1 if nothing of it is cached."""
    prefix: tuple[int | str, ...] = ()
    """Hashes of its prompt's blocks."""
    block_ms: float = 0.0
    """Work that each leading cached block saves."""
    prompt_ms: float = 0.0
    """Work that cached blocks save at most, all together."""
    session: str | None = None
    session_ms: float = 0.0
    """Work that it saves to run where its session is kept."""
    model: str = ""
    """The model that its worker must have in memory; "" for none."""

    def left_ms(self, blocks: int, *, session_kept: bool) -> float:
        """The job's work on a worker that has its first ``blocks`` blocks cached, and keeps its session or does not."""
        saved_ms = min(self.prompt_ms, blocks * self.block_ms) + (self.session_ms if session_kept else 0.0)
        return max(0.001, self.cost_ms - saved_ms)


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """Turns tokens into work: seconds at speed 1 = input / ``input_tokens_per_s`` + output × ``output_token_s``.

    The numbers are assumed, not measured. Input tokens in cached blocks of ``block_tokens`` cost nothing.
    """

    input_tokens_per_s: float = 8000.0
    output_token_s: float = 0.02
    block_tokens: int = 512

    def cost_ms(self, tokens_in: int, tokens_out: int) -> float:
        """The work of a request, at least a microsecond."""
        return max(0.001, self.prompt_ms(tokens_in) + tokens_out * self.output_token_s * 1000)

    def prompt_ms(self, tokens_in: int) -> float:
        """The part of a request's work that a cache can save."""
        return tokens_in / self.input_tokens_per_s * 1000

    def job(self, at_ms: float, tokens_in: int, tokens_out: int, blocks: tuple[int | str, ...]) -> SimJob:
        """A request as a job."""
        cost_ms = self.cost_ms(tokens_in, tokens_out)
        if not blocks:
            return SimJob(at_ms, cost_ms)
        return SimJob(at_ms, cost_ms, blocks, self.prompt_ms(self.block_tokens), self.prompt_ms(tokens_in))


@dataclass(frozen=True, slots=True)
class Trace:
    """What a file held."""

    kind: str
    """Name of its format."""
    jobs: list[SimJob]
    """In order of arrival; the first at 0."""
    notes: tuple[str, ...]
    """What a user has to know before he believes a simulation of them, a sentence each."""


def read_trace(
    path: Path, model: ServiceModel | None = None, *, limit: int | None = None, unit: str | None = None
) -> list[SimJob]:
    """The jobs of a trace; see :func:`load_trace`."""
    return load_trace(path, model, limit=limit, unit=unit).jobs


def load_trace(
    path: Path, model: ServiceModel | None = None, *, limit: int | None = None, unit: str | None = None
) -> Trace:
    """A published trace in any of the :data:`~dispatcher.simulation.trace_formats.FORMATS`, plain or gzipped.

    ``limit``: take only the first so many jobs; of a file that is in order of arrival the rest is not read. ``unit``:
    ``s`` or ``ms``, for files with the keys of Mooncake's whose times may be either (default ``ms``). Raises
    :class:`Invalid` where no format knows the file, and with file and line where it cannot be read.
    """
    model = model or ServiceModel()
    jobs: list[SimJob] = []
    left_out = overfull = 0
    in_order = True
    try:
        with _opened(path) as file:
            known, rows = _rows(path, file)
            if unit is not None and known.has_unit:
                raise Invalid(f"the trace {path} is of {known.name}, whose unit of time is known: give none")
            scale = 1000.0 if unit == "s" else 1.0
            model = replace(model, block_tokens=known.block_tokens or model.block_tokens)
            read = known.begin()
            for number, line, row in rows:
                with _said(path, number, line):
                    if not known.knows(row):
                        raise ValueError(f"its keys are not those of {known.name}: {', '.join(sorted(row))[:80]}")
                    requests = list(read(row))
                for request in requests:
                    if request is None:
                        left_out += 1
                        continue
                    overfull += len(request.blocks) > -(-request.tokens_in // model.block_tokens)
                    at_ms = request.at_ms * scale
                    in_order = in_order and (not jobs or jobs[-1].at_ms <= at_ms)
                    job = model.job(at_ms, request.tokens_in, request.tokens_out, request.blocks)
                    jobs.append(job if request.session is None else replace(job, session=request.session))
                if limit is not None and in_order and len(jobs) >= limit:
                    break
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as exc:
        raise Invalid(f"cannot read the trace {path}: {exc}") from exc
    if not jobs:
        raise Invalid(f"the trace {path} holds no jobs")
    if not in_order:
        jobs.sort(key=lambda job: job.at_ms)
    jobs = from_zero(jobs[:limit])
    return Trace(known.name, jobs, tuple(_notes(known, jobs, left_out, overfull, model.block_tokens, unit)))


def _notes(
    known: TraceFormat, jobs: list[SimJob], left_out: int, overfull: int, block_tokens: int, unit: str | None
) -> Iterator[str]:
    if known.note:
        yield known.note
    if left_out:
        yield f"left out: {left_out} of its requests (they failed, or are of subagents)"
    span_s = jobs[-1].at_ms / 1000
    if not known.has_unit and unit is None and len(jobs) > JOBS_JUDGED and len(jobs) > span_s * RATE_MAX:
        too_many = f"{len(jobs)} requests within {span_s:g} s are too many to be true"
        yield f"{too_many}: if its times are seconds, say so (--trace-unit s)"
    if overfull:
        prompts = f"in {overfull} of {len(jobs)} requests the prompt"
        yield f"{prompts} has more blocks than it fills: they are not of {block_tokens} tokens"


def from_zero(jobs: list[SimJob]) -> list[SimJob]:
    """The same jobs, moved in time so that the first arrives at 0."""
    return [replace(job, at_ms=job.at_ms - jobs[0].at_ms) for job in jobs]


def jittered(jobs: list[SimJob], jitter_ms: float, rng: Random) -> list[SimJob]:
    """The same jobs, each later by a uniform random time up to ``jitter_ms``: for traces with rounded timestamps."""
    moved = [replace(job, at_ms=job.at_ms + rng.random() * jitter_ms) for job in jobs]
    return from_zero(sorted(moved, key=lambda job: job.at_ms))


def poisson(*, rate_per_s: float, jobs: int, cost: Callable[[Random], float], rng: Random) -> list[SimJob]:
    """``jobs`` arrivals of a Poisson process; ``cost`` draws the work of each, in seconds."""
    made, at_ms = [], 0.0
    for _ in range(jobs):
        made.append(SimJob(at_ms, max(0.001, cost(rng) * 1000)))
        at_ms += rng.expovariate(rate_per_s) * 1000
    return made


def with_sessions(jobs: list[SimJob], *, sessions: int, turns: float, saves: float, rng: Random) -> list[SimJob]:
    """The same jobs, each a turn of one of ``sessions`` sessions that are open at a time.

    A session ends after ``turns`` turns on average (geometric), and another begins. A job saves ``saves``, a share of
    its work, where its session is kept.
    """
    live, begun = [f"s{number}" for number in range(sessions)], sessions
    made = []
    for job in jobs:
        at = rng.randrange(sessions)
        made.append(replace(job, session=live[at], session_ms=job.cost_ms * saves))
        if rng.random() * turns < 1:
            live[at] = f"s{begun}"
            begun += 1
    return made


def with_models(jobs: list[SimJob], *, models: int, skew: float, rng: Random) -> list[SimJob]:
    """The same jobs, each for one of ``models`` models.

    ``m0`` is wanted most, the n-th in proportion to 1 / n to the power of ``skew`` (Zipf).
    """
    names = [f"m{number}" for number in range(models)]
    drawn = rng.choices(names, [1 / (number + 1) ** skew for number in range(models)], k=len(jobs))
    return [replace(job, model=model) for job, model in zip(jobs, drawn, strict=True)]


def cost_distribution(text: str) -> Callable[[Random], float]:
    """A distribution from its text: ``const:2``, ``exp:1.5``, or ``lognormal:1.5,2`` (mean, coefficient of variation).

    Raises :class:`Invalid` for any other text.
    """
    kind, _, parameters = text.partition(":")
    try:
        numbers = [float(number) for number in parameters.split(",")]
        if not all(0 < number < math.inf for number in numbers):
            raise ValueError
        if kind == "const":
            (seconds,) = numbers
            return lambda _: seconds
        if kind == "exp":
            (mean,) = numbers
            return lambda rng: rng.expovariate(1 / mean)
        if kind == "lognormal":
            mean, cv = numbers
            sigma = math.sqrt(math.log1p(cv * cv))
            mu = math.log(mean) - sigma * sigma / 2
            return lambda rng: rng.lognormvariate(mu, sigma)
    except ValueError:
        pass
    raise Invalid(f"{text!r} is no distribution of costs: write {COSTS}, numbers above 0")


def _opened(path: Path) -> TextIO:
    with path.open("rb") as raw:
        packed = raw.read(2) == GZIP_MAGIC
    return io.TextIOWrapper(gzip.open(path), "utf-8-sig") if packed else path.open(encoding="utf-8-sig")


def _rows(path: Path, file: TextIO) -> tuple[TraceFormat, Iterator[tuple[int, str, Row]]]:
    """The format of the file, and its rows, each with its line's number and begin; empty lines are passed over.

    Raises :class:`Invalid` where no format knows the keys or columns of the first row.
    """
    first = file.readline()
    if first.startswith("{"):
        rows = _json_rows(path, chain([first], file))
        shape = json.loads(first) if _is_json(first) else {}
    else:
        shape = dict.fromkeys(next(csv.reader([first]), ()))
        rows = _csv_rows(path, tuple(shape), file)
    known = format_of(shape)
    if known is None:
        if first.startswith("{") and not shape:
            next(rows)  # raises
        names = ", ".join(dict.fromkeys(each.name for each in FORMATS))
        raise Invalid(
            f"{path} is neither an Azure trace (TIMESTAMP,ContextTokens,GeneratedTokens) nor of another known kind "
            f"({names}); it looks like {stranger(shape)}"
        )
    return known, rows


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, str, Row]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            with _said(path, number, line):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
            yield number, line, row


def _csv_rows(path: Path, columns: tuple[str, ...], file: TextIO) -> Iterator[tuple[int, str, Row]]:
    reader = csv.reader(file)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            number, line = reader.line_num + 1, ",".join(cells)
            with _said(path, number, line):
                row = dict(zip(columns, cells, strict=True))
            yield number, line, row


@contextmanager
def _said(path: Path, number: int, line: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise Invalid(f"{path}, line {number}: {line.strip()[:80]!r} is no request ({exc})") from exc
