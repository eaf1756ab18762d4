"""Where to look for waiting jobs whose deadline has passed: at the heads of lanes at once, behind them in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dispatcher.core.facts.every import Every
from dispatcher.core.facts.snapshot import LaneView

LOOK_MS: Final = 50
"""The lanes are searched for late jobs behind their heads this often at most."""

LANES_MAX: Final = 50
"""Lanes that one look is about at most."""

JOBS_MAX: Final = 500
"""Jobs that one look is about at most."""


@dataclass(slots=True)
class Lateness:
    """Where the search stands. A lane serves first come first, and its deadlines differ by less than a factor of two:
    what is late is mostly at its head, which a snapshot shows. The rest of a lane is searched in slices, and lanes in
    turn.

    Holds nothing that a successor would miss: it would begin anew.
    """

    _time_to_look: Every = field(default_factory=lambda: Every(LOOK_MS))
    _last: str = ""
    _in_time: dict[str, int] = field(default_factory=dict)  # lane → jobs at its head that were in time when last looked at

    def where(self, lanes: Sequence[LaneView], now_ms: int) -> list[tuple[str, int]]:
        """Lanes to look at now, and how many jobs at the head of each to pass over."""
        timed = [lane for lane in lanes if lane.lane.deadline_class]
        if not timed:
            self._in_time.clear()
            return []
        late = [lane.name for lane in timed if 0 < lane.deadline_ms <= now_ms]
        deep: list[str] = []
        if self._time_to_look.due(now_ms):
            names = {lane.name for lane in timed}
            self._in_time = {name: count for name, count in self._in_time.items() if name in names}
            deep = sorted(names.difference(late, (lane.name for lane in timed if lane.depth == 1)))
            ahead = [name for name in deep if name > self._last]
            deep = (ahead + deep[: len(deep) - len(ahead)])[: max(0, LANES_MAX - len(late))]
        return [(name, 0) for name in late[:LANES_MAX]] + [(name, self._in_time.get(name, 0)) for name in deep]

    def note(self, looked_at: Sequence[tuple[str, int]], counts: Sequence[tuple[int, int]]) -> None:
        """Remember what came of the look. ``counts``: per lane how many jobs were looked at, and how many of them were
        late. Those after ``JOBS_MAX`` were not.
        """
        left = JOBS_MAX
        for (name, passed_over), (looked, late) in zip(looked_at, counts, strict=True):
            if left == 0:
                break
            # At the end of the lane it begins anew from the head.
            self._in_time[name] = passed_over + looked - late if looked == left else 0
            if looked < left or left == JOBS_MAX:  # else it had only what the others left over, and is first next time
                self._last = name
            left -= looked
