import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.contracts.call import Usage
from llmrouter.contracts.rule import Rule
from llmrouter.gateway import reply
from llmrouter.gateway.need import TEMPLATE_TOKENS_MAX
from llmrouter.gateway.room import Room
from llmrouter.http1 import sse
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.metering.price import Price, Rates, Tier
from llmrouter.metering.replay import JournaledCall
from llmrouter.quota.estimate import FIRST_OUTPUT, SLICE, Estimator
from llmrouter.quota.messages import Force, GiveBack, Reason, Take
from llmrouter.quota.reservation import Reservation
from llmrouter.tasks import spawn
from tests.quota.alone import LATER, MONEY, RATE, TOKENS, Bench, T, refused
from tests.support.gateway import Pause, asking, error_of, limited, reporting, staged
from tests.support.idle import idle_spending
from tests.support.ledger import FLAT, TOKEN_NANO, at_once, money, requests, tokens
from tests.support.raw import RawClient, Response, chunked
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

EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":10}}\n\n'
DONE = b"data: [DONE]\n\n"
EVERYTHING = (requests(1_000), tokens(10**6), at_once(50), money(10**6))
"""Limits of each kind, which no play of one call meets."""


def prompt_of(**members: Any) -> int:
    """The tokens that the prompt of a first call is taken for."""
    return Estimator().prompt_tokens("gpt", len(asking(**members)))


# ---- arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
def test_a_call_counts_while_it_lasts_however_it_ends(error: type[BaseException]) -> None:
    spending = idle_spending()
    flight = spending._flight
    with suppress(error), spending:
        assert flight.calls == 1
        raise error
    assert flight.calls == 0


def test_a_call_costs_what_the_deployment_that_served_it_costs() -> None:
    price = Price(input=10**9, cached_input=10**8, output=10**10, reasoning=10**10)
    spending = idle_spending({"gpt": price})
    spending.served_at("up", "gpt-real")
    used = Usage(prompt_tokens=10, cached_tokens=4, output_tokens=3, cost_nano_usd=77)
    assert spending.settle(used, estimated=False, whole=True) == 6_000 + 400 + 30_000


def test_it_knows_the_price_that_it_costs_by() -> None:
    spending = idle_spending({"gpt": Price.of_usd("2.50", "1.25", 10)})
    assert spending.price_text is None
    spending.served_at("up", "gpt-real")
    assert spending.price_text == "2.5/1.25/10"


@pytest.mark.parametrize(("said", "cost"), [(77, 77), (None, None)])
def test_without_a_price_the_cost_is_what_the_upstream_says(
    said: int | None, cost: int | None
) -> None:
    spending = idle_spending()
    spending.served_at("up", "gpt-real")
    used = Usage(prompt_tokens=10, output_tokens=3, cost_nano_usd=said)
    assert spending.settle(used, estimated=False, whole=True) == cost


def test_what_passed_is_charged_by_events_and_what_nobody_saw_by_the_most() -> None:
    spending = idle_spending()
    spending.events = 7
    assert spending.passed(stream=True) == Usage(prompt_tokens=10, output_tokens=7)
    assert spending.passed(stream=False) == Usage(prompt_tokens=10, output_tokens=25)


USED = Usage(prompt_tokens=20, output_tokens=400)


@pytest.mark.parametrize(
    ("estimated", "whole", "prompt", "output", "events"),
    [
        (False, True, 21, 500, 400),
        (False, False, 21, FIRST_OUTPUT, 100),
        (True, True, 10, FIRST_OUTPUT, 100),
    ],
)
def test_estimates_learn_from_what_upstreams_say_of_whole_answers(
    estimated: bool, whole: bool, prompt: int, output: int, events: int
) -> None:
    """Of an answer that was cut only the prompt is known; our own count teaches nothing."""
    estimator = Estimator()
    spending = idle_spending(estimator=estimator)
    spending.events = 100
    spending.settle(USED, estimated=estimated, whole=whole)
    assert estimator.prompt_tokens("gpt", 35) in (prompt, prompt - 1)
    assert estimator.output_tokens("k" * 12, "gpt", None) == output
    assert estimator.passed_tokens("gpt", 100) == events


