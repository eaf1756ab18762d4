"""How many tokens a request is taken for: order, choice of worker and the autoscaler go by it."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from dispatcher.batches.tokens import estimate_tokens

MIB = 1024 * 1024


def data(head: bytes, size: int = MIB) -> str:
    return base64.b64encode(head + bytes(size - len(head))).decode()


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)


def wav(bytes_per_s: int) -> bytes:
    return b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + struct.pack("<II", bytes_per_s // 2, bytes_per_s)


def chat(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *parts]}]}


def test_tokens_are_estimated_from_text_wherever_it_stands() -> None:
    """Strings by length, lists of numbers by count, chats by their messages."""
    assert estimate_tokens({"input": "x" * 40}) == 11
    assert estimate_tokens({"input": ["x" * 40, "x" * 40]}) == 21
    assert estimate_tokens({"input": [1, 2, 3]}) == 4
    assert estimate_tokens({"messages": [{"role": "user", "content": "x" * 40}]}) == 12
    assert estimate_tokens({}) == 1


def picture(head: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{data(head)}"


@pytest.mark.parametrize(("head", "media", "tokens"), [
    (png(1024, 1024), "image/png", 1398),
    (png(64, 64), "image/png", 64),
    (png(8000, 8000), "image/png", 4096),
    (b"GIF89a" + struct.pack("<HH", 1024, 1024), "image/gif", 1398),
    (b"RIFF\0\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0" + (1023).to_bytes(3, "little") * 2, "image/webp", 1398),
    (b"\xff\xd8\xff", "image/jpeg", 1000),
    (b"", "image/png", 1000),
])  # fmt: skip
def test_a_picture_counts_by_its_pixels(head: bytes, media: str, tokens: int) -> None:
    """Whatever its file weighs, and wherever a body has it: chat, responses, Anthropic's messages, an edit of images."""
    url = picture(head, media)
    text = estimate_tokens(chat())
    asked = {"type": "input_text", "text": "What is it?"}
    shapes = [
        chat({"type": "image_url", "image_url": {"url": url}}),
        {"input": [{"role": "user", "content": [asked, {"type": "input_image", "image_url": url}]}]},
        chat({"type": "image", "source": {"type": "base64", "media_type": media, "data": url.partition(",")[2]}}),
        {"prompt": "What is it?", "image": url},
    ]

    assert [abs(estimate_tokens(shape) - text - tokens) <= 20 for shape in shapes] == [True] * 4


def test_a_picture_behind_a_url_is_a_picture() -> None:
    """Its address is shorter than what it shows."""
    url = "https://example.com/a.png"

    assert estimate_tokens(chat({"type": "image_url", "image_url": {"url": url}})) > 1000
    assert estimate_tokens(chat({"type": "image", "source": {"type": "url", "url": url}})) > 1000
    assert estimate_tokens({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}) > 1000


@pytest.mark.parametrize(("head", "seconds"), [(wav(48_000), 21.8), (b"ID3", 65.5)])
def test_sound_counts_by_its_seconds(head: bytes, seconds: float) -> None:
    """Ten tokens a second, of a WAV as it says of itself, else at 128 kbit/s; in chats and in transcriptions."""
    sound = data(head)
    in_chat = estimate_tokens(chat({"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}))
    alone = estimate_tokens({"file_url": f"data:audio/mpeg;base64,{sound}"})

    assert in_chat == pytest.approx(seconds * 10, abs=15)
    assert alone == pytest.approx(seconds * 10, abs=15)


def test_a_file_counts_by_its_pages_and_a_text_by_its_letters() -> None:
    """A PDF of a MiB has some ten pages; a text in base64 is text."""
    pdf = chat({"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data(b'%PDF')}"}})
    bare = chat({"type": "file", "file": {"filename": "a.pdf", "file_data": data(b"%PDF")}})
    text = {"input": f"data:text/plain;base64,{data(b'word', 4000)}"}

    assert 5_000 < estimate_tokens(pdf) < 20_000
    assert 5_000 < estimate_tokens(bare) < 20_000
    assert estimate_tokens(text) == pytest.approx(1000, abs=5)


@pytest.mark.parametrize("text", ["data: four words of text", "data:,x", "data:text/plain;base64"])
def test_what_only_looks_like_a_file_is_text(text: str) -> None:
    assert estimate_tokens({"input": text}) == 1 + -(-len(text) // 4)


def test_a_query_with_its_documents_is_counted() -> None:
    """Scores and reranks have neither input nor prompt."""
    assert estimate_tokens({"query": "x" * 40, "documents": ["x" * 40, {"text": "x" * 40}]}) == 31
