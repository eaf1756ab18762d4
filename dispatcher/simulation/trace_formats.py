"""The published traces of LLM serving: how to tell them apart, and what their numbers mean.

The keys or columns of the first row decide, and a format is taken only where it knows all of them: many share the four
keys of Mooncake's, with seconds for its milliseconds and 16 tokens for its 512. To add a format, write a function that
turns a row into requests, and one line in :data:`FORMATS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

Row = Mapping[str, Any]
"""A line of a trace: texts where it is CSV, JSON values else."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a trace."""

    at_ms: float
    """When it arrives, counted from whenever the trace counts from."""
    tokens_in: int
    tokens_out: int
    blocks: tuple[int | str, ...] = ()
    """Hashes of its prompt's blocks."""
    session: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.at_ms):
            raise ValueError(f"it arrives at {self.at_ms}")
        if self.tokens_in < 0 or self.tokens_out < 0:
            raise ValueError("a number of tokens is negative")


Reader = Callable[[Row], Iterable[Request | None]]
"""The requests of a row; ``None`` for each that is left out."""


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A published format."""

    name: str
    keys: frozenset[str]
    """Keys or columns that its rows have."""
    begin: Callable[[], Reader]
    """Makes what reads a file from its first row to its last."""
    may_have: frozenset[str] = frozenset()
    """Keys that some of its rows have."""
    block_tokens: int | None = None
    """Tokens in a block of the prompt; ``None``: those of the service model."""
    has_unit: bool = True
    """False where others write the same keys with times in another unit."""
    note: str = ""
    """What a user has to know about the jobs."""

    def knows(self, keys: Iterable[str]) -> bool:
        return self.keys <= set(keys) <= self.keys | self.may_have


def _azure(row: Row) -> Iterable[Request]:
    instant = datetime.fromisoformat(row["TIMESTAMP"])
    day_ms = instant.toordinal() * 86_400_000
    clock_ms = ((instant.hour * 60 + instant.minute) * 60 + instant.second) * 1000 + instant.microsecond / 1000
    yield Request(day_ms + clock_ms, int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def _mooncake(row: Row) -> Iterable[Request]:
    yield Request(float(row["timestamp"]), int(row["input_length"]), int(row["output_length"]), _blocks(row))


def _bailian() -> Reader:
    roots: dict[Any, Any] = {}  # chat → the first of its conversation

    def read(row: Row) -> Iterable[Request]:
        chat, parent = row["chat_id"], row["parent_chat_id"]
        root = roots[chat] = roots.get(parent, parent) if parent != -1 else chat
        at_ms = float(row["timestamp"]) * 1000
        yield Request(at_ms, int(row["input_length"]), int(row["output_length"]), _blocks(row), f"chat {root}")

    return read


def _burst_gpt(row: Row) -> Iterable[Request | None]:
    tokens_out = int(row["Response tokens"])
    session = row.get("Session ID") or None
    request = Request(float(row["Timestamp"]) * 1000, int(row["Request tokens"]), tokens_out, session=session)
    yield request if tokens_out else None  # it failed


def _serve_gen(row: Row) -> Iterable[Request]:
    yield Request(0.0, int(row["input_length"]), int(row.get("output_length", 0)), _blocks(row))


def _vidur(row: Row) -> Iterable[Request]:
    at_ms = float(row.get("arrived_at", 0)) * 1000
    yield Request(at_ms, int(row["num_prefill_tokens"]), int(row["num_decode_tokens"]))


def _splitwise(row: Row) -> Iterable[Request]:
    yield Request(float(row["arrival_timestamp"]) * 1000, int(row["prompt_size"]), int(row["token_size"]))


def _weka(row: Row) -> Iterable[Request | None]:
    scope = "" if row.get("hash_id_scope") == "global" else f"{row['id']}/"
    if row.get("block_size", WEKA_BLOCK_TOKENS) != WEKA_BLOCK_TOKENS:
        raise ValueError(f"its blocks are not of {WEKA_BLOCK_TOKENS} tokens")
    for turn in row["requests"]:
        if "in" not in turn:  # a subagent, whose own requests have times of their own
            yield None
            continue
        blocks = tuple(f"{scope}{block}" for block in _blocks(turn))
        yield Request(float(turn["t"]) * 1000, int(turn["in"]), int(turn["out"]), blocks, str(row["id"]))


def _blocks(row: Row) -> tuple[int | str, ...]:
    blocks = tuple(row.get("hash_ids") or ())
    if not all(isinstance(block, int | str) for block in blocks):
        raise ValueError("hash_ids must be numbers or strings")
    return blocks


WEKA_BLOCK_TOKENS: Final = 64
_AT_ONCE: Final = "it has no times of arrival: all its requests arrive at once"


def _keys(names: str) -> frozenset[str]:
    return frozenset(names.split(","))


FORMATS: Final = (
    TraceFormat("Azure", _keys("TIMESTAMP,ContextTokens,GeneratedTokens"), lambda: _azure, _keys("NumImages")),
    TraceFormat("Mooncake", _keys("timestamp,input_length,output_length"), lambda: _mooncake, _keys("hash_ids"),
                has_unit=False),
    TraceFormat("Qwen-Bailian",
                _keys("chat_id,parent_chat_id,timestamp,input_length,output_length,type,turn,hash_ids"),
                _bailian, block_tokens=16),
    TraceFormat("BurstGPT", _keys("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"),
                lambda: _burst_gpt, _keys("Session ID,Elapsed time")),
    TraceFormat("ServeGen offline", _keys("request_id,type,input_length,output_length,duration"),
                lambda: _serve_gen, note=_AT_ONCE),
    TraceFormat("ServeGen offline", _keys("request_id,type,input_length,hash_ids,img_ids"), lambda: _serve_gen,
                block_tokens=16, note=f"{_AT_ONCE}, and no lengths of output: only its input is work"),
    TraceFormat("vidur", _keys("arrived_at,num_prefill_tokens,num_decode_tokens"), lambda: _vidur,
                _keys("num_total_tokens,pd_ratio")),
    TraceFormat("vidur lengths", _keys("num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio"),
                lambda: _vidur, note=_AT_ONCE),
    TraceFormat("splitwise-sim",
                _keys("request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size"),
                lambda: _splitwise),
    TraceFormat("WEKA", _keys("id,requests"), lambda: _weka,
                _keys("models,block_size,hash_id_scope,tool_tokens,system_tokens"),
                block_tokens=WEKA_BLOCK_TOKENS, note="its times count from the begin of each conversation"),
)  # fmt: skip
"""The first that knows the keys of the first row is the format of the file."""


def format_of(row: Row) -> TraceFormat | None:
    """The format of a file whose first row this is; ``None`` where none knows all of its keys."""
    return next((each for each in FORMATS if each.knows(row)), None)


_AIPERF_KEYS: Final = frozenset({"session_id", "delay", "text_input", "messages", "payload"})


def stranger(row: Row) -> str:
    """Whose a row looks like that no format knows."""
    if "session_id" in row and isinstance(row.get("hash_ids"), dict):
        return "RAGPulse's, whose blocks are of five kinds"
    if _AIPERF_KEYS & row.keys():
        return "AIPerf's, with sessions, delays or texts in place of times and lengths"
    if len(row) == 6 and all(_is_number(key) for key in (*row,)[:3]):
        return "a chunk of ServeGen's, which has rates and no requests"
    return f"nobody's that is known: it has {', '.join(map(repr, (*row,)[:8])) or 'no keys'}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