def test_a_slice_behind_a_long_prompt_is_held_at_what_it_costs_there() -> None:
    long = Tier(5, Rates.of_usd("6", None, "22.5"))
    price = msgspec.structs.replace(Price.of_usd("3", None, "15"), tiers=(long,))
    spending = idle_spending({"gpt": price})
    spending.served_at("up", "gpt")
    before = spending.reservation.nano_usd
    spending.events = 21
    spending.extend(lambda refusal: None)
    assert spending.reservation.nano_usd - before == SLICE * 22_500


def extended(events: int, estimator: Estimator | None = None) -> tuple[list[int], int]:
    """After which events more was held, of those that pass one by one; and what is held then."""
    spending, after = idle_spending(estimator=estimator), []
    spending.on_extended = lambda: after.append(spending.events)
    for _ in range(events):
        spending.events += 1
        if spending.events > spending.events_held:
            spending.extend(lambda refusal: None)
    return after, spending.reservation.tokens


def test_a_stream_holds_a_slice_more_whenever_it_has_passed_what_it_holds() -> None:
    assert extended(20) == ([], 30)
    assert extended(21) == ([21], 30 + SLICE)
    assert extended(20 + SLICE) == ([21], 30 + SLICE)
    assert extended(20 + 2 * SLICE) == ([21, 21 + SLICE], 30 + 2 * SLICE)


@pytest.mark.parametrize(("tokens_an_event", "first"), [(2, 10), (4, 5), (SLICE, 0), (10_000, 0)])
def test_events_of_many_tokens_use_the_hold_up_sooner(tokens_an_event: int, first: int) -> None:
    estimator = Estimator()
    estimator.learn_events("gpt", 100, 100 * tokens_an_event)
    after, held = extended(600, estimator)
    assert after[0] in (first, first + 1)
    if tokens_an_event <= SLICE:
        passed = 600 * tokens_an_event
        assert passed - SLICE <= held - 10 <= passed + 2 * SLICE


def test_events_of_little_tokens_make_the_hold_last() -> None:
    estimator = Estimator()
    estimator.learn_events("gpt", 100, 50)
    assert extended(1_000, estimator) == ([41, 41 + 2 * SLICE], 30 + 2 * SLICE)


def test_streams_of_one_length_hold_just_that() -> None:
    """Rounding must not cost each of them a slice, and a record of it, in its last events."""
    estimator = Estimator()
    estimator.learn_events("gpt", 9, 20)
    assert extended(9, estimator) == ([], 30)
    assert extended(10, estimator) == ([10], 30 + SLICE)


def test_a_read_of_many_events_is_held_for_at_once() -> None:
    spending = idle_spending()
    spending.events = 20 + 3 * SLICE + 1
    spending.extend(lambda refusal: None)
    assert spending.reservation.tokens == 30 + 4 * SLICE
    assert spending.events_held == 20 + 4 * SLICE


def test_repr_shows_what_is_held_and_what_has_passed() -> None:
    spending = idle_spending()
    spending.events = 3
    assert repr(spending).startswith("<Spending <Reservation ")
    assert repr(spending).endswith(" events=3>")


# ---- every end of a call ---------------------------------------------------------------------


class End(msgspec.Struct):
    """What a play comes to."""

    play: Play
    outcome: str
    output: int | None
    """Tokens charged, beside the prompt; None if nothing is charged at all."""
    stream: bool = False
    reported: bool = False


