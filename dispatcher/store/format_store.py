"""Which formats lie in a cell, and which its live processes read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import redis

from dispatcher.store.formats import FORMATS_UNSAID, Formats, read_formats, refusal
from dispatcher.store.frame import read_record
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import replies_of_its_type
from dispatcher.store.registration import read_registration
from dispatcher.store.scripts.call import Scripts, led


class Reader(NamedTuple):
    """A registered worker, as a reader of formats."""

    epoch: str
    name: str
    formats: Formats
    alive: bool


class FormatsInUse(NamedTuple):
    """The formats of one cell at one moment."""

    stored: Formats | None
    """What may lie in Redis; ``None`` where no job was ever admitted."""
    workers: tuple[Reader, ...]
    leader: Formats | None
    """What the leading dispatcher reads; ``None`` where none leads."""
    leader_host: str

    def refusal(self, process: str, own: Formats) -> str | None:
        """Why ``process``, which reads ``own``, must not start here; ``None`` if it may."""
        others: dict[str, Formats] = {}
        if self.leader is not None:
            others[f"the leading dispatcher on {self.leader_host}"] = self.leader
        others |= {f"worker {worker.name}": worker.formats for worker in self.workers if worker.alive}
        return refusal(process, own, others, self.stored)


class FormatStore:
    """The formats of one cell. ``token`` is the leader's, empty for others. ``client`` may answer with text or with
    bytes.
    """

    def __init__(self, client: redis.Redis, keys: Keys, token: str = "") -> None:
        self._client = client
        self._keys = keys
        self._token = token
        self._run = Scripts(client)

    def read(self) -> FormatsInUse:
        """Two round trips, for the start of a process. What is malformed counts as unsaid. Raises what redis-py raises."""
        keys = self._keys
        with self._client.pipeline(transaction=False) as pipe:
            pipe.get(keys.formats)
            pipe.exists(keys.sequence)
            pipe.exists(keys.leader)
            pipe.hget(keys.leader_info, "formats")
            pipe.hget(keys.leader_info, "info")
            pipe.smembers(keys.workers)
            stored, has_jobs, is_led, leader, info, epochs = replies_of_its_type(pipe)
        known = [_text(epoch) for epoch in epochs or ()]
        with self._client.pipeline(transaction=False) as pipe:
            for epoch in known:
                pipe.exists(keys.alive(epoch))
                pipe.hget(keys.worker(epoch), "registration")
            answers = replies_of_its_type(pipe)
        workers = []
        for epoch, alive, text in zip(known, answers[::2], answers[1::2], strict=True):
            registration = read_registration(text)
            name, formats = (epoch, FORMATS_UNSAID) if registration is None else (registration.name, registration.formats)
            workers.append(Reader(epoch, name, formats, bool(alive)))
        return FormatsInUse(
            read_formats(stored) if stored or has_jobs else None, tuple(workers), read_formats(leader) if is_led else None,
            str(read_record(info).get("host", "another host")),
        )  # fmt: skip

    def raise_to(self, newest: int, epochs: Iterable[str]) -> bool:
        """From now on records of format ``newest`` may lie here. ``epochs``: the workers that read it.

        False: another worker has registered. Raises :class:`~dispatcher.errors.NotLeader` where this process does not
        lead any more.
        """
        keys = self._keys
        names = [keys.leader, keys.formats, keys.workers, keys.sequence]
        return bool(led(self._run("raise_format", names, [self._token, newest, *epochs])))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
