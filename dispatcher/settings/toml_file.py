"""The TOML file of settings, or of a fleet: read, and its mistakes named as the file has them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from dispatcher.errors import Invalid

TABLES: Final = ("dispatcher", "autoscaler", "worker")


def read_toml(path: Path) -> dict[str, Any]:
    """What the file holds. Raises :class:`Invalid` if it cannot be read, or is no TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise Invalid(f"cannot read {path}: {exc.strerror}; name a TOML file that is there") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Invalid(f"{path} is not TOML: {exc}") from exc


def strange_tables(path: Path, document: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each table, or value outside of a table, of which nothing is known."""
    for name, value in document.items():
        if name in TABLES:
            continue
        tables = "a settings file has [dispatcher] and [autoscaler], a fleet file has [[worker]] besides"
        if isinstance(value, dict):
            yield f"{path}: there is no table [{name}]; {tables}"
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            yield f"{path}: there is no table [[{name}]]; {tables}"
        else:
            yield f"{path}: {name} stands in no table; {tables}"


def as_toml(value: Any) -> str:
    """The value as a TOML file has it."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return f"[{', '.join(map(as_toml, value))}]"
        case dict():
            return f"{{ {', '.join(f'{name} = {as_toml(part)}' for name, part in value.items())} }}"
        case _:
            return str(value)  # numbers, and dates