LONG = b'{"x":"' + b"y" * 3_000
ENDS: dict[str, End] = {
    "ok": End([reporting(20, 10)], "ok", 10, reported=True),
    "ok-without-usage": End([answer(b"{}")], "ok", FIRST_OUTPUT),
    "longer-than-foreseen": End([reporting(20, 9_999)], "ok", 9_999, reported=True),
    "long-body": End([answer(LONG + b'","usage":{"prompt_tokens":20,"completion_tokens":10}}')],
                     "ok", 10, reported=True),
    "long-body-cut": End([answer(LONG * 2)[:-9], Cut()], "upstream_error", FIRST_OUTPUT),
    "refused": End([answer(b'{"error":1}', status=400)], "upstream_error", None),
    "limited": End([answer(b'{"error":1}', status=429)], "upstream_error", None),
    "failed": End([answer(b'{"error":1}', status=500)], "upstream_error", None),
    "our-credential": End([answer(b"{}", status=401)], "upstream_error", None),
    "redirect": End([answer(b"", status=302)], "upstream_error", None),
    "no-json": End([answer(b"{")], "upstream_error", None),
    "closed": End([Cut()], "upstream_error", None),
    "reset": End([b"HTTP/1.1 200 OK\r\n", Reset()], "upstream_error", None),
    "body-cut": End([answer(b"{}" * 50)[:-9], Cut()], "upstream_error", None),
    "no-http": End([b"what?\r\n\r\n", Stall()], "upstream_error", None),
    "silent": End([Stall()], "upstream_error", FIRST_OUTPUT),
    "stream": End([stream(EVENT, USAGE, DONE)], "ok", 10, stream=True, reported=True),
    "stream-without-usage": End([stream(EVENT, EVENT, DONE)], "ok", 3, stream=True),
    "stream-silent": End([Stall()], "upstream_error", 0, stream=True),
    "stream-empty": End([stream()], "upstream_error", None, stream=True),
    "stream-cut": End([stream_head() + chunk(EVENT) + chunk(EVENT), Cut()],
                      "upstream_error", 2, stream=True),
    "stream-reset": End([stream_head() + chunk(EVENT), Wait(Pause()), Reset()],
                        "upstream_error", 1, stream=True),
    "stream-cut-after-usage": End([stream(EVENT, USAGE)], "upstream_error", 10, stream=True,
                                  reported=True),
    "stream-stalled": End([stream_head(), chunk(EVENT), Stall()], "upstream_error", 1,
                          stream=True),
    "stream-half-an-event": End([stream_head(), chunk(EVENT[:9]), Cut()], "upstream_error", None,
                                stream=True),
    "error-event": End([stream(EVENT, b'data: {"error":{"message":"no"}}\n\n')],
                       "upstream_error", 2, stream=True),
    "malformed-event": End([stream_head(), chunk(EVENT), Wait(Pause()),
                            chunk(b'data: {"usage":{\n\n'), Stall()],
                           "upstream_error", 1, stream=True),
    "plain-for-a-stream": End([answer(b"{}")], "ok", FIRST_OUTPUT, stream=True),
    "stream-for-a-plain-call": End([stream(EVENT, DONE)], "ok", 2),
}  # fmt: skip


