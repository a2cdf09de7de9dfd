import asyncio
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.contracts.call import Usage
from llmrouter.gateway import reply
from llmrouter.gateway.drain import NO_DRAIN, DrainBounds
from llmrouter.http1 import downstream, link
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.metering.records import End
from llmrouter.quota.estimate import FIRST_OUTPUT, SLICE, Estimator
from llmrouter.tasks import spawn
from tests.support.gateway import (
    CREDENTIAL,
    Pause,
    Stage,
    asking,
    limited,
    reporting,
    shown,
    staged,
)
from tests.support.ledger import TOKEN_NANO, at_once, money, requests, tokens
from tests.support.raw import RawClient
from tests.support.upstream import (
    LAST_CHUNK,
    Cut,
    Play,
    Reset,
    Stall,
    Wait,
    answer,
    chunk,
    stream,
    stream_head,
)
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":50}}\n\n'
DONE = b"data: [DONE]\n\n"
EVENTS = 50
"""Of a whole stream, before its usage; each is a token."""
SERVED = Usage(prompt_tokens=20, output_tokens=EVENTS)
"""What the upstream says of it."""
EVERYTHING = (requests(1_000), tokens(10**6), at_once(50), money(10**6))
PATIENT = DrainBounds(within_s=1_000, bytes_max=10**9)
"""Bounds that no play meets."""
BRIEF = DrainBounds(within_s=0.3, bytes_max=10**9)
"""Bounds for what never ends; whatever comes has come by then."""


def prompt_of(**members: Any) -> int:
    """The tokens that the prompt of a first call is taken for."""
    return Estimator().prompt_tokens("gpt", len(asking(**members)))


def foreseen() -> Usage:
    """What a plain call is charged with of which nobody knows more."""
    return Usage(prompt_tokens=prompt_of(stream=False), output_tokens=FIRST_OUTPUT)


def cost_of(end: End) -> int:
    return (end.usage.prompt_tokens + end.usage.output_tokens) * TOKEN_NANO


async def gone(stage: Stage) -> None:
    """Wait until the server knows that its only client has left."""
    await until(lambda: not stage.server.connections, "the client is still there")


async def leave(stage: Stage, client: RawClient, *, after: bytes = b"") -> None:
    """Leave once `after` has come, or else once the upstream was asked."""
    if after:
        await client.read_until(after)
    await until(lambda: len(stage.upstream.seen) > 0, "nothing was asked")
    client.reset()
    await gone(stage)


async def left(stage: Stage, *, stream: bool, after: bytes = b"") -> None:
    """Ask, and leave."""
    async with stage.connected() as client:
        await client.send(stage.chat(stream=stream))
        await leave(stage, client, after=after)


async def end_of(stage: Stage) -> End:
    """The end of the only call, whose client has left."""
    (call,) = await stage.calls()
    end = call.end
    assert end is not None
    assert (end.outcome, end.error_code, end.price) == ("client_gone", None, "1/1/1")
    assert end.cost_nano_usd == cost_of(end)
    assert [line.code for line in stage.log] == [None]
    return end


def kept(stage: Stage) -> tuple[int, int]:
    """How many connections upstream are open, and how many of these can be used again."""
    pool = stage.upstreams["up"].pool
    return len(pool._open), len(pool._idle)


