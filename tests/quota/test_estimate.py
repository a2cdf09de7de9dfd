"""Estimates: learned from what calls used, bounded in what is remembered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.quota.estimate import (
    FIRST_OUTPUT,
    MILLI_BYTES_MAX,
    MILLI_BYTES_PER_TOKEN,
    MILLI_TOKENS_MAX,
    MODELS_MAX,
    OUTPUT_LEARNED_MAX,
    Estimator,
)


@pytest.mark.parametrize(("body_bytes", "tokens"), [(0, 0), (1, 1), (7, 2), (8, 3), (3_500, 1_000)])
def test_a_prompt_has_a_token_for_every_few_bytes_at_first(body_bytes: int, tokens: int) -> None:
    assert MILLI_BYTES_PER_TOKEN == 3_500
    assert Estimator().prompt_tokens("m", body_bytes) == tokens


def test_learns_how_many_bytes_a_token_has_by_model() -> None:
    estimator = Estimator()
    estimator.learn_prompt("m", 1_000, 500)
    assert estimator.prompt_tokens("m", 1_000) == 500
    assert estimator.prompt_tokens("n", 1_000) == 286
    for _ in range(100):
        estimator.learn_prompt("m", 1_000, 250)
    assert estimator.prompt_tokens("m", 1_000) in (250, 251)


@given(
    seen=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7))),
    body_bytes=st.integers(0, 10**8),
)
def test_what_upstreams_report_never_breaks_an_estimate(
    seen: list[tuple[int, int]], body_bytes: int
) -> None:
    estimator = Estimator()
    for learned_bytes, tokens in seen:
        estimator.learn_prompt("m", learned_bytes, tokens)
        estimator.learn_events("m", tokens, learned_bytes)
    assert estimator.prompt_tokens("m", body_bytes) >= bool(body_bytes)
    assert estimator.passed_tokens("m", body_bytes) >= bool(body_bytes)


def test_an_event_is_a_token_until_an_upstream_says_otherwise() -> None:
    estimator = Estimator()
    assert estimator.passed_tokens("m", 10) == 10
    estimator.learn_events("m", 7, 700)  # too short to say anything
    assert estimator.passed_tokens("m", 10) == 10
    estimator.learn_events("m", 100, 250)
    assert [estimator.passed_tokens("m", events) for events in (0, 1, 10)] == [0, 3, 25]


@given(milli=st.integers(1, MILLI_TOKENS_MAX), tokens=st.integers(0, 10**7))
def test_as_many_events_are_held_for_as_carry_no_more(milli: int, tokens: int) -> None:
    estimator = Estimator()
    estimator.learn_events("m", 1_000, milli)
    events = estimator.events("m", tokens)
    assert estimator.passed_tokens("m", events) <= tokens < estimator.passed_tokens("m", events + 1)


# The output


@pytest.mark.parametrize(
    ("output_max", "held"), [(None, FIRST_OUTPUT), (10, 10), (FIRST_OUTPUT + 1, FIRST_OUTPUT)]
)
def test_a_first_call_holds_a_usual_answer_but_no_more_than_it_allows(
    output_max: int | None, held: int
) -> None:
    assert Estimator().output_tokens("k", "m", output_max) == held


def test_holds_a_little_more_than_the_first_answer_had_for_that_key_and_model() -> None:
    estimator = Estimator()
    estimator.learn_output("k", "m", 400)
    assert estimator.output_tokens("k", "m", None) == 500
    assert estimator.output_tokens("k", "m", 100) == 100
    assert estimator.output_tokens("k", "n", None) == FIRST_OUTPUT
    assert estimator.output_tokens("l", "m", None) == FIRST_OUTPUT


def test_rises_half_way_to_what_exceeds_it_and_falls_slowly() -> None:
    estimator = Estimator()
    estimator.learn_output("k", "m", 80)
    held = [estimator.output_tokens("k", "m", None)]
    for output in (300, 300, 40):
        estimator.learn_output("k", "m", output)
        held.append(estimator.output_tokens("k", "m", None))
    assert held == [100, 200, 250, 246]


def test_settles_where_most_answers_fit() -> None:
    """Answers of every length up to 1000, in no order: few need more, and it is no worst case."""
    estimator = Estimator()
    outputs = [(number * 617) % 1_000 for number in range(1_000)]
    exceeded = 0
    for output in outputs:
        exceeded += output > estimator.output_tokens("k", "m", None)
        estimator.learn_output("k", "m", output)
    assert exceeded < 330
    assert 500 < estimator.output_tokens("k", "m", None) < 1_000


def test_names_that_callers_choose_do_not_fill_the_memory() -> None:
    estimator = Estimator()
    for number in range(MODELS_MAX + 10):
        estimator.learn_output("k", f"m{number}", 5)
        estimator.learn_prompt(f"m{number}", 100, 50)
        estimator.learn_events(f"m{number}", 100, 50)
    sizes = [len(estimator._outputs), len(estimator._milli_bytes), len(estimator._milli_tokens)]
    assert sizes == [10, 10, 10]
    assert repr(estimator) == "<Estimator models=10>"


def test_a_padded_body_does_not_make_prompts_free() -> None:
    estimator = Estimator()
    for _ in range(100):
        estimator.learn_prompt("m", 30_000_000, 1)
    assert estimator.prompt_tokens("m", 100_000) >= 100_000 * 1_000 // MILLI_BYTES_MAX


def test_one_absurd_report_is_forgotten_soon() -> None:
    estimator = Estimator()
    estimator.learn_output("k", "m", 10**8)
    assert estimator.output_tokens("k", "m", None) <= OUTPUT_LEARNED_MAX * 5 // 4
    estimator.learn_events("m", 8, 10**8)
    assert estimator.passed_tokens("m", 1_000) <= MILLI_TOKENS_MAX
