"""The texts of the Lua transitions: one file each, after the functions of ``_entry.lua`` that it uses."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_FOLDER = files("dispatcher.store") / "lua"


_DEFINES = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)


@cache
def source(name: str) -> str:
    """The text that Redis gets for the transition ``name``, with only those shared functions before it that it uses.

    Redis runs the whole text at every call, so an unused function costs time: all of them together took a third of
    ``take``.
    """
    text = (_FOLDER / f"{name}.lua").read_text()
    for block in reversed((_FOLDER / "_entry.lua").read_text().split("\n\n")):
        if any(re.search(rf"\b{defined}\b", text) for defined in _DEFINES.findall(block)):
            text = f"{block}\n{text}"
    return text


def names() -> list[str]:
    """The names of all transitions."""
    return sorted(file.name.removesuffix(".lua") for file in _FOLDER.iterdir() if file.name[0] != "_" and file.name.endswith(".lua"))