# ---- at every event --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "closed"])
@pytest.mark.parametrize("index", range(EVENTS + 2))
async def test_a_stream_left_at_any_event_is_charged_with_what_the_upstream_says(
    tmp_path: Path, index: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FR-004: not an estimate. Index 0 is before the head; the last one is after the end marker."""
    monkeypatch.setattr(link, "PROBE_EVERY_S", 0.01)
    go_on = asyncio.Event()
    said = [EVENT] * EVENTS + [USAGE + DONE]
    rest: list[Any] = [step for event in said[index:] for step in (chunk(event), Wait(Pause()))]
    play = [
        *([stream_head()] if index else []),
        *map(chunk, said[:index]),
        Wait(go_on),
        *([] if index else [stream_head()]),
        *rest,
        LAST_CHUNK,
    ]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=PATIENT) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            for event in said[:index]:
                await client.read_until(event.removeprefix(USAGE))
            if how == "reset":
                await leave(stage, client)
            else:  # what comes next is answered by a reset
                await until(lambda: len(stage.upstream.seen) == 1, "nothing was asked")
                client.close()
        go_on.set()
        (call,) = await stage.calls()
        end = call.end
        assert end is not None
        assert (end.usage, end.estimated, end.cost_nano_usd) == (SERVED, False, 70 * TOKEN_NANO)
        assert end.status == (0 if (how, index) == ("reset", 0) else 200)
        # Whoever closes when all but the last chunk has passed cannot be told from one who stays.
        assert end.outcome == "client_gone" or (how, index >= EVENTS) == ("closed", True)
        await until(lambda: kept(stage) == (1, 1), "the connection was not given back")
        assert stage.upstream.resets == 0


@pytest.mark.parametrize("index", range(EVENTS + 2))
async def test_where_nothing_is_drained_it_is_charged_with_what_passed(
    tmp_path: Path, index: int
) -> None:
    """FR-004: never with nothing, never with more than was sent; the upstream is left at once."""
    said = [EVENT] * EVENTS + [USAGE + DONE]
    head = stream_head() if index else b""
    play: Play = [head, *map(chunk, said[:index]), Stall()]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=NO_DRAIN) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            for event in said[:index]:
                await client.read_until(event.removeprefix(USAGE))
            await leave(stage, client)
        end = await end_of(stage)
        if index > EVENTS:
            assert (end.usage, end.estimated) == (SERVED, False)
        else:
            passed = Usage(prompt_tokens=prompt_of(stream=True), output_tokens=index)
            assert (end.usage, end.estimated) == (passed, True)
        assert cost_of(end) > 0
        await until(lambda: stage.upstream.open == 0, "the upstream was not left")
        assert kept(stage) == (0, 0)


# ---- bounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [0, 1, 5])
async def test_what_came_in_time_is_counted_where_usage_did_not(tmp_path: Path, more: int) -> None:
    go_on = asyncio.Event()
    ping = chunk(b": a comment carries no token\n\n")
    later = [chunk(EVENT), ping] * more
    play: Play = [stream_head(), chunk(EVENT), ping, Wait(go_on), *later, Stall()]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=BRIEF) as stage:
        await left(stage, stream=True, after=EVENT)
        go_on.set()
        end = await end_of(stage)
        passed = Usage(prompt_tokens=prompt_of(stream=True), output_tokens=1 + more)
        assert (end.usage, end.estimated, end.status) == (passed, True, 200)
        assert end.duration_ms >= 299  # the milliseconds of a duration are cut off
        await until(lambda: stage.upstream.open == 0, "the upstream was not left")


async def test_no_more_is_read_than_so_many_bytes_and_one_read(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    play: Play = [stream_head(), chunk(EVENT), Wait(go_on), chunk(EVENT * 30), Stall()]
    bounds = DrainBounds(within_s=1_000, bytes_max=20 * len(EVENT))
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=bounds) as stage:
        await left(stage, stream=True, after=EVENT)
        go_on.set()
        end = await end_of(stage)
        assert (end.usage.output_tokens, end.estimated) == (31, True)
        await until(lambda: stage.upstream.open == 0, "the upstream was not left")


async def test_what_came_before_the_client_left_does_not_count_against_the_bytes(
    tmp_path: Path,
) -> None:
    go_on = asyncio.Event()
    tail: Play = [chunk(USAGE), chunk(DONE), LAST_CHUNK]
    play: Play = [stream_head(), *[chunk(EVENT)] * EVENTS, Wait(go_on), *tail]
    bounds = DrainBounds(within_s=1_000, bytes_max=len(USAGE + DONE))
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=bounds) as stage:
        await left(stage, stream=True, after=EVENT * 1)
        go_on.set()
        assert ((await end_of(stage)).usage) == SERVED


async def test_a_long_drain_holds_more_as_the_stream_would_have(tmp_path: Path) -> None:
    """What a worker that dies now is charged with."""
    go_on, finish = asyncio.Event(), asyncio.Event()
    play: Play = [stream_head(), chunk(EVENT), Wait(go_on), chunk(EVENT * 1_300), Wait(finish)]
    async with staged(tmp_path, [*play, Cut()], quota=limited(*EVERYTHING), drain=PATIENT) as stage:
        await left(stage, stream=True, after=EVENT)
        go_on.set()
        held = prompt_of(stream=True) + FIRST_OUTPUT + 2 * SLICE

        def is_held() -> bool:
            (call,) = stage.journal().calls
            return call.hold == (held, held * TOKEN_NANO)

        await until(is_held, "the hold was not raised", stage.journal)
        finish.set()
        assert (await end_of(stage)).usage.output_tokens == 1_301


async def test_an_upstream_that_waited_for_a_slow_reader_is_read_on(tmp_path: Path) -> None:
    event = EVENT[:-2] + b" " * 65_000 + b"\n\n"
    play: Play = [stream_head(), *[chunk(event)] * 100, chunk(USAGE + DONE), LAST_CHUNK]
    async with staged(
        tmp_path, play, quota=limited(*EVERYTHING), drain=PATIENT, send_buffer_bytes=65_536
    ) as stage:
        async with stage.connected(receive_buffer_bytes=4_096) as client:
            await client.send(stage.chat(stream=True))
            await client.read_until(b"\r\n\r\n")
            await stage.upstream_paused()
            tracemalloc.start()
            try:
                client.reset()
                end = await end_of(stage)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert (end.usage, end.estimated) == (SERVED, False)
        assert peak < 3_000_000


# ---- answers of which nothing had passed -----------------------------------------------------


UNPASSED: dict[str, tuple[Play, Usage | None, bool]] = {
    "plain": ([reporting(20, 10)], Usage(prompt_tokens=20, output_tokens=10), True),
    "plain-without-usage": ([answer(b"{}")], foreseen(), False),
    "refused": ([answer(b'{"error":1}', status=400)], Usage(), False),
    "failed": ([answer(b'{"error":1}', status=500)], Usage(), False),
    "redirect": ([answer(b"", status=302)], Usage(), False),
    "our-credential": ([answer(b"{}", status=401)], Usage(), False),
    "no-json": ([answer(b"{")], Usage(), False),
    "no-http": ([b"what?\r\n\r\n", Stall()], Usage(), False),
    "cut": ([answer(b"{}" * 50)[:-9], Cut()], Usage(), False),
    "reset": ([b"HTTP/1.1 200 OK\r\n", Reset()], Usage(), False),
    "silent": ([Stall()], foreseen(), False),
    "half": ([answer(b"{}" * 50)[:-9], Stall()], foreseen(), False),
    "stream": ([stream(EVENT, USAGE, DONE)], SERVED, True),
    "stream-without-usage": ([stream(EVENT, EVENT, DONE)], None, False),
    "stream-with-comments": ([stream(EVENT, *[b": ping\n\n"] * 5, DONE)], None, False),
    "stream-malformed": ([stream(EVENT, b'data: {"usage":{\n\n')], None, False),
    "stream-cut": ([stream_head() + chunk(EVENT), Cut()], None, False),
    "stream-cut-at-once": ([stream_head() + chunk(EVENT[:9]), Cut()], Usage(), False),
    "stream-cut-behind-comments": ([stream_head() + chunk(b": ping\n\n"), Cut()], Usage(), False),
    "stream-stalled": ([stream_head() + chunk(EVENT), Stall()], None, False),
}
"""What is charged, None for what passed; and whether that is the upstream's own word."""


@pytest.mark.parametrize(("said", "usage", "exact"), UNPASSED.values(), ids=UNPASSED)
async def test_an_answer_whose_client_left_early_is_charged_as_if_it_had_stayed(
    tmp_path: Path, said: Play, usage: Usage | None, exact: bool
) -> None:
    go_on = asyncio.Event()
    bounds = BRIEF if isinstance(said[-1], Stall) else PATIENT
    play = [Wait(go_on), *said]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=bounds) as stage:
        await left(stage, stream=False)
        go_on.set()
        end = await end_of(stage)
        if usage is None:
            assert end.usage.prompt_tokens == prompt_of(stream=False)
            assert 1 <= end.usage.output_tokens <= 3
        else:
            assert end.usage == usage
        assert (end.status, end.ttft_ms, end.estimated) == (0, None, not exact)
        assert stage.node.standing()["org/acme/requests/day"].used == 1


