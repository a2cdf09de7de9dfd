"""Budgets: never over where they are strict, bounded where not, and nobody starves (SC-004)."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from llmrouter.gateway.need import TEMPLATE_TOKENS_MAX
from llmrouter.quota.estimate import FIRST_OUTPUT, SLICE
from tests.support.daemon import Daemon, serving
from tests.support.demo import counters
from tests.support.load import Answer, connected, race
from tests.support.quotas import (
    OUTPUT_NANO,
    OUTPUT_TOKENS,
    PRICED,
    PROMPT_TOKENS,
    Key,
    body_bytes,
    chat,
    cost_nano,
    issue,
    settled,
    usd,
)

pytestmark = pytest.mark.e2e

CALLERS = 64
REPEATS = 20
SPENT = "insufficient_quota"
BUCKET = "usd/total"
NOBODY = Key("", "")
"""Whose calls are as long as anybody's: the key is not part of a body."""
TOLD_WITHIN_S = 1.5
"""Well below `quotas.hold_wait`."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with serving(tmp_path_factory.mktemp("budgets"), PRICED, workers=4) as daemon:
        yield daemon


async def race_of(daemon: Daemon, message: bytes, callers: int = CALLERS) -> list[Answer]:
    async with connected(daemon, callers) as lines:
        return await race(lines, message, SPENT)


# ---- strict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("beyond_nano", "served"), [(0, 101), (-1, 100)])
def test_a_strict_budget_is_never_overspent_and_its_last_call_is_served(
    daemon: Daemon, beyond_nano: int, served: int
) -> None:
    """After a hundred calls there is just as much left as the worst case of one, or less by 1."""
    call_nano = cost_nano(PROMPT_TOKENS, OUTPUT_TOKENS)
    for _ in range(REPEATS):
        worst_nano = cost_nano(body_bytes(chat(NOBODY)) + TEMPLATE_TOKENS_MAX, OUTPUT_TOKENS)
        limit_nano = 100 * call_nano + worst_nano + beyond_nano
        key = issue(daemon, budgets=(f"usd={usd(limit_nano)}/total,strict",))
        before = counters(daemon.state)["requests"]
        answers = asyncio.run(race_of(daemon, chat(key)))
        assert Counter(answer.status for answer in answers)[200] == served
        assert counters(daemon.state)["requests"] - before == served
        spent_nano = settled(daemon, key.bucket(BUCKET))
        assert spent_nano == served * call_nano <= limit_nano
        assert limit_nano - spent_nano < worst_nano


def test_who_waits_for_held_money_is_told_as_soon_as_it_is_spent(daemon: Daemon) -> None:
    """All but one wait for what others hold: when that is spent, they are not kept waiting."""
    worst_nano = cost_nano(body_bytes(chat(NOBODY)) + TEMPLATE_TOKENS_MAX, OUTPUT_TOKENS)
    key = issue(daemon, budgets=(f"usd={usd(worst_nano)}/total,strict",))
    answers = asyncio.run(race_of(daemon, chat(key)))
    assert Counter(answer.status for answer in answers) == {200: 1, 402: CALLERS}
    assert max(answer.took_s for answer in answers) < TOLD_WITHIN_S


# ---- nobody starves -------------------------------------------------------------------------

ANSWER_TOKENS = 300
ALLOWED_TOKENS = 32_000
WORTH = 50
SERVED_MIN = 45


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("callers", [1, 8])
def test_long_max_tokens_do_not_starve_who_gives_short_answers(
    daemon: Daemon, callers: int, stream: bool
) -> None:
    """An agent allows 32,000 tokens and uses 300: it is served for nearly all of its money."""
    limit_nano = WORTH * cost_nano(PROMPT_TOKENS, ANSWER_TOKENS)
    key = issue(daemon, budgets=(f"usd={usd(limit_nano)}/total",))
    model = f"demo-tokens={ANSWER_TOKENS}"
    message = chat(key, model, max_tokens=ALLOWED_TOKENS, stream=stream)
    answers = asyncio.run(race_of(daemon, message, callers))
    statuses = [answer.status for answer in answers]
    served_first = statuses.index(402) if 429 not in statuses else statuses.index(429)
    print(f"{callers} callers: {served_first} served before the first refusal")  # noqa: T201
    assert served_first >= SERVED_MIN
    spent_nano = settled(daemon, key.bucket(BUCKET))
    assert spent_nano == statuses.count(200) * cost_nano(PROMPT_TOKENS, ANSWER_TOKENS)


# ---- what running streams may overshoot -----------------------------------------------------

STREAMS = 8
CUT_FOR = (b'"insufficient_quota"', b'"quota_held"')
"""The latter where other streams hold what is left: the first to need more is cut, they go on."""
Streamed = tuple[int, bytes, bool]


async def streams_of(daemon: Daemon, message: bytes) -> list[Streamed]:
    async with connected(daemon, STREAMS) as lines:
        return await asyncio.gather(*(line.stream(message) for line in lines))


async def one_more(daemon: Daemon, key: Key) -> Answer:
    async with connected(daemon, 1) as (line,):
        return await line.ask(chat(key))


def test_finish_overshoots_by_no_more_than_the_rest_of_the_calls_in_flight(daemon: Daemon) -> None:
    """All were admitted while there was money for what they were foreseen to use."""
    tokens = 2 * FIRST_OUTPUT
    hold_nano = cost_nano(body_bytes(chat(NOBODY)), FIRST_OUTPUT)
    limit_nano = STREAMS * hold_nano
    key = issue(daemon, budgets=(f"usd={usd(limit_nano)}/total",))
    message = chat(key, f"demo-tokens={tokens},gap=1", max_tokens=tokens, stream=True)
    streams = asyncio.run(streams_of(daemon, message))
    assert {status for status, *_ in streams} == {200}
    assert all(whole and body.endswith(b"data: [DONE]\n\n") for _, body, whole in streams)
    spent_nano = settled(daemon, key.bucket(BUCKET))
    assert spent_nano == STREAMS * cost_nano(PROMPT_TOKENS, tokens)
    overshoot_nano = spent_nano - limit_nano
    print(f"finish: {overshoot_nano / limit_nano:.0%} over")  # noqa: T201
    assert 0 < overshoot_nano <= STREAMS * cost_nano(0, tokens - FIRST_OUTPUT)
    answer = asyncio.run(one_more(daemon, key))
    assert (answer.status, answer.code) == (402, SPENT)


def test_cut_overshoots_by_a_slice_of_each_stream_at_most(daemon: Daemon) -> None:
    """Each is told why, and ends as no whole answer does.

    Of an upstream that takes longer for a slice than the ledger to answer, which is milliseconds.
    """
    tokens = 4 * FIRST_OUTPUT
    limit_nano = STREAMS * cost_nano(PROMPT_TOKENS, FIRST_OUTPUT + FIRST_OUTPUT // 2)
    key = issue(daemon, budgets=(f"usd={usd(limit_nano)}/total,mid_stream=cut",))
    message = chat(key, f"demo-tokens={tokens},gap=2", max_tokens=tokens, stream=True)
    streams = asyncio.run(streams_of(daemon, message))
    assert {status for status, *_ in streams} == {200}
    for _, body, whole in streams:
        assert not whole
        assert b"[DONE]" not in body
        assert any(code in body for code in CUT_FOR), body[-400:]
    spent_nano = settled(daemon, key.bucket(BUCKET))
    overshoot_nano = spent_nano - limit_nano
    slice_nano = SLICE * OUTPUT_NANO
    print(f"cut: {overshoot_nano / STREAMS / OUTPUT_NANO:.0f} tokens over, a stream")  # noqa: T201
    assert overshoot_nano <= STREAMS * slice_nano
    assert -overshoot_nano <= STREAMS * slice_nano
