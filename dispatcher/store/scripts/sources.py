"""Loads the Lua transitions. One file a transition, after the functions of ``_entry.lua`` that it uses."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from redis.commands.core import Script

_FOLDER = files("dispatcher.store") / "lua"


_DEFINES = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)


@cache
def source(name: str) -> str:
    """The text that Redis gets for the transition ``name``: only the shared functions it uses stand before it.

    A script's text runs at every call, so a function that is not used costs time: all of them took a third of ``take``.
    """
    text = (_FOLDER / f"{name}.lua").read_text()
    for block in reversed((_FOLDER / "_entry.lua").read_text().split("\n\n")):
        if any(re.search(rf"\b{defined}\b", text) for defined in _DEFINES.findall(block)):
            text = f"{block}\n{text}"
    return text


def names() -> list[str]:
    """Every transition."""
    return sorted(one.name.removesuffix(".lua") for one in _FOLDER.iterdir() if one.name[0] != "_" and one.name.endswith(".lua"))


class Scripts:
    """The transitions of one client, as attributes-by-name: ``scripts["assign"](keys=[...], args=[...])``.

    redis-py sends EVALSHA and loads the script where Redis does not have it (after a restart, say).
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._loaded: dict[str, Script] = {}

    def __getitem__(self, name: str) -> Script:
        if name not in self._loaded:
            self._loaded[name] = self._client.register_script(source(name))
        return self._loaded[name]

    def __call__(self, name: str, keys: list[str], args: list[Any]) -> Any:
        return self[name](keys=keys, args=args)
