"""How long attempts may take, by what upstream, model and caller say."""

from pathlib import Path

import pytest

from llmrouter.gateway.timeouts import HEADERS, LEAST_S
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.routing.routes import Policy
from tests.support.gateway import At, Stage, error_of, staged
from tests.support.plays import BOTH, HALF, ROLE, Delay, delta, plain, streamed
from tests.support.upstream import Play, Stall, Wait, chunk

pytestmark = pytest.mark.asyncio

SLOW_MACHINE_S = 2.0
"""By so much a busy machine may be late."""
OWN = UpstreamTimeouts(connect_s=1, first_s=2, idle_s=3, total_s=4)
FIRST, TOTAL = b"x-llmrouter-timeout-first-token", b"x-llmrouter-timeout-total"
IDLE, CONNECT = b"x-llmrouter-timeout-idle", b"x-llmrouter-timeout-connect"
BEGUN: Play = [HALF, chunk(ROLE + delta(content="some"))]

GOOD = [
    (b"0.05", 0.05),
    (b"1", 1.0),
    (b"1.5", 1.5),
    (b"  7  ", 7.0),
    (b"600", 600.0),
    (b"007", 7.0),
    (b"2.", 2.0),
    (b"599.999", 599.999),
]
BAD = [
    b"", b" ", b"0", b"0.0", b"0.04", b"-1", b"+1", b"600.1", b"1e2", b"nan", b"inf", b"1,5",
    b"1 s", b"10s", b"0x10", b"1_0", b".", b"1.2.3", b"9" * 13, b"9" * 5_000, "²".encode("latin-1"),
    "१".encode(), b"1\t2",
]  # fmt: skip


def of(stage: Stage, headers: dict[bytes, bytes]) -> UpstreamTimeouts:
    """Those of an attempt whose caller sends these headers."""
    timeouts = stage.forwarder.timeouts
    route = stage.routes.find("gpt")
    return timeouts.of(route, stage.upstreams["up"], timeouts.asked(headers, route))


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(("value", "seconds"), GOOD)
async def test_a_caller_may_ask_for_seconds(
    tmp_path: Path, header: bytes, value: bytes, seconds: float
) -> None:
    async with staged(tmp_path, [plain()], routes={"gpt": At("up")}, timeouts=OWN) as stage:
        found = of(stage, {header: value})
        member = HEADERS[header]
        assert getattr(found, member) == seconds
        others = [name for name in HEADERS.values() if name != member]
        assert [getattr(found, name) for name in others] == [getattr(OWN, name) for name in others]
        assert of(stage, {}) is of(stage, {b"x-other": b"1"})


@pytest.mark.parametrize("value", BAD)
async def test_what_is_no_time_within_bounds_is_refused_before_anything_is_sent(
    tmp_path: Path, value: bytes
) -> None:
    async with staged(tmp_path, [plain()], routes={"gpt": At("up")}, timeouts=OWN) as stage:
        response = await stage.ask(stage.chat(FIRST + b": " + value))
        error = error_of(response)
        assert (response.status, error["param"]) == (400, FIRST.decode())
        assert f"send seconds from {LEAST_S:g} to 600" in error["message"]
        assert len(error["message"]) < 200
        assert stage.upstream.seen == []


async def test_the_headers_are_for_us_alone(tmp_path: Path) -> None:
    async with staged(tmp_path, [plain()], routes={"gpt": At("up")}) as stage:
        lines = [name + b": 5" for name in HEADERS]
        assert (await stage.ask(stage.chat(*lines))).status == 200
        assert HEADERS.keys().isdisjoint(stage.upstream.seen[0].headers)