async def test_a_silent_upstream_times_out_in_a_drain_as_it_would_have(tmp_path: Path) -> None:
    timeouts = UpstreamTimeouts(connect_s=10, first_s=0.1, idle_s=0.1, total_s=60)
    async with staged(
        tmp_path, [Stall()], timeouts=timeouts, quota=limited(*EVERYTHING), drain=PATIENT
    ) as stage:
        await left(stage, stream=False)
        assert (await end_of(stage)).usage == foreseen()


async def test_an_answer_that_came_in_the_turn_in_which_its_client_left_counts(
    tmp_path: Path,
) -> None:
    """Also where nothing is drained: there is nothing left to wait for."""
    never = Wait(asyncio.Event())
    async with staged(tmp_path, [never], quota=limited(*EVERYTHING)) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat())
            await until(lambda: len(stage.upstream.seen) == 1, "nothing was asked")
            (asked,) = stage.upstreams["up"].pool._open
            (task,) = stage.server._tasks
            asked.data_received(reporting(20, 10))
            task.cancel()
            end = await end_of(stage)
        assert (end.usage, end.estimated) == (Usage(prompt_tokens=20, output_tokens=10), False)


LONG = b'{"x":"' + b"y" * 5_000
LONG_END = b"y" * 100 + b'","usage":{"prompt_tokens":20,"completion_tokens":50}}'


