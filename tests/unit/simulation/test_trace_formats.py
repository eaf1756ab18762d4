"""Published traces: each is known by its keys and read in its own units; what is not known is refused by name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher.errors import Invalid
from dispatcher.simulation.trace_formats import FORMATS
from dispatcher.simulation.traces import ServiceModel, SimJob, Trace, load_trace

TOKENS = ServiceModel(input_tokens_per_s=1000.0, output_token_s=1.0)  # a ms a token of input, a second one of output


def bailian(chat: int, parent: int, at_s: float, **changes: Any) -> dict[str, Any]:
    return {"chat_id": chat, "parent_chat_id": parent, "timestamp": at_s, "input_length": 32, "output_length": 1,
            "type": "text", "turn": 1, "hash_ids": [1, 2]} | changes  # fmt: skip


def weka(name: str, *requests: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"id": name, "models": ["m"], "block_size": 64, "hash_id_scope": "local", "requests": list(requests)} | changes


def turn(at_s: float, *blocks: int) -> dict[str, Any]:
    return {"t": at_s, "type": "s", "in": 128, "out": 1, "hash_ids": list(blocks)}


FOUR = {"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [1, 2]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def load(path: Path, content: str | list[Any], **options: Any) -> Trace:
    path.write_text(content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content))
    return load_trace(path, TOKENS, **options)


def columns(jobs: list[SimJob]) -> list[tuple[float, float, str | None]]:
    """Arrival and work in seconds, and the session."""
    return [(round(job.at_ms / 1000, 6), round(job.cost_ms / 1000, 6), job.session) for job in jobs]


@pytest.mark.parametrize(("kind", "content", "jobs"), [
    ("Azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.250000+00:00,500,1\n2024-05-10 00:00:01+00:00,1000,2\n",
     [(0.0, 1.5, None), (0.75, 3.0, None)]),
    ("Azure", "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2025-01-01 00:00:00,3,500,1\n", [(0.0, 1.5, None)]),
    ("BurstGPT", ("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n19440110.0,GPT-4,500,1,501,Conversation log\n"
     "19440112.5,ChatGPT,1000,2,1002,API log\n"), [(0.0, 1.5, None), (2.5, 3.0, None)]),
    ("BurstGPT", ("Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
     "5,7,1.5,GPT-4,500,1,501,Conversation log\n6,,,GPT-4,500,1,501,API log\n"), [(0.0, 1.5, "7"), (1.0, 1.5, None)]),
    ("vidur", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,500,1\n2.0,1000,2\n", [(0.0, 1.5, None), (1.5, 3.0, None)]),
    ("vidur lengths", "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n500,1,501,500.0\n1000,2,1002,500.0\n",
     [(0.0, 1.5, None), (0.0, 3.0, None)]),
    ("splitwise-sim", ("request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
     "0,2,0,0.25,1,500,1\n1,2,0,1.0,1,1000,2\n"), [(0.0, 1.5, None), (0.75, 3.0, None)]),
    ("ServeGen offline", [{"request_id": 0, "type": "a", "input_length": 500, "output_length": 1, "duration": 90.0}] * 2,
     [(0.0, 1.5, None)] * 2),
    ("Mooncake", [FOUR, FOUR | {"timestamp": 250, "hash_ids": None}], [(0.0, 2.024, None), (0.25, 2.024, None)]),
])  # fmt: skip
def test_a_format_is_known_by_its_keys_and_read_in_its_units(path: Path, kind: str, content: Any, jobs: Any) -> None:
    """Columns are read by name; a byte-order mark is none of them."""
    trace = load(path, content)
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))

    assert (trace.kind, columns(trace.jobs)) == (kind, jobs)
    assert load_trace(path, TOKENS) == trace


def test_a_conversation_of_bailian_is_a_session(path: Path) -> None:
    """That of its first chat, also where that lies before the trace; its blocks are of 16 tokens."""
    trace = load(path, [bailian(1, -1, 0.0), bailian(2, 1, 1.5), bailian(3, 2, 2.0), bailian(9, 8, 2.5), bailian(10, -1, 3.0)])

    assert [(job.at_ms, job.session) for job in trace.jobs] == [
        (0.0, "chat 1"), (1500.0, "chat 1"), (2000.0, "chat 1"), (2500.0, "chat 8"), (3000.0, "chat 10"),
    ]  # fmt: skip
    assert (trace.jobs[0].prefix, trace.jobs[0].block_ms, trace.notes) == ((1, 2), 16.0, ())


def test_a_conversation_of_weka_is_a_session_with_blocks_of_its_own(path: Path) -> None:
    """The same number is another block in another conversation; what subagents ask is left out, and counted."""
    subagent = {"t": 2.0, "type": "subagent", "requests": [turn(0.0, 5)]}

    trace = load(path, [weka("a", turn(0.0, 1), subagent, turn(3.0, 1, 2)), weka("b", turn(1.0, 1))])

    assert [(job.at_ms, job.session, job.prefix, job.block_ms) for job in trace.jobs] == [
        (0.0, "a", ("a/1",), 64.0), (1000.0, "b", ("b/1",), 64.0), (3000.0, "a", ("a/1", "a/2"), 64.0),
    ]  # fmt: skip
    assert "left out: 1 of its requests (they failed, or are of subagents)" in trace.notes


def test_requests_of_burst_gpt_that_failed_are_left_out_and_counted(path: Path) -> None:
    """They have no tokens of output."""
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"

    trace = load(path, head + "1,GPT-4,500,0,500,API log\n" * 3 + "4,GPT-4,500,1,501,API log\n")

    assert (columns(trace.jobs), trace.notes) == ([(0.0, 1.5, None)], ("left out: 3 of its requests (they failed, or are of subagents)",))


def test_what_has_no_times_says_so(path: Path) -> None:
    """Nobody takes a batch for a load."""
    row = {"request_id": 0, "type": "a", "input_length": 32, "hash_ids": [1, 2], "img_ids": []}

    trace = load(path, [row, row | {"request_id": 1}])

    assert [(job.at_ms, job.cost_ms, job.block_ms) for job in trace.jobs] == [(0.0, 32.0, 16.0)] * 2
    assert trace.notes == ("it has no times of arrival: all its requests arrive at once, and no lengths of output: only its input is work",)


def test_seconds_under_the_keys_of_mooncake_are_told_by_hand(path: Path) -> None:
    """GuideLLM and vLLM write them so. Where a rate is too high to be true, and no unit was given, it is said."""
    rows = [FOUR | {"timestamp": n / 4} for n in range(100)]

    taken, told = load(path, rows), load(path, rows, unit="s")

    assert (taken.jobs[-1].at_ms, told.jobs[-1].at_ms) == (24.75, 24_750.0)
    assert [note.partition(":")[0] for note in taken.notes] == ["100 requests within 0.02475 s are too many to be true"]
    assert told.notes == load(path, rows, unit="ms").notes == ()
    with pytest.raises(Invalid, match="of Qwen-Bailian, whose unit of time is known: give none"):
        load(path, [bailian(1, -1, 0.0)], unit="ms")


def test_blocks_that_a_prompt_cannot_fill_are_said(path: Path) -> None:
    """They are of fewer tokens than Mooncake's."""
    trace = load(path, [FOUR | {"hash_ids": [1, 2, 3]}])

    assert trace.notes == ("in 1 of 1 requests the prompt has more blocks than it fills: they are not of 512 tokens",)


