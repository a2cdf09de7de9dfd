"""One attempt that gives no answer, and the next deployment that does: nobody sees the first."""

from pathlib import Path

import pytest

from llmrouter.contracts.call import Call
from llmrouter.dialects.openai.dialect import OpenAI
from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.routes import Policy
from tests.support.gateway import At, Stage, error_of, limited, shown, staged
from tests.support.ledger import at_once, money, requests, tokens
from tests.support.plays import (
    BOTH,
    CASES,
    CHEAP,
    CHEAP_NANO,
    DEAR,
    DEAR_NANO,
    HALF,
    HASTY,
    NAMES,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    ROLE,
    TWICE,
    USED,
    Fault,
    delta,
    plain,
    refusing,
    said,
    streamed,
)
from tests.support.upstream import Cut, Play, Reset, Stall, answer, chunk
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

QUOTA = limited(
    requests(1_000),
    tokens(10**6),
    money(10**6),
    at_once(10),
    prices_at={"gpt": {"up": DEAR, "up2": CHEAP}},
)


@pytest.mark.parametrize(("name", "fault", "stream"), CASES, ids=NAMES)
async def test_another_deployment_answers_and_nothing_of_the_first_is_seen(
    tmp_path: Path, name: str, fault: Fault, stream: bool
) -> None:
    """The sixteen faults, before there is an answer."""
    async with staged(
        tmp_path,
        fault.play,
        others={"up2": [[said(stream=stream)]]},
        routes={"gpt": BOTH},
        policies={"gpt": TWICE},
        strategy="ordered",
        timeouts={"up": HASTY},
        quota=QUOTA,
    ) as stage:
        response = await stage.ask(stage.chat(stream=stream))

        assert (response.status, response.whole) == (200, True)
        assert b"second" in response.body
        assert b"FIRST" not in repr(response).encode()
        assert response.headers[b"x-llmrouter-deployment"] == b"up2/gpt"
        assert [len(script.seen) for script in stage.scripts.values()] == [1, 1]
        assert stage.log[0][1:] == (200, None, "up2/gpt")
        (call,) = await stage.calls()
        end = call.end
        assert end is not None
        assert call.begin.deployment == "up/gpt"
        assert (end.deployment, end.upstream, end.attempts) == ("up2/gpt", "up2", 2)
        assert (end.usage.prompt_tokens, end.usage.output_tokens) == (PROMPT_TOKENS, OUTPUT_TOKENS)
        assert end.cost_nano_usd == USED * CHEAP_NANO
        (other,) = end.others
        assert (other.deployment, other.upstream) == ("up/gpt", "up")
        assert (other.outcome, other.error_code) == ("upstream_error", fault.code)
        used = other.usage.prompt_tokens + other.usage.output_tokens
        assert (used > 0, other.estimated) == (fault.is_silent, fault.is_silent)
        assert other.cost_nano_usd == used * DEAR_NANO
        await until(lambda: stage.upstream.open <= 1, "the first connection is left")


@pytest.mark.parametrize(("name", "fault", "stream"), CASES, ids=NAMES)
async def test_where_all_fail_the_caller_is_told_at_once_and_truly(
    tmp_path: Path, name: str, fault: Fault, stream: bool
) -> None:
    async with staged(
        tmp_path,
        fault.play,
        others={"up2": [fault.play]},
        routes={"gpt": BOTH},
        policies={"gpt": TWICE},
        strategy="ordered",
        timeouts=HASTY,
        quota=QUOTA,
    ) as stage:
        response = await stage.ask(stage.chat(stream=stream))

        assert response.status >= 400
        assert response.whole
        assert [len(script.seen) for script in stage.scripts.values()] == [1, 1]
        (call,) = await stage.calls()
        end = call.end
        assert end is not None
        assert (end.outcome, end.attempts, len(end.others)) == ("upstream_error", 2, 1)
        assert (end.usage.prompt_tokens > 0) == fault.is_silent
        assert end.usage.output_tokens == end.others[0].usage.output_tokens


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_a_call_that_is_refused_for_what_it_is_goes_to_nobody_else(
    tmp_path: Path, status: int, stream: bool
) -> None:
    async with staged(
        tmp_path,
        [refusing(status)],
        others={"up2": [[said(stream=stream)]]},
        routes={"gpt": BOTH},
        policies={"gpt": TWICE},
        strategy="ordered",
        quota=QUOTA,
    ) as stage:
        response = await stage.ask(stage.chat(stream=stream))

        assert (response.status, b"FIRST" in response.body) == (status, True)
        assert response.headers[b"x-llmrouter-deployment"] == b"up/gpt"
        assert stage.scripts["up2"].seen == []
        (call,) = await stage.calls()
        assert call.end is not None
        assert (call.end.attempts, call.end.others, call.end.cost_nano_usd) == (1, (), 0)


