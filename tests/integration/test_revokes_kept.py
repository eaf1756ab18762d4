"""What lies in Redis among the revokes, whoever put it there, as a worker reads it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from celery.worker import state

from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.worker import revoke_store
from dispatcher.store.worker.revoke_store import RevokeStore, id_members, stamp_members
from dispatcher.worker.life.revokes import Revokes

KEYS = Keys()
GARBAGE = {
    b"stamp:": 5.0, b"stamp:[1]": 6.0, b"stamp:{": 7.0, b"\xff\xfe": 8.0, b"id:later": float("inf"), b"stamp:\xff": 9.0, b"": 10.0,
    b'stamp:["shop",' + b"[" * 5_000: 11.0,
}  # fmt: skip


@pytest.mark.parametrize("text", [False, True], ids=["bytes", "text"])
def test_what_is_no_revoke_is_passed_over(redis_url: str, text: bool) -> None:
    """The revokes beside it hold, and no job is stopped by it."""
    with connect(redis_url, text=text) as client:
        store = RevokeStore(client, KEYS, kept_s=3600)
        store.add([*id_members(["gone"]), *stamp_members({"shop": "7"})])
        client.zadd(KEYS.revoked, GARBAGE)
        found = store.since(0)
    assert (set(found.ids), dict(found.stamps)) == ({"gone"}, {"shop": ("7",)})


def test_what_cannot_be_read_is_said_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of it there is."""
    log = Mock()  # the command line, run in this process by other tests, leaves its own settings of the loggers
    monkeypatch.setattr(revoke_store, "log", log)
    with connect(redis_url) as client:
        client.zadd(KEYS.revoked, GARBAGE)
        RevokeStore(client, KEYS, kept_s=3600).since(0)
    assert log.warning.call_count == 1


def test_garbage_hides_no_revoke_from_a_worker(redis_url: str) -> None:
    """It heeds those beside it, those that come later, and runs the rest."""
    state.revoked.clear()
    with connect(redis_url) as client:
        store = RevokeStore(client, KEYS, kept_s=3600)
        revokes = Revokes(store)
        client.zadd(KEYS.revoked, GARBAGE)
        for gone in ("gone", "later gone"):
            store.add(id_members([gone]))
            for job in (gone, "job"):
                revokes.heed(job, client.get(KEYS.revoked_at).encode())
    assert {job for job in ("gone", "later gone", "job") if job in state.revoked} == {"gone", "later gone"}


@pytest.mark.parametrize("at", [b"5", b"x", b"-", b"1" * 5_000])
def test_a_key_of_another_type_revokes_nothing(redis_url: str, at: bytes) -> None:
    """Jobs go on; so they do where the time of the last revoke is no number."""
    state.revoked.clear()
    with connect(redis_url, text=True) as client:
        client.set(KEYS.revoked, "mine")
        Revokes(RevokeStore(client, KEYS, kept_s=3600)).heed("job", at)
    assert "job" not in state.revoked
