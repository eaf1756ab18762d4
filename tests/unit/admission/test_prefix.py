"""Prefixes become slots: jobs that share a beginning meet, and what all share pulls nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.admission.prefix import COMMON_MIN, DEPTH_MAX, NOWHERE, RECENT_JOBS, PrefixSlots, slot_of_text
from dispatcher.core.facts.lane import SLOTS

prefixes = st.lists(st.one_of(st.integers(0, 20), st.text(max_size=3)), max_size=8)


@given(st.lists(prefixes, max_size=60))
def test_a_slot_is_a_lanes_slot_and_depends_on_the_jobs_alone(jobs: list[list[str | int]]) -> None:
    """Whatever comes, the slot is in range or nowhere, and the same jobs have the same slots in another process."""
    one, other = PrefixSlots(), PrefixSlots()
    slots = [one.slot_of_prefix(job) for job in jobs]
    assert slots == [other.slot_of_prefix(job) for job in jobs]
    assert all(NOWHERE <= slot < SLOTS for slot in slots)


def test_a_hash_that_is_stored_is_the_same_for_ever() -> None:
    """A new version, and another machine, find the same slots."""
    assert [slot_of_text("0"), slot_of_text("user-7")] == [1909, 153]


def test_a_growing_conversation_keeps_its_slot() -> None:
    """Each turn begins with the turns before it, after a system prompt of three blocks that all conversations share."""
    slots, rng = PrefixSlots(), Random(1)
    talks = {talk: [*"sys", f"{talk}.0"] for talk in range(400)}
    for _ in range(400):  # the system prompt becomes common
        slots.slot_of_prefix(talks[rng.randrange(400)])
    found: dict[int, set[int]] = {}
    for turn in range(1, 6000):
        talk = rng.randrange(400)
        talks[talk].append(f"{talk}.{turn}")
        found.setdefault(talk, set()).add(slots.slot_of_prefix(talks[talk]))
    assert all(len(one) == 1 for one in found.values())


def test_a_block_that_all_share_pulls_nobody() -> None:
    """With one root for all, conversations are spread over the slots as if there were none."""
    slots = PrefixSlots()
    taken = Counter(slots.slot_of_prefix(["root", f"talk {n}"]) for n in range(20 * SLOTS))
    assert max(taken.values()) < 60  # 20 each on average
    assert len(taken) == SLOTS


def test_a_popular_conversation_that_is_not_common_stays_in_one_slot() -> None:
    """One job in fifty begins alike: worth a worker's cache, and not too much for a worker."""
    slots = PrefixSlots()
    popular = {slots.slot_of_prefix(["handbook", n] if n % 50 == 0 else [n]) for n in range(5000) if n % 50 == 0 or n}
    assert slot_of_text("handbook") in popular
    assert {slots.slot_of_prefix(["handbook", n]) for n in range(3)} == {slot_of_text("handbook")}


def test_a_job_that_is_cached_everywhere_may_go_anywhere() -> None:
    """When the whole prompt is common there is no slot to be in."""
    slots = PrefixSlots()
    found = [slots.slot_of_prefix(["same", "always"]) for _ in range(50)]
    assert found[:COMMON_MIN] == [slot_of_text("same")] * COMMON_MIN
    assert found[-1] == NOWHERE
    assert slots.slot_of_prefix([]) == NOWHERE


def test_what_was_common_is_forgotten() -> None:
    """A system prompt that is no longer used becomes a block like any other, after some thousand jobs."""
    slots = PrefixSlots()
    for n in range(500):
        slots.slot_of_prefix(["old", n])
    for n in range(10 * RECENT_JOBS):
        slots.slot_of_prefix(["new", n])
    assert slots.slot_of_prefix(["old", "x"]) == slot_of_text("old")


def test_memory_is_bounded() -> None:
    """Half a million different prompts leave no more behind than a few thousand do."""
    slots = PrefixSlots()
    for n in range(100_000):
        slots.slot_of_prefix(["root", n % 7, n])
        assert len(slots._counts) <= 3 * RECENT_JOBS


class _Watched:
    """A prefix that counts how many of its blocks were looked at."""

    def __init__(self, *blocks: str | int) -> None:
        self.blocks, self.looked = blocks, 0

    def __iter__(self) -> Iterator[str | int]:
        for block in self.blocks:
            self.looked += 1
            yield block


def test_a_long_prompt_is_settled_by_its_first_blocks() -> None:
    """The cost of admitting a job does not grow with its prompt, but with what is known of it, and that has an end."""
    slots = PrefixSlots()
    for n in range(100):
        slots.slot_of_prefix(["root", n])
    long = _Watched("root", "mine", *range(10_000))
    slots.slot_of_prefix(long)
    assert long.looked == 2
    for _ in range(DEPTH_MAX + 100):
        endless = _Watched(*range(5000))
        slots.slot_of_prefix(endless)
    assert endless.looked == DEPTH_MAX


def test_a_long_system_prompt_is_known_soon() -> None:
    """A hundred blocks that all jobs share are common after little more than a hundred jobs, not after a hundred times as many."""
    slots, system = PrefixSlots(), [f"system {n}" for n in range(100)]
    for n in range(120):
        slots.slot_of_prefix([*system, n])
    assert [slots.slot_of_prefix([*system, f"talk {n}"]) for n in range(20)] == [slot_of_text(f"talk {n}") for n in range(20)]