def end_of(call: JournaledCall) -> tuple[str, Usage, bool]:
    assert call.end is not None
    return call.end.outcome, call.end.usage, call.end.estimated


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_whatever_becomes_of_a_call_it_is_charged_once_and_holds_nothing(
    tmp_path: Path, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FR-003, FR-004: the stage checks every bucket against the journal."""
    monkeypatch.setattr(reply, "PLAIN_BYTES_MAX", 2_000)
    timeouts = UpstreamTimeouts(connect_s=10, first_s=0.05, idle_s=0.05, total_s=60)
    async with staged(tmp_path, end.play, timeouts=timeouts, quota=limited(*EVERYTHING)) as stage:
        await stage.ask(stage.chat(stream=end.stream))
        (call,) = await stage.calls()
        prompt = 20 if end.reported else prompt_of(stream=end.stream)
        usage = Usage()
        if end.output is not None:
            usage = Usage(prompt_tokens=prompt, output_tokens=end.output)
        assert end_of(call) == (end.outcome, usage, not end.reported)
        assert call.end is not None
        charged = usage.prompt_tokens + usage.output_tokens
        assert call.end.cost_nano_usd == charged * TOKEN_NANO
        await stage.at_rest()
        assert stage.node.standing()["org/acme/requests/day"].used == 1


@contextmanager
def nobody() -> Iterator[str]:
    """The address of a port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.asyncio
async def test_an_upstream_that_cannot_be_reached_costs_and_counts_nothing(tmp_path: Path) -> None:
    rules = (requests(1), tokens(1_500), at_once(1), money(1_500))
    with nobody() as url:
        async with staged(tmp_path, [], url=url, quota=limited(*rules)) as stage:
            for _ in range(3):
                response = await stage.ask(stage.chat())
                assert (response.status, error_of(response)["code"]) == (
                    502,
                    "upstream_unreachable",
                )
            assert stage.journal().calls == []
            assert [found.used for found in stage.node.standing().values()] == [0] * 4


class FullDisk:
    """Takes what is written, unless it is full."""

    def __init__(self) -> None:
        self.is_full = True

    def __call__(self, fd: int, data: bytes | memoryview) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)


@pytest.mark.asyncio
async def test_a_begin_that_cannot_be_written_costs_and_counts_nothing(tmp_path: Path) -> None:
    rules = (requests(1), tokens(1_500), at_once(1), money(1_500))
    disk = FullDisk()
    async with staged(tmp_path, [reporting(20, 10)], write=disk, quota=limited(*rules)) as stage:
        for _ in range(3):
            response = await stage.ask(stage.chat())
            assert (response.status, error_of(response)["code"]) == (503, "overloaded")
        assert (stage.upstream.seen, stage.journal().calls) == ([], [])
        disk.is_full = False
        assert (await stage.ask(stage.chat())).status == 200
        assert (await stage.ask(stage.chat())).status == 429


@pytest.mark.asyncio
@pytest.mark.parametrize("events", range(7))
@pytest.mark.parametrize("how", ["reset", "cut-by-us"])
async def test_a_stream_left_at_any_event_is_charged_with_what_passed(
    tmp_path: Path, events: int, how: str
) -> None:
    """Index 6 is after the end marker, with the usage; at 0 not even the head has passed."""
    said = [EVENT] * 4 + [USAGE, DONE]
    play: Play = [stream_head() if events else b"", *map(chunk, said[:events]), Stall()]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING)) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            await until(lambda: len(stage.upstream.seen) == 1, "nothing was asked")
            for event in said[:events]:
                if event is not USAGE:
                    await client.read_until(event)
            if how == "reset":
                client.reset()
            else:
                stage.server.abort()
            (call,) = await stage.calls()
        outcome = "client_gone" if how == "reset" else "router_error"
        if events > 4:
            expected = outcome, Usage(prompt_tokens=20, output_tokens=10), False
        else:
            passed = Usage(prompt_tokens=prompt_of(stream=True), output_tokens=events)
            expected = outcome, passed, True
        assert end_of(call) == expected


@pytest.mark.asyncio
async def test_a_plain_call_that_is_left_is_charged_with_what_was_foreseen(tmp_path: Path) -> None:
    """The upstream may well go on with it, and bill it."""
    async with staged(tmp_path, [Stall()], quota=limited(*EVERYTHING)) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(max_tokens=500))
            await until(lambda: len(stage.upstream.seen) == 1, "nothing was asked")
            client.reset()
            (call,) = await stage.calls()
        usage = Usage(prompt_tokens=prompt_of(max_tokens=500), output_tokens=500)
        assert end_of(call) == ("client_gone", usage, True)


