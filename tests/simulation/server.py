"""A Redis in this process that runs the real Lua, on virtual time, reached over connections that fail as the seed says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1
from random import Random
from types import SimpleNamespace
from typing import Any

import fakeredis
import fakeredis._helpers
import fakeredis._socket._base
import fakeredis.commands_mixins.scripting_mixin
import redis
from fakeredis._clients._sync import FakeRedisConnection
from fakeredis._socket import FakeSocket
from redis.backoff import NoBackoff
from redis.retry import Retry

from dispatcher.store.scripts.sources import source

BORN_S = 1_700_000_000
"""Redis' date when a simulation begins."""

LOOKS = tuple(
    sha1(source(name).encode()).hexdigest().encode() for name in ("snapshot", "read_ingress", "heartbeat", "elect", "tell", "log_decisions")
)
MOVES = (b"PUSH\r\n", b"DEL\r\n", b"EVAL\r\n")
"""Commands that may change a job's place, beside scripts. A worker's RPOP does not: its lease says where the job is."""

# fakeredis looks for new global variables at each command that a script calls. Real Redis refuses them where the scripts' own tests run.
fakeredis.commands_mixins.scripting_mixin._check_for_lua_globals = lambda *_: None  # type: ignore[attr-defined]

_ON_VIRTUAL_TIME = (fakeredis._helpers, fakeredis._socket._base)


@contextmanager
def redis_time(now_s: Callable[[], float]) -> Iterator[None]:
    """What the server calls the time, while this lasts."""
    before = [module.time for module in _ON_VIRTUAL_TIME]  # type: ignore[attr-defined]
    for module in _ON_VIRTUAL_TIME:
        module.time = SimpleNamespace(time=now_s)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, time in zip(_ON_VIRTUAL_TIME, before, strict=True):
            module.time = time  # type: ignore[attr-defined]


@dataclass
class Line:
    """What lies between one process and Redis. ``pause`` is called where the process may be held up: before a command and before its
    reply; ``sent`` after something reached Redis, with whether it may have changed a job's place. Both may let the rest of the world go on.
    """

    rng: Random
    pause: Callable[[str], None]
    sent: Callable[[bool], None]
    away: Callable[[], bool]
    loss: float = 0.0
    """How often a command or its reply is lost, and the connection with it."""
    is_cut: bool = False

    @property
    def is_dead(self) -> bool:
        """Whether nothing gets through."""
        return self.is_cut or self.away()


class Connection(FakeRedisConnection):
    """Everything a connection can do to a command: lose it, lose its reply, or deliver the first half of a batch."""

    line: Line
    server: Server
    _reply_is_lost = False

    def _connect(self) -> Any:
        if self.line.is_dead:
            raise redis.ConnectionError("the line is cut")
        self._reply_is_lost = False
        return Socket(self.server.fake, db=0, client_class=redis.Redis, lua_modules=None, client_info=self._client_info)

    def on_connect(self) -> None:
        """Names nothing and asks nothing: a handshake would only make each seed slower."""
        self._parser.on_connect(self)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        line, data = self.line, command if isinstance(command, bytes) else b"".join(command)
        if not self._sock:
            self.connect()
        line.pause("send")
        luck = line.rng.random()
        if line.is_dead or luck < line.loss / 2:
            reached = 0 if line.is_dead else line.rng.choice((0, line.rng.randrange(len(data) + 1)))
            if reached and self._sock:
                self._deliver(data[:reached])
                line.sent(True)
            self.disconnect()
            raise redis.ConnectionError("lost on the way to Redis")
        if not self._sock:
            raise redis.ConnectionError("closed meanwhile")
        self._deliver(data)
        self._reply_is_lost = luck < line.loss
        line.sent(not self.server.only_looks(data))

    def _deliver(self, data: bytes) -> None:
        self.server.before_command()
        self._sock.sendall(data)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        self.line.pause("reply")
        if self._reply_is_lost or self.line.is_dead:
            self.disconnect()
            raise redis.ConnectionError("lost on the way back")
        return super().read_response(**kwargs)


class Socket(FakeSocket):
    """Redis' end. Sets come in any order, as Redis' do, and in the same one from the same seed."""

    def time(self) -> list[bytes]:
        micros = round(fakeredis._helpers.time.time() * 1_000_000)
        return [str(micros // 1_000_000).encode(), str(micros % 1_000_000).encode()]

    def smembers(self, key: Any) -> list[bytes]:
        found = sorted(key.value)
        self._server.rng.shuffle(found)
        return found

    def srandmember(self, key: Any, count: bytes) -> list[bytes]:
        return self.smembers(key)[: int(count)]


class Server:
    """One Redis. ``before_command`` lets its clock move on a little."""

    def __init__(self, rng: Random, before_command: Callable[[], None]) -> None:
        self.fake: Any = fakeredis.FakeServer(version=(6,))
        self.fake.rng = rng
        self.before_command = before_command

    def client(self, line: Line, *, text: bool) -> redis.Redis:
        """As ``dispatcher.store.redis_client.connection.connect`` makes it: without retries."""
        kind = type("LineConnection", (Connection,), {"line": line, "server": self})
        client = fakeredis.FakeRedis(
            server=self.fake, connection_class=kind, decode_responses=text, encoding_errors="surrogateescape",
            retry=Retry(NoBackoff(), 0), protocol=2,
        )  # fmt: skip
        self._give_lua_sha1(client)
        return client

    def only_looks(self, data: bytes) -> bool:
        """Whether a batch of commands leaves every job where it is."""
        return data.count(b"EVALSHA\r\n") == sum(data.count(sha) for sha in LOOKS) and not any(word in data for word in MOVES)

    def _give_lua_sha1(self, client: redis.Redis) -> None:
        """fakeredis lacks ``redis.sha1hex``, and does more than it must."""
        if hasattr(self.fake, "_lua_runtime"):
            return
        socket = Socket(self.fake, db=0, client_class=redis.Redis, lua_modules=None, client_info=None)
        runtime = socket._get_server_runtime(self.fake)
        runtime.globals()[b"redis"][b"sha1hex"] = lambda text: sha1(text).hexdigest().encode()
        # fakeredis collects Lua's garbage whole after each script, a tenth of a seed's time; Lua does it by itself, bit by bit.
        runtime.globals()[b"collectgarbage"] = lambda *_: None

    def value(self, key: str) -> Any:
        """What is at a key, as fakeredis keeps it; ``None`` where nothing is."""
        item = self.fake.dbs[0].get(key.encode())
        return None if item is None else item.value

    def list(self, key: str) -> list[bytes]:
        return list(self.value(key) or ())

    def hash(self, key: str) -> dict[bytes, bytes]:
        found = self.value(key)
        return {} if found is None else dict(found._values)

    def members(self, key: str) -> set[bytes]:
        """Of a set or a sorted set."""
        return set(self.value(key) or ())

    def expires_at(self, key: str) -> float | None:
        """In s of Redis' clock; ``None`` where the key is not there."""
        self.fake.dbs[0].time = fakeredis._helpers.time.time()
        item = self.fake.dbs[0].get(key.encode())
        return None if item is None else item.expireat

    def keys(self, prefix: str) -> list[str]:
        self.fake.dbs[0].time = fakeredis._helpers.time.time()
        return sorted(key.decode() for key in self.fake.dbs[0] if key.startswith(prefix.encode()))
