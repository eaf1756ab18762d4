"""hash-384 and the embeddings endpoint that all encoders share."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtimes import LoadedRuntimes, Rejected
from workers.runtimes.hash_384 import DIMENSIONS, HashRuntime, embed


def cosine(one: str, other: str) -> float:
    return sum(x * y for x, y in zip(embed(one), embed(other), strict=True))


def run(*bodies: dict[str, Any]) -> list[Any]:
    return HashRuntime().run(list(bodies))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_vectors_have_length_one_and_384_numbers(text: str) -> None:
    """Whatever the script; only a text without any word has no direction."""
    vector = embed(text)

    assert len(vector) == DIMENSIONS
    assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-9) or not any(vector)


def test_texts_that_share_letters_are_near() -> None:
    """Lexical similarity is what is promised, and all that is promised."""
    assert cosine("reset my password", "password reset instructions") > 0.4
    assert abs(cosine("reset my password", "the weather is sunny in Lisbon")) < 0.2


def test_the_embedding_is_the_same_on_every_machine() -> None:
    """Vectors made by different workers are compared with one another: this one is pinned."""
    nonzero = [(position, round(x, 4)) for position, x in enumerate(embed("cat")) if x]

    assert nonzero == [(40, 0.4082), (63, 0.4082), (92, -0.4082), (216, 0.4082), (217, -0.4082), (280, 0.4082)]


def test_an_answer_has_the_shape_of_openai() -> None:
    """One string or many; usage counts words."""
    one, many = run({"input": "two words"}, {"input": ["a", "b c"]})

    assert one["object"] == "list"
    assert one["model"] == "hash-384"
    assert one["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert one["data"][0]["object"] == "embedding"
    assert one["data"][0]["embedding"] == pytest.approx(embed("two words"), abs=1e-8)
    assert [entry["index"] for entry in many["data"]] == [0, 1]
    assert many["usage"]["total_tokens"] == 3


def test_base64_is_little_endian_float32() -> None:
    """The form that OpenAI's SDK asks for by default."""
    (answer,) = run({"input": "hello", "encoding_format": "base64"})

    numbers = struct.unpack("<384f", base64.b64decode(answer["data"][0]["embedding"]))
    assert list(numbers) == pytest.approx(embed("hello"), abs=1e-7)


@pytest.mark.parametrize(("body", "param"), [
    ({}, "input"),
    ({"input": []}, "input"),
    ({"input": ""}, "input"),
    ({"input": ["a", ""]}, "input"),
    ({"input": [1, 2]}, "input"),
    ({"input": ["a"] * 2049}, "input"),
    ({"input": "\ud800"}, "input"),
    ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ({"input": "a", "dimensions": 256}, "dimensions"),
])  # fmt: skip
def test_a_bad_body_is_refused_by_itself(body: dict[str, Any], param: str) -> None:
    """Its neighbours in the batch are served, and the refusal names the field."""
    before, refusal, after = run({"input": "x"}, body, {"input": "y"})

    assert isinstance(refusal, Rejected)
    assert (refusal.status_code, refusal.param) == (400, param)
    assert before["data"]
    assert after["data"]


def test_the_probe_passes() -> None:
    """The registry gives a loaded runtime that serves."""
    with LoadedRuntimes({}).use("hash-384@1") as runtime:
        runtime.probe()
