"""Jobs for the simulator: published traces, read as they are, or made up by a seeded generator."""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Final, TextIO

from dispatcher.errors import Invalid

GZIP_MAGIC: Final = b"\x1f\x8b"
COSTS: Final = "const:SECONDS, exp:MEAN or lognormal:MEAN,CV"


@dataclass(frozen=True, slots=True)
class SimJob:
    """A job: when it arrives, in ms from the first, and its work in ms at speed 1."""

    at_ms: float
    cost_ms: float


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """Tokens to work: seconds at speed 1 = input / ``input_tokens_per_s`` + output × ``output_token_s``. Assumed, not measured."""

    input_tokens_per_s: float = 8000.0
    output_token_s: float = 0.02

    def cost_ms(self, tokens_in: int, tokens_out: int) -> float:
        """Work of one request, at least a microsecond."""
        return max(0.001, (tokens_in / self.input_tokens_per_s + tokens_out * self.output_token_s) * 1000)


def read_trace(path: Path, model: ServiceModel | None = None, *, limit: int | None = None) -> list[SimJob]:
    """The jobs of an Azure LLM trace (CSV) or a Mooncake trace (JSON lines), plain or gzipped, in order of arrival.

    ``limit``: only the first so many. Raises :class:`Invalid` with file and line for what cannot be read.
    """
    model = model or ServiceModel()
    jobs: list[SimJob] = []
    try:
        with _opened(path) as file:
            for at_ms, tokens_in, tokens_out in _rows(path, file):
                jobs.append(SimJob(at_ms, model.cost_ms(tokens_in, tokens_out)))
    except (OSError, EOFError, UnicodeDecodeError) as exc:
        raise Invalid(f"cannot read the trace {path}: {exc}") from exc
    if not jobs:
        raise Invalid(f"the trace {path} holds no jobs")
    jobs.sort(key=lambda job: job.at_ms)
    return from_zero(jobs[:limit])


def from_zero(jobs: list[SimJob]) -> list[SimJob]:
    """The same jobs, the first of which arrives at 0."""
    return [SimJob(job.at_ms - jobs[0].at_ms, job.cost_ms) for job in jobs]


def jittered(jobs: list[SimJob], jitter_ms: float, rng: Random) -> list[SimJob]:
    """Each job later by a uniform chance of up to ``jitter_ms``: for traces whose timestamps are rounded to seconds."""
    moved = [SimJob(job.at_ms + rng.random() * jitter_ms, job.cost_ms) for job in jobs]
    return from_zero(sorted(moved, key=lambda job: job.at_ms))


def poisson(*, rate_per_s: float, jobs: int, cost: Callable[[Random], float], rng: Random) -> list[SimJob]:
    """``jobs`` arrivals of a Poisson process; ``cost`` gives the work of each, in seconds."""
    made, at_ms = [], 0.0
    for _ in range(jobs):
        made.append(SimJob(at_ms, max(0.001, cost(rng) * 1000)))
        at_ms += rng.expovariate(rate_per_s) * 1000
    return made


def cost_distribution(text: str) -> Callable[[Random], float]:
    """What ``const:2``, ``exp:1.5`` or ``lognormal:1.5,2`` (mean and coefficient of variation) stands for. Raises :class:`Invalid`."""
    kind, _, given = text.partition(":")
    try:
        numbers = [float(number) for number in given.split(",")]
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


def _rows(path: Path, file: TextIO) -> Iterator[tuple[float, int, int]]:
    """(ms, input tokens, output tokens) of each line."""
    first = file.readline()
    if first.startswith("{"):
        read, lines = _mooncake, _chained(first, file)
    elif first.startswith("TIMESTAMP,ContextTokens,GeneratedTokens"):
        read, lines = _azure, enumerate(file, 2)
    else:
        raise Invalid(f"{path} is neither an Azure trace (TIMESTAMP,ContextTokens,GeneratedTokens) nor Mooncake JSON lines")
    for number, line in lines:
        if line.strip():
            try:
                yield read(line)
            except (ValueError, KeyError, TypeError) as exc:
                raise Invalid(f"{path}, line {number}: {line.strip()[:80]!r} is no request ({exc})") from exc


def _chained(first: str, file: TextIO) -> Iterator[tuple[int, str]]:
    yield 1, first
    yield from enumerate(file, 2)


def _azure(line: str) -> tuple[float, int, int]:
    at, tokens_in, tokens_out = line.split(",")
    instant = datetime.fromisoformat(at[:26])  # the seventh digit is more than Python reads
    day_ms = instant.toordinal() * 86_400_000
    clock_ms = ((instant.hour * 60 + instant.minute) * 60 + instant.second) * 1000 + instant.microsecond / 1000
    return day_ms + clock_ms, int(tokens_in), int(tokens_out)


def _mooncake(line: str) -> tuple[float, int, int]:
    row = json.loads(line)
    return float(row["timestamp"]), int(row["input_length"]), int(row["output_length"])
