"""A TCP proxy in front of a Redis, for what a network does: connections that break, are refused, or go silent for ever."""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import threading
from pathlib import Path

CHUNK_BYTES = 65536
BACKLOG = 128


class Proxy:
    """Forwards a port of the loopback interface to the unix socket of a Redis, from a thread of its own, until :meth:`close`."""

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._listener, self.port = _bind()
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._silenced: list[socket.socket] = []
        self._silent = False
        self._closed = False
        self._fatal: bytes | None = None
        self._losing: set[socket.socket] = set()
        self.lost = 0
        """How many answers were lost on the way."""
        self._awake, self._wake = socket.socketpair()
        self._selector.register(self._awake, selectors.EVENT_READ)
        self.accept()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def url(self, db: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{db}"

    # -- what goes wrong

    def cut(self) -> None:
        """Reset every connection that is open."""
        with self._lock:
            for one in list(self._pairs):
                self._reset(one)

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones until :meth:`accept`."""
        with self._lock:
            self._selector.unregister(self._listener)
            self._listener.shutdown(socket.SHUT_RDWR)  # stops listening, keeps the port
            self.cut()

    def lose_answer_to(self, words: bytes) -> None:
        """Reset the next connection through which these words go (any, if there are none), when Redis has acted on them and before the
        answer is through.
        """
        with self._lock:
            self._fatal = words

    def accept(self) -> None:
        """Take connections (again)."""
        with self._lock:
            self._listener.listen(BACKLOG)
            self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake.send(b".")

    def go_silent(self) -> None:
        """Half-open: connections stay open and nothing comes through any more, not even their end. New ones are the same."""
        with self._lock:
            self._silent = True
            for one in list(self._pairs):
                self._silence(one)

    def speak(self) -> None:
        """New connections are forwarded again. Those that were silenced stay so, as behind a firewall that has forgotten them."""
        with self._lock:
            self._silent = False

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._wake.send(b".")
        self._thread.join(10)
        for one in (*self._pairs, *self._silenced, self._listener, self._awake, self._wake):
            one.close()
        self._selector.close()

    # -- forwarding

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(0.2):
                with self._lock:
                    if key.fileobj is self._awake:
                        self._awake.recv(CHUNK_BYTES)
                    elif key.fileobj is self._listener:
                        self._connect()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._pairs:
                        self._forward(key.fileobj)

    def _connect(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it does not listen any more
            return
        if self._silent:
            self._silenced.append(client)
            return
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self._target)
        except OSError:
            _close_with_reset(client)
            server.close()
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for one, other in ((client, server), (server, client)):
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        try:
            data = source.recv(CHUNK_BYTES)
            if data and source in self._losing:
                self.lost += 1
            elif data:
                if self._fatal is not None and self._fatal in data:
                    self._fatal = None
                    self._losing.add(self._pairs[source])
                self._pairs[source].sendall(data)
                return
        except OSError:
            pass
        self._reset(source)

    def _reset(self, one: socket.socket) -> None:
        """Both ends of the connection that ``one`` is an end of."""
        other = self._pairs.get(one)
        for end in (one, other):
            if end is not None and self._pairs.pop(end, None) is not None:
                self._selector.unregister(end)
                _close_with_reset(end)

    def _silence(self, one: socket.socket) -> None:
        self._pairs.pop(one)
        self._selector.unregister(one)
        self._silenced.append(one)


def _bind() -> tuple[socket.socket, int]:
    """A socket that owns its port even while it does not listen: for that the kernel wants the port named."""
    while True:
        with socket.socket() as finder:
            finder.bind(("127.0.0.1", 0))
            port = finder.getsockname()[1]
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as exc:
            listener.close()
            if exc.errno != errno.EADDRINUSE:
                raise
        else:
            return listener, port


def _close_with_reset(one: socket.socket) -> None:
    if one.family == socket.AF_INET:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
