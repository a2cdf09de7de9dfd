"""Places at an upstream: never more calls there than it may have, and none waits for nothing."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.hedging import HedgeDelay
from llmrouter.routing.routes import Policy
from tests.support.gateway import At, Stage, error_of, limited, shown, staged
from tests.support.interrupting import Interrupted, lose_clients
from tests.support.leaks import Failures
from tests.support.ledger import at_once, requests, tokens
from tests.support.plays import BOTH, DONE, HALF, ROLE, Delay, delta, plain, refusing, streamed
from tests.support.raw import Response
from tests.support.upstream import LAST_CHUNK, Cut, Play, Stall, Wait, chunk
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

NO_REPEATS = Policy(attempts_max=1, repeats_share=0.0)
one_place = partial(staged, routes={"gpt": BOTH}, strategy="ordered", concurrent={"up": 1})
"""A stage whose first deployment has one place, and a second beside it."""


class Busy(asyncio.Event):
    """Counts the plays that have come to a `Wait` for it and were not let go yet."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    async def wait(self) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        await super().wait()
        self.now -= 1
        return True


def waits(stage: Stage, count: int) -> bool:
    """So many calls wait for a place."""
    return stage.node.desk.waiting == count


async def one_behind_another(
    stage: Stage, first: bytes, second: bytes
) -> tuple[asyncio.Task[Response], asyncio.Task[Response]]:
    """A call that has the only place, and one that waits for it."""
    before = stage.begin(first)
    await stage.asked(1)
    waiting = stage.begin(second)
    await until(partial(waits, stage, 1), "it does not wait")
    return before, waiting


async def test_a_call_goes_to_the_deployment_that_has_a_place(tmp_path: Path) -> None:
    """That is no repeat: nothing was sent to the full one."""
    busy = Busy()
    async with one_place(
        tmp_path,
        [Wait(busy), plain("first")],
        others={"up2": [[plain()]]},
        policies={"gpt": NO_REPEATS},
    ) as stage:
        before = stage.begin(stage.chat())
        await stage.asked(1)
        for _ in range(30):
            response = await stage.ask(stage.chat())
            assert response.headers[b"x-llmrouter-deployment"] == b"up2/gpt"
        busy.set()
        assert (await before).headers[b"x-llmrouter-deployment"] == b"up/gpt"
        assert {call.end and call.end.attempts for call in await stage.calls(31)} == {1}
        assert (await stage.ask(stage.chat())).headers[b"x-llmrouter-deployment"] == b"up/gpt"


@pytest.mark.parametrize("stream", [False, True])
async def test_where_there_is_no_other_calls_wait_for_their_turn(
    tmp_path: Path, stream: bool
) -> None:
    busy = Busy()
    said = streamed("first") if stream else plain("first")
    async with staged(
        tmp_path, [Wait(busy), said], routes={"gpt": At("up")}, concurrent={"up": 2}
    ) as stage:
        waiting = []
        for number in range(6):
            message = stage.chat(stream=stream, seed=number)
            waiting.append(stage.begin(message))
            asks = min(number + 1, 2)
            await stage.asked(asks)
            await until(partial(waits, stage, max(0, number - 1)), "none waits")
        busy.set()
        assert [(await one).status for one in waiting] == [200] * 6
        assert busy.most == 2
        seeds = [seen.body.partition(b'"seed":')[2][:1] for seen in stage.upstream.seen]
        assert sorted(seeds[:2]) == [b"0", b"1"]
        assert seeds[2:] == [b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("fails", [[Cut()], [refusing(503)]], ids=["cut", "503"])
async def test_where_the_other_fails_a_call_goes_to_one_that_was_full_and_has_a_place_now(
    tmp_path: Path, fails: Play
) -> None:
    busy, fail = Busy(), Busy()
    async with one_place(
        tmp_path,
        [Wait(busy), plain("first")],
        others={"up2": [[Wait(fail), *fails]]},
        policies={"gpt": Policy()},
    ) as stage:
        before = stage.begin(stage.chat())
        await stage.asked(1)
        other = stage.begin(stage.chat())
        await stage.asked(1, "up2")
        busy.set()
        assert (await before).status == 200
        fail.set()
        assert (await other).headers[b"x-llmrouter-deployment"] == b"up/gpt"
        assert sorted(call.end.attempts for call in await stage.calls(2) if call.end) == [1, 2]


async def test_one_that_failed_once_is_tried_again_before_a_place_is_waited_for(
    tmp_path: Path,
) -> None:
    busy = Busy()
    async with one_place(
        tmp_path,
        [Wait(busy), plain("first")],
        others={"up2": [[refusing(503)], [plain()]]},
        policies={"gpt": Policy()},
    ) as stage:
        before = stage.begin(stage.chat())
        await stage.asked(1)
        response = await stage.ask(stage.chat())
        assert response.headers[b"x-llmrouter-deployment"] == b"up2/gpt"
        busy.set()
        assert (await before).status == 200


@pytest.mark.parametrize("place_wait_ms", [None, 60, 60_000], ids=["free", "vain", "late"])
async def test_before_its_last_attempt_a_call_waits_for_a_place_at_the_one_that_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place_wait_ms: int | None
) -> None:
    """If none comes free, or not in half of its time, what has failed is tried once more."""
    if place_wait_ms is not None:
        monkeypatch.setattr("tests.support.gateway.PLACE_WAIT_MS", place_wait_ms)
    busy = Busy()
    async with one_place(
        tmp_path,
        [Wait(busy), plain("first")],
        others={"up2": [[refusing(503)], [refusing(503)], [plain()]]},
        policies={"gpt": Policy(attempts_max=3)},
    ) as stage:
        before = stage.begin(stage.chat())
        await stage.asked(1)
        other = stage.begin(stage.chat(b"x-llmrouter-timeout-total: 4"))
        await stage.asked(2, "up2")
        await until(lambda: stage.node.desk.waiting == 1, "it does not wait")
        if place_wait_ms is None:
            busy.set()
        answered_by = b"up/gpt" if place_wait_ms is None else b"up2/gpt"
        assert (await other).headers[b"x-llmrouter-deployment"] == answered_by
        busy.set()
        assert (await before).status == 200


