"""Labels: what a worker says of itself (``region=eu``), and what a job asks of it (``region`` one of ``eu``, ``uk``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, unquote

from dispatcher.errors import Invalid

Wanted = tuple[tuple[str, tuple[str, ...]], ...]
"""What a job asks: label → the values that will do, both sorted, so that equal wishes are equal."""

NOTHING: Final[Wanted] = ()

NOT_ON: Final = "=not_on"
"""A label among those that a lane requires, which no worker has: its values are the epochs of workers that could not
read the lane's jobs. It is kept there for older versions: they would give such a job to nobody.
"""


def wanted(labels: Mapping[str, str | Sequence[str]] | None) -> Wanted:
    """The labels as a wish. A string stands for a list of one value."""
    if not labels:
        return NOTHING
    return tuple(
        (name, (values,) if isinstance(values, str) else tuple(sorted(set(values)))) for name, values in sorted(labels.items())
    )


def refused(wish: Wanted, labels: Mapping[str, str]) -> str | None:
    """Why ``labels`` do not fulfil ``wish``, in a few words; ``None`` if they do. A label that is absent fulfils
    nothing.
    """
    for name, values in wish:
        if name == NOT_ON:
            continue
        have = labels.get(name)
        if have not in values:
            return f"{name} is {have!r}, not {' or '.join(map(repr, values))}" if have is not None else f"has no label {name}"
    return None


def without(wish: Wanted, epoch: str) -> Wanted:
    """The wish, and not the worker of this epoch."""
    return tuple(sorted((dict(wish) | {NOT_ON: tuple(sorted({*avoided(wish), epoch}))}).items()))


def avoided(wish: Wanted) -> tuple[str, ...]:
    """Epochs of the workers that must not have the job."""
    return dict(wish).get(NOT_ON, ())


def to_text(wish: Wanted) -> str:
    """``gpu=a100|h100;region=eu``; :func:`from_text` reads it back, whatever stands in names and values."""
    return ";".join(f"{quote(name, safe='')}={'|'.join(quote(value, safe='') for value in values)}" for name, values in wish)


def from_text(text: str) -> Wanted:
    """The wish that :func:`to_text` wrote. Raises :class:`Invalid` for any other text."""
    if not text:
        return NOTHING
    wish = []
    for part in text.split(";"):
        name, equals, values = part.partition("=")
        if not name or not equals:
            raise Invalid(f"{text!r} is not a list of labels")
        wish.append((unquote(name), tuple(unquote(value) for value in values.split("|"))))
    return tuple(wish)
