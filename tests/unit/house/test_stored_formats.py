"""docs/formats.json: a stored layout changes only with its number."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def layout_check() -> ModuleType:
    """docs/stored_formats.py."""
    spec = importlib.util.spec_from_file_location("stored_formats", ROOT / "docs" / "stored_formats.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Pair(NamedTuple):
    left: int
    right: str


class Inner(msgspec.Struct):
    size: int = 0


class Row(msgspec.Struct, array_like=True):
    at_ms: int
    pairs: list[Pair] = []


@dataclass
class Record:
    name: str
    rows: list[Row]
    inner: Inner | None = None


LAYOUT = {
    "itself": "object", ".name": "str", ".rows": "list[array]", ".rows.0 at_ms": "int", ".rows.1 pairs": "list[array] = []",
    ".rows.1 pairs.0 left": "int", ".rows.1 pairs.1 right": "str", ".inner": "object | NoneType = null", ".inner.size": "int = 0",
}  # fmt: skip


def test_every_stored_record_is_as_its_number_says(layout_check: ModuleType) -> None:
    """What `make check` demands."""
    assert layout_check.problems() == []


def test_a_layout_is_of_names_types_defaults_and_of_the_order_in_arrays(layout_check: ModuleType) -> None:
    """As JSON has them: a class may be renamed."""
    assert dict(layout_check._parts("", Record)) == LAYOUT


@pytest.mark.parametrize(
    ("part", "becomes"),
    [
        (".name", None), (".name", "bytes"), (".age", "int"), (".inner.size", "int = 1"), (".rows.1 pairs", None),
        (".inner", "object | NoneType"),
    ],
)  # fmt: skip
def test_what_another_version_would_misread_needs_a_new_number(layout_check: ModuleType, part: str, becomes: str | None) -> None:
    """A field that goes, or is of another type, or has another default, or comes without a default."""
    now = {name: text for name, text in (LAYOUT | {part: becomes}).items() if text is not None}

    changes = layout_check.compare({"record": LAYOUT}, {"record": now})

    assert changes.added == []
    assert all(part in what for what in changes.broken)
    assert len(changes.broken) == 1


def test_a_new_field_with_a_default_stays_in_its_format(layout_check: ModuleType) -> None:
    """Old readers pass over it, and whatever is in it; and over a new record."""
    now = {**LAYOUT, ".more": "object = its defaults", ".more.size": "int"}

    changes = layout_check.compare({"record": LAYOUT}, {"record": now, "another": {"itself": "str"}})

    assert changes == (["another: new", "record: '.more' is new", "record: '.more.size' is new"], [])


def test_make_docs_does_not_write_over_a_broken_layout(
    layout_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says which record changed and what to do, as `make check` does."""
    file = tmp_path / "formats.json"
    monkeypatch.setattr(layout_check, "FILE", file)
    monkeypatch.setattr(layout_check, "RECORDS", {"record": Record})
    assert layout_check.write() == []
    before = file.read_text()

    monkeypatch.setattr(layout_check, "RECORDS", {"record": Pair})
    refused = layout_check.write()

    assert file.read_text() == before
    assert any(
        "record: '.name' is gone, but dispatcher/store/formats.py still says format 1" in what and "keep a reader" in what
        for what in refused
    )


def test_the_layouts_of_a_new_number_stand_beside_the_old(
    layout_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of the old number stay as they were: a reader is still held to them."""
    monkeypatch.setattr(layout_check, "FILE", tmp_path / "formats.json")
    monkeypatch.setattr(layout_check, "RECORDS", {"record": Record})
    assert layout_check.write() == []
    monkeypatch.setattr(layout_check, "RECORDS", {"record": Pair})
    monkeypatch.setattr(layout_check, "NUMBER", 2)
    assert ["no layouts of format 2" in what for what in layout_check.problems()] == [True]

    assert layout_check.write() == []
    kept = layout_check.kept_layouts()
    assert kept["1"]["record"] == LAYOUT
    assert kept["2"]["record"] != LAYOUT
    assert layout_check.problems() == []