async def test_who_waits_too_long_for_a_place_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.gateway.PLACE_WAIT_MS", 60)
    busy = Busy()
    async with staged(
        tmp_path, [Wait(busy), plain("first")], routes={"gpt": At("up")}, concurrent={"up": 1}
    ) as stage:
        before = stage.begin(stage.chat())
        await stage.asked(1)
        began = stage.now()
        response = await stage.ask(stage.chat())
        assert stage.now() - began >= 0.055
        assert (response.status, error_of(response)["code"]) == (503, "no_deployment_available")
        assert int(response.headers[b"retry-after"]) >= 1
        busy.set()
        assert (await before).status == 200
        assert len(await stage.calls(1)) == 1, "what was not sent is in no record"


async def test_the_wait_for_a_place_is_time_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits longer than that, whatever `quotas.hold_wait` says."""
    monkeypatch.setattr("tests.support.gateway.PLACE_WAIT_MS", 60_000)
    busy = Busy()
    async with staged(
        tmp_path, [Wait(busy), plain("first")], routes={"gpt": At("up")}, concurrent={"up": 1}
    ) as stage:
        late = stage.chat(b"x-llmrouter-timeout-total: 0.05")
        before, waiting = await one_behind_another(stage, stage.chat(), late)
        response = await waiting
        assert (response.status, error_of(response)["code"]) == (503, "no_deployment_available")
        busy.set()
        assert (await before).status == 200
        assert len(stage.upstream.seen) == 1
        assert (await stage.ask(stage.chat())).status == 200, "its place is free"


async def test_the_wait_for_a_place_is_no_time_of_the_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each call that waits would make it look slower, and hedges later."""
    running_s: list[float] = []
    monkeypatch.setattr(HedgeDelay, "observed", lambda _, seconds: running_s.append(seconds))
    busy = Busy()
    async with staged(
        tmp_path,
        [Wait(busy), streamed("first")],
        routes={"gpt": At("up")},
        policies={"gpt": Policy(hedge_after=60.0)},
        concurrent={"up": 1},
    ) as stage:
        message = stage.chat(stream=True)
        before, waiting = await one_behind_another(stage, message, message)
        await asyncio.sleep(1.0)
        busy.set()
        assert [(await each).status for each in (before, waiting)] == [200, 200]
    longer, shorter = running_s
    assert shorter < 1.0 <= longer


@pytest.mark.parametrize(
    ("status", "headers"), [(500, b""), (429, b"retry-after: 30\r\n")], ids=["breaker", "rest"]
)
async def test_a_call_that_waits_for_a_place_is_not_sent_where_that_is_of_no_use_by_then(
    tmp_path: Path, status: int, headers: bytes
) -> None:
    busy = Busy()
    async with staged(
        tmp_path,
        [Wait(busy), refusing(status, headers=headers)],
        routes={"gpt": At("up")},
        policies={"gpt": NO_REPEATS},
        concurrent={"up": 1},
        breaker=BreakerTerms(failures=1, error_rate=2.0, rest_s=60),
    ) as stage:
        before, waiting = await one_behind_another(stage, stage.chat(), stage.chat())
        busy.set()
        assert [(await each).status for each in (before, waiting)] == [status, 503]
        assert len(stage.upstream.seen) == 1


