"""``dispatcher simulate``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dispatcher.cli import cli

FLEET = """
[dispatcher]
window_extra = 0
[[worker]]
name = "big"
weight = 4
[[worker]]
name = "small"
count = 2
concurrency = 2
"""


@pytest.fixture
def fleet(tmp_path: Path) -> str:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["simulate", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def facts(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_it_tells_each_strategy_beside_the_bound(capsys: pytest.CaptureFixture[str], fleet: str) -> None:
    """A table for people; the setting's strategy where none is named."""
    code, out, _ = run(capsys, "--rate", "5", "--jobs", "300", "--fleet", fleet, "--strategy", "random", "--strategy", "least_work")

    assert code == 0
    assert re.search(r"^random .*\n^least_work ", out, re.MULTILINE)
    assert "300 jobs, 3 workers; lower bound of the mean:" in out
    (only,) = facts(capsys, "--rate", "5", "--jobs", "30", "--fleet", fleet)["runs"]
    assert only["strategy"] == "earliest_completion"


def test_json_is_the_same_again(capsys: pytest.CaptureFixture[str], fleet: str) -> None:
    """Under one seed; another seed gives other arrivals."""
    given = ("--rate", "5", "--jobs", "300", "--fleet", fleet, "--noise", "2", "--fail", "big@10+5")
    first = facts(capsys, *given)

    assert first == facts(capsys, *given)
    assert first["runs"] != facts(capsys, *given, "--seed", "2")["runs"]
    assert {worker["name"] for worker in first["runs"][0]["workers"]} == {"big", "small1", "small2"}


def test_nothing_that_ended_is_null(capsys: pytest.CaptureFixture[str], fleet: str) -> None:
    """JSON without NaN, even where no job ever ended."""
    dead = [argument for name in ("big", "small1", "small2") for argument in ("--fail", f"{name}@0")]
    (only,) = facts(capsys, "--rate", "5", "--jobs", "3", "--cost", "const:60", "--fleet", fleet, *dead)["runs"]

    assert (only["unfinished"], only["mean_s"]) == (3, None)


def test_the_plot_needs_nothing_else(capsys: pytest.CaptureFixture[str], fleet: str, tmp_path: Path) -> None:
    """One file: no script, no link, no font, a curve a strategy in each of two pictures."""
    page = tmp_path / "out.html"
    code, _, _ = run(capsys, "--rate", "5", "--jobs", "200", "--fleet", fleet, "--strategy", "all", "--plot", str(page))
    text = page.read_text("utf-8")

    assert code == 0
    assert not re.search(r"https?:|<script|<link|@import", text)
    assert text.count("<polyline") == 2 * 8


def test_it_says_what_is_to_be_known_of_a_trace(capsys: pytest.CaptureFixture[str], fleet: str, tmp_path: Path) -> None:
    """Beside the results, not among them; a unit of time that is given is believed."""
    trace = tmp_path / "t.jsonl"
    trace.write_text("".join(json.dumps({"timestamp": n / 4, "input_length": 8, "output_length": 1}) + "\n" for n in range(60)))

    code, out, err = run(capsys, "--trace", str(trace), "--fleet", fleet)
    assert (code, err.count("\n")) == (0, 1)
    assert f"{trace}, a trace of Mooncake: 60 requests within 0.01475 s are too many to be true" in err
    assert "too many" not in out
    assert run(capsys, "--trace", str(trace), "--fleet", fleet, "--trace-unit", "s")[2] == ""


def test_it_reads_a_trace(capsys: pytest.CaptureFixture[str], fleet: str, tmp_path: Path) -> None:
    """800 input tokens and 45 output tokens are a second of work: a quarter of one on the big worker."""
    trace = tmp_path / "t.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,800,45\n")
    (only,) = facts(capsys, "--trace", str(trace), "--fleet", fleet, "--strategy", "earliest_completion")["runs"]

    assert only["mean_s"] == pytest.approx(0.25)


