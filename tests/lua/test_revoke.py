"""revoke: what must not be started is remembered, for a while and up to a number."""

from __future__ import annotations

import pytest

from dispatcher.store.worker import revoke_store
from dispatcher.store.worker.revoke_store import Revoked, RevokeStore, id_members, stamp_members
from tests.lua.cell import Cell, nothing_written


@pytest.fixture
def store(cell: Cell) -> RevokeStore:
    return RevokeStore(cell.client, cell.keys, kept_s=60)


def test_what_was_revoked_is_read_once(store: RevokeStore) -> None:
    """Ids and stamps, and after that only what is new."""
    assert store.add([*id_members(["a", "b:ü"]), *stamp_members({"customer": ["acme", "evil"], "job": "1"})]) == 5
    revoked = store.since(0)
    assert set(revoked.ids) == {"a", "b:ü"}
    assert {name: set(values) for name, values in revoked.stamps.items()} == {"customer": {"acme", "evil"}, "job": {"1"}}

    assert store.since(revoked.at_us) == Revoked(revoked.at_us)
    store.add(id_members(["c"]))
    assert set(store.since(revoked.at_us).ids) == {"c"}


def test_celerys_command_line_names_stamps_as_texts() -> None:
    """``celery control revoke_by_stamped_headers a=b``."""
    assert stamp_members(["a=b"]) == stamp_members({"a": "b"})


def test_a_revoke_that_all_workers_tell_is_written_once(cell: Cell, store: RevokeStore) -> None:
    """Each says what it heard; only the first makes the others read."""
    store.add(id_members(["a"]))
    with nothing_written(cell):
        assert store.add(id_members(["a"])) == 0


def test_a_take_tells_when_something_was_revoked(cell: Cell, store: RevokeStore) -> None:
    """Nothing while nothing is."""
    worker = cell.worker()
    first, second = cell.leased(worker, 2)

    assert worker.take(first)
    assert worker.pipe.revoked_at is None
    store.add(id_members(["a"]))
    assert worker.take(second)
    assert int(worker.pipe.revoked_at or 0) == store.since(0).at_us


def test_old_revokes_go_and_so_do_the_oldest_of_too_many(cell: Cell, store: RevokeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute is how long this store keeps one."""
    monkeypatch.setattr(revoke_store, "REVOKES_MAX", 3)
    cell.client.zadd(cell.keys.revoked, {"id:old": 1})
    for number in range(5):
        store.add(id_members([str(number)]))
    assert set(store.since(0).ids) == {"2", "3", "4"}
    assert 0 < cell.client.pttl(cell.keys.revoked) <= 60_000
    assert 0 < cell.client.pttl(cell.keys.revoked_at) <= 60_000
