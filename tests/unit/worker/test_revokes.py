"""What a worker knows of revokes that it did not hear."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery.worker import state

from dispatcher.store.worker.revoke_store import Revoked
from dispatcher.worker.life.revokes import Revokes


class FakeStore:
    """Redis, as far as this needs it."""

    kept_us = 1000

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.stamps: dict[str, tuple[str, ...]] = {}
        self.reads = 0

    def since(self, at_us: int) -> Revoked:
        self.reads += 1
        return Revoked(max(self.ids.values(), default=at_us), {i: at for i, at in self.ids.items() if at > at_us}, self.stamps)


@pytest.fixture(autouse=True)
def celerys_state() -> Iterator[None]:
    """As a worker process begins with it."""
    state.revoked.clear()
    state.revoked_stamps.clear()
    yield
    state.revoked.clear()
    state.revoked_stamps.clear()


def test_nothing_is_asked_while_nothing_is_revoked() -> None:
    """Nor after what was revoked is known."""
    store = FakeStore()
    revokes = Revokes(store)
    revokes.heed("a", None)
    assert store.reads == 0
    store.ids = {"a": 10}
    for task_id in ("b", "a", "c"):
        revokes.heed(task_id, b"10")
    assert store.reads == 1
    assert ["a" in state.revoked, "b" in state.revoked] == [True, False]


def test_an_error_of_redis_is_tried_again_with_the_next_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job in hand goes back in line; what is not known yet is not taken for known."""
    store = FakeStore()
    store.ids = {"a": 10}
    revokes = Revokes(store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "since", lambda _at: (_ for _ in ()).throw(ConnectionError))
        with pytest.raises(ConnectionError):
            revokes.heed("a", b"10")
    revokes.heed("a", b"10")
    assert "a" in state.revoked


def test_what_redis_forgot_is_forgotten() -> None:
    """It was long ago, or Redis lost its state: then what it has now counts."""
    store = FakeStore()
    store.ids = {"a": 10}
    revokes = Revokes(store)
    revokes.heed("x", b"10")
    store.ids = {"b": 5}
    revokes.heed("a", b"5")
    revokes.heed("b", b"5")
    assert ["a" in state.revoked, "b" in state.revoked] == [False, True]
    revokes.heed("x", None)
    state.revoked.clear()
    revokes.heed("b", None)
    assert "b" not in state.revoked


def test_old_ids_go() -> None:
    """A job may be sent again under an id that was revoked long ago."""
    store = FakeStore()
    store.ids = {"a": 10}
    revokes = Revokes(store)
    revokes.heed("x", b"10")
    store.ids["b"] = 1011
    revokes.heed("a", b"1011")
    assert "a" not in state.revoked


def test_stamps_are_added_to_those_celery_knows() -> None:
    """It may keep one as a text, or many as a list."""
    store = FakeStore()
    store.ids, store.stamps = {"a": 10}, {"customer": ("acme", "evil")}
    state.revoked_stamps["customer"] = "acme"
    Revokes(store).heed("x", b"10")
    assert state.revoked_stamps == {"customer": ["acme", "evil"]}