@pytest.mark.asyncio
@pytest.mark.parametrize("events", [None, 0, 3], ids=["plain", "silent", "stream"])
async def test_under_a_strict_budget_a_call_that_is_left_may_have_used_all_it_might(
    tmp_path: Path, events: int | None
) -> None:
    """FR-003: also what was generated and not sent yet, and reasoning that nobody is shown."""
    quota = limited(money(10**6, strict=True), tokens(10**6))
    body: dict[str, Any] = {"max_tokens": 32_000} | ({} if events is None else {"stream": True})
    play: Play = [Stall()] if not events else [stream_head(), chunk(EVENT * events), Stall()]
    async with staged(tmp_path, play, quota=quota) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(**body))
            await until(lambda: len(stage.upstream.seen) == 1, "nothing was asked")
            await client.read_until(EVENT * (events or 0))
            client.reset()
            (call,) = await stage.calls()
        prompt = len(asking(**body)) + TEMPLATE_TOKENS_MAX
        usage = Usage(prompt_tokens=prompt, output_tokens=32_000)
        assert end_of(call) == ("client_gone", usage, True)
        assert call.end is not None
        assert call.end.cost_nano_usd == call.begin.hold_nano_usd


EARLY = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":20,"completion_tokens":0}}\n\n'


@pytest.mark.asyncio
async def test_what_passes_after_an_early_report_counts_too(tmp_path: Path) -> None:
    """Some servers report first of all, others with every event."""
    play: Play = [stream_head(), chunk(EARLY), chunk(EVENT * 50), Stall()]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING)) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            await client.read_until(EVENT * 50)
            client.reset()
            (call,) = await stage.calls()
        assert end_of(call) == ("client_gone", Usage(prompt_tokens=20, output_tokens=51), True)


@pytest.mark.asyncio
async def test_a_stream_that_is_left_is_charged_with_no_more_than_it_may_say(
    tmp_path: Path,
) -> None:
    play: Play = [stream_head(), chunk(EVENT * 50), Stall()]
    async with staged(tmp_path, play, quota=limited(*EVERYTHING)) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True, max_tokens=30))
            await client.read_until(EVENT * 50)
            client.reset()
            (call,) = await stage.calls()
        assert call.end is not None
        assert call.end.usage.output_tokens == 30


def test_reasoning_that_is_not_shown_teaches_nothing_of_events() -> None:
    """Else whoever leaves a stream pays for the thoughts that others' streams had."""
    estimator = Estimator()
    spending = idle_spending(estimator=estimator)
    spending.events = 10
    said = Usage(prompt_tokens=10, output_tokens=10_010, reasoning_tokens=10_000)
    spending.settle(said, estimated=False, whole=True)
    assert estimator.passed_tokens("gpt", 10) == 10


# ---- streams that are longer than their hold -------------------------------------------------


