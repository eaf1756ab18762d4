"""The embeddings endpoint: reads request bodies, and shapes vectors as OpenAI's answers."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from workers.runtimes.base import Answer, Body, Rejected

EMBEDDINGS_URL: Final = "/v1/embeddings"
INPUTS_MAX: Final = 2048
"""Most texts in one request, as OpenAI has it."""

Encode = Callable[[list[str]], tuple[Sequence[Sequence[float]], list[int]]]
"""Texts → one vector and one token count each, in order."""


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A body that is in order."""

    texts: list[str]
    encoding: str


def parse_request(body: Body, dimensions: int) -> EmbeddingsRequest:
    """The request in ``body``, or :class:`Rejected` (400) that names the field at fault."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise Rejected(400, "'input' must be a string or a list of strings that is not empty.", "input", "invalid_type")
    if len(texts) > INPUTS_MAX:
        raise Rejected(400, f"'input' holds {len(texts)} texts; the most is {INPUTS_MAX}.", "input", "too_many_inputs")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise Rejected(400, f"'input[{number}]' is not a string; this model takes text, not tokens.", "input", "invalid_type")
        if not text:
            raise Rejected(400, f"'input[{number}]' is an empty string.", "input", "empty_string")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Rejected(400, f"'input[{number}]' holds half a surrogate pair.", "input", "invalid_unicode") from None
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise Rejected(400, "'encoding_format' must be 'float' or 'base64'.", "encoding_format", "invalid_value")
    if body.get("dimensions", dimensions) != dimensions:
        raise Rejected(400, f"'dimensions' must be {dimensions}: this model has no other.", "dimensions", "invalid_value")
    return EmbeddingsRequest(texts, encoding)


def encode_vector(vector: Sequence[float], encoding: str) -> Any:
    """A list of numbers, or base64 of little-endian float32.

    Eight decimals keep the error of a unit vector's component under 1e-8, at half the size of a full repr.
    """
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return [round(float(x), 8) for x in vector]


def run_embeddings(batch: list[Body], *, model: str, dimensions: int, encode: Encode) -> list[Answer]:
    """Serve every body with one call of ``encode``; a bad body gets its own refusal and harms no other."""
    requests: list[EmbeddingsRequest | Rejected] = []
    for body in batch:
        try:
            requests.append(parse_request(body, dimensions))
        except Rejected as refusal:
            requests.append(refusal)
    texts = [text for request in requests if isinstance(request, EmbeddingsRequest) for text in request.texts]
    vectors, tokens = encode(texts) if texts else ([], [])
    answers: list[Answer] = []
    start = 0
    for request in requests:
        if isinstance(request, Rejected):
            answers.append(request)
            continue
        end = start + len(request.texts)
        used = sum(tokens[start:end])
        data = [{"object": "embedding", "index": number, "embedding": encode_vector(vector, request.encoding)}
                for number, vector in enumerate(vectors[start:end])]
        answers.append({"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": used, "total_tokens": used}})
        start = end
    return answers
