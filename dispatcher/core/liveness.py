"""Who is dead: silence, counted on the leader's monotonic clock and only while it could read Redis."""

from __future__ import annotations

from dataclasses import dataclass, field

JITTER_MS = 50
"""By how much the date of one and the same beat may differ from look to look. It is found from two clock readings in a script, between
which Redis goes through the fleet, or loses its processor. Beats come further apart; one that does not is heard at the next. Earlier is
news too: Redis' clock may be set back.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Epochs that have been silent for too long; ``waiting`` says that more than half the fleet is, and gets one more TTL."""

    dead: tuple[str, ...]
    silent: int = 0
    total: int = 0

    @property
    def waiting(self) -> bool:
        return self.silent > len(self.dead)


@dataclass(slots=True)
class Liveness:
    """Counts silence of each epoch.

    A gap between two looks (Redis was away, this process was frozen, the lead was just gained) restarts every count: what
    could not be heard is not silence. When two or more workers and over half the fleet fall silent, the cause is more likely on our
    side than theirs: they are dead only after twice the TTL.
    """

    ttl_ms: int
    gap_ms: int = 1_000
    _last_look_ms: int | None = None
    _silent: dict[str, tuple[int, int]] = field(default_factory=dict)  # epoch → (beat at, Redis ms; silent for ms)

    def look(self, beats: dict[str, int], *, monotonic_ms: int) -> Verdict:
        """``beats``: epoch → when it last beat, in Redis ms. To be called with every snapshot that was read."""
        last = self._last_look_ms
        self._last_look_ms = monotonic_ms
        elapsed = monotonic_ms - last if last is not None else None
        if elapsed is None or elapsed > self.gap_ms:
            self._silent = {epoch: (beat_at, 0) for epoch, beat_at in beats.items()}
            return Verdict((), 0, len(beats))
        counted: dict[str, tuple[int, int]] = {}
        for epoch, beat_at in beats.items():
            before, silent_ms = self._silent.get(epoch, (beat_at, 0))
            counted[epoch] = (beat_at, 0) if abs(beat_at - before) > JITTER_MS else (before, silent_ms + elapsed)
        self._silent = counted
        silent = [epoch for epoch, (_, silent_ms) in counted.items() if silent_ms >= self.ttl_ms]
        if len(silent) > 1 and 2 * len(silent) > len(beats):
            dead = [epoch for epoch in silent if counted[epoch][1] >= 2 * self.ttl_ms]
            return Verdict(tuple(dead), len(silent), len(beats))
        return Verdict(tuple(silent), len(silent), len(beats))

    def restart(self) -> None:
        """Forget all silence: Redis could not be read, or the lead is new."""
        self._last_look_ms = None

    def silent_ms(self, epoch: str) -> int:
        """How long the epoch has been silent, as counted."""
        return self._silent.get(epoch, (0, 0))[1]
