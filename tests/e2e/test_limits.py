"""Limits are exact, however many callers race for them on however many workers (SC-004)."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar, cast

import msgspec
import pytest

from llmrouter.tasks import spawn
from tests.support.daemon import Daemon, Settings, run, serving, wait_for
from tests.support.demo import counters
from tests.support.load import Answer, Line, connected, race
from tests.support.quotas import (
    OUTPUT_TOKENS,
    PRICED,
    PROMPT_TOKENS,
    Key,
    chat,
    issue,
    settled,
)

pytestmark = pytest.mark.e2e

WORKERS = 4
CALLERS = 64
CALLS = 100
"""That fit into what is raced for."""
CALL_TOKENS = PROMPT_TOKENS + OUTPUT_TOKENS
REPEATS = 20
AT_ONCE = 8
QUEUED = 16
APART_S = 0.03
"""Between two calls that queue: enough for the first to be there before the second."""
SPENT = "rate_limit_exceeded"
DEAR: Settings = {
    **PRICED,
    "models": {
        **PRICED["models"],
        "dear": {"deployments": [{"upstream": "demo", "model": "demo"}]},
        "cheap": {"deployments": [{"upstream": "demo", "model": "demo"}]},
    },
}
T = TypeVar("T")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with serving(tmp_path_factory.mktemp("limits"), DEAR, workers=WORKERS) as daemon:
        yield daemon


def statuses(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


async def race_of(daemon: Daemon, key: Key, *, warm: Key) -> list[Answer]:
    """Let all callers race; every worker has seen such calls, and knows how long they are."""
    async with connected(daemon, CALLERS) as lines:
        first = await asyncio.gather(*(line.ask(chat(warm)) for line in lines))
        assert {answer.status for answer in first} == {200}
        return await race(lines, chat(key), SPENT)


@pytest.mark.parametrize(
    ("limit", "bucket", "fits"),
    [
        (f"requests={CALLS}/day", "requests/day", CALLS),
        (f"tokens={CALLS * CALL_TOKENS}/day", "tokens/day", CALLS * CALL_TOKENS),
    ],
)
def test_a_limit_of_a_hundred_calls_admits_a_hundred(
    daemon: Daemon, limit: str, bucket: str, fits: int
) -> None:
    """Callers on all workers, at once: what was served is what went upstream, and what was counted.

    A day gives back nothing that counts within a race. What each call uses is known, so all of a
    limit on tokens can be used; a call that needs no more than was held for it overshoots nothing.
    """
    warm = issue(daemon)
    for _ in range(REPEATS):
        key = issue(daemon, limits=(limit,))
        before = counters(daemon.state)["requests"]
        answers = asyncio.run(race_of(daemon, key, warm=warm))
        seen = counters(daemon.state)["requests"] - before - CALLERS
        assert statuses(answers)[200] == CALLS == seen
        assert set(statuses(answers)) == {200, 429}
        assert settled(daemon, key.bucket(bucket)) == fits


async def race_beside(daemon: Daemon, key: Key, calm: Key) -> tuple[list[Answer], list[Answer]]:
    """Let all callers race, and somebody else call all the while; the answers of each."""
    async with connected(daemon, CALLERS) as lines, connected(daemon, AT_ONCE) as others:
        racing = spawn(race(lines, chat(key), SPENT), name="race")

        async def keep_calling(line: Line) -> list[Answer]:
            answers = [await line.ask(chat(calm))]
            while not racing.done():
                answers.append(await line.ask(chat(calm)))
            return answers

        calm_answers = await asyncio.gather(*map(keep_calling, others))
        return await racing, [answer for answers in calm_answers for answer in answers]


def test_a_race_for_the_limit_of_one_org_refuses_no_call_of_another(daemon: Daemon) -> None:
    key = issue(daemon, limits=(f"requests={CALLS}/day",))
    answers, calm_answers = asyncio.run(race_beside(daemon, key, issue(daemon, org="calm")))
    assert statuses(answers)[200] == CALLS
    assert set(statuses(calm_answers)) == {200}
    assert not any("x-ratelimit-limit-requests" in answer.headers for answer in calm_answers)


async def most_open(daemon: Daemon, calls: Coroutine[Any, Any, T]) -> tuple[int, T]:
    """How many calls were at the upstream at any moment at which we looked."""
    calling = spawn(calls, name="calls")
    most = 0
    while not calling.done():
        seen = await asyncio.to_thread(counters, daemon.state)
        most = max(most, seen["open"])
    return most, await calling


async def crowd(daemon: Daemon, key: Key) -> list[Answer]:
    message = chat(key, "demo-slow=0.3,tokens=10")
    async with connected(daemon, CALLERS) as lines:
        return await asyncio.gather(*(line.ask(message) for line in lines))


def test_no_more_calls_are_in_flight_than_may_be_and_slots_come_back(daemon: Daemon) -> None:
    key = issue(daemon, limits=(f"concurrent={AT_ONCE}",))
    for _ in range(2):
        most, answers = asyncio.run(most_open(daemon, crowd(daemon, key)))
        assert most <= AT_ONCE
        assert statuses(answers) == {200: AT_ONCE, 429: CALLERS - AT_ONCE}
        refused = [answer for answer in answers if answer.status == 429]
        assert {answer.code for answer in refused} == {"concurrency_limit_exceeded"}
        assert {answer.retry_after_s for answer in refused} == {1}
        assert settled(daemon, key.bucket("concurrent")) == 0


# ---- queues ---------------------------------------------------------------------------------


async def one_by_one(daemon: Daemon, key: Key, count: int) -> list[Answer]:
    """Calls from many connections, each somewhat after the one before."""
    async with connected(daemon, count) as lines:
        calls = []
        for number, line in enumerate(lines):
            calls.append(spawn(line.ask(chat(key)), name=f"call {number}"))
            await asyncio.sleep(APART_S)
        return [await call for call in calls]


def test_calls_that_queue_are_served_in_the_order_of_their_coming(daemon: Daemon) -> None:
    """Whatever worker they came to; and as fast as the limit allows, no faster."""
    key = issue(daemon, limits=("requests=8/second,burst=1,at_limit=queue,wait=10",))
    answers = asyncio.run(one_by_one(daemon, key, QUEUED))
    assert set(statuses(answers)) == {200}
    done = [answer.done_at_s for answer in answers]
    assert done == sorted(done)
    assert done[-1] - answers[0].sent_at_s >= (QUEUED - 1) / 8


def test_calls_whose_turn_does_not_come_are_refused_and_count_nothing(daemon: Daemon) -> None:
    key = issue(daemon, limits=("requests=1/second,burst=1,at_limit=queue,wait=2.5",))
    before = counters(daemon.state)["requests"]
    answers = asyncio.run(one_by_one(daemon, key, QUEUED))
    served = statuses(answers)[200]
    assert 3 <= served <= 5
    assert counters(daemon.state)["requests"] - before == served
    refused = [answer for answer in answers if answer.status != 200]
    assert {answer.status for answer in refused} == {429}
    assert {answer.code for answer in refused} <= {"queue_timeout", "rate_limit_exceeded"}
    assert all(answer.retry_after_s >= 1 for answer in refused)


# ---- what can be looked up ------------------------------------------------------------------


def events(daemon: Daemon, key: Key) -> list[dict[str, Any]]:
    done = run("events", "--json", "--config", str(daemon.config), "--key", key.id)
    assert done.returncode == 0, done.stderr
    return cast("list[dict[str, Any]]", msgspec.json.decode(done.stdout))


def test_every_refusal_of_a_race_is_in_the_events(daemon: Daemon) -> None:
    key = issue(daemon, limits=("requests=20/day",))
    answers = asyncio.run(race_of(daemon, key, warm=issue(daemon)))
    refused = statuses(answers)[429]
    assert refused >= CALLERS

    def all_told() -> list[dict[str, Any]]:
        found = events(daemon, key)
        return found if sum(event["count"] for event in found) >= refused else []

    found = wait_for(all_told, what="the telling of all refusals")
    assert sum(event["count"] for event in found) == refused
    assert len(found) <= 2  # a minute may end within the race
    for event in found:
        assert event["bucket"] == key.bucket("requests/day")
        assert (event["org"], event["key_id"]) == ("acme", key.id)
        assert (event["action"], event["code"]) == ("refused", SPENT)
        assert (event["limit"], event["balance"], event["wanted"]) == (20, 0, 1)


def test_calls_that_another_model_serves_are_events_too(daemon: Daemon) -> None:
    limit = "requests=5/day,model=dear,at_limit=model:cheap"
    key = issue(daemon, limits=(limit,))

    async def calls() -> list[Answer]:
        async with connected(daemon, 1) as (line,):
            return [await line.ask(chat(key, "dear")) for _ in range(8)]

    answers = asyncio.run(calls())
    assert statuses(answers) == {200: 8}
    served_by = [answer.headers.get("x-llmrouter-model") for answer in answers]
    assert served_by == [None] * 5 + ["cheap"] * 3
    found = wait_for(lambda: events(daemon, key), what="an event")
    assert [(event["action"], event["served_by"]) for event in found] == [("downgraded", "cheap")]
