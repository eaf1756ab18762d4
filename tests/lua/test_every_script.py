"""No transition without its tests."""

from __future__ import annotations

from pathlib import Path

from dispatcher.store.scripts.sources import names


def test_each_script_has_a_file_of_tests() -> None:
    """A new script comes with one here, and an old test goes with its script."""
    others = {"every_script", "fencing", "fuzzed_arguments"}
    here = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")} - others

    assert here == set(names())