@pytest.mark.parametrize(
    ("rest", "usage", "estimated"),
    [
        (LONG_END, SERVED, False),
        (LONG_END[:-1], foreseen(), True),
        (b'","z":[{"usage":{"prompt_tokens":1,"completion_tokens":1}}', foreseen(), True),
        (b'"}', foreseen(), True),
        (b"", foreseen(), True),
    ],
)
@pytest.mark.parametrize("ending", [Cut(), Stall()], ids=["fin", "stall"])
async def test_a_long_plain_answer_is_heard_out_too(
    tmp_path: Path,
    rest: bytes,
    usage: Usage,
    estimated: bool,
    ending: Cut | Stall,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reply, "PLAIN_BYTES_MAX", 2_000)
    go_on = asyncio.Event()
    said = answer(LONG + LONG_END).removesuffix(LONG_END)
    play: Play = [said, Wait(go_on), rest, ending]
    bounds = BRIEF if isinstance(ending, Stall) else PATIENT
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=bounds) as stage:
        await left(stage, stream=False, after=b"yyy")
        go_on.set()
        end = await end_of(stage)
        assert (end.usage, end.estimated, end.status) == (usage, estimated, 200)


# ---- what a drain holds, and what ends it ----------------------------------------------------


async def test_a_call_that_is_drained_is_still_one_of_the_calls_at_once(tmp_path: Path) -> None:
    """FR-003: the upstream still works on it."""
    go_on = asyncio.Event()
    plays: list[Play] = [[Wait(go_on), reporting(20, 10)], [reporting(20, 10)]]
    async with staged(tmp_path, *plays, quota=limited(at_once(1)), drain=PATIENT) as stage:
        await left(stage, stream=False)
        assert stage.admission.inflight == 1
        assert (await stage.ask(stage.chat())).status == 429
        go_on.set()
        await stage.calls(1)
        assert (await stage.ask(stage.chat())).status == 200
        assert stage.upstream.connections == 1


async def test_a_server_that_drains_waits_for_what_is_heard_out(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    play: Play = [Wait(go_on), reporting(20, 50)]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=PATIENT) as stage:
        await left(stage, stream=False)
        stage.gateway.draining = True
        stage.server.drain()
        emptied = spawn(stage.server.emptied(), name="emptied")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not emptied.done()
        go_on.set()
        await emptied
        assert (await end_of(stage)).usage == SERVED


@pytest.mark.parametrize("passed", [0, 3])
async def test_a_server_that_is_aborted_waits_for_nothing(tmp_path: Path, passed: int) -> None:
    """Its time is up; what has come is charged, and still as left by the client."""
    play: Play = [stream_head(), *[chunk(EVENT)] * passed, Stall()] if passed else [Stall()]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=PATIENT) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            for _ in range(passed):
                await client.read_until(EVENT)
            await leave(stage, client)
        assert stage.admission.inflight == 1
        stage.server.abort()
        async with asyncio.timeout(5):
            await stage.server.emptied()
        end = await end_of(stage)
        assert end.usage == Usage(prompt_tokens=prompt_of(stream=True), output_tokens=passed)
        await until(lambda: stage.upstream.open == 0, "the upstream was not left")


