"""``VERSION=PERCENT``, as ``dispatcher rollout`` takes it."""

from __future__ import annotations

from collections.abc import Iterable

from dispatcher.core.rollout.aliases import POINTS
from dispatcher.errors import Invalid


def parse_shares(texts: Iterable[str]) -> dict[str, int]:
    """Version → points. Raises :class:`Invalid` for a text that is not ``VERSION=PERCENT``."""
    shares: dict[str, int] = {}
    for text in texts:
        version, equals, share = text.rpartition("=")
        if not (version and equals):
            raise Invalid(f"{text!r} is no share: write VERSION=PERCENT, such as chat@2=5")
        if version in shares:
            raise Invalid(f"{version!r} stands there twice")
        shares[version] = parse_percent(share)
    return shares


def parse_percent(text: str) -> int:
    """A percentage, with two decimals at most, as points."""
    try:
        points = float(text.removesuffix("%")) * 100
    except ValueError:
        points = -1.0
    if not 0 <= points <= POINTS or abs(points - round(points)) > 1e-6:
        raise Invalid(f"{text!r} is no percentage: write a number from 0 to 100, with two decimals at most")
    return round(points)
