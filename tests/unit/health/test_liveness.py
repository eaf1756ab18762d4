"""Who is dead: silence, and only what could have been heard counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.health.liveness import JITTER_MS, Liveness, Verdict

TTL_MS = 5_000
TICK_MS = 500


class Fleet:
    """Beats and the leader's looks over time. Redis' clock and the leader's run apart on purpose."""

    def __init__(self, *names: str) -> None:
        self.liveness = Liveness(TTL_MS)
        self.beats = dict.fromkeys(names, 77_000_000)
        self.monotonic_ms = 1_000
        self.redis_ms = 77_000_000

    def look(self) -> Verdict:
        return self.liveness.look(dict(self.beats), asked_ms=self.monotonic_ms, heard_ms=self.monotonic_ms)

    def run(self, for_ms: int, *, beating: tuple[str, ...] = ()) -> Verdict:
        """Looks every tick; those in ``beating`` beat between looks. The last verdict."""
        verdict = self.look()
        for _ in range(for_ms // TICK_MS):
            self.monotonic_ms += TICK_MS
            self.redis_ms += TICK_MS
            self.beats |= dict.fromkeys(beating, self.redis_ms)
            verdict = self.look()
        return verdict

    def gap(self, for_ms: int) -> None:
        """Nobody looks and no beat arrives: Redis is away, or the leader is frozen."""
        self.monotonic_ms += for_ms
        self.redis_ms += for_ms


def test_one_silent_worker_of_many_is_dead_after_the_ttl() -> None:
    """Not before, and not much after."""
    fleet = Fleet("a", "b", "c")

    assert fleet.run(TTL_MS - TICK_MS, beating=("a", "b")).dead == ()
    assert fleet.run(TICK_MS, beating=("a", "b")).dead == ("c",)


def test_one_silent_worker_of_one_is_dead_after_the_ttl() -> None:
    """A fleet of one is not 'more than half the fleet': waiting would only make its jobs wait."""
    verdict = Fleet("a").run(TTL_MS)

    assert verdict.dead == ("a",)
    assert not verdict.waiting


def test_when_more_than_half_fall_silent_they_get_one_more_ttl() -> None:
    """Two of three at once: more likely the network. After twice the TTL they are dead all the same."""
    fleet = Fleet("a", "b", "c")

    verdict = fleet.run(2 * TTL_MS - TICK_MS, beating=("c",))
    assert (verdict.dead, verdict.waiting, verdict.silent, verdict.total) == ((), True, 2, 3)
    assert set(fleet.run(TICK_MS, beating=("c",)).dead) == {"a", "b"}


def test_half_the_fleet_is_not_more_than_half() -> None:
    """Two of four are dead after one TTL."""
    verdict = Fleet("a", "b", "c", "d").run(TTL_MS, beating=("a", "b"))

    assert set(verdict.dead) == {"c", "d"}


def test_a_fleet_that_comes_back_in_its_second_ttl_loses_nobody() -> None:
    """The second TTL is there for this."""
    fleet = Fleet("a", "b", "c")
    assert fleet.run(TTL_MS + TICK_MS).waiting

    verdict = fleet.run(3 * TTL_MS, beating=("a", "b", "c"))

    assert (verdict.dead, verdict.waiting) == ((), False)


def test_redis_was_away_for_longer_than_the_ttl() -> None:
    """Every beat is old at the first look after it (scenario 30): nobody is dead, and silence is counted from the start."""
    fleet = Fleet(*"abcdef")
    fleet.run(2_000, beating=tuple("abcdef"))
    fleet.gap(10 * TTL_MS)

    assert fleet.look().dead == ()
    assert fleet.run(TTL_MS - TICK_MS).dead == ()
    assert fleet.run(TTL_MS, beating=tuple("abcdef")) == Verdict((), 0, 6)


def test_after_a_gap_the_dead_are_still_found() -> None:
    """One TTL after Redis is back."""
    fleet = Fleet("a", "b", "c")
    fleet.run(TTL_MS - TICK_MS, beating=("a", "b"))
    fleet.gap(60_000)

    assert fleet.run(TTL_MS - TICK_MS, beating=("a", "b")).dead == ()
    assert fleet.run(TICK_MS, beating=("a", "b")).dead == ("c",)


def test_a_new_lead_counts_from_zero() -> None:
    """What a predecessor heard is not known; what was silent under it gets a whole TTL."""
    fleet = Fleet("a", "b", "c")
    fleet.run(TTL_MS - TICK_MS, beating=("a", "b"))
    fleet.liveness.restart()

    assert fleet.run(TTL_MS - TICK_MS, beating=("a", "b")).dead == ()
    assert fleet.run(TICK_MS, beating=("a", "b")).dead == ("c",)


def test_rounding_is_not_a_beat() -> None:
    """A TTL counts whole ms, so the date of one and the same beat wavers by one."""
    fleet = Fleet("a", "b", "c")
    for wavering in (1, 0) * 5:
        fleet.monotonic_ms += TICK_MS
        fleet.redis_ms += TICK_MS
        fleet.beats |= {"a": fleet.redis_ms, "b": fleet.redis_ms, "c": 77_000_000 + wavering}
        verdict = fleet.look()

    assert fleet.liveness.silent_ms("c") >= TTL_MS - TICK_MS
    assert fleet.run(TICK_MS, beating=("a", "b")).dead == ("c",)
    assert verdict.dead == ()


def test_redis_clock_does_not_decide() -> None:
    """Redis' clock jumps a day ahead with every beat on time: nobody is dead."""
    fleet = Fleet("a", "b", "c")
    fleet.run(2_000, beating=("a", "b", "c"))
    fleet.redis_ms += 86_400_000

    assert fleet.run(2 * TTL_MS, beating=("a", "b", "c")).dead == ()


def test_redis_clock_may_be_set_back() -> None:
    """By an hour, with every beat on time: nobody is dead; one that fell silent still is."""
    fleet = Fleet("a", "b", "c")
    fleet.run(2_000, beating=("a", "b", "c"))
    fleet.redis_ms -= 3_600_000

    assert fleet.run(TTL_MS - TICK_MS, beating=("a", "b")).dead == ()
    assert fleet.run(2 * TTL_MS, beating=("a", "b")).dead == ("c",)


def test_a_date_that_wavers_is_no_beat() -> None:
    """One beat's date may differ from look to look by what a look takes: the silent worker is dead after the TTL all the same."""
    fleet = Fleet("a", "b", "c")
    fleet.run(TTL_MS - TICK_MS, beating=("a", "b"))
    fleet.beats["c"] += 20

    assert fleet.run(TICK_MS, beating=("a", "b")).dead == ("c",)


@given(st.lists(st.tuples(st.integers(1, 3_000), st.sets(st.sampled_from("abcd")), st.booleans()), max_size=60))
def test_nobody_dies_who_was_not_silent_for_a_ttl_of_looking(events: list[tuple[int, set[str], bool]]) -> None:
    """SAFETY, over any order of looks, beats, gaps and takeovers: the dead were looked at for a TTL without a beat or a gap."""
    liveness = Liveness(TTL_MS)
    beats = dict.fromkeys("abcd", 1_000)
    monotonic_ms, redis_ms = 0, 1_000
    watched_ms = dict.fromkeys("abcd", 0)
    liveness.look(beats, asked_ms=0, heard_ms=0)
    for later_ms, beating, takeover in events:
        monotonic_ms, redis_ms = monotonic_ms + later_ms, redis_ms + later_ms + 2
        if takeover:
            liveness.restart()
        beats |= dict.fromkeys(beating, redis_ms)
        heard = later_ms <= liveness.gap_ms and not takeover
        watched_ms = {name: watched_ms[name] + later_ms if heard and name not in beating else 0 for name in watched_ms}
        for name in liveness.look(dict(beats), asked_ms=monotonic_ms, heard_ms=monotonic_ms).dead:
            assert watched_ms[name] >= TTL_MS - JITTER_MS


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.booleans(), st.integers(0, 100)), max_size=60))
def test_a_beat_that_came_while_a_look_was_on_its_way_counts(looks: list[tuple[int, int, bool, int]]) -> None:
    """SAFETY, however slow the looks are: the dead had not beaten for a TTL when Redis was last asked."""
    liveness = Liveness(TTL_MS // 5)
    now_ms = beat_ms = 0
    for pause_ms, takes_ms, beats, at in looks:
        asked_ms, now_ms = now_ms + pause_ms, now_ms + pause_ms + takes_ms
        made_ms = asked_ms + takes_ms * at // 100
        beat_ms = made_ms if beats else beat_ms
        verdict = liveness.look({"a": 10**9 + beat_ms}, asked_ms=asked_ms, heard_ms=now_ms)
        if verdict.dead:
            assert made_ms - beat_ms >= TTL_MS // 5 - JITTER_MS
