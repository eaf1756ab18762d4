"""Three Redis servers and three sentinels on the loopback interface, from the files in ``deploy/redis``."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import redis

from tests.eventually import eventually

DEPLOY = Path(__file__).parent.parent / "deploy" / "redis"
MASTER_NAME = "dispatch"
PATIENCE_S = 60.0


class Sentinels:
    """A master, two replicas, three sentinels; any of them may be killed. Everything ends with :meth:`close`."""

    def __init__(self, executable: str, folder: Path) -> None:
        self._executable = executable
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        ports = _free_ports(6)
        self.servers, self.sentinels = ports[:3], ports[3:]
        for port in self.servers:
            replicaof = () if port == self.servers[0] else ("replicaof", f"127.0.0.1 {self.servers[0]}")
            self._start(port, "redis.conf", _lines(("port", str(port)), replicaof))
        eventually(lambda: self.info(self.servers[0], "replication").get("min_slaves_good_slaves") == 2, PATIENCE_S)
        for port in self.sentinels:
            ours = (("sentinel", f"monitor {MASTER_NAME} 127.0.0.1 {self.servers[0]} 2"),)
            # A test has no time for the patience of the file.
            quick = ("down-after-milliseconds", "1000"), ("failover-timeout", "3000")
            ours += tuple(("sentinel", f"{name} {MASTER_NAME} {value}") for name, value in quick)
            self._start(port, "sentinel.conf", _lines(("port", str(port)), *ours), "--sentinel")
        eventually(self._all_know_all, PATIENCE_S, lambda: [self._state(port) for port in self.sentinels])

    def url(self, db: int = 0) -> str:
        """Celery's form, with the name of the master at its end."""
        return f"{self.celery_url(db)}?master_name={MASTER_NAME}"

    def celery_url(self, db: int = 0) -> str:
        return ";".join(f"sentinel://127.0.0.1:{port}/{db}" for port in self.sentinels)

    def client(self, db: int = 0, *, decode_responses: bool = False) -> redis.Redis:
        """Of whichever server is master at each new connection."""
        found = redis.Sentinel([("127.0.0.1", port) for port in self.sentinels], socket_timeout=2.0)
        return found.master_for(MASTER_NAME, db=db, decode_responses=decode_responses, socket_timeout=5.0)

    def master(self) -> int:
        """The port of the master, as most sentinels see it."""
        seen = [self._state(port).get("port") for port in self.sentinels if port in self._processes]
        return int(max(seen, key=seen.count) or 0)

    def info(self, port: int, section: str) -> dict[str, object]:
        with _client(port) as client, suppress(redis.RedisError):
            return dict(client.info(section))
        return {}

    def kill(self, port: int) -> None:
        """SIGKILL of the server or sentinel at ``port``."""
        process = self._processes.pop(port)
        process.kill()
        process.wait(10)

    def close(self) -> None:
        for port in list(self._processes):
            self.kill(port)

    def _start(self, port: int, file: str, changed: Sequence[str], *options: str) -> None:
        folder = self._folder / str(port)
        folder.mkdir()
        # A sentinel writes to its file. A name that it has set once cannot be set again, so the lines that are changed go.
        names = {tuple(line.split()[:2]) if line.startswith("sentinel") else line.split()[0] for line in changed}
        kept = [
            line for line in (DEPLOY / file).read_text().splitlines()
            if line and line[0] != "#" and line.split()[0] not in names and tuple(line.split()[:2]) not in names
        ]  # fmt: skip
        config = folder / file
        config.write_text("\n".join([*kept, *changed, f"dir {folder}", f"logfile {folder / 'log'}", ""]))
        self._processes[port] = subprocess.Popen([self._executable, str(config), *options], stdin=subprocess.DEVNULL)

    def _state(self, sentinel: int) -> dict[str, object]:
        with _client(sentinel) as client, suppress(redis.RedisError):
            return dict(client.sentinel_master(MASTER_NAME))
        return {}

    def _all_know_all(self) -> bool:
        states = [self._state(port) for port in self.sentinels]
        return all(one.get("num-slaves") == 2 and one.get("num-other-sentinels") == 2 for one in states)


def _client(port: int) -> redis.Redis:
    return redis.Redis(port=port, decode_responses=True, socket_timeout=2.0)


def _lines(*pairs: Sequence[str]) -> list[str]:
    return [" ".join(pair) for pair in pairs if pair]


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now: nobody can keep them for a server that is still to be started."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
