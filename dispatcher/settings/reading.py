"""Reads the settings from options, the environment and a TOML file, and writes them for other processes.

Nothing else in this package reads ``os.environ`` for settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from dispatcher.errors import Invalid
from dispatcher.settings.knobs import Settings, env_name, toml_place
from dispatcher.settings.toml_file import as_toml, read_toml, strange_tables


def load_settings(
    environ: Mapping[str, str], *, toml_path: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from options (``overrides``; ``None`` values are absent), environment, then TOML.

    Raises :class:`Invalid` with *all* mistakes: unknown names, values of the wrong type, relations that do not hold. A
    mistake is named after the place that the value comes from; a default, after its place in the file, if there is a
    file.
    """
    mistakes: list[str] = []
    in_file = {} if toml_path is None else _from_toml(toml_path, mistakes)
    elsewhere = _from_environ(environ, mistakes) | {name: value for name, value in (overrides or {}).items() if value is not None}
    settings = Settings(**in_file | elsewhere)

    def name_of(field_name: str) -> str:
        if toml_path is None or field_name in elsewhere:
            return env_name(field_name)
        table, key = toml_place(field_name)
        return f"[{table}] {key} in {toml_path}" if field_name in in_file else f"[{table}] {key} (not in {toml_path})"

    mistakes += settings.problems(name_of)
    if mistakes:
        raise Invalid("\n".join(mistakes))
    return settings


def _from_environ(environ: Mapping[str, str], mistakes: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for knob in fields(Settings):
        if (text := environ.get(env_name(knob.name))) is not None and text != "":
            try:
                values[knob.name] = _parse(text, knob)
            except ValueError as exc:
                mistakes.append(f"{env_name(knob.name)} is {text!r}: {exc}")
    return values


def _from_toml(path: Path, mistakes: list[str]) -> dict[str, Any]:
    document = read_toml(path)
    mistakes += strange_tables(path, document)
    places = {toml_place(knob.name): knob for knob in fields(Settings)}
    values: dict[str, Any] = {}
    for table in ("dispatcher", "autoscaler"):
        in_table = document.get(table, {})
        if not isinstance(in_table, dict):
            mistakes.append(f"{path}: {table} is {as_toml(in_table)}: write a table, [{table}]")
            continue
        for key, value in in_table.items():
            knob = places.get((table, key))
            if knob is None:
                mistakes.append(f"{path}: [{table}] has no setting {key!r}; {_hint(table, key)}")
                continue
            try:
                values[knob.name] = _convert(value, knob)
            except ValueError as exc:
                # A URL may hold a login, in a list too.
                shown = "" if knob.metadata["unit"] == "URL" else f" = {as_toml(value)}"
                mistakes.append(f"{path}: [{table}] {key}{shown}: {exc}")
    return values


def _hint(table: str, key: str) -> str:
    """Where a key belongs that its table does not have."""
    for name in (key, f"autoscaler_{key}"):
        place, right = toml_place(name)
        if name in {knob.name for knob in fields(Settings)} and (place, right) != (table, key):
            return f"write {right} under [{place}]"
    return "docs/settings.md has them all"


def _parse(text: str, knob: Field[Any]) -> Any:
    """The value that ``text``, an environment variable, stands for."""
    if isinstance(knob.default, bool):
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError("expected yes or no")
    if isinstance(knob.default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return _convert(int(text) if isinstance(knob.default, int) and text.strip("-").isdigit() else text, knob)


def _convert(value: Any, knob: Field[Any]) -> Any:
    default = knob.default
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    if isinstance(default, int):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("expected a whole number")
        return value
    if isinstance(default, float):
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError("expected a number") from None
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError("expected a number")
        return number
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise ValueError("expected a list of strings")
        return tuple(value)
    if not isinstance(value, str):
        raise ValueError("expected a string")
    return value


def settings_environ(settings: Settings) -> dict[str, str]:
    """The environment in which another process of ours has these settings: what differs from the defaults."""
    environ = {}
    for knob in fields(settings):
        value = getattr(settings, knob.name)
        if value != knob.default:
            environ[env_name(knob.name)] = ",".join(value) if isinstance(value, tuple) else str(value)
    return environ
