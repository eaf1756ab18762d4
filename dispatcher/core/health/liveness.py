"""Which workers are dead: silence, counted on the leader's monotonic clock and only while it could read Redis."""

from __future__ import annotations

from dataclasses import dataclass, field

JITTER_MS = 50
"""By how much the date of one and the same beat may differ from look to look. It is found from two clock readings in a
script, between which Redis goes through the fleet, or loses its processor. Beats come further apart; one that does not
is heard at the next. Earlier is news too: Redis' clock may be set back.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look at the beats says."""

    dead: tuple[str, ...]
    """Epochs that have been silent for too long."""
    silent: int = 0
    """How many workers are silent, the dead included."""
    total: int = 0

    @property
    def waiting(self) -> bool:
        """True if more than half the fleet is silent, and gets one more TTL."""
        return self.silent > len(self.dead)


@dataclass(slots=True)
class Liveness:
    """Counts silence of each epoch.

    It lasts from the end of the look that first saw the last beat to the beginning of the latest: a beat may have come
    while a look was on its way, or after it. A gap between two looks (Redis was away, this process was frozen, the lead
    was just gained) restarts every count: what could not be heard is not silence. When two or more workers and over
    half the fleet fall silent, the cause is more likely on our side than theirs: they are dead only after twice the
    TTL.
    """

    ttl_ms: int
    gap_ms: int = 1_000
    _asked_ms: int = 0
    _heard_ms: int | None = None
    _since: dict[str, tuple[int, int]] = field(default_factory=dict)  # epoch → (beat at, Redis ms; seen first at, monotonic ms)

    def look(self, beats: dict[str, int], *, asked_ms: int, heard_ms: int) -> Verdict:
        """``beats``: epoch → when it last beat, in Redis ms. To be called with every snapshot that was read, which
        Redis made between ``asked_ms`` and ``heard_ms``, both monotonic.
        """
        last, self._heard_ms, self._asked_ms = self._heard_ms, heard_ms, asked_ms
        if last is None or heard_ms - last > self.gap_ms:
            self._since = {epoch: (beat_at, heard_ms) for epoch, beat_at in beats.items()}
            return Verdict((), 0, len(beats))
        new = (0, heard_ms)
        self._since = {
            epoch: known if abs(beat_at - (known := self._since.get(epoch, new))[0]) <= JITTER_MS else (beat_at, heard_ms)
            for epoch, beat_at in beats.items()
        }
        silent = [epoch for epoch, (_, since_ms) in self._since.items() if asked_ms - since_ms >= self.ttl_ms]
        if len(silent) > 1 and 2 * len(silent) > len(beats):
            dead = [epoch for epoch in silent if self.silent_ms(epoch) >= 2 * self.ttl_ms]
            return Verdict(tuple(dead), len(silent), len(beats))
        return Verdict(tuple(silent), len(silent), len(beats))

    def restart(self) -> None:
        """Forget all silence: Redis could not be read, or the lead is new."""
        self._heard_ms = None

    def silent_ms(self, epoch: str) -> int:
        """How long the epoch has been silent, as counted."""
        known = self._since.get(epoch)
        return 0 if known is None else max(0, self._asked_ms - known[1])
