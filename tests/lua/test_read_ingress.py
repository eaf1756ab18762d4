"""read_ingress: the next messages of every ingress list, none of them removed."""

from __future__ import annotations

from dispatcher.store.leader.admit_batch import IngressList
from dispatcher.store.leader.look_store import READ_BYTES_MAX
from tests.lua.cell import BYTES_MAX, DISPATCH, Cell, nothing_written

LISTS = [DISPATCH, IngressList("gpu", "gpu", 0), IngressList("dispatch\x06\x163", "dispatch", 3)]


def read(cell: Cell, *, limit: int = 500, bytes_max: int = BYTES_MAX) -> dict[int, list[bytes]]:
    return cell.store.look(LISTS, limit=limit, message_bytes_max=bytes_max).messages


def test_the_next_message_comes_first_and_all_stay(cell: Cell) -> None:
    """Per list, by its place in the question; empty lists are left out; nothing is written."""
    cell.push(b"a", b"b", b"c")
    cell.push(b"low", queue=LISTS[2].key)

    with nothing_written(cell):
        assert read(cell) == {0: [b"a", b"b", b"c"], 2: [b"low"]}


def test_the_limit_holds_over_all_lists(cell: Cell) -> None:
    """Who is named first is served first: that is how priorities are."""
    cell.push(*[b"%d" % i for i in range(130)])
    cell.push(b"x", b"y", queue="gpu")
    cell.push(b"low", queue=LISTS[2].key)

    messages = read(cell, limit=131)
    assert messages == {0: [b"%d" % i for i in range(130)], 1: [b"x"]}


def test_every_length_of_list_is_read_whole(cell: Cell) -> None:
    """It reads in slices; the seams show nowhere."""
    for length in (1, 49, 50, 51, 99, 100, 101, 500):
        cell.client.delete("dispatch")
        sent = [b"%d" % i for i in range(length)]
        cell.push(*sent)
        assert read(cell) == {0: sent}
        if length > 1:
            assert read(cell, limit=length - 1) == {0: sent[:-1]}


def test_9000_messages(cell: Cell) -> None:
    """The limit bounds what is looked at, not the length of the list."""
    cell.client.lpush("dispatch", *[b"%d" % i for i in range(9_000)])

    assert read(cell) == {0: [b"%d" % i for i in range(500)]}


def test_a_large_message_is_not_sent(cell: Cell) -> None:
    """Its place holds its size, and those around it are sent."""
    cell.push(b"a", b"x" * 1001, b"y" * 1000)

    assert read(cell, bytes_max=1000) == {0: [b"a", b"!1001", b"y" * 1000]}


def test_a_message_that_looks_like_the_mark_is_marked(cell: Cell) -> None:
    """It cannot be JSON, and must not be taken for a large one."""
    cell.push(b"!5", b"!!", b"a!")

    assert read(cell) == {0: [b"!!2", b"!!2", b"a!"]}


def test_a_look_ends_after_some_bytes(cell: Cell) -> None:
    """So that neither Redis nor the dispatcher is filled by one look; the rest is seen by the next."""
    large = b"x" * (READ_BYTES_MAX // 60)
    cell.push(*[large] * 200)
    cell.push(b"other", queue="gpu")

    messages = read(cell)
    assert len(messages[0]) == 61
    assert 1 not in messages


def test_huge_messages_behind_small_ones_do_not_come_by_the_dozen(cell: Cell) -> None:
    """A look reads one message more than it should at most, whatever came before: Redis would copy gigabytes otherwise."""
    huge = b"x" * (READ_BYTES_MAX // 2)
    cell.push(*[b"small"] * 100, *[huge] * 100)

    assert [len(message) for message in read(cell)[0]] == [5] * 100 + [len(huge)] * 2


def test_bytes_are_bytes(cell: Cell) -> None:
    """Nothing is decoded on the way."""
    garbage = bytes(range(256))
    cell.push(garbage)

    assert read(cell) == {0: [garbage]}


def test_a_key_that_is_no_list_is_passed_over(cell: Cell) -> None:
    """Somebody's string or hash under the name of a queue must not hide the other queues."""
    cell.client.set("dispatch", "a string")
    cell.client.hset(LISTS[2].key, "a", "hash")
    cell.push(b"x", queue="gpu")

    assert read(cell) == {1: [b"x"]}