async def test_an_upstream_that_cannot_be_reached_is_passed_over_without_a_record_of_its_own(
    tmp_path: Path,
) -> None:
    async with staged(
        tmp_path,
        [plain()],
        others={"up2": [[plain()]]},
        url="http://no-such-host.invalid",
        routes={"gpt": BOTH},
        policies={"gpt": TWICE},
        strategy="ordered",
        quota=QUOTA,
    ) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        (call,) = await stage.calls()
        assert call.end is not None
        assert call.begin.deployment == "up2/gpt"
        assert (call.end.deployment, call.end.attempts) == (None, 2)
        (other,) = call.end.others
        assert (other.deployment, other.error_code) == ("up/gpt", "upstream_unreachable")
        assert other.cost_nano_usd == 0


# ---- what its deployment hears of it -----------------------------------------------------------


FRAGILE = BreakerTerms(failures=2, error_rate=2.0, rest_s=60)
MIDDLE: Play = [HALF, chunk(ROLE), chunk(delta(content="some"))]
FAILS: dict[str, Play] = {
    "500": [refusing(500)],
    "reset": [Reset()],
    "401": [refusing(401)],
    "malformed": [HALF, chunk(b"data: {\n\n"), Stall()],
    "silent": [Stall()],
    "cut-in-the-middle": [*MIDDLE, Cut()],
    "stall-in-the-middle": [*MIDDLE, Stall()],
    "malformed-in-the-middle": [*MIDDLE, chunk(b"data: {\n\n"), Stall()],
    "no-end-marker": [*MIDDLE, b"0\r\n\r\n"],
}
FAILS_NOT: dict[str, Play] = {
    "answer": [streamed()],
    "400": [refusing(400)],
    "413-and-later": [refusing(413, headers=b"retry-after: 60\r\n")],
    "too-long": [refusing(400, "context_length_exceeded", b"retry-after: 60\r\n")],
    "filtered": [refusing(400, "content_filter")],
    "404": [refusing(404)],
    "429": [refusing(429, headers=b"retry-after: 0\r\n")],
}
IMPATIENT = HASTY.__class__(connect_s=10, first_s=0.1, idle_s=0.1, total_s=60)


def breaker_state(stage: Stage, name: str = "up/gpt") -> State:
    return stage.conditions.of(name).breaker.state


@pytest.mark.parametrize("play", FAILS.values(), ids=FAILS)
async def test_what_fails_opens_the_breaker_and_the_next_call_goes_elsewhere(
    tmp_path: Path, play: Play
) -> None:
    async with staged(
        tmp_path,
        play,
        others={"up2": [[streamed()]]},
        routes={"gpt": BOTH},
        strategy="ordered",
        breaker=FRAGILE,
        timeouts={"up": IMPATIENT},
    ) as stage:
        for _ in range(2):
            assert breaker_state(stage) is State.CLOSED
            response = await stage.ask(stage.chat(stream=True))
            assert response.status >= 500 or not response.whole
        await until(lambda: breaker_state(stage) is State.OPEN, "the breaker is closed")
        response = await stage.ask(stage.chat(stream=True))
        assert response.headers[b"x-llmrouter-deployment"] == b"up2/gpt"
        assert len(stage.upstream.seen) == 2


@pytest.mark.parametrize("play", FAILS_NOT.values(), ids=FAILS_NOT)
async def test_what_says_nothing_against_a_deployment_leaves_it_in_use(
    tmp_path: Path, play: Play
) -> None:
    async with staged(
        tmp_path, play, routes={"gpt": At("up")}, strategy="ordered", breaker=FRAGILE
    ) as stage:
        for asked in range(1, 5):
            await stage.ask(stage.chat(stream=True))
            assert len(stage.upstream.seen) == asked
        assert breaker_state(stage) is State.CLOSED


@pytest.mark.parametrize("play", [[Stall()], [*MIDDLE, Stall()]], ids=["silent", "middle"])
async def test_a_client_that_leaves_says_nothing_of_its_deployment(
    tmp_path: Path, play: Play
) -> None:
    async with staged(
        tmp_path, play, routes={"gpt": At("up")}, strategy="ordered", breaker=FRAGILE
    ) as stage:
        for asked in range(1, 4):
            async with stage.connected() as client:
                await client.send(stage.chat(stream=True))
                await stage.asked(asked)
                if len(play) > 1:
                    await client.read_until(b"some")
                client.reset()
            await stage.at_rest()
        assert breaker_state(stage) is State.CLOSED


async def test_where_all_breakers_are_open_callers_are_told_when_to_come_back(
    tmp_path: Path,
) -> None:
    async with staged(
        tmp_path,
        [refusing(500)],
        others={"up2": [[refusing(500)]]},
        routes={"gpt": BOTH},
        policies={"gpt": TWICE},
        strategy="ordered",
        breaker=FRAGILE,
    ) as stage:
        for _ in range(2):
            assert (await stage.ask(stage.chat())).status == 500
        response = await stage.ask(stage.chat())
        assert (response.status, error_of(response)["code"]) == (503, "no_deployment_available")
        assert 59 <= int(response.headers[b"retry-after"]) <= 61
        assert [len(script.seen) for script in stage.scripts.values()] == [2, 2]
        assert len(await stage.calls(2)) == 2


