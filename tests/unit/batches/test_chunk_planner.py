"""The chunk planner: every line once, budgets kept, and the same plan every time."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.batches.lines import Line
from dispatcher.batches.planner import cost_s, plan_chunks


def make_line(index: int, tokens: int, model: str = "m") -> Line:
    return Line(index=index, custom_id=f"c{index}", model=model, url="/v1/embeddings", tokens=tokens, offset=0, length=0)


lines_of = st.lists(st.tuples(st.integers(1, 3000), st.sampled_from(["m", "n"]))).map(
    lambda pairs: [make_line(index, tokens, model) for index, (tokens, model) in enumerate(pairs)])
budgets = st.fixed_dictionaries({"tokens_max": st.integers(1, 5000), "lines_max": st.integers(1, 70)})


@given(lines_of, budgets)
def test_every_line_is_in_exactly_one_chunk(lines: list[Line], budget: dict[str, int]) -> None:
    """No line is lost and none is run twice."""
    planned = [line.index for chunk in plan_chunks(lines, **budget) for line in chunk.lines]

    assert sorted(planned) == [line.index for line in lines]


@given(lines_of, budgets)
def test_a_chunk_keeps_both_budgets_unless_one_line_alone_exceeds_them(lines: list[Line], budget: dict[str, int]) -> None:
    """The padded size, longest line times lines, stays within the budget of tokens."""
    for chunk in plan_chunks(lines, **budget):
        padded = max(line.tokens for line in chunk.lines) * len(chunk.lines)

        assert padded == chunk.lines[-1].tokens * len(chunk.lines)
        assert len(chunk.lines) == 1 or (padded <= budget["tokens_max"] and len(chunk.lines) <= budget["lines_max"])
        assert len({line.model for line in chunk.lines}) == 1


@given(lines_of, budgets, st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_the_lines(
    lines: list[Line], budget: dict[str, int], rng: random.Random
) -> None:
    """A resumed batch finds the chunks that were sent."""
    shuffled = list(lines)
    rng.shuffle(shuffled)

    assert plan_chunks(shuffled, **budget) == plan_chunks(lines, **budget)


@given(lines_of, budgets)
def test_chunks_are_numbered_from_the_heaviest(lines: list[Line], budget: dict[str, int]) -> None:
    """What runs last is small, so no worker waits long for the last chunk."""
    chunks = plan_chunks(lines, **budget)

    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    costs = [chunk.cost_s for chunk in chunks]
    assert costs == sorted(costs, reverse=True)


def test_lines_of_like_length_go_together() -> None:
    """Two short and two long lines make two chunks, not one that pads the short to the long."""
    lines = [make_line(0, 100), make_line(1, 2), make_line(2, 100), make_line(3, 2)]

    chunks = plan_chunks(lines, tokens_max=200, lines_max=64)

    assert [sorted(line.index for line in chunk.lines) for chunk in chunks] == [[0, 2], [1, 3]]


def test_cost_grows_with_tokens() -> None:
    """The dispatcher balances by declared cost, so more text must cost more."""
    assert cost_s([make_line(0, 1000)]) > cost_s([make_line(0, 10)]) > 0