async def test_a_place_is_held_until_a_stream_has_passed(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    play: Play = [HALF, chunk(ROLE + delta(content="some")), Wait(go_on), chunk(DONE) + LAST_CHUNK]
    async with (
        staged(tmp_path, play, routes={"gpt": At("up")}, concurrent={"up": 1}) as stage,
        stage.connected() as client,
    ):
        await client.send(stage.chat(stream=True))
        await client.read_until(b"some")
        waiting = stage.begin(stage.chat(stream=True))
        await until(lambda: stage.node.desk.waiting == 1, "it does not wait")
        assert len(stage.upstream.seen) == 1
        go_on.set()
        assert (await waiting).status == 200


ENDS: dict[str, Play] = {
    "answer": [plain()],
    "stream": [streamed()],
    "refusal": [refusing(400)],
    "error": [refusing(500)],
    "cut": [Cut()],
    "cut-within": [HALF, chunk(ROLE + delta(content="some")), Cut()],
    "malformed": [HALF, chunk(b"data: {\n\n"), Stall()],
}


@pytest.mark.parametrize("play", ENDS.values(), ids=ENDS)
async def test_a_place_is_given_back_however_a_call_ends(tmp_path: Path, play: Play) -> None:
    async with staged(tmp_path, play, routes={"gpt": At("up")}, concurrent={"up": 1}) as stage:
        for number in range(1, 6):
            await stage.ask(stage.chat(stream=True))
            assert len(stage.upstream.seen) == number


async def test_a_client_that_leaves_gives_up_its_turn(tmp_path: Path) -> None:
    busy = Busy()
    async with staged(
        tmp_path, [Wait(busy), plain("first")], routes={"gpt": At("up")}, concurrent={"up": 1}
    ) as stage:
        before = stage.begin(stage.chat())
        await stage.asked(1)
        async with stage.connected() as client:
            await client.send(stage.chat())
            await until(lambda: stage.node.desk.waiting == 1, "it does not wait")
            client.reset()
        await until(lambda: stage.node.desk.waiting == 0, "it still waits")
        busy.set()
        assert (await before).status == 200
        assert (await stage.ask(stage.chat())).status == 200
        assert len(stage.upstream.seen) == 2


@pytest.mark.parametrize("at", range(1, 7))
async def test_it_may_be_cancelled_wherever_it_waits(
    tmp_path: Path, at: int, no_leaks: Failures
) -> None:
    """Also in the turn in which a place is granted."""
    spawning = Interrupted(99)
    async with staged(
        tmp_path,
        [Wait(Delay(0.05)), plain("first")],
        [refusing(500)],
        [plain()],
        routes={"gpt": At("up")},
        policies={"gpt": Policy(attempts_max=2, repeats_share=1.0)},
        concurrent={"up": 1},
        spawning=spawning,
        quota=limited(at_once(2), requests(100), tokens(10**6)),
    ) as stage:
        before = stage.begin(stage.chat())
        await stage.asked(1)
        async with stage.connected() as client:
            spawning.interrupt = lambda: lose_clients(stage)
            spawning.left = at
            await client.send(stage.chat(b"connection: close"))
            await client.read_all()
        await asyncio.gather(before, return_exceptions=True)
        no_leaks.seen.clear()  # it was lost as well, if that came before its end
        spawning.left = 99
        await stage.at_rest()
        assert (await stage.ask(stage.chat())).status in (200, 500)


async def test_a_stampede_never_exceeds_the_places_and_everybody_is_served(
    tmp_path: Path,
) -> None:
    most = 0

    class Counted(Delay):
        running = 0

        async def wait(self) -> Any:
            nonlocal most
            Counted.running += 1
            most = max(most, Counted.running)
            await super().wait()
            Counted.running -= 1
            return True

    async with staged(
        tmp_path,
        [Wait(Counted(0.005)), plain("first")],
        routes={"gpt": At("up")},
        concurrent={"up": 3},
    ) as stage:
        asks = [stage.begin(stage.chat()) for _ in range(40)]
        assert {(await one).status for one in asks} == {200}
        assert most == 3


async def test_a_place_says_whose_it_is(tmp_path: Path) -> None:
    async with staged(tmp_path, [plain()], concurrent={"up": 1}) as stage:
        assert "upstream/up/concurrent" in repr(stage.upstreams["up"].slots)
        async with stage.connected() as client:
            await client.send(stage.chat())
            assert (await shown(client)).status == 200
