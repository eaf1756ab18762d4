"""The figures that scripts/house.py reads from a checkout, on a small made-up tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.house import count_names, layered_modules

FILES = {
    "dispatcher/__init__.py": "",
    "dispatcher/clock.py": "def found(one: int) -> int:\n    return one\n",
    "dispatcher/core/__init__.py": "",
    "dispatcher/core/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dispatcher.core import b\n",
    "dispatcher/core/b.py": "from dispatcher.core import a\n",
    "dispatcher/core/rules/__init__.py": "",
    "dispatcher/core/rules/c.py": "class _Headers(msgspec.Struct):\n    id: str\n",
    "dispatcher/core/rules/d.py": '"""Says evalsha, and calls nothing."""\n',
    "workers/__init__.py": "",
    "workers/app.py": f"client.evalsha(sha, 0)\nlong = {'1' * 130}\n",
    "pyproject.toml": """
[[tool.importlinter.contracts]]
type = "layers"
containers = ["dispatcher"]
layers = ["core | other", "clock"]
""",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_names_are_counted_wherever_they_stand() -> None:
    """Variables, parameters, attributes, functions, keyword arguments; no strings, comments or parts of a name."""
    text = "def told(one):\n    for found in one.found:  # one\n        call(one=found, another='one')\n"

    assert count_names([text]) == {"one": 3, "found": 3, "told": 1}


def test_a_layers_contract_names_its_modules(tree: Path) -> None:
    """`|` parts independent modules of a layer."""
    assert layered_modules(tree) == {"core", "other", "clock"}


def test_the_figures_of_a_tree(tree: Path) -> None:
    """Imports under TYPE_CHECKING make a circle too; what a docstring says is no call. In a process of its own: grimp imports nothing."""
    pytest.importorskip("grimp")
    code = f"from scripts.house import *; print(read_house(Path({str(tree)!r})))"
    root = Path(__file__).resolve().parents[3]
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout

    assert "rooms={'dispatcher': 2, 'dispatcher/core': 3, 'dispatcher/core/rules': 2}" in shown
    assert "circles=(('dispatcher.core.a', 'dispatcher.core.b'),)" in shown
    assert "modules=2, layered=2, long_lines=1, empty_names={'one': 2, 'found': 1, 'told': 0}" in shown
    assert "envelope_readers=('dispatcher/core/rules/c.py',), script_callers=('workers/app.py',)" in shown
