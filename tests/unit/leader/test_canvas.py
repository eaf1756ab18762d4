"""The canvas of a dead job is read whatever its body is packed in."""

from __future__ import annotations

import json
import pickle
import sys
import types
import zlib
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from celery import Celery, chord
from kombu import compression

from dispatcher.leader.canvas import canvas_of
from tests.messages import envelope

PICKLE, YAML = "application/x-python-serialize", "application/x-yaml"
NEWER = """
class Plain: pass
class Listed(list): pass
class Named(dict): pass
class Made:
    def __reduce__(self): return print, (1,)
"""
ACCEPT = {"application/json", PICKLE, YAML}


def packed(body: bytes, content: str, **headers: Any) -> bytes:
    return json.dumps({**envelope("the-id", **headers), "body": b64encode(body).decode(), "content-type": content}).encode()


@pytest.fixture
def newer() -> Iterator[types.ModuleType]:
    """A module of newer code: objects of its classes are pickled, and then nobody here has it."""
    module = types.ModuleType("newer_code")
    exec(NEWER, module.__dict__)
    sys.modules["newer_code"] = module
    yield module
    sys.modules.pop("newer_code", None)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_what_is_not_here_gives_its_canvas(newer: types.ModuleType, protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a rolling deploy; and nothing that the pickle names is called."""
    app = Celery("canvas", set_as_current=False)
    body, plain = app.signature("total"), newer.Plain()
    plain.a = newer.Listed([newer.Named(a=1)])
    raw = pickle.dumps(([plain, newer.Made()], {}, {"callbacks": None, "errbacks": [body], "chain": None, "chord": body}), protocol)
    del sys.modules["newer_code"]

    canvas = canvas_of(packed(raw, PICKLE), ACCEPT)

    assert canvas["chord"] == dict(body)
    assert canvas["errbacks"] == [dict(body)]
    assert chord([body], canvas["chord"]).body.task == "total"
    assert capsys.readouterr().out == ""


def test_other_serializers_and_the_apps_own_compression_are_read() -> None:
    """kombu reads what the app accepts."""
    compression.register(lambda data: data[::-1], lambda data: data[::-1], "application/x-turned")
    embed = {"chord": {"task": "total"}}
    try:
        for turn in (lambda data: data, lambda data: data[::-1]):
            named = {} if turn(b"ab") == b"ab" else {"compression": "application/x-turned"}
            assert canvas_of(packed(turn(yaml.safe_dump([[], {}, embed]).encode()), YAML, **named), ACCEPT) == embed
            assert canvas_of(packed(turn(json.dumps([[], {}, embed]).encode()), "application/json", **named), ACCEPT) == embed
    finally:
        del compression._encoders["application/x-turned"], compression._decoders["application/x-turned"]


@pytest.mark.parametrize(
    ("body", "content", "headers"),
    [
        (b"no pickle", PICKLE, {}), (pickle.dumps(5), PICKLE, {}), (b"{", YAML, {}), (b"x", "application/x-unknown", {}),
        (b"x", PICKLE, {"compression": "application/x-unknown"}), (zlib.compress(b"[" * 100), "application/json", {}),
        (pickle.dumps(([], {}, "text")), PICKLE, {}),
    ],
)  # fmt: skip
def test_what_cannot_be_read_has_no_canvas(body: bytes, content: str, headers: dict[str, Any]) -> None:
    """SAFETY: a dead letter may be anything, and the states of the others wait behind it."""
    assert canvas_of(packed(body, content, **headers), ACCEPT) == {}


def test_what_the_app_does_not_accept_is_not_read() -> None:
    """Neither here nor in its workers."""
    raw = packed(pickle.dumps(([], {}, {"chord": {"task": "total"}})), PICKLE)
    assert canvas_of(raw, {"application/json"}) == {}
    assert canvas_of(raw, ACCEPT) == {"chord": {"task": "total"}}
