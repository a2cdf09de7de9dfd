"""Callers who leave at any moment: what passed is charged, and nothing stays taken."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from llmrouter.metering.records import NO_USAGE
from llmrouter.metering.replay import JournaledCall
from tests.support.daemon import Daemon, create_key, limits, serving, wait_for
from tests.support.load import Line, request
from tests.support.streams import NEVER_OPEN, PRICES, Stream, Upstream, begun, upstream
from tests.support.sums import assert_settled, claimed, journaled

pytestmark = pytest.mark.e2e

WORKERS = 2
AT_ONCE = 48
ROOM = 3
"""Calls at once of the org that queues, and as many fit into the money of the one that holds."""
EXACT = {"per": "day", "burst": 10**9}
ORGS: dict[str, object] = {
    "acme": {
        "limits": [{"requests": 1, **EXACT}, {"tokens": 1, **EXACT}, {"concurrent": 10 * AT_ONCE}],
        "budgets": [{"usd": 1_000_000, "per": "day"}],
    },
    "queuing": {
        "limits": [{"concurrent": ROOM, "at_limit": "queue", "wait": 60}, {"requests": 1, **EXACT}]
    },
    # Prompt and output of one call are held at some 1.8 millionths of a dollar a token.
    "holding": {"budgets": [{"usd": 0.006, "per": "day"}]},
}
HELD_OUTPUT = 1_000
INPUT, OUTPUT = 333_333_000, 1_777_777_000
"""Prices of `demo-*`, in nano-USD per million tokens."""
MESSAGES = [{"role": "user", "content": "Say something."}]
RUNNING, RUNNING_EVENTS = "demo-no-usage,tokens=60,gap=4", 63
"""Events of a whole stream: the text, the role, the reason of the end, and the end marker."""
FIRST_EVENTS = 2
"""The role and a first word: an answer that has not come so far is held back, also its head."""
LOST = (OSError, asyncio.IncompleteReadError)


class Left(NamedTuple):
    """A stream that was left, and what of it had passed by then."""

    request_id: str
    seen: int
    sent_max: int
    """So many events the upstream sent, or could have sent."""


class Site(NamedTuple):
    """What serves, and what stands behind it."""

    daemon: Daemon
    far: Upstream
    keys: dict[str, str]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with upstream() as far, serving(tmp_path, far.settings(orgs=ORGS), workers=WORKERS) as daemon:
        keys = {org: create_key(daemon.config, "--org", org)["key"] for org in ORGS}
        yield Site(daemon, far, keys)
        wait_for(lambda: far.counters()["open"] == 0, what="the end of all streams upstream")
        assert_settled(daemon)
        assert {claimed(view) for view in limits(daemon).values()} == {0}
        assert "Traceback" not in daemon.log


async def at_once(count: int, one: Callable[[int], Awaitable[None]]) -> None:
    """Do `one` so many times, a bounded number of them at the same time."""
    numbers = iter(range(count))

    async def line() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(line() for _ in range(AT_ONCE)))


def cost(call: JournaledCall) -> int:
    """What a call cost by our own arithmetic; rounded half up, once."""
    assert call.end is not None
    usage = call.end.usage
    return (usage.prompt_tokens * INPUT + usage.output_tokens * OUTPUT + 500_000) // 1_000_000


def by_request(site: Site) -> dict[str, JournaledCall]:
    """The calls in the journals, once all of them have ended; each at the right cost."""
    wait_for(lambda: site.far.counters()["open"] == 0, what="the end of all calls upstream")
    assert_settled(site.daemon)
    calls = journaled(site.daemon.state)
    for call in calls:
        assert call.end is not None
        assert call.end.cost_nano_usd == cost(call)
    return {call.begin.request_id: call for call in calls}


# ---- streams ------------------------------------------------------------------------------------


async def leave_stalled(site: Site, chance: random.Random) -> Left | None:
    """The upstream sends so many events and then nothing; the caller leaves at one of them."""
    sent = chance.randint(1, 30)
    seen = chance.randint(-1, sent) if sent >= FIRST_EVENTS else -1
    call: dict[str, object] = {"model": f"demo-stall={sent},tokens=40", "stream": True}
    message = request(site.keys["acme"], {**call, "messages": MESSAGES})
    # Nothing more is sent, so that only a reset tells that the caller is gone.
    held_s = chance.uniform(0.0, 0.03) if sent < FIRST_EVENTS else 0.0
    return await leave(site, message, seen, sent, reset=True, held_s=held_s)


async def leave_running(site: Site, chance: random.Random) -> Left | None:
    """The upstream sends on and on."""
    call: dict[str, object] = {"model": RUNNING, "stream": True, "messages": MESSAGES}
    message = request(site.keys["acme"], call)
    seen = chance.randint(-1, RUNNING_EVENTS)
    return await leave(site, message, seen, RUNNING_EVENTS, reset=chance.random() < 0.5)


async def leave(
    site: Site, message: bytes, seen: int, sent_max: int, *, reset: bool, held_s: float = 0.0
) -> Left | None:
    """Leave after so many events; -1 is before the head, which is waited for so long in vain.

    None if it left before it had an id.
    """
    stream = await Stream.send(site.daemon, message)
    try:
        if seen < 0:
            await asyncio.sleep(held_s)
            return None
        assert await stream.begin() == 200
        return Left(stream.request_id, await stream.read(seen), sent_max)
    finally:
        stream.leave(reset=reset)


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_streams_that_were_left_are_charged_for_what_passed(site: Site, count: int) -> None:
    """SC-005: never for less than the caller saw, nor for more than the upstream sent."""
    chance = random.Random(count)
    left: list[Left] = []

    async def one(_number: int) -> None:
        kind = leave_stalled if chance.random() < 0.7 else leave_running
        if (found := await kind(site, chance)) is not None:
            left.append(found)

    asyncio.run(at_once(count, one))
    calls = by_request(site)
    exact = 0
    for stream in left:
        end = calls[stream.request_id].end
        assert end is not None
        assert end.estimated
        assert end.usage.prompt_tokens > 0
        assert stream.seen <= end.usage.output_tokens <= stream.sent_max, (stream, end)
        exact += stream.seen == end.usage.output_tokens
    known = {stream.request_id for stream in left}
    unsent = 0
    for name in calls.keys() - known:  # those that had not even read the head
        end = calls[name].end
        assert end is not None
        unsent += end.usage.prompt_tokens == 0
        assert end.usage.output_tokens <= RUNNING_EVENTS
    counters = site.far.counters()
    assert unsent <= len(calls) - counters["requests"]
    passed = sum(call.end.usage.output_tokens for call in calls.values() if call.end is not None)
    assert passed <= counters["events_sent"]
    assert counters["requests"] <= len(calls) <= count
    gone = sum(
        call.end is not None and call.end.outcome == "client_gone" for call in calls.values()
    )
    print(  # noqa: T201
        f"{count} streams left, {len(calls)} journaled, {gone} as left by the client; charged to"
        f" the event: {exact} of {len(left)}; {passed} tokens for {counters['events_sent']} events;"
        f" {len(calls) - counters['requests']} journaled calls never arrived upstream"
    )


def test_streams_that_were_left_are_charged_with_what_their_upstream_says(tmp_path: Path) -> None:
    """FR-004: where it tells within `drain_after_disconnect`, to the token."""
    told = 40
    chance = random.Random(told)
    with upstream() as far:
        settings = far.settings(orgs=ORGS)
        del settings["upstreams"]["far"]["drain_after_disconnect"]  # as it is by default
        with serving(tmp_path, settings, workers=WORKERS) as daemon:
            key = create_key(daemon.config, "--org", "acme")["key"]
            site = Site(daemon, far, {"acme": key})
            call: dict[str, object] = {"model": f"demo-tokens={told},gap=4", "stream": True}
            message = request(key, {**call, "messages": MESSAGES})

            async def one(number: int) -> None:
                seen = number % (told + 4) - 1
                await leave(site, message, seen, told + 3, reset=chance.random() < 0.7)

            asyncio.run(at_once(3 * (told + 4), one))
            calls = by_request(site)
            assert {claimed(view) for view in limits(daemon).values()} == {0}
            unsent = len(calls) - far.counters()["requests"]
    gone = [call.end for call in calls.values() if call.end and call.end.outcome == "client_gone"]
    gone = [end for end in gone if end.usage.prompt_tokens or (unsent := unsent - 1) < 0]
    assert len(gone) > told
    assert [end for end in gone if end.estimated or end.usage.output_tokens != told] == []
    assert {end.usage.prompt_tokens for end in gone} == {gone[0].usage.prompt_tokens}
    assert {end.price for end in gone} == {"0.333333/0.333333/1.777777"}


# ---- plain calls --------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [True, False])
def test_plain_calls_whose_caller_left_are_charged_for_what_was_foreseen(
    site: Site, *, reset: bool
) -> None:
    """The upstream goes on with them, and bills them; nobody learns what."""
    chance = random.Random(1)
    call: dict[str, object] = {"model": "demo-slow=30", "messages": MESSAGES, "max_tokens": 20}
    message = request(site.keys["acme"], call)

    async def one(number: int) -> None:
        stream = await Stream.send(site.daemon, message)
        if number % 2:
            await asyncio.sleep(chance.uniform(0.0, 0.03))
        else:  # the others leave once calls have arrived upstream
            arrived = site.far.counters
            await asyncio.to_thread(wait_for, lambda: arrived()["open"] > 0)
        stream.leave(reset=reset)

    asyncio.run(at_once(120, one))
    calls = by_request(site)
    assert len(calls) >= 40
    assert site.far.counters()["requests"] <= len(calls)
    for found in calls.values():
        end = found.end
        assert end is not None
        assert (end.estimated, end.outcome, end.status) == (True, "client_gone", 0)
        assert end.usage.prompt_tokens > 0
        assert end.usage.output_tokens == 20


# ---- calls that fail ----------------------------------------------------------------------------


def test_calls_left_between_their_attempts_cost_what_those_used(tmp_path: Path) -> None:
    """Those that failed cost nothing; of the one that was under way nobody learns what it used."""
    chance = random.Random(3)
    failing = {"price": PRICES["demo-*"], "retry": {"budget": 1}}
    failing["deployments"] = [{"upstream": "far", "model": "demo-error=500,slow=0.03"}]

    async def one(_number: int) -> None:
        stream = await Stream.send(daemon, message)
        await asyncio.sleep(chance.uniform(0.0, 0.4))
        stream.leave(reset=chance.random() < 0.5)

    with upstream() as far:
        settings = far.settings(orgs=ORGS)
        settings["upstreams"]["far"]["breaker"] = NEVER_OPEN
        settings["models"]["failing"] = failing
        with serving(tmp_path, settings, workers=WORKERS) as daemon:
            site = Site(daemon, far, {"acme": create_key(daemon.config, "--org", "acme")["key"]})
            call: dict[str, object] = {"model": "failing", "messages": MESSAGES, "max_tokens": 20}
            message = request(site.keys["acme"], call)
            asyncio.run(at_once(200, one))
            ends = [call.end for call in by_request(site).values() if call.end is not None]
            assert far.counters()["requests"] <= sum(1 + len(end.others) for end in ends)
            assert {claimed(view) for view in limits(daemon).values()} == {0}
    gone = [end for end in ends if end.outcome == "client_gone"]
    assert {end.usage.output_tokens for end in gone} == {0, 20}
    assert {len(end.others) for end in gone} >= {0, 1}
    assert all(end.attempts == 1 + len(end.others) for end in ends)
    assert all(end.usage == NO_USAGE for end in ends if end.outcome != "client_gone")
    assert {other.usage for end in ends for other in end.others} == {NO_USAGE}
    assert {other.cost_nano_usd for end in ends for other in end.others} == {0}


# ---- calls that wait ----------------------------------------------------------------------------


def stalled(site: Site, org: str) -> bytes:
    """A stream that stays for as long as its caller does."""
    model = f"demo-stall={FIRST_EVENTS}"
    call: dict[str, object] = {"model": model, "stream": True, "messages": MESSAGES}
    return request(site.keys[org], {**call, "max_tokens": HELD_OUTPUT})


@contextlib.asynccontextmanager
async def full(site: Site, org: str) -> AsyncIterator[list[Stream]]:
    """As many streams as there is room for."""
    async with begun(site.daemon, [stalled(site, org)] * ROOM) as streams:
        yield streams


async def leave_early(site: Site, message: bytes, wait_s: float) -> int:
    """Ask, and leave before there is an answer, or just as it comes: its status, 0 for none."""
    stream = await Stream.send(site.daemon, message)
    try:
        async with asyncio.timeout(wait_s):
            return await stream.begin()
    except TimeoutError:
        return 0
    finally:
        stream.leave(reset=True)


@pytest.mark.parametrize("org", ["queuing", "holding"])
@pytest.mark.parametrize("count", [200, pytest.param(4_000, marks=pytest.mark.slow)])
def test_calls_left_while_they_wait_take_nothing_and_cost_nothing(
    site: Site, org: str, count: int
) -> None:
    """Waiting in the queue of a limit, or for what calls in flight hold."""
    chance = random.Random(count)

    async def wait_and_leave() -> None:
        async with full(site, org) as streams:

            async def one(_number: int) -> None:
                wait_s = chance.uniform(0.0, 0.1)
                assert await leave_early(site, stalled(site, org), wait_s) == 0

            await at_once(count, one)
            running = [stream.request_id for stream in streams]
            await asyncio.to_thread(assert_settled, site.daemon, running)
        await asyncio.to_thread(assert_settled, site.daemon)
        async with full(site, org):  # nobody stands before them in a queue
            pass

    asyncio.run(wait_and_leave())
    assert len(by_request(site)) == 2 * ROOM
    assert site.far.counters()["requests"] == 2 * ROOM


@pytest.mark.parametrize("rounds", [150, pytest.param(3_000, marks=pytest.mark.slow)])
def test_a_turn_that_comes_as_the_caller_leaves_is_not_lost(site: Site, rounds: int) -> None:
    """The grant and the word that nobody waits for it cross on their way."""
    chance = random.Random(rounds)
    message = stalled(site, "queuing")

    async def cross() -> None:
        for _ in range(rounds):
            async with full(site, "queuing") as streams:
                waiting = [await Stream.send(site.daemon, message) for _ in range(2 * ROOM)]
                await asyncio.sleep(chance.uniform(0.002, 0.01))
                leaving = [*streams, *waiting]
                chance.shuffle(leaving)
                for stream in leaving:
                    stream.leave(reset=True)
                    if chance.random() < 0.4:
                        await asyncio.sleep(chance.uniform(0.0, 0.001))

    asyncio.run(cross())
    calls = by_request(site)
    assert site.far.counters()["requests"] <= len(calls)
    turns = len(calls) - rounds * ROOM
    assert turns > 0
    print(f"{rounds} rounds: {turns} of those who left had just got their turn")  # noqa: T201


def test_callers_who_stay_get_their_turn_between_those_who_leave(site: Site) -> None:
    """One in three stays; all of them are served."""
    short: dict[str, object] = {"model": "demo-tokens=3,gap=3", "stream": True}
    message = request(site.keys["queuing"], {**short, "messages": MESSAGES})
    chance = random.Random(5)
    statuses: list[int] = []

    async def one(number: int) -> None:
        if number % 3:
            assert await leave_early(site, message, chance.uniform(0.0, 0.05)) in {0, 200}
            return
        line = await Line.to(site.daemon)
        with contextlib.suppress(*LOST):
            status, _ = await line.call(message)
            statuses.append(status)
        await line.close()

    asyncio.run(at_once(300, one))
    assert statuses == [200] * 100
