"""The layout of every stored record, as text: compared with what docs/formats.json has under the present format number.

Part of `docs/generate.py`. A record that gets a field with a default stays in its format: old readers pass over the field. Any other
change needs a new number, because another version would misread what lies in Redis.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from dispatcher.batches.state import PlanFacts
from dispatcher.core.admission.rules import Refused
from dispatcher.core.choosing.order.fairness import KeptAccounts
from dispatcher.core.facts.evidence import WorkerTotals
from dispatcher.core.facts.header import JobHeader
from dispatcher.core.health.ejection import State as HealthState
from dispatcher.core.learning import residency, speeds
from dispatcher.core.returns.poison import Attempt
from dispatcher.core.rollout.aliases import Rollout
from dispatcher.core.rollout.canary import Watch
from dispatcher.store import frame
from dispatcher.store.formats import FORMATS
from dispatcher.store.key_catalogue import KEYS
from dispatcher.store.leader import admit_batch
from dispatcher.store.leader.decision_store import Tick
from dispatcher.store.leader.leader_view import LeaderView
from dispatcher.store.registration import Registration

FILE = Path(__file__).resolve().parent / "formats.json"
NUMBER = FORMATS.newest

RECORDS: dict[str, Any] = {
    "header of a job": JobHeader,
    "registration of a worker": Registration,
    "totals of a worker's beat": WorkerTotals,
    "story of a job": Attempt,
    "alias of a rollout": Rollout,
    "view of the leader": LeaderView,
    "decision log": Tick,
    "resumable submit": PlanFacts,
    "learned speeds": speeds._Saved,
    "learned costs": list[tuple[str, str, float]],
    "learned load times": residency._Learned,
    "learned health": HealthState,
    "watched canaries": dict[str, Watch],
    "accounts of tenants": KeptAccounts,
}
"""What is encoded as JSON: the type that it is read as."""

_HAS_DEFAULT = " = "
_LUA = files("dispatcher.store") / "lua"


def layouts() -> dict[str, dict[str, str]]:
    """Record → part → type, place, or what else its readers rely on."""
    records = {name: dict(_parts("", of)) for name, of in RECORDS.items()}
    records["reason of a dead letter"] = _dead_letter()
    records["frame in Python"] = _frame_in_python()
    records["frame in Lua"] = _frame_in_lua()
    records["types of the keys"] = {key.name: f"{key.type}{_HAS_DEFAULT}no key" for key in KEYS}
    records["fields of hashes"] = dict.fromkeys(sorted(_hash_fields()), f"hash field{_HAS_DEFAULT}no field")
    return records


class Changes(NamedTuple):
    """How the code differs from a layout that was written down."""

    added: list[str]
    """What old readers pass over."""
    broken: list[str]
    """What another version would misread."""


def compare(kept: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> Changes:
    """Each difference as a few words that name the record and the part."""
    added, broken = [], []
    for record in sorted(kept.keys() | now.keys()):
        old, new = kept.get(record, {}), now.get(record, {})
        if record not in kept:
            added.append(f"{record}: new")
            continue
        for part in sorted(old.keys() | new.keys()):
            if part not in new:
                broken.append(f"{record}: {part!r} is gone")
            elif part not in old:
                is_inside_new = part.rpartition(".")[0] in new.keys() - old.keys()
                (added if is_inside_new or _HAS_DEFAULT in new[part] else broken).append(f"{record}: {part!r} is new")
            elif old[part] != new[part]:
                broken.append(f"{record}: {part!r} was {old[part]!r} and is {new[part]!r}")
    return Changes(added, broken)


def kept_layouts() -> dict[str, dict[str, dict[str, str]]]:
    """Format number → its layouts, as committed."""
    kept: dict[str, dict[str, dict[str, str]]] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    return kept


def problems() -> list[str]:
    """What is wrong with docs/formats.json, a sentence each; empty if it has the layouts of the code."""
    kept = kept_layouts()
    if str(NUMBER) not in kept:
        return [f"docs/formats.json has no layouts of format {NUMBER}: run `make docs` and commit it"]
    changes = compare(kept[str(NUMBER)], layouts())
    said = [
        f"{what}, but dispatcher/store/formats.py still says format {NUMBER}: undo the change, or raise FORMATS.newest, keep a reader "
        f"of format {NUMBER}, write it until every live process reads {NUMBER + 1}, and run `make docs`" for what in changes.broken
    ]  # fmt: skip
    return said + [f"{what} in format {NUMBER}, which old readers pass over: run `make docs` and commit it" for what in changes.added]


def write() -> list[str]:
    """Write the layouts of a new number, and what was added to those of the present one; returns what must not be written."""
    kept, now = kept_layouts(), layouts()
    if compare(kept.get(str(NUMBER), {}), now).broken:
        return problems()
    kept[str(NUMBER)] = now
    FILE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return []


# -- types


def _parts(prefix: str, of: Any) -> Iterator[tuple[str, str]]:
    """(part, what it is) of a type and of the records in it; a part is a dotted path."""
    yield prefix or "itself", _spelled(of)
    for record in dict.fromkeys(_records_in(of)):
        is_array = _is_array(record)
        for at, (name, hint, default) in enumerate(_fields(record)):
            path = f"{prefix}.{at} {name}" if is_array else f"{prefix}.{name}"
            (_, spelled), *inner = _parts(path, hint)
            yield path, spelled + default
            yield from inner


def _records_in(of: Any) -> Iterator[type]:
    if isinstance(of, type) and (issubclass(of, msgspec.Struct) or dataclasses.is_dataclass(of) or hasattr(of, "_fields")):
        yield of
    for part in get_args(of):
        yield from _records_in(part)


def _is_array(record: type) -> bool:
    if issubclass(record, msgspec.Struct):
        return bool(record.__struct_config__.array_like)
    return hasattr(record, "_fields")


def _fields(record: type) -> Iterator[tuple[str, Any, str]]:
    """(name as encoded, type, default) of each field."""
    hints = get_type_hints(record)
    if issubclass(record, msgspec.Struct):
        for field in msgspec.structs.fields(record):
            yield field.encode_name, field.type, _default(field.default, field.default_factory, msgspec.NODEFAULT)
    elif dataclasses.is_dataclass(record):
        for declared in dataclasses.fields(record):
            yield declared.name, hints[declared.name], _default(declared.default, declared.default_factory, dataclasses.MISSING)
    else:
        for name in record._fields:  # type: ignore[attr-defined]  # a NamedTuple has no type of its own
            yield name, hints[name], ""


def _default(value: Any, factory: Any, missing: Any) -> str:
    made = value if value is not missing or factory is missing else factory()
    if made is missing:
        return ""
    return _HAS_DEFAULT + ("its defaults" if isinstance(made, msgspec.Struct) else msgspec.json.encode(made).decode())


def _spelled(of: Any) -> str:
    if isinstance(of, type) and not get_args(of):
        record = next(_records_in(of), None)
        return of.__name__ if record is None else "array" if _is_array(record) else "object"
    origin, parts = get_origin(of), get_args(of)
    if origin is Literal:
        return " | ".join(map(repr, parts))
    if origin in {Union, types.UnionType}:
        return " | ".join(map(_spelled, parts))
    if origin is not None:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(map(_spelled, parts))}]"
    return "..." if of is Ellipsis else str(of)


# -- frames, keys, scripts


def _frame_in_python() -> dict[str, str]:
    """Field → the characters of an entry that it is read from, by experiment."""
    plain = "0" * frame.FRAME_BYTES + "-"
    places: dict[str, list[int]] = {}
    for at in range(len(plain)):
        read = frame.parse_entry(plain[:at] + "1" + plain[at + 1 :])
        for field in dataclasses.fields(read):
            if getattr(read, field.name) != getattr(frame.parse_entry(plain), field.name):
                places.setdefault(field.name, []).append(at)
    return {name: f"{found[0]} to {found[-1]}" for name, found in places.items()}


def _frame_in_lua() -> dict[str, str]:
    """What the shared functions name with its place, and the places that they cut out of an entry; the first character is 1."""
    text = (_LUA / "_entry.lua").read_text()
    named = {name: place for line in text.splitlines() if line.startswith("local") for name, place in re.findall(r"(\w+) = (\d+)", line)}
    cuts = re.findall(r"^local function (\w+)\(entry[^\n]*string\.sub\(entry, (\d+), (\d+)\)", text, re.MULTILINE)
    return named | {function: f"{first} to {last}" for function, first, last in cuts}


def _dead_letter() -> dict[str, str]:
    """What a reason record has, by who writes it: `admit` in Python, and what scripts put before the JSON they are given."""
    refused = json.loads(admit_batch._reason(Refused("", "", "", ""), admit_batch.IngressList("", "", 0)))
    by_admit = {f"{name} by admit": type(value).__name__ + _HAS_DEFAULT + "no field" for name, value in refused.items()}
    lines = [line for path in sorted(_LUA.iterdir(), key=str) for line in path.read_text().splitlines()]
    code = "\n".join(line for line in lines if "redis.call" in line or "reason = " in line)
    return by_admit | {f"{name} by scripts": f"as written{_HAS_DEFAULT}no field" for name in re.findall(r'"(\w+)":', code)}


def _hash_fields() -> set[str]:
    """The hash fields that scripts name."""
    found: set[str] = set()
    for path in _LUA.iterdir():
        for call in re.findall(r"redis\.p?call\('H(?:SET|GET|MGET|DEL|INCRBY|SETNX|EXISTS)', ([^\n]*)", path.read_text()):
            found.update(re.findall(r"'([a-z]\w*)'", call.partition(")")[0]))
    return found
