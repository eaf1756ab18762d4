"""``minilm``: sentence-transformers/all-MiniLM-L6-v2, a six-layer BERT encoder, in NumPy. Needs the extra ``minilm``.

Word, position and type embeddings; six post-norm transformer layers; mean of the token vectors; length 1. The files
are those of :mod:`workers.runtimes.minilm_weights`.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any, Final

from dispatcher.errors import Unavailable
from workers.runtimes import minilm_weights
from workers.runtimes.base import Answer, Body
from workers.runtimes.embeddings import EMBEDDINGS_URL, run_embeddings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

DIMENSIONS: Final = 384
HEADS: Final = 12
LAYERS: Final = 6
TOKENS_MAX: Final = 256
"""Longer texts are cut here, as sentence-transformers does with this model."""
BATCH_TOKENS_MAX: Final = 256
"""Padded tokens in one pass. On a CPU larger passes are slower, for they leave the cache (256: 0.35 ms a token, 1024:
0.50).
"""


class MiniLMRuntime:
    """Serves ``/v1/embeddings``."""

    endpoints = frozenset({EMBEDDINGS_URL})

    def __init__(self) -> None:
        self._tokenizer: Any = None
        self._encoder: Encoder | None = None

    def load(self) -> None:
        """Read and check the weights; raises :class:`Unavailable` where they or the libraries are missing."""
        try:
            import numpy  # noqa: F401, ICN001  # says at once if it is missing
            from tokenizers import Tokenizer
        except ImportError as exc:
            raise Unavailable(f"minilm needs {exc.name}: pip install 'inference-dispatcher[minilm]'") from exc
        self._tokenizer = Tokenizer.from_str(minilm_weights.read_checked("tokenizer.json").decode())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(TOKENS_MAX)
        self._encoder = Encoder(read_safetensors(minilm_weights.read_checked("model.safetensors")))

    def run(self, batch: list[Body]) -> list[Answer]:
        return run_embeddings(batch, model="minilm", dimensions=DIMENSIONS, encode=self._encode)

    def probe(self) -> None:
        vectors, _ = self._encode(["probe"])
        if not math.isclose(math.hypot(*vectors[0]), 1.0, rel_tol=1e-4):
            raise RuntimeError("minilm gave a vector whose length is not 1")

    def close(self) -> None:
        self._tokenizer = self._encoder = None

    def _encode(self, texts: list[str]) -> tuple[list[list[float]], list[int]]:
        if self._encoder is None:
            raise RuntimeError("call load() first")
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        vectors: list[list[float]] = [[]] * len(ids)
        for group in length_sorted_groups([len(tokens) for tokens in ids]):
            for number, vector in zip(group, self._encoder.encode([ids[n] for n in group]).tolist(), strict=True):
                vectors[number] = vector
        return vectors, [len(tokens) for tokens in ids]


def length_sorted_groups(lengths: list[int], tokens_max: int = BATCH_TOKENS_MAX) -> list[list[int]]:
    """Positions grouped by length, so that (longest × count) of a group stays within ``tokens_max``."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda n: lengths[n]):
        if groups and lengths[number] * (len(groups[-1]) + 1) <= tokens_max:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def read_safetensors(content: bytes) -> dict[str, Floats]:
    """The float32 tensors of a safetensors file: 8 bytes of header length, a JSON header, raw little-endian numbers."""
    import numpy as np

    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            start, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(content, "<f4", (end - start) // 4, 8 + size + start).reshape(entry["shape"])
    return tensors


class Encoder:
    """The network: token ids in, unit vectors out. Read-only once made, so threads may share it."""

    def __init__(self, tensors: dict[str, Floats]) -> None:
        import numpy as np

        def linear(name: str) -> tuple[Floats, Floats]:
            return np.ascontiguousarray(tensors[name + ".weight"].T), tensors[name + ".bias"]

        def norm(name: str) -> tuple[Floats, Floats]:
            return tensors[name + ".weight"], tensors[name + ".bias"]

        self._words = tensors["embeddings.word_embeddings.weight"]
        self._positions = (tensors["embeddings.position_embeddings.weight"]
                           + tensors["embeddings.token_type_embeddings.weight"][0])  # one segment: type 0 throughout
        self._norm = norm("embeddings.LayerNorm")
        self._layers = []
        for number in range(LAYERS):
            at = f"encoder.layer.{number}."
            parts = [linear(f"{at}attention.self.{part}") for part in ("query", "key", "value")]
            joined = np.concatenate([w for w, _ in parts], axis=1), np.concatenate([b for _, b in parts])
            self._layers.append((joined, linear(at + "attention.output.dense"), norm(at + "attention.output.LayerNorm"),
                                 linear(at + "intermediate.dense"), linear(at + "output.dense"), norm(at + "output.LayerNorm")))

    def encode(self, ids: list[list[int]]) -> Floats:
        """(texts, 384), each row of length 1. Padding is masked, so company does not change a text's vector."""
        import numpy as np

        longest = max(len(tokens) for tokens in ids)
        padded = np.zeros((len(ids), longest), np.int64)
        real = np.zeros((len(ids), longest), np.float32)
        for row, tokens in enumerate(ids):
            padded[row, : len(tokens)] = tokens
            real[row, : len(tokens)] = 1.0
        hidden = _layer_norm(self._words[padded] + self._positions[:longest], *self._norm)
        bias = None if real.all() else ((real - 1.0) * 1e9)[:, None, None, :]
        for joined, attended, norm_1, widen, narrow, norm_2 in self._layers:
            hidden = _layer_norm(hidden + _linear(_attention(_linear(hidden, joined), bias), attended), *norm_1)
            hidden = _layer_norm(hidden + _linear(_gelu(_linear(hidden, widen)), narrow), *norm_2)
        mean: Floats = (hidden * real[:, :, None]).sum(axis=1) / real.sum(axis=1, keepdims=True)
        mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), np.float32(1e-12))
        return mean


