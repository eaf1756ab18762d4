"""How many tokens a request is, estimated from its body.

Text counts by its letters, a picture by its pixels, sound by its seconds, any other file by its pages.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping
from typing import Any, Final

ESTIMATOR: Final = 2
"""Number of this way to estimate. Chunks depend on it: a submission planned with another number is planned anew."""

_FIELDS: Final = (
    "input", "prompt", "prompt_token_ids", "messages", "instructions",
    "system",  # Anthropic's
    "query", "queries", "documents", "text_1", "text_2",  # scores and reranks
    "file", "file_url", "image", "images",  # audio and pictures that are no part of a message
)  # fmt: skip
_CHARACTERS_PER_TOKEN: Final = 4

_IMAGE_TOKENS: Final = 1000
"""Of a picture whose size is not known: it is behind a URL, or in a format that is not read here."""
_IMAGE_TOKENS_MIN: Final = 64
_IMAGE_TOKENS_MAX: Final = 4096
_PIXELS_PER_TOKEN: Final = 750
"""As Anthropic counts; Qwen's models take a token for 784 pixels, OpenAI's tiles come to 1,028 or more."""
_HEAD_BYTES: Final = 192
"""Of a picture or of sound: enough for the sizes that formats write in their first bytes."""

_AUDIO_TOKENS_PER_S: Final = 10
_AUDIO_BYTES_PER_S: Final = 16_000
"""Of compressed sound: 128 kbit/s."""

_FILE_BYTES_PER_TOKEN: Final = 64
"""A page of a PDF has some 100 kB, and is 1,500 tokens."""

_URL_KEYS: Final = {"source": "image_url"}
"""What holds a ``url`` → what its name would be in OpenAI's form, where a ``source`` is Anthropic's."""

_BYTES_PER_CHARACTER: Final = 3 / 4
"""Bytes in a character of base64."""


def estimate_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of a request; each number in a list counts as a token. At least 1."""
    return 1 + sum(_count(field, body.get(field)) for field in _FIELDS)


def _count(field: str, value: Any) -> int:
    """Tokens in a value. Uses a stack of its own, not recursion: a line may be nested as deep as its author likes."""
    tokens, stack = 0, [(field, value, "")]
    while stack:
        key, part, media_type = stack.pop()
        if isinstance(part, str):
            tokens += _media_tokens(key, part, media_type) or -(-len(part) // _CHARACTERS_PER_TOKEN)
        elif isinstance(part, list):
            stack += [(key, item, "") for item in part]
        elif isinstance(part, dict):
            kind = _media_type(key, part)
            stack += [(_URL_KEYS.get(key, key) if name == "url" else name, item, kind) for name, item in part.items()]
        elif isinstance(part, int | float):
            tokens += 1
    return tokens


def _media_type(key: str, part: dict[str, Any]) -> str:
    """What the ``data`` in this part is: ``audio/wav`` in OpenAI's ``input_audio``, the ``media_type`` of Anthropic's
    ``source``; "" if it is text.
    """
    if key == "input_audio":
        return f"audio/{part.get('format')}"
    return str(part.get("media_type", "application/octet-stream")) if part.get("type") == "base64" else ""


def _media_tokens(key: str, text: str, media_type: str) -> int:
    """Tokens of a picture, sound or file that stands in a string; 0 if the string is text."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            return 0
        media_type = head.removeprefix("data:").partition(";")[0]
    elif key == "file_data":
        media_type = "application/octet-stream"
    elif key == "image_url":  # of a picture that is elsewhere
        return _IMAGE_TOKENS
    elif not media_type or key != "data":
        return 0
    size, head_bytes = round(len(text) * _BYTES_PER_CHARACTER), _decoded_head(text)
    match media_type.partition("/")[0]:
        case "image":
            return _image_tokens(head_bytes)
        case "audio" | "video":
            return 1 + round(size / _audio_bytes_per_s(head_bytes) * _AUDIO_TOKENS_PER_S)
        case "text":
            return 1 + size // _CHARACTERS_PER_TOKEN
        case _:
            return 1 + size // _FILE_BYTES_PER_TOKEN


def _decoded_head(text: str) -> bytes:
    try:
        return base64.b64decode(text[: _HEAD_BYTES * 4 // 3])
    except (binascii.Error, ValueError):
        return b""


def _image_tokens(head: bytes) -> int:
    width, height = _pixels(head)
    if not width or not height:
        return _IMAGE_TOKENS
    return min(max(width * height // _PIXELS_PER_TOKEN, _IMAGE_TOKENS_MIN), _IMAGE_TOKENS_MAX)


def _pixels(head: bytes) -> tuple[int, int]:
    """Width and height, where the format has them in its first bytes; else zeros. A JPEG has them further back."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
    elif head.startswith((b"GIF87a", b"GIF89a")) and len(head) >= 10:
        width, height = struct.unpack("<HH", head[6:10])
    elif head[8:16] == b"WEBPVP8X" and len(head) >= 30:
        width, height = 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    else:
        width, height = 0, 0
    return width, height


def _audio_bytes_per_s(head: bytes) -> int:
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE" and len(head) >= 32:
        return int.from_bytes(head[28:32], "little") or _AUDIO_BYTES_PER_S
    return _AUDIO_BYTES_PER_S
