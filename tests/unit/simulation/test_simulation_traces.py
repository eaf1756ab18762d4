"""Traces: the two published forms as they are, what is wrong with a file, and made-up load."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean, pstdev

import pytest

from benchmarks.azure_trace import MEAN_LIMIT_S, P99_LIMIT_S, SETTINGS, run
from dispatcher.errors import Invalid
from dispatcher.simulation.traces import (
    ServiceModel,
    SimJob,
    cost_distribution,
    jittered,
    poisson,
    read_trace,
    with_sessions,
)

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.9000000,800,50\n2023-11-17 00:00:00.1500000,4000,10\n"
MOONCAKE = (
    '{"timestamp": 3000, "input_length": 8000, "output_length": 100, "hash_ids": [0, 1]}\n'
    '{"timestamp": 0, "input_length": 80, "output_length": 1, "hash_ids": [0]}\n'
)
TRACES = os.environ.get("DISPATCHER_TRACES")
needs_traces = pytest.mark.skipif(TRACES is None, reason="DISPATCHER_TRACES names no folder with published traces")


def test_azure_csv(tmp_path: Path) -> None:
    """Wall-clock timestamps of seven digits, over midnight; work by the service model."""
    path = tmp_path / "a.csv"
    path.write_text(AZURE)

    first, second = read_trace(path)
    assert first == SimJob(0.0, pytest.approx(1_100.0))
    assert second == SimJob(pytest.approx(250.0), pytest.approx(700.0))


def test_mooncake_lines_packed_and_out_of_order(tmp_path: Path) -> None:
    """Gzip is known by its content, not its name; arrivals are sorted and begin at 0; blocks are kept, of 512 tokens each."""
    path = tmp_path / "m.jsonl"
    path.write_bytes(gzip.compress(MOONCAKE.encode()))

    assert read_trace(path) == [
        SimJob(0.0, pytest.approx(30.0), (0,), 64.0, 10.0),
        SimJob(3_000.0, pytest.approx(3_000.0), (0, 1), 64.0, 1_000.0),
    ]
    assert len(read_trace(path, limit=1)) == 1
    assert read_trace(path, ServiceModel(input_tokens_per_s=1.0, output_token_s=0.0))[0].cost_ms == 80_000.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "neither an Azure trace"),
        ("", "neither an Azure trace"),
        (AZURE + "2023-11-17,many,10\n", "line 4: '2023-11-17,many,10' is no request"),
        (MOONCAKE + '{"timestamp": 1}\n', "line 3"),
        ('{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [[1]]}\n', "hash_ids must be numbers or strings"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no jobs"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    """One sentence, not a stack trace."""
    path = tmp_path / "t"
    path.write_text(text)

    with pytest.raises(Invalid, match=said):
        read_trace(path)


def test_a_trace_that_is_not_there_or_cut_off(tmp_path: Path) -> None:
    """Both are told as what they are."""
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(AZURE.encode() * 50)[:40])

    for path in (tmp_path / "nowhere", cut):
        with pytest.raises(Invalid, match="cannot read the trace"):
            read_trace(path)


def test_poisson_arrivals() -> None:
    """The rate that was asked for, and gaps that vary as much as they are long."""
    jobs = poisson(rate_per_s=4.0, jobs=20_000, cost=cost_distribution("const:2"), rng=Random(1))
    gaps = [after.at_ms - before.at_ms for before, after in pairwise(jobs)]

    assert fmean(gaps) == pytest.approx(250, rel=0.03)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(1, rel=0.03)
    assert {job.cost_ms for job in jobs} == {2_000.0}
    assert jobs == poisson(rate_per_s=4.0, jobs=20_000, cost=cost_distribution("const:2"), rng=Random(1))


def test_sessions_come_and_go() -> None:
    """So many at a time, of so many turns each on average; what a kept one saves is a share of the work. Arrivals stay as they were."""
    jobs = poisson(rate_per_s=4.0, jobs=20_000, cost=cost_distribution("const:2"), rng=Random(1))
    turns = with_sessions(jobs, sessions=50, turns=8.0, saves=0.25, rng=Random(2))
    sizes = Counter(job.session for job in turns)

    assert [(job.at_ms, job.cost_ms) for job in turns] == [(job.at_ms, job.cost_ms) for job in jobs]
    assert fmean(sizes.values()) == pytest.approx(8, rel=0.05)
    assert len({job.session for job in turns[:200]}) < 100
    assert {job.left_ms(0, session_kept=True) for job in turns} == {1_500.0}


def test_cached_blocks_save_the_prompt_and_no_more() -> None:
    """Two blocks of 512 tokens, the second partial: both cached, the output is left."""
    job = ServiceModel().job(0.0, 800, 10, (1, 2))

    assert [job.left_ms(hits, session_kept=False) for hits in (0, 1, 2)] == pytest.approx([300.0, 236.0, 200.0])


@pytest.mark.parametrize(("text", "mean", "cv"), [("exp:1.5", 1.5, 1.0), ("lognormal:3,0.5", 3.0, 0.5)])
def test_cost_distributions_have_the_mean_and_spread_they_name(text: str, mean: float, cv: float) -> None:
    draw, rng = cost_distribution(text), Random(1)
    found = [draw(rng) for _ in range(20_000)]

    assert fmean(found) == pytest.approx(mean, rel=0.03)
    assert pstdev(found) / fmean(found) == pytest.approx(cv, rel=0.05)


@pytest.mark.parametrize("text", ["", "exp", "exp:0", "exp:-1", "exp:1,2", "const:inf", "lognormal:1", "uniform:1"])
def test_a_wrong_distribution_is_invalid(text: str) -> None:
    """And the sentence says how to write one."""
    with pytest.raises(Invalid, match="exp:MEAN"):
        cost_distribution(text)


def test_jitter_spreads_rounded_timestamps() -> None:
    """Still in order, still from 0, no job earlier than it was but for the shift to 0."""
    jobs = jittered([SimJob(float(i // 10 * 3_000), 1.0) for i in range(100)], 3_000.0, Random(1))

    assert jobs[0].at_ms == 0
    assert [job.at_ms for job in jobs] == sorted({job.at_ms for job in jobs})


@needs_traces
@pytest.mark.parametrize(
    ("name", "rows", "mean_in", "mean_out"),
    [("azure2023_conv.csv.gz", 19_366, 1155, 211), ("mooncake_synthetic.jsonl.gz", 3_993, 15_325, 149)],
)
def test_published_traces_have_their_published_means(name: str, rows: int, mean_in: int, mean_out: int) -> None:
    """Rows and mean token counts as documented with them."""
    path = Path(TRACES or "") / name
    inputs = read_trace(path, ServiceModel(1.0, 0.0))
    outputs = read_trace(path, ServiceModel(1e18, 1.0))

    assert len(inputs) == rows
    assert fmean(job.cost_ms for job in inputs) / 1000 == pytest.approx(mean_in, abs=1)
    assert fmean(job.cost_ms for job in outputs) / 1000 == pytest.approx(mean_out, abs=1)


@needs_traces
def test_the_settings_for_unlike_workers_keep_their_figures() -> None:
    """On the Azure conversation trace and 16 workers of three speeds: mean and p99 within their limits at once."""
    made = run(read_trace(Path(TRACES or "") / "azure2023_conv.csv.gz"), SETTINGS)

    assert made.mean_s <= MEAN_LIMIT_S
    assert made.p99_s <= P99_LIMIT_S
    assert made.mean_bound_s == pytest.approx(1.09, abs=0.005)
