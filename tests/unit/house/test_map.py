"""The maps for newcomers name what is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MAPS = {"CONTRIBUTING.md": "## Where things are", "docs/architecture.md": "## Packages"}
NAMED = re.compile(r"`((?:dispatcher|workers|tests|docs|benchmarks|deploy|examples)/[\w./-]*|[\w-]+\.(?:toml|txt|md|lua))`")


def section(document: str, title: str) -> str:
    """The text under a heading, down to the next."""
    _, _, rest = (ROOT / document).read_text().partition(f"{title}\n")
    assert rest, f"{document} has no {title!r}"
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize("document", MAPS)
def test_all_that_a_map_names_is_there(document: str) -> None:
    """Every file and folder; a script's bare name is one in the folder of scripts."""
    names = NAMED.findall(section(document, MAPS[document]))
    assert len(names) > 15
    missing = [name for name in names if not (ROOT / name).exists() and not (ROOT / "dispatcher/store/lua" / name).exists()]
    assert not missing


def test_the_table_of_packages_is_the_contract_of_imports() -> None:
    """Each module of ``dispatcher`` once, in the order of the layers; modules of one layer are one after the other."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [one for one in config["tool"]["importlinter"]["contracts"] if one["name"] == "One way down"]
    layers = [set(layer.split(" | ")) for layer in contract["layers"]]
    table = [row for row in section("docs/architecture.md", "## Packages").splitlines() if row.startswith("| `dispatcher/")]
    rows = [re.findall(r"`dispatcher/(\w+)(?:/|\.py)`", row.split("|")[1]) for row in table]
    shown = [name for row in rows for name in row]
    assert len(shown) == len(set(shown))
    assert contract["exhaustive"]
    for layer in layers:
        assert set(shown[: len(layer)]) == layer
        del shown[: len(layer)]
    assert not shown


def test_the_picture_shows_every_room_of_the_core_and_of_the_leader() -> None:
    """The way of a job passes through all of them."""
    picture = section("docs/architecture.md", "## The way of a job")
    for folder in ("core", "leader"):
        for room in sorted((ROOT / "dispatcher" / folder).glob("*/__init__.py")):
            assert f"{folder}/{room.parent.name}" in picture
