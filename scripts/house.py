"""Prints figures of a checkout's code: what one meets on entering a folder, import circles, long lines, names that say nothing.

    python scripts/house.py [TREE] [--json]

TREE is any checkout of this repository, an old one too; by default, this one. Nothing of it is run or imported: the
figures come from its text. Needs grimp, which import-linter brings.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

PACKAGES: Final = ("dispatcher", "workers")
COLUMNS_MAX: Final = 120
EMPTY_NAMES: Final = ("one", "found", "told")
"""Names of variables, parameters, attributes and functions that do not tell what they hold."""


@dataclass(frozen=True, slots=True)
class House:
    """The figures of one checkout."""

    rooms: Mapping[str, int]
    """Files and folders in each folder of ``dispatcher``, ``__init__.py`` and Lua scripts left out."""
    circles: tuple[tuple[str, ...], ...]
    """Modules that import each other, directly or through others; imports under ``TYPE_CHECKING`` count."""
    modules: int
    """Top-level modules of ``dispatcher``."""
    layered: int
    """Those of them that a layers contract names."""
    long_lines: int
    """Lines of Python over 120 columns."""
    empty_names: Mapping[str, int]
    """How often a name that says nothing is bound or read."""
    envelope_readers: tuple[str, ...]
    """Files that decode Celery's envelope: its headers, properties or body."""
    script_callers: tuple[str, ...]
    """Files that call a Lua script by its SHA (``EVALSHA``)."""


def read_house(tree: Path) -> House:
    """Read the figures of the checkout at ``tree``."""
    files = {path.relative_to(tree).as_posix(): path.read_text("utf-8") for path in _python_files(tree)}
    layers = layered_modules(tree)
    tops = {path.stem for path in (tree / "dispatcher").iterdir() if _is_room(path)}
    names = count_names(files.values())
    return House(
        rooms=dict(_rooms(tree / "dispatcher", tree)),
        circles=tuple(circles(tree)),
        modules=len(tops),
        layered=len(tops & layers),
        long_lines=sum(len(line) > COLUMNS_MAX for text in files.values() for line in text.splitlines()),
        empty_names=names,
        envelope_readers=tuple(name for name, text in files.items() if _reads_envelope(text)),
        script_callers=tuple(name for name, text in files.items() if _calls_scripts(text)),
    )


def count_names(sources: Iterable[str]) -> dict[str, int]:
    """How often each of ``EMPTY_NAMES`` stands as a name in these texts of Python."""
    counts = dict.fromkeys(EMPTY_NAMES, 0)
    for text in sources:
        for node in ast.walk(ast.parse(text)):
            for name in _names(node):
                if name in counts:
                    counts[name] += 1
    return counts


def circles(tree: Path) -> Iterator[tuple[str, ...]]:
    """Groups of modules that reach each other by imports (strongly connected components), the largest first."""
    import grimp  # the tests use the rest of this file, and are installed without it

    sys.path.insert(0, str(tree))
    try:
        graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    finally:
        sys.path.remove(str(tree))
    imports = {module: sorted(graph.find_modules_directly_imported_by(module)) for module in sorted(graph.modules)}
    yield from sorted(_strong_components(imports), key=lambda group: (-len(group), group))


def layered_modules(tree: Path) -> set[str]:
    """The top-level modules of ``dispatcher`` that a layers contract of pyproject.toml names."""
    config = tomllib.loads((tree / "pyproject.toml").read_text("utf-8")).get("tool", {}).get("importlinter", {})
    named: set[str] = set()
    for contract in config.get("contracts", ()):
        if contract.get("type") != "layers" or contract.get("containers", ["dispatcher"]) != ["dispatcher"]:
            continue
        for layer in contract["layers"]:
            for module in re.split(r"[|:]", layer):
                named.add(module.strip(" ()").removeprefix("dispatcher."))
    return named


def _python_files(tree: Path) -> list[Path]:
    return sorted(path for package in PACKAGES for path in (tree / package).rglob("*.py"))


def _is_room(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("*.py"))
    return path.suffix == ".py" and path.name != "__init__.py"


def _rooms(folder: Path, tree: Path) -> Iterator[tuple[str, int]]:
    yield folder.relative_to(tree).as_posix(), sum(map(_is_room, folder.iterdir()))
    for path in sorted(folder.iterdir()):
        if path.is_dir() and _is_room(path):
            yield from _rooms(path, tree)


def _names(node: ast.AST) -> tuple[str, ...]:
    match node:
        case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
            return (name,)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return (name,)
        case ast.keyword(arg=str(name)) | ast.MatchAs(name=str(name)) | ast.ExceptHandler(name=str(name)):
            return (name,)
    return ()


def _reads_envelope(text: str) -> bool:
    """True if the file declares a struct of Celery's message, or takes the fields of a decoded message by hand."""
    return bool(
        re.search(r"class _?(Message|Envelope|Headers|Properties|DeliveryInfo)\w*\(msgspec\.Struct", text)
        or re.search(r"""\[["'](properties|delivery_info|body_encoding)["']\]""", text)
        or re.search(r"""\.get\(["'](headers|properties|delivery_info|body_encoding)["']""", text)
    )


def _calls_scripts(text: str) -> bool:
    return bool(re.search(r"""evalsha|register_script|["']EVALSHA["']""", _code(text)))


def _code(text: str) -> str:
    """The text without docstrings and comments."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            texts = [part for part in body if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)]
            body[:] = [part for part in body if part not in texts] or [ast.Pass()]
    return ast.unparse(tree)


def _strong_components(edges: Mapping[str, list[str]]) -> Iterator[tuple[str, ...]]:
    """Tarjan's algorithm, with a stack of its own instead of recursion; single modules are left out."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    open_nodes: list[str] = []
    for root in edges:
        if root in number:
            continue
        work = [(root, iter(edges[root]))]
        number[root] = low[root] = len(number)
        open_nodes.append(root)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in number:
                    number[target] = low[target] = len(number)
                    open_nodes.append(target)
                    work.append((target, iter(edges[target])))
                    break
                if target in open_nodes:
                    low[node] = min(low[node], number[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    group = open_nodes[open_nodes.index(node) :]
                    del open_nodes[open_nodes.index(node) :]
                    if len(group) > 1:
                        yield tuple(sorted(group))


def _print(house: House) -> None:
    rows = [(f"rooms in {folder}/", str(count)) for folder, count in house.rooms.items()]
    rows += [
        ("circles of imports", str(len(house.circles))),
        ("modules under a layers contract", f"{house.layered} of {house.modules}"),
        (f"lines over {COLUMNS_MAX} columns", str(house.long_lines)),
        *((f"uses of the name `{name}`", str(count)) for name, count in house.empty_names.items()),
        ("files that decode Celery's envelope", str(len(house.envelope_readers))),
        ("files that call a Lua script by its SHA", str(len(house.script_callers))),
    ]
    width = max(len(label) for label, _ in rows)
    for label, figure in rows:
        print(f"{label:{width}}  {figure:>9}")
    for title, names in (
        ("circles", [" ↔ ".join(group) for group in house.circles]),
        ("decode the envelope", house.envelope_readers),
        ("call a script", house.script_callers),
    ):
        print(f"\n{title}:", *(names or ("none",)), sep="\n  ")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Figures of a checkout's code.")
    parser.add_argument("tree", nargs="?", type=Path, default=Path(__file__).resolve().parents[1], metavar="TREE")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one line of JSON")
    arguments = parser.parse_args()
    house = read_house(arguments.tree.resolve())
    if arguments.as_json:
        print(json.dumps(asdict(house)))
    else:
        _print(house)


if __name__ == "__main__":
    main()