def _linear(x: Floats, layer: tuple[Floats, Floats]) -> Floats:
    weight, bias = layer
    out: Floats = x.reshape(-1, x.shape[-1]) @ weight  # one large product; NumPy would loop over the first axis
    out += bias
    return out.reshape(*x.shape[:-1], -1)


def _attention(joined: Floats, bias: Floats | None) -> Floats:
    """Scaled dot-product attention of all heads; ``joined`` holds query, key and value side by side."""
    import numpy as np

    texts, length, _ = joined.shape
    query, key, value = joined.reshape(texts, length, 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
    scores = query @ key.swapaxes(-1, -2)
    scores *= np.float32(1.0 / math.sqrt(DIMENSIONS // HEADS))
    if bias is not None:
        scores += bias
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    out: Floats = (scores @ value).transpose(0, 2, 1, 3).reshape(texts, length, DIMENSIONS)
    return out


def _layer_norm(x: Floats, weight: Floats, bias: Floats) -> Floats:
    import numpy as np

    x = x - x.mean(axis=-1, keepdims=True)
    variance = np.einsum("...d,...d->...", x, x)[..., None] / np.float32(x.shape[-1])
    out: Floats = x / np.sqrt(variance + np.float32(1e-12)) * weight + bias
    return out


def _gelu(x: Floats) -> Floats:
    """x·Φ(x). NumPy has no erf: formula 7.1.26 of Abramowitz and Stegun, whose error is under 1.5e-7."""
    import numpy as np

    magnitude = np.abs(x) * np.float32(math.sqrt(0.5))
    t = 1.0 / (1.0 + np.float32(0.3275911) * magnitude)
    series = t * np.float32(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += np.float32(coefficient)
        series *= t
    series *= np.exp(-magnitude * magnitude)  # 1 - erf(|x|/√2)
    out: Floats = np.where(x >= 0, x - 0.5 * x * series, 0.5 * x * series)
    return out
