"""Versions of this package that can run beside each other: a commit's wheel in a folder of its own, or the work tree as it is."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASES = ROOT / "benchmarks" / "releases.toml"
WORK_TREE = "the work tree"


class NotThere(Exception):
    """A revision cannot be built here: git is missing, or does not have the commit."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the package, ready to run."""

    name: str
    """The short commit, or ``the work tree``."""
    folder: Path
    """Holds the package ``dispatcher``. On ``PYTHONPATH`` it wins over the editable install of the virtual environment."""


def newest_release() -> str:
    """The commit of the last release in ``benchmarks/releases.toml``."""
    return str(tomllib.loads(RELEASES.read_text())["release"][-1]["commit"])


def version_of(revision: str | None, folder: Path) -> Version:
    """Build the wheel of ``revision`` and unpack it into a new folder below ``folder``; ``None`` is the work tree, where it lies.

    The wheel's requirements are not installed: both versions run with those of this virtual environment. Raises :class:`NotThere`.
    """
    if revision is None:
        return Version(WORK_TREE, ROOT)
    commit = commit_of(revision)
    source, wheels, target = (folder / f"{commit}-{part}" for part in ("source", "wheels", "package"))
    with tarfile.open(fileobj=BytesIO(git("archive", "--format=tar", commit))) as archive:
        archive.extractall(source, filter="data")
    run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(wheels), str(source)])
    (wheel,) = wheels.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps", "--no-index"]
    run([*pip, "--target", str(target), str(wheel)])
    return Version(commit, target)


def commit_of(revision: str) -> str:
    """The short name of a commit that git has here."""
    return git("rev-parse", "--verify", "--quiet", "--short=7", f"{revision}^{{commit}}").decode().strip()


def git(*arguments: str) -> bytes:
    """What git prints, run in the work tree. Raises :class:`NotThere`."""
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout
    except FileNotFoundError as exc:
        raise NotThere("git is not installed here") from exc
    except subprocess.CalledProcessError as exc:
        said = exc.stderr.decode(errors="replace").strip() or "the commit is unknown here; is the clone shallow?"
        raise NotThere(f"git {' '.join(arguments)}: {said}") from exc


def run(command: list[str]) -> None:
    """Run a command to its end; RuntimeError with what it printed where it fails."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