@pytest.mark.parametrize("passed", [0, 3])
async def test_a_server_that_is_aborted_in_the_turn_of_a_loss_waits_for_nothing(
    tmp_path: Path, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is cancelled a second time before it has heard of the first."""
    play: Play = [stream_head(), *[chunk(EVENT)] * passed, Stall()] if passed else [Stall()]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=PATIENT) as stage:
        server, lost = stage.server, stage.server.lost

        def lost_and_aborted(connection: downstream.ServerConnection) -> None:
            asyncio.get_running_loop().call_soon(server.abort)
            lost(connection)

        monkeypatch.setattr(server, "lost", lost_and_aborted)
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            for _ in range(passed):
                await client.read_until(EVENT)
            await leave(stage, client)
        async with asyncio.timeout(5):
            await server.emptied()
        end = await end_of(stage)
        assert end.usage == Usage(prompt_tokens=prompt_of(stream=True), output_tokens=passed)


@pytest.mark.parametrize("passed", [0, 3])
async def test_what_the_server_aborts_itself_is_not_heard_out(tmp_path: Path, passed: int) -> None:
    play: Play = [stream_head(), *[chunk(EVENT)] * passed, Stall()] if passed else [Stall()]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=PATIENT) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            await until(lambda: len(stage.upstream.seen) == 1, "nothing was asked")
            for _ in range(passed):
                await client.read_until(EVENT)
            stage.server.abort()
            async with asyncio.timeout(5):
                await stage.server.emptied()
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.outcome, call.end.usage.output_tokens) == ("router_error", passed)


async def test_a_stream_that_a_budget_cuts_is_not_heard_out(tmp_path: Path) -> None:
    """FR-003: else it would be exceeded by more than a slice."""
    pieces: Play = [step for _ in range(250) for step in (chunk(EVENT * 16), Wait(Pause()))]
    play: Play = [stream_head(), *pieces, Stall()]
    quota = limited(money(1_000, cut=True))
    async with staged(tmp_path, play, quota=quota, drain=PATIENT) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert not response.whole
        await until(lambda: stage.upstream.open == 0, "the upstream was not left")
        await stage.calls()
        used = stage.node.standing()["org/acme/usd/total"].used
        assert used <= (1_000 + SLICE + 16) * TOKEN_NANO


async def test_a_budget_that_cuts_ends_a_drain_too(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    pieces: Play = [step for _ in range(250) for step in (chunk(EVENT * 16), Wait(Pause()))]
    play: Play = [stream_head(), chunk(EVENT), Wait(go_on), *pieces, Stall()]
    quota = limited(money(1_000, cut=True))
    async with staged(tmp_path, play, quota=quota, drain=PATIENT) as stage:
        await left(stage, stream=True, after=EVENT)
        go_on.set()
        end = await end_of(stage)
        assert end.estimated
        assert cost_of(end) <= (1_000 + SLICE + 16) * TOKEN_NANO
        await until(lambda: stage.upstream.open == 0, "the upstream was not left")


async def test_a_drain_ends_where_the_answer_is_none_any_more(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    echo = b'data: {"x":"%b"}\n\n' % CREDENTIAL.encode()
    play: Play = [stream_head(), chunk(EVENT), Wait(go_on), chunk(echo), Stall()]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=PATIENT) as stage:
        await left(stage, stream=True, after=EVENT)
        go_on.set()
        assert (await end_of(stage)).usage.output_tokens == 1
        await until(lambda: stage.upstream.open == 0, "the upstream was not left")


async def test_many_may_be_heard_out_at_once(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    play: Play = [stream_head(), chunk(EVENT), Wait(go_on), chunk(USAGE + DONE), LAST_CHUNK]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING), drain=PATIENT) as stage:

        async def call() -> None:
            async with stage.connected() as client:
                await client.send(stage.chat(stream=True))
                await client.read_until(EVENT)
                client.reset()

        async with asyncio.TaskGroup() as group:
            for _ in range(40):
                group.create_task(call())
        await gone(stage)
        go_on.set()
        calls = await stage.calls(40)
        assert {call.end and call.end.usage for call in calls} == {SERVED}
        await until(lambda: kept(stage) == (40, 40), "connections were not given back")


async def test_the_next_call_over_a_drained_connection_is_its_own(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    body = msgspec.json.encode({"said": "the second"})
    plays: list[Play] = [[Wait(go_on), reporting(20, 50)], [answer(body)]]
    async with staged(tmp_path, *plays, drain=PATIENT) as stage:
        await left(stage, stream=False)
        go_on.set()
        await stage.calls(1)
        async with stage.connected() as client:
            await client.send(stage.chat())
            assert (await shown(client)).body == body
        assert [seen.connection for seen in stage.upstream.seen] == [0, 0]