@pytest.mark.parametrize(("content", "said"), [
    ([{"timestamp": "0.5", "input_length": 1, "output_length": 1, "session_id": "a", "hash_ids": {"doc": [1]}}], "RAGPulse's"),
    ([{"session_id": "a", "delay": 5, "input_length": 1, "output_length": 1}], "AIPerf's"),
    ([{"timestamp": 0, "text_input": "hello", "output_length": 1}], "AIPerf's"),
    ([FOUR | {"colour": "red"}], "nobody's that is known: it has 'timestamp', 'input_length', 'output_length', 'hash_ids', 'colour'"),
    ([{}], "nobody's that is known: it has no keys"),
    ("0,1.5,1.0,Gamma,0.5,2.0\n", "a chunk of ServeGen's, which has rates and no requests"),
    ("a,b\n1,2\n", "nobody's that is known: it has 'a', 'b'"),
])  # fmt: skip
def test_a_file_that_is_not_known_is_refused_by_whose_it_looks_like(path: Path, content: Any, said: str) -> None:
    """Nothing is read as what it is not, though four of its keys are Mooncake's."""
    with pytest.raises(Invalid) as caught:
        load(path, content)

    assert f"; it looks like {said}" in str(caught.value)
    assert "(Azure, Mooncake, Qwen-Bailian, BurstGPT, ServeGen offline, vidur, vidur lengths, splitwise-sim, WEKA)" in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [
    ([FOUR, bailian(1, -1, 0.0)], "line 2: .*its keys are not those of Mooncake"),
    ([FOUR | {"timestamp": float("nan")}], "line 1: .*it arrives at nan"),
    ([FOUR | {"output_length": -1}], "line 1: .*a number of tokens is negative"),
    ([FOUR, [1]], "line 2: .*not a JSON object"),
    ("{\n", "line 1: '{' is no request"),
    ([weka("a", turn(0.0, 1), block_size=16)], "line 1: .*its blocks are not of 64 tokens"),
    ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,2\n", "line 2: '1,2' is no request"),
])  # fmt: skip
def test_a_row_that_is_not_like_the_first_is_said_with_its_line(path: Path, content: Any, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        load(path, content)


def test_the_first_jobs_of_a_file_in_order_are_read_and_no_more(path: Path) -> None:
    """A day of Azure's requests is 27 million lines. Where the first are out of order all are read."""
    rows = [FOUR | {"timestamp": n} for n in range(5)]

    assert len(load(path, [*rows, "no request"], limit=5).jobs) == 5
    with pytest.raises(Invalid, match="line 7"):
        load(path, [rows[1], rows[0], *rows[2:], rows[0], "no request"], limit=5)
    assert [job.at_ms for job in load(path, rows[::-1], limit=2).jobs] == [0.0, 1.0]


def test_no_two_formats_know_the_same_row() -> None:
    """Their order in the table decides nothing."""
    for each in FORMATS:
        for keys in (each.keys, each.keys | each.may_have):
            assert [other for other in FORMATS if other.knows(keys)] == [each]
