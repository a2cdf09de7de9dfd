"""Two attempts at once where a first token is late: one serves, the other is accounted."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmrouter.contracts.call import Operation
from llmrouter.dialects.openai import OpenAI
from llmrouter.gateway.attempt import HEDGED
from llmrouter.gateway.need import TEMPLATE_TOKENS_MAX
from llmrouter.metering.replay import JournaledCall
from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.hedging import HedgeDelay
from llmrouter.routing.repeats import FLOOR
from llmrouter.routing.routes import Policy
from tests.support.gateway import (
    UNLIMITED,
    At,
    Quota,
    Stage,
    asking,
    error_of,
    limited,
    shown,
    staged,
)
from tests.support.interrupting import Interrupted, lose_clients
from tests.support.leaks import Failures
from tests.support.ledger import TOKEN_NANO, at_once, money, requests, tokens
from tests.support.plays import (
    BOTH,
    DONE,
    HALF,
    HASTY,
    PROMPT_TOKENS,
    ROLE,
    Delay,
    delta,
    plain,
    refusing,
    streamed,
)
from tests.support.upstream import LAST_CHUNK, Cut, Play, Reset, Stall, Wait, chunk
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

AFTER_S = 0.03
POLICY = Policy(attempts_max=3, repeats_share=1.0, hedge_after=AFTER_S)
QUOTA = limited(requests(100), tokens(10**6), money(10**6), at_once(5))


def hedged(
    tmp_path: Path,
    first: Play,
    second: Play,
    *,
    then: Play | None = None,
    policy: Policy = POLICY,
    quota: Quota = QUOTA,
    routes: Mapping[str, Any] | None = None,
    **more: Any,
) -> Any:
    plays = [second] if then is None else [second, then]
    return staged(
        tmp_path,
        first,
        others={"up2": plays, **more.pop("others", {})},
        routes=routes or {"gpt": BOTH},
        policies={"gpt": policy},
        strategy="ordered",
        quota=quota,
        **more,
    )


async def the_call(stage: Stage) -> JournaledCall:
    (call,) = await stage.calls()
    return call


@pytest.mark.parametrize("begun", [[], [HALF], [HALF, chunk(ROLE)]], ids=["no", "head", "role"])
async def test_the_second_serves_where_the_first_is_late(tmp_path: Path, begun: Play) -> None:
    async with hedged(tmp_path, [*begun, Stall()], [streamed()]) as stage:
        response = await stage.ask(stage.chat(stream=True))

        assert (response.status, response.whole) == (200, True)
        assert b"FIRST" not in repr(response).encode()
        assert response.headers[b"x-llmrouter-deployment"] == b"up2/gpt"
        await until(lambda: stage.upstream.open == 0, "the loser is not left")
        call = await the_call(stage)
        end = call.end
        assert end is not None
        assert call.begin.deployment == "up/gpt"
        assert (end.deployment, end.upstream, end.attempts) == ("up2/gpt", "up2", 2)
        assert (end.usage.prompt_tokens, end.estimated) == (PROMPT_TOKENS, False)
        (loser,) = end.others
        assert (loser.deployment, loser.outcome, loser.error_code) == ("up/gpt", HEDGED, None)
        assert (loser.estimated, loser.usage.prompt_tokens > 0) == (True, True)
        assert loser.cost_nano_usd
        assert loser.duration_ms >= AFTER_S * 900


async def test_the_loser_is_reset(tmp_path: Path) -> None:
    """So that its upstream stops to work, and to bill."""
    going = asyncio.Event()
    async with hedged(tmp_path, [HALF, Wait(going), b"more", Stall()], [streamed()]) as stage:
        assert (await stage.ask(stage.chat(stream=True))).status == 200
        going.set()
        await until(lambda: stage.upstream.resets == 1, "the loser is not reset")


async def test_the_first_serves_where_it_is_the_first_after_all(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    async with hedged(tmp_path, [Wait(go_on), streamed("first")], [Stall()]) as stage:
        asked = stage.begin(stage.chat(stream=True))
        await stage.asked(1, "up2")
        go_on.set()
        response = await asked
        assert response.headers[b"x-llmrouter-deployment"] == b"up/gpt"
        assert b"first" in response.body
        await until(lambda: stage.scripts["up2"].open == 0, "the loser is not left")
        end = (await the_call(stage)).end
        assert end is not None
        assert (end.deployment, end.attempts) == (None, 2)
        assert [(one.deployment, one.outcome) for one in end.others] == [("up2/gpt", HEDGED)]


FAILS: dict[str, Play] = {
    "500": [refusing(500)],
    "400": [refusing(400)],
    "cut": [HALF, chunk(ROLE), Cut()],
    "reset": [Reset()],
}


@pytest.mark.parametrize("fails", FAILS.values(), ids=FAILS)
async def test_where_the_second_fails_the_first_is_waited_for(tmp_path: Path, fails: Play) -> None:
    go_on = asyncio.Event()
    async with hedged(tmp_path, [Wait(go_on), streamed("first")], fails) as stage:
        asked = stage.begin(stage.chat(stream=True))
        condition = stage.conditions.of("up2/gpt")
        await stage.asked(1, "up2")
        await Delay(0.02).wait()
        go_on.set()
        assert (await asked).headers[b"x-llmrouter-deployment"] == b"up/gpt"
        assert condition.inflight == 0
        end = (await the_call(stage)).end
        assert end is not None
        (other,) = end.others
        assert (other.outcome, other.cost_nano_usd) == ("upstream_error", 0)


@pytest.mark.parametrize("fails", FAILS.values(), ids=FAILS)
async def test_where_the_first_fails_late_the_second_is_waited_for(
    tmp_path: Path, fails: Play
) -> None:
    go_on = asyncio.Event()
    late: Play = [Wait(Delay(0.1)), *fails]
    async with hedged(tmp_path, late, [Wait(go_on), streamed()]) as stage:
        asked = stage.begin(stage.chat(stream=True))
        await stage.asked(1, "up2")
        await Delay(0.12).wait()
        go_on.set()
        assert (await asked).headers[b"x-llmrouter-deployment"] == b"up2/gpt"
        assert [len(script.seen) for script in stage.scripts.values()] == [1, 1]


@pytest.mark.parametrize("late_s", [0.06, 0.12], ids=["first-before", "first-after"])
async def test_where_both_fail_a_third_is_tried_and_neither_of_them(
    tmp_path: Path, late_s: float
) -> None:
    """In whatever order they fail."""
    first: Play = [Wait(Delay(late_s)), refusing(500)]
    second: Play = [Wait(Delay(0.06)), refusing(500)]
    async with hedged(
        tmp_path,
        first,
        second,
        others={"up3": [[streamed("third")]]},
        routes={"gpt": [*BOTH, At("up3")]},
    ) as stage:
        response = await stage.ask(stage.chat(stream=True))
        assert response.headers[b"x-llmrouter-deployment"] == b"up3/gpt"
        assert [len(script.seen) for script in stage.scripts.values()] == [1, 1, 1]
        end = (await the_call(stage)).end
        assert end is not None
        assert (end.attempts, len(end.others)) == (3, 2)


@pytest.mark.parametrize("refused", [0, 1], ids=["first", "second"])
async def test_where_both_fail_what_disowned_us_is_not_asked_again(
    tmp_path: Path, refused: int
) -> None:
    plays: list[Play] = [[Wait(Delay(0.08)), refusing(500)], [Wait(Delay(0.02)), refusing(500)]]
    plays[refused] = [*plays[refused][:-1], refusing(401)]
    policy = Policy(attempts_max=4, repeats_share=1.0, hedge_after=AFTER_S)
    async with hedged(tmp_path, plays[0], plays[1], policy=policy) as stage:
        assert (await stage.ask(stage.chat(stream=True))).status >= 500
        seen = [len(script.seen) for script in stage.scripts.values()]
        assert seen[refused] == 1
        assert sum(seen) == 4


async def test_where_both_fail_at_last_the_caller_is_told(tmp_path: Path) -> None:
    policy = Policy(attempts_max=2, repeats_share=1.0, hedge_after=AFTER_S)
    late: Play = [Wait(Delay(0.06)), refusing(500)]
    async with hedged(tmp_path, late, [refusing(503)], policy=policy) as stage:
        assert (await stage.ask(stage.chat(stream=True))).status == 500
        end = (await the_call(stage)).end
        assert end is not None
        assert (end.outcome, end.attempts, len(end.others)) == ("upstream_error", 2, 1)
        assert [len(script.seen) for script in stage.scripts.values()] == [1, 1]


# ---- when there is none ----------------------------------------------------------------------


async def none_beside(stage: Stage, *, stream: bool = True) -> None:
    """A late first attempt has no second, and serves."""
    response = await stage.ask(stage.chat(stream=stream))
    assert response.headers[b"x-llmrouter-deployment"] == b"up/gpt"
    end = (await the_call(stage)).end
    assert end is not None
    assert (end.outcome, end.attempts, end.others) == ("ok", 1, ())
    assert stage.scripts["up2"].seen == []


LATE: Play = [Wait(Delay(4 * AFTER_S)), streamed("first")]


async def test_a_first_token_in_time_needs_no_second(tmp_path: Path) -> None:
    policy = Policy(attempts_max=3, repeats_share=1.0, hedge_after=30.0)
    async with hedged(tmp_path, LATE, [streamed()], policy=policy) as stage:
        await none_beside(stage)


async def test_a_pause_after_the_first_token_is_none_before_it(tmp_path: Path) -> None:
    text, rest = chunk(ROLE + delta(content="first")), chunk(DONE) + LAST_CHUNK
    play: Play = [HALF, text, Wait(Delay(4 * AFTER_S)), rest]
    async with hedged(tmp_path, play, [streamed()]) as stage:
        await none_beside(stage)


async def test_a_plain_call_has_no_second_attempt_beside_it(tmp_path: Path) -> None:
    async with hedged(tmp_path, [Wait(Delay(4 * AFTER_S)), plain("first")], [plain()]) as stage:
        await none_beside(stage, stream=False)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(attempts_max=1, repeats_share=1.0, hedge_after=AFTER_S),
        Policy(attempts_max=3, repeats_share=0.0, hedge_after=AFTER_S),
        Policy(attempts_max=3, repeats_share=1.0, hedge_after="p95"),
    ],
    ids=["one-attempt", "no-repeats", "nothing-learned"],
)
async def test_a_second_attempt_is_one_of_those_that_a_call_may_make(
    tmp_path: Path, policy: Policy
) -> None:
    async with hedged(tmp_path, LATE, [streamed()], policy=policy) as stage:
        await none_beside(stage)


async def test_there_is_no_second_where_its_deployment_is_out(tmp_path: Path) -> None:
    async with hedged(tmp_path, LATE, [streamed()]) as stage:
        stage.conditions.of("up2/gpt").rest_until(stage.now() + 60, "test", stage.now())
        await none_beside(stage)


ASKED: dict[str, Any] = {"stream": True, "max_tokens": 100}
WORST = len(asking(**ASKED)) + TEMPLATE_TOKENS_MAX + 100
"""The most tokens that such a call can have."""


@pytest.mark.parametrize(("strict", "seconds"), [(False, 1), (True, 0)])
async def test_there_is_no_second_where_it_could_not_be_paid_for(
    tmp_path: Path, strict: bool, seconds: int
) -> None:
    """Nor does it cost a repeat then, and the call may still fail over."""
    quota = limited(money(2 * WORST - 1, strict=strict))
    late: Play = [Wait(Delay(4 * AFTER_S)), refusing(500)]
    policy = Policy(attempts_max=2, repeats_share=1.0, hedge_after=AFTER_S)
    async with hedged(tmp_path, late, [streamed()], quota=quota, policy=policy) as stage:
        repeats = stage.routes.find("gpt").repeats
        asked = stage.begin(stage.chat(**ASKED))
        await stage.asked(1)
        await Delay(2 * AFTER_S).wait()
        assert len(stage.scripts["up2"].seen) == seconds
        assert repeats.left == FLOOR + 1 - seconds
        assert (await asked).headers[b"x-llmrouter-deployment"] == b"up2/gpt"
        end = (await the_call(stage)).end
        assert end is not None
        assert end.attempts == 2


async def test_the_worst_case_of_both_is_held_before_the_second_is_sent(tmp_path: Path) -> None:
    """Under a strict budget; it is in the journal, too, for whoever reads it after a crash."""
    quota = limited(money(10**6, strict=True), tokens(10**6))
    async with hedged(tmp_path, [Stall()], [Stall()], quota=quota) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(**ASKED))
            await stage.asked(1)
            (call,) = stage.journal().calls
            assert call.begin.hold_nano_usd == WORST * TOKEN_NANO
            await until(lambda: bool(stage.scripts["up2"].seen), "there is no second")
            (call,) = stage.journal().calls
            assert call.hold == (2 * call.begin.hold_tokens, 2 * WORST * TOKEN_NANO)
            stage.node.fold()
            assert stage.node.standing()["org/acme/usd/total"].claimed >= 2 * WORST * TOKEN_NANO
            client.reset()
        end = (await the_call(stage)).end
        assert end is not None
        costs = [end.cost_nano_usd, *(one.cost_nano_usd for one in end.others)]
        assert (end.outcome, costs) == ("client_gone", [WORST * TOKEN_NANO] * 2)


async def test_a_strict_budget_is_not_exceeded_where_another_call_waits_for_what_is_left(
    tmp_path: Path,
) -> None:
    """What both attempts used comes off what is held before anything of that is given away."""
    go_on = asyncio.Event()
    quota = limited(money(2 * WORST + 10, strict=True))
    async with hedged(
        tmp_path, [Stall()], [Wait(go_on), streamed()], then=[streamed()], quota=quota
    ) as stage:
        first = stage.begin(stage.chat(**ASKED))
        await stage.asked(1, "up2")
        other = stage.begin(stage.chat(**ASKED))
        await until(lambda: stage.node.desk.waiting == 1, "the other does not wait")
        go_on.set()
        assert ((await first).status, (await other).status) == (200, 402)
        assert stage.node.overdrawn == []


# ---- what is left -----------------------------------------------------------------------------


async def test_a_client_may_leave_while_both_run(tmp_path: Path) -> None:
    async with hedged(tmp_path, [Stall()], [HALF, chunk(ROLE), Stall()]) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            await stage.asked(1, "up2")
            client.reset()
        end = (await the_call(stage)).end
        assert end is not None
        assert (end.status, end.outcome, end.attempts) == (0, "client_gone", 2)
        assert [one.outcome for one in end.others] == [HEDGED]
        await stage.upstreams_left(0)


async def test_the_loser_gives_its_place_back(tmp_path: Path) -> None:
    async with hedged(tmp_path, [Stall()], [streamed()], concurrent={"up": 1, "up2": 1}) as stage:
        for asked in range(1, 4):
            assert (await stage.ask(stage.chat(stream=True))).status == 200
            assert [len(script.seen) for script in stage.scripts.values()] == [asked, asked]


async def test_a_second_without_a_place_leaves_the_first_alone(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    async with hedged(
        tmp_path,
        LATE,
        [Wait(go_on), streamed()],
        concurrent={"up2": 1},
        routes={"gpt": BOTH, "same": At("up2")},
    ) as stage:
        other = stage.begin(stage.chat(model="same", stream=True))
        await stage.asked(1, "up2")
        response = await stage.ask(stage.chat(stream=True))
        assert response.headers[b"x-llmrouter-deployment"] == b"up/gpt"
        go_on.set()
        assert (await other).status == 200
        ends = [call.end for call in await stage.calls(2)]
        assert [(end.attempts, end.others) for end in ends if end] == [(1, ()), (1, ())]


async def test_a_second_leaves_the_first_alone_where_the_ledger_is_gone(tmp_path: Path) -> None:
    async with hedged(
        tmp_path, LATE, [streamed()], concurrent={"up2": 1}, quota=UNLIMITED
    ) as stage:
        asked = stage.begin(stage.chat(stream=True))
        await stage.asked(1)
        stage.node.leases.ledger_gone()
        response = await asked
        assert (response.status, response.headers[b"x-llmrouter-deployment"]) == (200, b"up/gpt")
        stage.node.revive()


async def test_a_loser_has_no_verdict_on_its_deployment(tmp_path: Path) -> None:
    terms = BreakerTerms(failures=1, error_rate=2.0, rest_s=60)
    async with hedged(tmp_path, [Stall()], [streamed()], breaker=terms) as stage:
        for _ in range(3):
            assert (await stage.ask(stage.chat(stream=True))).status == 200
        assert stage.conditions.of("up/gpt").breaker.state is State.CLOSED


@pytest.mark.parametrize(
    "plays",
    [([Stall()], [streamed()]), (LATE, [Stall()]), ([refusing(500)], [Stall()])],
    ids=["second", "first", "failed"],
)
@pytest.mark.parametrize("at", range(1, 9))
async def test_it_may_be_cancelled_wherever_it_waits(
    tmp_path: Path, at: int, plays: tuple[Play, Play]
) -> None:
    spawning = Interrupted(at)
    async with hedged(
        tmp_path, *plays, spawning=spawning, concurrent={"up": 1, "up2": 1}, timeouts=HASTY
    ) as stage:
        spawning.interrupt = lambda: lose_clients(stage)
        async with stage.connected() as client:
            await client.send(stage.chat(b"connection: close", stream=True))
            await client.read_all()
        await stage.at_rest()
        await stage.upstreams_left()


class Broken(OpenAI):
    """A dialect with a bug."""

    def upstream_path(self, operation: Operation) -> bytes:
        raise LookupError("a bug")


async def test_a_bug_before_a_call_has_left_sends_nothing(
    tmp_path: Path, no_leaks: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        hedged(tmp_path, [plain()], [streamed()]) as stage,
        stage.connected() as client,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(HedgeDelay, "delay_s", broken)
            await client.send(stage.chat(stream=True))
            response = await shown(client)
        assert (response.status, error_of(response)["code"]) == (500, "internal_error")
        await stage.at_rest()
        (logged,) = no_leaks.seen
        no_leaks.seen.clear()
        assert "LookupError: a bug" in logged
        await client.send(stage.chat())
        assert (await shown(client)).status == 200
        first, second = await stage.calls(2)
        assert first.end is not None
        assert second.end is not None
        assert (first.end.outcome, second.end.outcome) == ("router_error", "ok")
        assert len(stage.upstream.seen) == 1


def broken(*_: object) -> Any:
    raise LookupError("a bug")


async def test_a_second_that_goes_wrong_for_a_bug_leaves_nothing_behind(
    tmp_path: Path, no_leaks: Failures
) -> None:
    async with hedged(tmp_path, [Stall()], [streamed()]) as stage:
        stage.upstreams["up2"].dialect = Broken()
        response = await stage.ask(stage.chat(stream=True))
        assert (response.status, error_of(response)["code"]) == (500, "internal_error")
        await until(lambda: stage.upstream.open == 0, "the first is not left")
        no_leaks.seen.clear()


async def test_there_is_no_second_where_the_first_answers_while_room_is_sought(
    tmp_path: Path,
) -> None:
    go_on = asyncio.Event()
    async with hedged(tmp_path, [Wait(go_on), streamed("first")], [streamed()]) as stage:
        async with stage.connected() as client:
            await client.send(stage.chat(stream=True))
            await stage.asked(1)
            stage.node.is_deaf = True
            await until(lambda: bool(stage.node.leases.outbox), "no room is sought")
            go_on.set()
            await Delay(0.02).wait()
            stage.node.listen()
            assert b"first" in (await client.response()).body
        assert stage.scripts["up2"].seen == []
        end = (await the_call(stage)).end
        assert end is not None
        assert (end.attempts, end.others) == (1, ())