def slowly(events: int, at_once: int = 16) -> Play:
    """Events that come in reads of so many; the last of them is not the end."""
    step: Play = [chunk(EVENT * at_once), Wait(Pause())]
    return [stream_head(), *[each for _ in range(events // at_once) for each in step], Stall()]


def unreported(events: int) -> Play:
    return [stream_head(), *[chunk(EVENT)] * events, chunk(DONE), LAST_CHUNK]


def last_error(response: Response) -> dict[str, Any]:
    """The error event at the end of what was cut."""
    assert (response.status, response.whole) == (200, False)
    assert DONE not in response.body
    *_, last = sse.events(response.body)
    error: dict[str, Any] = msgspec.json.decode(sse.data_of(last) or b"")["error"]
    return error


async def passed(client: RawClient, events: int) -> None:
    """Until so many events have come."""
    data = b""
    while data.count(EVENT) < events:
        more = await client.read()
        assert more, f"the stream has ended: {data[-500:]!r}"
        data += more


@pytest.mark.asyncio
async def test_a_long_stream_holds_more_and_more_and_is_charged_with_what_was_said(
    tmp_path: Path,
) -> None:
    quota = limited(*EVERYTHING)
    go_on = asyncio.Event()
    play = [*unreported(1_300)[:-2], Wait(go_on), *unreported(0)[1:]]
    async with staged(tmp_path, play, quota=quota) as stage, stage.connected() as client:
        await client.send(stage.chat(stream=True))
        await passed(client, 1_300)
        held = prompt_of(stream=True) + FIRST_OUTPUT + 2 * SLICE
        assert stage.node.standing()["org/acme/usd/total"].claimed >= held * TOKEN_NANO

        def is_written() -> bool:  # what is charged if the worker dies now
            (call,) = stage.journal().calls
            raised = call.raised
            return raised is not None and raised.tokens == held

        await until(is_written, "the hold was not raised", stage.journal)
        (call,) = stage.journal().calls
        assert call.raised is not None
        assert call.raised.nano_usd == held * TOKEN_NANO
        go_on.set()
        await client.read_until(LAST_CHUNK)
        (call,) = await stage.calls()
        assert end_of(call) == (
            "ok",
            Usage(prompt_tokens=prompt_of(stream=True), output_tokens=1_301),
            True,
        )


@pytest.mark.asyncio
@pytest.mark.parametrize("rule", [money(1_200), tokens(1_200)], ids=["usd", "tokens"])
async def test_a_stream_that_outgrows_its_limit_is_finished_by_default(
    tmp_path: Path, rule: Rule
) -> None:
    """FR-003: the overshoot is what this call had left; who comes next is refused."""
    async with staged(tmp_path, unreported(3_000), quota=limited(rule)) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert response.whole
        assert response.body.count(EVENT) == 3_000
        await stage.calls()
        refused = await stage.ask(stage.chat(stream=True))
        assert refused.status == (402 if rule.kind == "usd" else 429)
        (standing,) = stage.node.standing().values()
        unit = TOKEN_NANO if rule.kind == "usd" else 1
        assert standing.used >= 3_000 * unit


@pytest.mark.asyncio
@pytest.mark.parametrize("capacity", [500, 1_000, 1_200, 1_500, 2_500])
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_stream_that_outgrows_a_budget_that_cuts_ends_with_the_reason(
    tmp_path: Path, capacity: int, api: str
) -> None:
    """FR-003: visibly incomplete, never `[DONE]`; at most one slice over the budget."""
    quota = limited(money(capacity, cut=True), at_once(5))
    async with staged(tmp_path, slowly(4_000), quota=quota) as stage:
        message = stage.chat(stream=True)
        if api == "responses":
            message = message.replace(b"/chat/completions", b"/responses")
        response = await stage.ask(message)
        error = last_error(response)
        assert (error["code"], error["limit"]["kind"]) == ("insufficient_quota", "usd")
        assert error["message"].startswith("this answer was cut: 0")
        assert "USD of the org acme are left; ask your admin for more" in error["message"]
        events = response.body.count(EVENT)
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.outcome, call.end.error_code) == ("router_error", "insufficient_quota")
        assert call.end.usage.output_tokens == events
        used = stage.node.standing()["org/acme/usd/total"].used
        assert used <= (capacity + SLICE + 16) * TOKEN_NANO
        assert used > (capacity - SLICE) * TOKEN_NANO  # and it was not cut early
        assert stage.log[-1].code == "insufficient_quota"
        await until(lambda: stage.upstream.open == 0, "the upstream was not closed")


@pytest.mark.asyncio
async def test_a_stream_that_has_said_its_all_is_not_cut_any_more(tmp_path: Path) -> None:
    play: Play = [stream_head() + chunked([EVENT * 900 + DONE])]
    async with staged(tmp_path, play, quota=limited(money(500, cut=True))) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert response.whole
        assert response.body.endswith(DONE)


@pytest.mark.asyncio
async def test_streams_of_a_budget_that_cuts_are_all_cut_at_its_end(tmp_path: Path) -> None:
    """One slice over for each of them, at most."""
    capacity = 5_000
    quota = limited(money(capacity, cut=True))
    async with staged(tmp_path, slowly(6_000), quota=quota) as stage:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(stage.ask(stage.chat(stream=True))) for _ in range(3)]
        codes = {last_error(task.result())["code"] for task in asked}
        assert codes == {"insufficient_quota"}
        await stage.calls(3)
        used = stage.node.standing()["org/acme/usd/total"].used
        assert used <= (capacity + 3 * (SLICE + 16)) * TOKEN_NANO


@pytest.mark.asyncio
async def test_a_client_that_leaves_while_more_is_asked_for_leaves_nothing_held(
    tmp_path: Path,
) -> None:
    quota = limited(money(10**6, cut=True), tokens(10**6))
    async with staged(tmp_path, slowly(3_000), quota=quota) as stage:
        for turns in range(30):
            async with stage.connected() as client:
                await client.send(stage.chat(stream=True))
                await passed(client, 1_001)
                for _ in range(turns):
                    await asyncio.sleep(0)
                client.reset()
            await stage.at_rest()
            stage.node.settle()


# ---- several attempts ------------------------------------------------------------------------


class Holding:
    """A call that holds something, and what its ledger is told."""

    def __init__(self, *rules: Rule) -> None:
        self.bench = bench = Bench(*rules)
        self.spending = idle_spending({"gpt": FLAT})
        account = bench.account
        self.spending.reservation = Reservation(bench.leases, account, (1, 30, 20, 1, 0))
        self.room = Room(self.bench.leases, lambda: LATER, 0.0)

    def owe(self, amount: int) -> None:
        """Others wait for so much of every bucket."""
        for lease in self.bench.account.gating:
            lease.owed = amount


@pytest.mark.asyncio
async def test_a_second_attempt_is_held_for_as_the_first_was_and_is_no_other_request() -> None:
    holding = Holding(RATE, TOKENS, MONEY)
    holding.bench.fill(1, 100, 50)
    spending = holding.spending
    before = spending.held
    assert await spending.hold_again(holding.room)
    assert spending.held == (2 * before[0], 2 * before[1])
    assert holding.bench.free() == [1, 100 - before[0], 50 - before[1]]
    spending.release()


@pytest.mark.asyncio
async def test_what_has_no_room_is_not_held_again() -> None:
    holding = Holding(TOKENS)
    spending = holding.spending
    held = spending.held
    asked = spawn(spending.hold_again(holding.room), name="hold")
    for _ in range(10):
        await asyncio.sleep(0)
    (take,) = [one for one in holding.bench.said() if isinstance(one, Take)]
    assert take.at_once
    holding.bench.hear(refused(take.id, T, Reason.SPENT))
    assert not await asked
    assert spending.held == held
    holding.bench.leases.ledger_gone()
    assert not await spending.hold_again(holding.room)


@pytest.mark.asyncio
@pytest.mark.parametrize("used", [0, 1, 29, 30, 31, 59, 60])
async def test_nothing_that_was_used_is_given_away_before_it_is_charged(used: int) -> None:
    """Others wait for all of it: what goes back is what is left, and nothing has to be forced."""
    holding = Holding(TOKENS)
    holding.bench.fill(30)
    spending = holding.spending
    assert await spending.hold_again(holding.room)
    holding.owe(1_000)
    spending.settle(Usage(prompt_tokens=used), estimated=False, whole=False)
    told = holding.bench.said()
    assert [one for one in told if isinstance(one, Force)] == []
    back = [part.amount for one in told if isinstance(one, GiveBack) for part in one.amounts]
    assert sum(back) == 60 - used


@pytest.mark.asyncio
async def test_what_the_others_used_is_charged_with_the_call() -> None:
    holding = Holding(TOKENS)
    holding.bench.fill(30)
    spending = holding.spending
    assert await spending.hold_again(holding.room)
    cost, price = spending.also_used("up", "gpt", Usage(prompt_tokens=5, output_tokens=2))
    assert (cost, price) == (7 * TOKEN_NANO, "1/1/1")
    spending.served_at("up", "gpt")
    used = Usage(prompt_tokens=10, output_tokens=3)
    assert spending.settle(used, estimated=False, whole=True) == 13 * TOKEN_NANO
    assert holding.bench.free() == [60 - 20]