def test_it_counts_block_hits_beside_the_pooled_bounds(capsys: pytest.CaptureFixture[str], fleet: str, tmp_path: Path) -> None:
    """Of a Mooncake trace: `hash_ids` against a cache of so many blocks on each worker, in the table, JSON and the page."""
    trace, page = tmp_path / "t.jsonl", tmp_path / "out.html"
    trace.write_text("".join(
        f'{{"timestamp": {1000 * n}, "input_length": 1024, "output_length": 1, "hash_ids": [0, {n % 3 + 1}]}}\n' for n in range(30)
    ))  # fmt: skip
    given = ("--trace", str(trace), "--fleet", fleet, "--blocks", "100")
    code, out, _ = run(capsys, *given, "--plot", str(page))
    (only,) = facts(capsys, *given)["runs"]
    (without,) = facts(capsys, *given[:-2])["runs"]

    assert code == 0
    assert "block hits of one cache as large as all together: LRU 93.3%, Belady 93.3%" in out
    assert "÷ pooled LRU" in out
    assert 0.5 < only["hit_rate"] <= only["pooled_belady_rate"] == pytest.approx(1 - 4 / 60)
    assert without["hit_rate"] is without["pooled_lru_rate"] is None
    assert page.read_text("utf-8").count("<rect") == 1


def test_it_makes_up_sessions(capsys: pytest.CaptureFixture[str], fleet: str) -> None:
    """Jobs become turns of sessions; the share that ran where their session was is told, and what that saved shows."""
    given = ("--rate", "5", "--jobs", "400", "--fleet", fleet, "--sessions", "10")
    (plain,) = facts(capsys, *given)["runs"]
    (saving,) = facts(capsys, *given, "--session-saves", "0.5")["runs"]
    (forgetful,) = facts(capsys, *given, "--session-cache", "1", "--sticky", "off")["runs"]

    assert plain["session_hit_rate"] > forgetful["session_hit_rate"] > 0
    assert saving["mean_s"] < plain["mean_s"]


def test_it_counts_loads_of_models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In memories of the size that the fleet file says, in the table and JSON, beside the bound."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('[[worker]]\nname = "w"\ncount = 2\nmodels_max = 2\n')
    given = ("--rate", "1", "--jobs", "200", "--fleet", str(fleet), "--models", "4", "--load-s", "3")
    _, out, _ = run(capsys, *given)
    (only,) = facts(capsys, *given)["runs"]

    assert only["pooled_belady_loads"] == 4 <= only["loads"] < 40
    assert only["model_hit_rate"] == pytest.approx(1 - only["loads"] / 200)
    assert "model hits" in out
    assert "loads of one memory as large as all together: Belady 4" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name either a --trace or a --rate"),
        (("--rate", "0"), "--rate is 0.0"),
        (("--rate", "1", "--cost", "exp:0"), "is no distribution of costs"),
        (("--rate", "1", "--strategy", "fastest"), "there is no strategy 'fastest'"),
        (("--rate", "1", "--fail", "big"), "--fail is 'big'"),
        (("--rate", "1", "--fail", "huge@1"), "--fail names 'huge': the fleet has big, small1, small2"),
        (("--trace", "/nowhere/t.csv"), "cannot read the trace"),
        (("--rate", "5", "--trace-unit", "s"), "--trace-unit goes with --trace"),
        (("--trace", "/nowhere/t.csv", "--cost", "exp:1"), "--cost goes with --rate"),
        (("--trace", "/nowhere/t.csv", "--sessions", "5"), "--sessions goes with --rate"),
        (("--rate", "1", "--plot", "/nowhere/o.html"), "cannot write /nowhere/o.html"),
    ],
)
def test_bad_use_is_one_sentence(capsys: pytest.CaptureFixture[str], fleet: str, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, and nothing on standard output."""
    code, out, err = run(capsys, "--jobs", "5", "--fleet", fleet, *arguments)

    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
