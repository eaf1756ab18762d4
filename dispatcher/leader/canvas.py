"""The canvas of a dead job, from a body in any serializer that the app accepts: who must be told that the job failed.

A body that no worker could read is often a pickle of a class that this process lacks as well. So pickles are read
without the classes in them: nothing of theirs is imported or called, and the canvas beside them is plain data.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
from base64 import b64decode
from collections.abc import Callable, Collection
from typing import Any, Final

from celery import Celery
from kombu import serialization
from kombu.compression import decompress as _unpack

from dispatcher.core.facts.message import COMPRESSIONS, JSON_CONTENT, decompressed, embed_of

log = logging.getLogger(__name__)

PICKLE: Final = "application/x-python-serialize"

PLAIN: Final = frozenset(
    {
        *(("builtins", name) for name in ("set", "frozenset", "bytearray", "complex")),
        *(("datetime", name) for name in ("datetime", "date", "time", "timedelta", "timezone")),
        ("uuid", "UUID"),
        ("decimal", "Decimal"),
    }
)
"""What a pickle may make: values, without effects."""


def content_types(app: Celery) -> frozenset[str]:
    """The content types that workers of ``app`` accept, as MIME types."""
    known = {name: types for types, name in serialization.registry.type_to_name.items()}
    return frozenset(known.get(name, name) for name in app.conf.accept_content or ()) or frozenset({JSON_CONTENT})


def canvas_of(message: bytes | str | None, accept: Collection[str]) -> dict[str, Any]:
    """Callbacks, errbacks, chain and chord of a message; empty where they cannot be read. Never raises.

    ``accept``: content types that the app accepts.
    """
    embed = embed_of(message)
    if embed or not message:
        return embed
    try:
        envelope = json.loads(message)
        body, packed_by = envelope["body"], envelope["headers"].get("compression")
        if envelope["properties"].get("body_encoding") == "base64":
            body = b64decode(body)
        if packed_by in COMPRESSIONS:
            body = decompressed(body, packed_by)
        elif packed_by:
            body = _unpack(body, packed_by)  # type: ignore[no-untyped-call]
        content, encoding = envelope["content-type"], envelope["content-encoding"]
        if content == PICKLE and content in accept:
            embed = _Unpickler(io.BytesIO(body)).load()[2]
        else:
            embed = serialization.loads(body, content, encoding, accept=accept)[2]  # type: ignore[no-untyped-call]
    except Exception as exc:  # noqa: BLE001 (a dead letter may be anything, and its serializer the app's own)
        log.info("cannot read the canvas of a dead job, only its own state is stored: %s: %s", type(exc).__name__, exc)
        return {}
    return embed if isinstance(embed, dict) else {}


class _Stub:
    """Stands for an object of any class: it takes whatever a pickle does to it."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Stub:
        return object.__new__(cls)

    def take(self, *_args: Any) -> None:
        """Takes anything."""

    __setstate__ = __setitem__ = __call__ = append = extend = add = take


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if module == "celery.canvas":
            return _as_dict  # a signature, which pickles as the dict that it is
        if (module, name) in PLAIN:
            return super().find_class(module, name)  # type: ignore[no-any-return]
        return _Stub

    def persistent_load(self, pid: Any) -> _Stub:
        return _Stub()


def _as_dict(*args: Any) -> Any:
    return args[0] if args and isinstance(args[0], dict) else {}
