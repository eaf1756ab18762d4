"""A worker's registration: what it writes to Redis once, when its life begins. Everything that reads registrations
reads them here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import redis

from dispatcher.core.facts import labels
from dispatcher.core.facts.header import DEFAULT_MODEL
from dispatcher.core.facts.lane import Lane
from dispatcher.store.formats import FORMATS_UNSAID, Formats
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import replies_of_its_type

CONCURRENCY_MAX: Final = 1_000_000
WEIGHT_MAX: Final = 1e9


@dataclass(frozen=True, slots=True)
class Registration:
    """What a worker says about itself. In its life only its tasks change (:attr:`changes`)."""

    name: str
    """Celery's node name: ``gpu1@host``. A worker that restarts has the same name and a new epoch."""
    host: str
    pid: int
    concurrency: int
    """How many jobs it runs at once."""
    pool: str = "prefork"
    """Celery's name of its pool."""
    weight: float = 1.0
    """Its speed relative to other workers, as its operator states it: at twice the weight a job takes half the time."""
    models: tuple[str, ...] = ()
    """The models it serves."""
    models_max: int = 0
    """How many models it keeps in memory at once; 0: all of them."""
    threads: int = 0
    """How many threads the libraries under a model use in each of its slots; 0: it does not say."""
    resident: tuple[str, ...] | None = None
    """The models it had in memory when it registered, ``None`` if it does not say. Later changes come with its beats.
    """
    labels: dict[str, str] = field(default_factory=dict)
    ingress: tuple[str, ...] = ("dispatch",)
    """The ingress queues it serves."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks it can run."""
    at_most_once: tuple[str, ...] = ()
    """Names of those tasks that are not run again after a crash (``acks_late=False``)."""
    version: str = ""
    """The version of this package that it runs."""
    formats: Formats = FORMATS_UNSAID
    """The formats of stored records that it reads."""
    changes: int = 0
    """How often its tasks have changed since its life began."""


    def may_have(self, lane: Lane) -> bool:
        """True if the worker has all that jobs of this lane ask for."""
        if lane.ingress not in self.ingress or lane.task not in self.tasks or labels.refused(lane.requires, self.labels):
            return False
        return lane.model == DEFAULT_MODEL or lane.model in self.models


def encode_registration(registration: Registration) -> str:
    """The JSON that lies in Redis."""
    return msgspec.json.encode(registration).decode()


def read_registration(text: bytes | str | None) -> Registration | None:
    """The registration that lies in Redis; ``None`` if it is missing, malformed, or has numbers that no plan can be
    made with.
    """
    if text is None:
        return None
    raw = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    try:
        registration = msgspec.json.decode(raw, type=Registration)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    is_usable = 0 < registration.concurrency <= CONCURRENCY_MAX and 0 < registration.weight <= WEIGHT_MAX
    return registration if is_usable else None


class Learned(NamedTuple):
    """What one read of registrations brought."""

    new: dict[str, Registration]
    """Epoch → registration that was not known before."""
    unreadable: list[str]
    """Epochs whose registration is missing, malformed, or under a key of another type. They are read again at the next
    call.
    """
    has_forgotten: bool
    """Some workers that were known are not among the epochs any more."""


class Registrations:
    """A cache of registrations. Each is read from Redis once, and again after :meth:`forget`.

    ``client`` may answer with text or with bytes. Raises what redis-py raises. Another thread may read :attr:`known` at
    any time.
    """

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.known: dict[str, Registration] = {}
        """Epoch → registration, as of the last :meth:`learn`."""
        self._client = client
        self._keys = keys

    def learn(self, epochs: Sequence[str]) -> Learned:
        """Read the registrations of these workers that are not known yet, and forget all other workers."""
        known = self.known
        unknown = [epoch for epoch in epochs if epoch not in known]
        new = self._read(unknown) if unknown else {}
        has_forgotten = len(known) + len(unknown) > len(epochs)
        if new or has_forgotten:
            # In the order of `epochs`, and as a new dict: another thread may be reading the old one.
            both = known | new
            self.known = {epoch: both[epoch] for epoch in epochs if epoch in both}
        return Learned(new, [epoch for epoch in unknown if epoch not in new], has_forgotten)

    def forget(self, epoch: str) -> None:
        """The registration of this worker has changed: the next :meth:`learn` reads it again."""
        self.known = {known: registration for known, registration in self.known.items() if known != epoch}

    def _read(self, epochs: Sequence[str]) -> dict[str, Registration]:
        with self._client.pipeline(transaction=False) as pipe:
            for epoch in epochs:
                pipe.hget(self._keys.worker(epoch), "registration")
            texts = replies_of_its_type(pipe)
        read = {epoch: read_registration(text) for epoch, text in zip(epochs, texts, strict=True)}
        return {epoch: registration for epoch, registration in read.items() if registration is not None}
