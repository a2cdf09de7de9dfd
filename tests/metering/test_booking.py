"""How facts become rows, and what the rows add up to."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmrouter.contracts.call import Usage
from llmrouter.metering.booking import (
    INTERRUPTED,
    NANO_USD_MAX,
    TOKENS_MAX,
    amounts,
    booked,
    how,
    is_error,
    what,
    who,
)
from llmrouter.metering.records import Attempt, Begin, End
from llmrouter.metering.tail import Began, Damaged, Ended, Folded, Interrupted
from llmrouter.metering.tally import Tally
from tests.metering.test_books import any_fact, tally_of
from tests.metering.test_records import a_begin, an_attempt, an_end
from tests.metering.test_tally import tally

BEGIN = replace(a_begin(), deployment="a/small", upstream="a")
OTHER = Attempt(
    deployment="b/large",
    upstream="b",
    outcome="hedged",
    error_code="upstream_timeout",
    usage=Usage(prompt_tokens=9, output_tokens=2, cost_nano_usd=60),
    estimated=True,
    cost_nano_usd=70,
    price="1/1/1",
    duration_ms=80,
)


def ended(**changes: object) -> Ended:
    return Ended("b00t", BEGIN, (0, 0), replace(an_end(), **changes))


def rows(*facts: Folded) -> list[End]:
    return [end for _, end in booked(facts)]


def added(facts: Sequence[Folded]) -> Tally:
    """The sum of what each row adds."""
    return tally(*(end for _, end in booked(facts)))


@given(st.lists(any_fact, max_size=20))
def test_rows_add_up_to_what_adding_up_by_hand_gives(facts: list[Folded]) -> None:
    assert added(facts) == tally_of(facts)


def test_only_what_is_over_is_a_row() -> None:
    facts = (
        Began("b00t", "0", BEGIN),
        ended(),
        Damaged(Path("0-1.jsonl"), 7, 9),
        Interrupted("b00t", BEGIN, (5, 7)),
    )

    assert [(begin, end.outcome) for begin, end in booked(facts)] == [
        (BEGIN, "ok"),
        (BEGIN, INTERRUPTED),
    ]


def test_a_call_of_one_attempt_is_booked_as_it_was_journaled() -> None:
    """Nearly all are, so nothing is made for them."""
    fact = ended()

    (end,) = rows(fact)

    assert end is fact.end


def test_another_attempt_is_a_row_of_what_is_known_of_it() -> None:
    own, other = rows(ended(attempts=2, others=(OTHER,), ttft_ms=5))

    assert own.attempts == 2
    assert other == End(
        seq=1,
        at_ms=own.at_ms,
        request_id=own.request_id,
        status=0,
        outcome="hedged",
        error_code="upstream_timeout",
        deployment="b/large",
        upstream="b",
        attempts=0,
        usage=OTHER.usage,
        cost_nano_usd=70,
        price="1/1/1",
        estimated=True,
        duration_ms=80,
    )


def test_a_call_that_another_model_took_over_is_no_call_of_its_own() -> None:
    own, other = rows(ended(attempts=2, others=(OTHER,), replaced=True, outcome="upstream_error"))

    assert (own.attempts, other.attempts) == (0, 0)
    assert not is_error(own)


def test_a_call_that_says_that_nothing_was_tried_is_a_call_all_the_same() -> None:
    assert [end.attempts for end in rows(ended(attempts=0))] == [1]


@pytest.mark.parametrize(
    ("deployment", "upstream", "shown"),
    [
        (None, None, ("a/small", "a")),
        ("a/small", None, ("a/small", "a")),
        ("b/small", "b", ("b/small", "b")),
        ("b/small", None, ("b/small", "")),  # as in journals of format 1
    ],
)
def test_a_call_that_moved_is_booked_where_it_ended(
    deployment: str | None, upstream: str | None, shown: tuple[str, ...]
) -> None:
    end = replace(an_end(), deployment=deployment, upstream=upstream)

    assert what(BEGIN, end)[1:3] == shown


@pytest.mark.parametrize(
    ("status", "outcome", "attempts", "failed"),
    [
        (200, "ok", 1, False),
        (399, "ok", 1, False),
        (400, "ok", 1, True),
        (502, "upstream_error", 3, True),
        (200, "upstream_error", 1, True),
        (200, "client_gone", 1, True),
        (0, "client_gone", 1, True),
        (0, "upstream_error", 0, False),
    ],
)
def test_what_counts_as_an_error(status: int, outcome: str, attempts: int, failed: bool) -> None:
    end = replace(an_end(), status=status, outcome=outcome, attempts=attempts)

    assert is_error(end) is how(BEGIN, end)[-1] is failed
    assert tally(end).errors == failed


def test_names_that_are_absent_are_empty() -> None:
    begin: Begin = a_begin()

    assert who(begin) == ("acme", "", "", "Ab12")
    assert what(begin, an_end()) == ("gpt-4o", "openai/gpt-4o", "", "openai", "chat")
    assert how(begin, an_end()) == (200, "ok", "", 1, False, False, False)


@pytest.mark.parametrize(("hold", "cost"), [((500, 70_000), 70_000), ((500, 0), None)])
def test_an_interrupted_call_has_used_what_it_held(hold: tuple[int, int], cost: int | None) -> None:
    (end,) = rows(Interrupted("b00t", BEGIN, hold))

    assert (end.at_ms, end.status, end.outcome, end.estimated) == (
        BEGIN.at_ms, 0, INTERRUPTED, True,
    )  # fmt: skip
    assert amounts(end) == (500, 0, 0, 0, cost, None, None, None)


def test_what_an_upstream_claims_beyond_sense_is_bounded() -> None:
    usage = Usage(prompt_tokens=10**30, output_tokens=2**63, cost_nano_usd=10**30)
    other = replace(an_attempt(), usage=usage, cost_nano_usd=2**64)
    found = added([ended(usage=usage, cost_nano_usd=2**64, others=(other,))])

    assert (found.prompt_tokens, found.output_tokens) == (2 * TOKENS_MAX,) * 2
    assert (found.cost_nano_usd, found.reported_nano_usd) == (2 * NANO_USD_MAX,) * 2
