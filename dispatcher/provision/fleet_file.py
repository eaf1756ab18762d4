"""The fleet file: the workers of a local cluster, in TOML.

Its tables are ``[[worker]]``, ``[autoscaler]`` and ``[dispatcher]``. A ``[[worker]]`` has a ``name`` and may have a
``count`` (default 1; several workers are named big1, big2, …). Its other keys are the fields of :class:`WorkerKind`.
``[autoscaler]`` and ``[dispatcher]`` hold settings of those names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dispatcher.errors import Invalid
from dispatcher.provision.base import WorkerKind
from dispatcher.settings.toml_file import as_toml, read_toml, strange_tables

POOLS: Final = ("prefork", "threads", "solo")
COUNT_MAX: Final = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MODEL = re.compile(r"[^\s,]+")
_LABEL = re.compile(r"[^\s=,]+")


@dataclass(frozen=True, slots=True)
class FleetEntry:
    """``count`` workers of one kind."""

    kind: WorkerKind
    count: int = 1

    def names(self) -> list[str]:
        """The node names of its workers, without ``@host``."""
        if self.count == 1:
            return [self.kind.name]
        return [f"{self.kind.name}{number + 1}" for number in range(self.count)]


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers that a local cluster starts with. The autoscaler adds workers of the first kind, or of the kind that
    serves a model which no worker serves.
    """

    entries: tuple[FleetEntry, ...]

    def kinds(self) -> list[WorkerKind]:
        """Each kind, in the order of the file."""
        return [entry.kind for entry in self.entries]

    def workers(self) -> list[tuple[str, WorkerKind]]:
        """Node name (without ``@host``) and kind of every worker to start."""
        return [(name, entry.kind) for entry in self.entries for name in entry.names()]

    def slots_most(self, workers_max: int = 0) -> int:
        """Slots of all workers that may run at once: those of the file, or as many workers as the autoscaler starts."""
        concurrencies = [entry.kind.concurrency for entry in self.entries]
        started = sum(entry.kind.concurrency * entry.count for entry in self.entries)
        return max(started, workers_max * max(concurrencies, default=1), 1)


def default_fleet() -> Fleet:
    """Two workers that share this machine's processors and serve the model that needs no weights."""
    slots = max(1, (os.cpu_count() or 2) // 2)
    return Fleet((FleetEntry(WorkerKind("worker", concurrency=slots, models=("hash-384",)), count=2),))


def load_fleet(path: Path) -> Fleet:
    """Read the ``[[worker]]`` tables of the file; if it has none, return the default fleet.

    Raises :class:`Invalid` with all mistakes, each on a line of its own that says where it is.
    :func:`dispatcher.settings.load_settings` reads ``[autoscaler]`` and ``[dispatcher]``.
    """
    document = read_toml(path)
    mistakes = list(strange_tables(path, document))
    tables = document.get("worker", [])
    if not isinstance(tables, list):
        mistakes.append(f"{path}: write [[worker]], with two brackets: a fleet may have several")
        tables = []
    entries: list[FleetEntry] = []
    for number, table in enumerate(tables, 1):
        table_mistakes: list[str] = []
        entry = _entry(table, table_mistakes)
        name = table.get("name") if isinstance(table, dict) else None
        place = f"{path}: [[worker]] {number}" + (f" ({name})" if isinstance(name, str) and name else "")
        mistakes += [f"{place}: {mistake}" for mistake in table_mistakes]
        if entry is not None:
            entries.append(entry)
    mistakes += [f"{path}: {mistake}" for mistake in _repeated(entries)]
    if mistakes:
        raise Invalid("\n".join(mistakes))
    return Fleet(tuple(entries)) if entries else default_fleet()


def _entry(table: Any, mistakes: list[str]) -> FleetEntry | None:
    if not isinstance(table, dict):
        mistakes.append("it must be a table")
        return None
    before = len(mistakes)
    mistakes += [f"unknown key {key!r}; it has {', '.join(_READERS)}" for key in table if key not in _READERS]
    if "name" not in table:
        mistakes.append('give it a name, such as name = "gpu"')
    values: dict[str, Any] = {}
    for key, read in _READERS.items():
        if key in table:
            try:
                values[key] = read(table[key])
            except ValueError as exc:
                mistakes.append(f"{key} = {as_toml(table[key])}: {exc}")
    if len(mistakes) > before:
        return None
    count = values.pop("count", 1)
    if values.get("pool") == "solo" and values.get("concurrency", 1) != 1:
        mistakes.append(f"concurrency = {values['concurrency']}: a solo pool has one slot")
        return None
    return FleetEntry(WorkerKind(**values), count)


def _repeated(entries: list[FleetEntry]) -> Iterator[str]:
    seen: set[str] = set()
    for entry in entries:
        for name in entry.names():
            if name in seen:
                yield f"two workers would be called {name!r}: give the kinds other names"
            seen.add(name)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("expected letters, digits, '-', '_' or '.'")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= COUNT_MAX:
        raise ValueError(f"expected a whole number from 0 to {COUNT_MAX}")
    return value


def _concurrency(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= COUNT_MAX:
        raise ValueError(f"expected a whole number from 1 to {COUNT_MAX}")
    return value


def _weight(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError("expected a number above 0")
    return float(value)


def _pool(value: Any) -> str:
    if value not in POOLS:
        raise ValueError(f"expected one of {', '.join(POOLS)}")
    return str(value)


def _models(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and _MODEL.fullmatch(name) for name in value):
        raise ValueError('expected a list of names, such as ["hash-384"]')
    return tuple(value)


def _labels(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(text, str) and _LABEL.fullmatch(key) and _LABEL.fullmatch(text) for key, text in value.items()
    ):
        raise ValueError('expected names and values without spaces, such as { region = "eu" }')
    return dict(value)


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "name": _name,
    "count": _count,
    "weight": _weight,
    "concurrency": _concurrency,
    "pool": _pool,
    "models": _models,
    "models_max": _count,
    "threads": _count,
    "labels": _labels,
}