async def test_a_model_s_own_come_before_its_upstream_s_and_the_caller_s_before_both(
    tmp_path: Path,
) -> None:
    async with staged(
        tmp_path,
        [plain()],
        routes={"gpt": At("up"), "same": At("up")},
        timeouts=OWN,
        model_timeouts={"gpt": {"first_s": 20.0, "total_s": 40.0}},
    ) as stage:
        assert of(stage, {}) == UpstreamTimeouts(connect_s=1, first_s=20, idle_s=3, total_s=40)
        asked = {FIRST: b"0.5", IDLE: b"9"}
        assert of(stage, asked) == UpstreamTimeouts(connect_s=1, first_s=0.5, idle_s=9, total_s=40)
        other = stage.routes.find("same")
        assert stage.forwarder.timeouts.of(other, stage.upstreams["up"], {}) == OWN


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_token_is_waited_for_as_long_as_the_caller_asks(
    tmp_path: Path, stream: bool
) -> None:
    async with staged(tmp_path, [Stall()], routes={"gpt": At("up")}) as stage:
        began = stage.now()
        response = await stage.ask(stage.chat(FIRST + b": 0.1", stream=stream))
        assert response.status == 504
        assert 0.09 <= stage.now() - began < 0.2 + SLOW_MACHINE_S


async def test_a_caller_may_wait_longer_than_the_upstream_is_waited_for(tmp_path: Path) -> None:
    hasty = UpstreamTimeouts(connect_s=10, first_s=0.05, idle_s=10, total_s=60)
    late: Play = [Wait(Delay(0.2)), plain("first")]
    async with staged(tmp_path, late, routes={"gpt": At("up")}, timeouts=hasty) as stage:
        assert (await stage.ask(stage.chat(FIRST + b": 30"))).status == 200
        assert (await stage.ask(stage.chat())).status == 504


@pytest.mark.parametrize(
    ("line", "play"),
    [(IDLE, [*BEGUN, Stall()]), (TOTAL, [*BEGUN, *[Wait(Delay(0.02)), chunk(ROLE)] * 100])],
    ids=["idle", "total"],
)
async def test_a_stream_is_cut_when_the_caller_says(
    tmp_path: Path, line: bytes, play: Play
) -> None:
    async with staged(tmp_path, play, routes={"gpt": At("up")}) as stage:
        began = stage.now()
        response = await stage.ask(stage.chat(line + b": 0.2", stream=True))
        assert (response.status, response.whole, b"some" in response.body) == (200, False, True)
        assert b"upstream_timeout" in response.body
        assert 0.19 <= stage.now() - began < 0.3 + SLOW_MACHINE_S


@pytest.mark.parametrize("stream", [False, True])
async def test_another_deployment_has_what_is_left_of_the_caller_s_time(
    tmp_path: Path, stream: bool
) -> None:
    async with staged(
        tmp_path,
        [Stall()],
        others={"up2": [[Stall()]]},
        routes={"gpt": BOTH},
        policies={"gpt": Policy(attempts_max=3, repeats_share=1.0)},
        strategy="ordered",
    ) as stage:
        began = stage.now()
        lines = (FIRST + b": 0.2", TOTAL + b": 0.3")
        assert (await stage.ask(stage.chat(*lines, stream=stream))).status == 504
        assert 0.29 <= stage.now() - began < 0.38 + SLOW_MACHINE_S
        assert [len(script.seen) for script in stage.scripts.values()] == [1, 1]


async def test_each_upstream_says_how_much_may_be_asked_of_it(tmp_path: Path) -> None:
    """The most of all that serve the model can be asked for; each gives what it gives."""
    async with staged(
        tmp_path, [plain()], others={"up2": [[plain()]]}, routes={"gpt": BOTH, "same": At("up2")}
    ) as stage:
        stage.set_asked_max("up2", 5.0)
        timeouts, route = stage.forwarder.timeouts, stage.routes.find("gpt")
        asked = timeouts.asked({TOTAL: b"300"}, route)
        assert timeouts.of(route, stage.upstreams["up"], asked).total_s == 300
        assert timeouts.of(route, stage.upstreams["up2"], asked).total_s == 5
        response = await stage.ask(stage.chat(TOTAL + b": 300", model="same"))
        assert "from 0.05 to 5" in error_of(response)["message"]


async def test_a_time_that_is_long_enough_changes_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path, [streamed()], routes={"gpt": At("up")}) as stage:
        lines = [name + b": 60" for name in HEADERS]
        response = await stage.ask(stage.chat(*lines, stream=True))
        assert (response.status, response.whole) == (200, True)
