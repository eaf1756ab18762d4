"""free_keys: what is of another type lies aside, and all else where it lay."""

from __future__ import annotations

from dispatcher.store.key_catalogue import typed_keys
from tests.lua.cell import Cell, nothing_written


def test_each_key_is_freed_of_another_type(cell: Cell) -> None:
    """Every one; what lay there is kept, and is named again and again, until somebody deletes it."""
    names, types = typed_keys(cell.keys)
    cell.client.flushdb()
    for name, type_ in zip(names, types, strict=True):
        (cell.client.set if type_ != "string" else cell.client.rpush)(name, "other")
    kept = {name: cell.client.dump(name) for name in names}

    assert sorted(cell.store.free_keys()) == sorted(names)
    assert {name: cell.client.dump(f"{name}:aside") for name in names} == kept
    assert not cell.client.exists(*names)
    with nothing_written(cell):
        assert sorted(cell.store.free_keys()) == sorted(names)
    cell.client.delete(*(f"{name}:aside" for name in names))
    assert cell.store.free_keys() == []


def test_what_is_of_its_type_stays(cell: Cell) -> None:
    """A cell at work has nothing to free."""
    cell.jobs(3)
    cell.give(cell.worker(), 2)

    with nothing_written(cell):
        assert cell.store.free_keys() == []