async def test_a_deployment_that_has_rested_is_tried_by_one_call_and_then_by_more(
    tmp_path: Path,
) -> None:
    terms = BreakerTerms(failures=1, error_rate=2.0, rest_s=0.05)
    async with staged(
        tmp_path,
        [refusing(500)],
        [plain("first")],
        others={"up2": [[plain()]]},
        routes={"gpt": BOTH},
        strategy="ordered",
        breaker=terms,
    ) as stage:
        assert (await stage.ask(stage.chat())).status == 500
        assert (await stage.ask(stage.chat())).headers[b"x-llmrouter-deployment"] == b"up2/gpt"
        condition = stage.conditions.of("up/gpt")
        await until(lambda: condition.is_usable(stage.now()), "it never rests enough")
        async with stage.connected() as client:
            await client.send(stage.chat())
            assert (await shown(client)).headers[b"x-llmrouter-deployment"] == b"up/gpt"
        assert breaker_state(stage) is State.HALF_OPEN
        for _ in range(10):
            await stage.ask(stage.chat())
        assert breaker_state(stage) is State.CLOSED


async def test_a_throttled_deployment_rests_as_long_as_it_says(tmp_path: Path) -> None:
    throttled = refusing(429, headers=b"retry-after: 30\r\n")
    async with staged(
        tmp_path,
        [throttled],
        routes={"gpt": At("up")},
        policies={"gpt": Policy(attempts_max=3, repeats_share=1.0)},
    ) as stage:
        response = await stage.ask(stage.chat())
        assert (response.status, response.headers[b"retry-after"]) == (429, b"30")
        assert b"FIRST" in response.body
        response = await stage.ask(stage.chat())
        assert (response.status, error_of(response)["code"]) == (503, "no_deployment_available")
        assert 29 <= int(response.headers[b"retry-after"]) <= 31
        assert len(stage.upstream.seen) == 1


@pytest.mark.parametrize("status", [403, 404])
async def test_who_lacks_a_model_that_another_deployment_has_is_left_alone(
    tmp_path: Path, status: int
) -> None:
    """Else a misnamed model would cost a repeat for every call."""
    async with staged(
        tmp_path,
        [refusing(status)],
        others={"up2": [[plain()]]},
        routes={"gpt": BOTH},
        policies={"gpt": TWICE},
        strategy="ordered",
        breaker=FRAGILE,
    ) as stage:
        for _ in range(FRAGILE.failures + 3):
            assert (await stage.ask(stage.chat())).status == 200
        assert len(stage.upstream.seen) == FRAGILE.failures
        assert breaker_state(stage) is State.OPEN


async def test_a_call_that_no_deployment_serves_speaks_against_none(tmp_path: Path) -> None:
    async with staged(
        tmp_path,
        [refusing(404)],
        others={"up2": [[refusing(404)]]},
        routes={"gpt": BOTH},
        policies={"gpt": TWICE},
        strategy="ordered",
        breaker=FRAGILE,
    ) as stage:
        for _ in range(FRAGILE.failures + 3):
            assert (await stage.ask(stage.chat())).status == 404
        assert breaker_state(stage) is State.CLOSED


@pytest.mark.parametrize(("status", "rests_s"), [(429, 3_600), (503, 60)])
async def test_only_who_is_throttled_may_ask_for_a_long_rest(
    tmp_path: Path, status: int, rests_s: float
) -> None:
    said = [refusing(status, headers=b"retry-after: 7200\r\n")]
    async with staged(tmp_path, said, routes={"gpt": At("up")}) as stage:
        assert (await stage.ask(stage.chat())).status == status
        rest_s = stage.conditions.of("up/gpt").rest_s(stage.now())
        assert rests_s - 5 < rest_s < rests_s + 0.001  # what is added to a clock is rounded


@pytest.mark.parametrize("spare", [[plain()], [refusing(429)]], ids=["answered", "refused"])
async def test_a_429_without_a_time_rests_a_deployment_only_where_another_answers(
    tmp_path: Path, spare: Play
) -> None:
    """Else one caller whose calls are too large for the upstream's limit would stop all others."""
    async with staged(
        tmp_path,
        [refusing(429)],
        others={"up2": [spare]},
        routes={"gpt": BOTH},
        policies={"gpt": TWICE},
        strategy="ordered",
    ) as stage:
        response = await stage.ask(stage.chat())
        condition = stage.conditions.of("up/gpt")
        assert condition.is_resting(stage.now()) is (response.status == 200)
        assert not stage.conditions.of("up2/gpt").is_resting(stage.now())


async def test_a_body_is_written_anew_once_whether_or_not_a_connection_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    upstream_body = OpenAI.upstream_body

    def counted(call: Call, model: str) -> bytes:
        written.append(model)
        return upstream_body(call, model)

    monkeypatch.setattr(OpenAI, "upstream_body", staticmethod(counted))
    async with staged(tmp_path, [answer(b"{}")]) as stage:
        for calls in (1, 2, 3):  # the first on a connection made for it
            assert (await stage.ask(stage.chat())).status == 200
            assert len(written) == calls
        assert len(stage.upstream.seen) == 3
