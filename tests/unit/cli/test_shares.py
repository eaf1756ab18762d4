"""``VERSION=PERCENT``: what an operator may write, and what is refused."""

from __future__ import annotations

import pytest

from dispatcher.cli.shares import parse_percent, parse_shares
from dispatcher.core.rollout.aliases import POINTS
from dispatcher.errors import Invalid


@pytest.mark.parametrize(("text", "points"), [("5", 500), ("0.25", 25), ("100%", POINTS), ("0", 0), ("33.33", 3333)])
def test_percent(text: str, points: int) -> None:
    """Two decimals, with or without the sign."""
    assert parse_percent(text) == points


@pytest.mark.parametrize("text", ["-1", "101", "1.234", "much", "", "nan"])
def test_no_percentage(text: str) -> None:
    """Said with what was written."""
    with pytest.raises(Invalid, match="no percentage"):
        parse_percent(text)


@pytest.mark.parametrize("texts", [["chat@1"], ["=5"], ["a=5", "a=6"]])
def test_no_shares(texts: list[str]) -> None:
    """Neither half may be missing, and none may stand twice."""
    with pytest.raises(Invalid):
        parse_shares(texts)
