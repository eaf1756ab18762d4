"""Is it time again? Is a span over? Both right when the clock that dates the instants is set back or forward.

All that is stored is dated by Redis' clock. NTP may set it, and a failover may lead to a host whose clock is hours
behind. The rule for every comparison of "now" with a stored instant: an instant in the future was dated before the
clock was set back. How long ago it was cannot be known, so no code waits for it: either the span that began then is
over (:class:`Every`, :func:`is_over`), or it begins anew now (``min(began_ms, now_ms)``), where ending it early would
do harm. A clock that is set forward ends spans early, once.
"""

from __future__ import annotations

from typing import Final


class Every:
    """Tells when something that is done once in ``interval_ms`` is to be done again. For one thread; keep one for each
    thing.
    """

    __slots__ = ("_last_ms", "interval_ms")

    def __init__(self, interval_ms: int) -> None:
        self.interval_ms = interval_ms
        self._last_ms: int | None = None

    def due(self, now_ms: int) -> bool:
        """True if it is to be done now; the interval begins anew then.

        True at the first call, once the interval has passed since the last True, and when the clock stands before that.
        """
        if self._last_ms is not None and not is_over(self._last_ms, self.interval_ms, now_ms):
            return False
        self._last_ms = now_ms
        return True

    def restart(self) -> None:
        """Make the next call of :meth:`due` True."""
        self._last_ms = None


LONG_MS: Final = 24 * 3_600_000
"""For how long a job counts as waiting that was admitted in the future: longer than any hold, and than jobs that came
after it.
"""


def waits_since_ms(admitted_ms: int, now_ms: int) -> int:
    """Since when a job waits that was admitted then. One from the future came before the clock was set back, so before
    most others.
    """
    return admitted_ms if admitted_ms <= now_ms else now_ms - LONG_MS


def is_over(began_ms: int, span_ms: int, now_ms: int) -> bool:
    """True if ``span_ms`` have passed since ``began_ms``, or if that is in the future: the clock was set back since."""
    return not 0 <= now_ms - began_ms < span_ms
