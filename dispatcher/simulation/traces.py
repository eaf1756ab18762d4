"""Jobs for the simulator: read from published traces, or made up by a seeded generator."""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Final, TextIO

from dispatcher.errors import Invalid

GZIP_MAGIC: Final = b"\x1f\x8b"
Row = tuple[float, int, int, tuple[int | str, ...]]
"""A request: (arrival in ms, input tokens, output tokens, hashes of the prompt's blocks)."""

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


def read_trace(path: Path, model: ServiceModel | None = None, *, limit: int | None = None) -> list[SimJob]:
    """The jobs of an Azure LLM trace (CSV) or a Mooncake trace (JSON lines), plain or gzipped, in order of arrival.

    ``limit``: read only that many jobs. Raises :class:`Invalid` with file and line if the trace cannot be read.
    """
    model = model or ServiceModel()
    try:
        with _opened(path) as file:
            jobs = [model.job(*row) for row in _rows(path, file)]
    except (OSError, EOFError, UnicodeDecodeError) as exc:
        raise Invalid(f"cannot read the trace {path}: {exc}") from exc
    if not jobs:
        raise Invalid(f"the trace {path} holds no jobs")
    jobs.sort(key=lambda job: job.at_ms)
    return from_zero(jobs[:limit])


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
    return io.TextIOWrapper(gzip.open(path)) if packed else path.open()


def _rows(path: Path, file: TextIO) -> Iterator[Row]:
    """The requests of the file; empty lines are passed over."""
    first = file.readline()
    if first.startswith("{"):
        read, lines = _mooncake, _chained(first, file)
    elif first.startswith("TIMESTAMP,ContextTokens,GeneratedTokens"):
        read, lines = _azure, enumerate(file, 2)
    else:
        raise Invalid(
            f"{path} is neither an Azure trace (TIMESTAMP,ContextTokens,GeneratedTokens) nor Mooncake JSON lines"
        )
    for number, line in lines:
        if line.strip():
            try:
                yield read(line)
            except (ValueError, KeyError, TypeError) as exc:
                raise Invalid(f"{path}, line {number}: {line.strip()[:80]!r} is no request ({exc})") from exc


def _chained(first: str, file: TextIO) -> Iterator[tuple[int, str]]:
    yield 1, first
    yield from enumerate(file, 2)


def _azure(line: str) -> Row:
    at, tokens_in, tokens_out = line.split(",")
    instant = datetime.fromisoformat(at[:26])  # the seventh digit is more than Python reads
    day_ms = instant.toordinal() * 86_400_000
    clock_ms = ((instant.hour * 60 + instant.minute) * 60 + instant.second) * 1000 + instant.microsecond / 1000
    return day_ms + clock_ms, int(tokens_in), int(tokens_out), ()


def _mooncake(line: str) -> Row:
    row = json.loads(line)
    blocks = tuple(row.get("hash_ids", ()))
    if not all(isinstance(block, int | str) for block in blocks):
        raise ValueError("hash_ids must be numbers or strings")
    return float(row["timestamp"]), int(row["input_length"]), int(row["output_length"]), blocks
