"""What a response body may hold: JSON values, read back from the result file as they were given."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any, Final

DEPTH_MAX: Final = 100
"""Most levels of objects and arrays in one another. Encoders recurse, and a value that holds itself has no end."""
_BITS_MAX: Final = 64
_PLACE_MAX: Final = 200
"""Characters of a message that say where in a body a value stands."""
_TYPED: Final = frozenset({"__type__", "__value__"})
"""Keys of an object that Celery's JSON reads back as a value with a type, or not at all."""
_TYPED_NAMES: Final = "__type__ and __value__"
_CONTAINERS: Final = (dict, list, tuple)
_Path = tuple[Any, Any] | None
"""Where in a body a part stands: the path of what holds it, and the key or index there; ``None`` at the top."""


def why_no_body(body: object) -> str | None:
    """Why this cannot be the body of a response, in words to follow "the model gave"; ``None`` where it can.

    Nothing is replaced by what JSON has instead (``null`` for NaN, base64 for bytes): the reader of the result could
    not know.
    """
    if not isinstance(body, dict):
        return f"{kind_of(body)}, not a response body: write an object"
    stack: list[tuple[Any, _Path, int]] = [(body, None, 1)]  # no recursion: a body is as deep as its model likes
    while stack:
        part, path, level = stack.pop()
        if level > DEPTH_MAX:
            return f"more than {DEPTH_MAX} levels of nesting, from {_place(path)} on"
        if isinstance(part, dict):
            if part.keys() == _TYPED:
                return f"an object of {_TYPED_NAMES} alone {_at(path)}, for Celery a typed value: rename one"
            for key in part:
                if not isinstance(key, str) or _why_no_value(key):
                    return f"the key {printable(repr(key))[:_PLACE_MAX]}, {kind_of(key)} that is no text, {_at(path)}"
            members: Iterable[tuple[Any, Any]] = part.items()
        elif _are_finite_floats(part):
            continue
        else:
            members = enumerate(part)
        for key, value in members:
            if isinstance(value, _CONTAINERS):
                stack.append((value, (path, key), level + 1))
            elif reason := _why_no_value(value):
                return f"{reason} {_at((path, key))}, for which JSON has no form: convert it"
    return None


def printable(text: str) -> str:
    """The text with each half of a surrogate pair escaped, so that it can be written."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def kind_of(value: object) -> str:
    """``None``, ``a str``, ``an int``, ``a numpy.float32``."""
    if value is None:
        return "None"
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _why_no_value(value: object) -> str | None:
    if isinstance(value, str):
        return None if value.isascii() or printable(value) == value else "half a surrogate pair"
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if value.bit_length() <= _BITS_MAX else f"an int of {value.bit_length()} bits"
    if isinstance(value, float):
        return None if isfinite(value) else f"the float {value}"
    return kind_of(value)


def _are_finite_floats(part: list[Any] | tuple[Any, ...]) -> bool:
    """True for a vector, which most of the values are: twenty times as fast as to look at each."""
    return set(map(type, part)) == {float} and all(map(isfinite, part))


def _at(path: _Path) -> str:
    return f"at {_place(path)}" if path else "at the top"


def _place(path: _Path) -> str:
    """``data[0].embedding``, the first of it where it is long."""
    steps = []
    while path:
        path, key = path
        steps.append(f"[{key}]" if isinstance(key, int) else f".{key}")
    return printable("".join(reversed(steps)).removeprefix(".")[:_PLACE_MAX])
