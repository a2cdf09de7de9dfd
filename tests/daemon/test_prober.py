"""Active probes, of upstreams that play a script."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.daemon import prober
from llmrouter.daemon.prober import Prober, ProbeTerms, Streak, probe
from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.origin import Origin
from llmrouter.http1.pool import Pool
from llmrouter.tasks import spawn
from tests.support.certificates import Authority
from tests.support.upstream import (
    Cut,
    Drip,
    Play,
    Reset,
    ScriptedUpstream,
    Stall,
    answer,
    scripted,
    stream,
)
from tests.support.waiting import PATIENCE_S, until

SECRET = b"sk-upstream-abcDEF123456"  # made up
YES = answer(b'{"data":[]}')
NO = answer(b"broken", status=500)


def terms(
    origin: Origin, *, every_s: float = 0.02, timeout_s: float = PATIENCE_S, failures: int = 2
) -> ProbeTerms:
    return ProbeTerms(
        upstream="up",
        origin=origin,
        path=b"/models",
        headers=b"host: up.example\r\nauthorization: Bearer %b\r\n" % SECRET,
        every_s=every_s,
        timeout_s=timeout_s,
        failures=failures,
    )


def origin_of(upstream: ScriptedUpstream) -> Origin:
    return Origin.from_url(f"{upstream.url}/v1")


async def asked(origin: Origin, *, timeout_s: float = PATIENCE_S) -> str | None:
    """What one probe finds."""
    deadlines = Deadlines(asyncio.get_running_loop(), 1.0)
    pool = Pool(origin, deadlines)
    try:
        return await probe(pool, terms(origin, timeout_s=timeout_s))
    finally:
        pool.close()
        deadlines.close()


# ---- one probe ------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("play", "reason"),
    [
        ([YES], None),
        ([answer(b"", status=204)], None),
        ([stream(b"a", b"b")], None),
        ([b"HTTP/1.1 103 Early\r\n\r\n", YES], None),
        ([b"HTTP/1.1 200 OK\r\n\r\nuntil the end", Cut()], None),
        ([Drip(YES)], None),
        ([NO], "it answered 500"),
        ([answer(b"", status=401)], "it answered 401"),
        ([answer(b"", status=302, headers=b"location: /\r\n")], "it answered 302"),
        ([Cut()], "the connection was closed before an answer"),
        ([Reset()], "the connection was reset before an answer"),
        ([YES[:-1], Cut()], "the connection was closed during the answer"),
        ([b"220 mail.example\r\n"], "the response is not HTTP/1.1: "),
    ],
)
async def test_a_probe_succeeds_with_a_whole_answer_of_2xx_alone(
    play: Play, reason: str | None
) -> None:
    async with scripted(play) as upstream:
        found = await asked(origin_of(upstream))
        await until(lambda: upstream.open == 0, "a connection is left")

    assert found == reason or (found is not None and reason and found.startswith(reason))


@pytest.mark.asyncio
async def test_it_asks_as_a_call_would_and_shows_nobody_the_credential() -> None:
    async with scripted([answer(b"no " + SECRET, status=403)]) as upstream:
        found = await asked(origin_of(upstream))

    (seen,) = upstream.seen
    assert (seen.method, seen.target) == (b"GET", b"/v1/models")
    assert seen.headers[b"host"] == b"up.example"
    assert seen.headers[b"authorization"] == b"Bearer " + SECRET
    assert seen.headers[b"connection"] == b"close"
    assert found == "it answered 403"
    assert SECRET.decode() not in repr(terms(origin_of(upstream)))


@pytest.mark.asyncio
@pytest.mark.parametrize("play", [[Stall()], [YES[:20], Stall()], [YES[:-1], Stall()]])
async def test_an_upstream_that_does_not_answer_in_time_fails_in_time(play: Play) -> None:
    loop = asyncio.get_running_loop()
    async with scripted(play) as upstream:
        began_s = loop.time()
        assert await asked(origin_of(upstream), timeout_s=0.1) == "no answer within 0.1 s"
        assert 0.09 < loop.time() - began_s < 2.0
        await until(lambda: upstream.open == 0, "a connection is left")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body_bytes", "reason"),
    [
        (prober.BODY_BYTES_MAX, None),
        (prober.BODY_BYTES_MAX + 1, "its answer is longer than 1048576 bytes"),
    ],
)
async def test_an_answer_is_read_so_far_and_no_further(body_bytes: int, reason: str | None) -> None:
    play: Play = [answer(bytes(body_bytes))] + ([] if reason is None else [Stall()])
    async with scripted(play) as upstream:
        assert await asked(origin_of(upstream)) == reason
        await until(lambda: upstream.open == 0, "a connection is left")


@pytest.mark.asyncio
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "host..invalid"])
async def test_nobody_there_is_a_reason_in_words(host: str) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    origin = Origin(host=host, port=port, host_header=b"a", path_prefix=b"")

    found = await asked(origin)

    assert found
    assert "Error" not in found


@pytest.mark.asyncio
async def test_over_tls_the_certificate_is_verified(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ours, other = (Authority(tmp_path_factory.mktemp("authority")) for _ in range(2))
    async with scripted([YES], tls=ours.server_context("localhost")) as upstream:
        origin = msgspec.structs.replace(
            Origin.from_url(f"http://localhost:{upstream.address[1]}"), tls=ours.client_context()
        )
        assert await asked(origin) is None
        stranger = msgspec.structs.replace(origin, tls=other.client_context())
        assert "certificate" in (await asked(stranger) or "")


# ---- what is made of them -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "probes", "turns"),
    [
        (1, "ynnyy", ".!.!."),
        (2, "nyny", "...."),
        (2, "nnnyn", ".!.!."),
        (3, "nnynnnynnn", ".....!!..!"),
    ],
)
def test_so_many_failures_in_a_row_take_it_down_and_one_success_brings_it_back(
    failures: int, probes: str, turns: str
) -> None:
    streak = Streak(failures)

    seen = "".join(".!"[streak.turns(succeeded=probe == "y")] for probe in probes)

    assert seen == turns


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=60))
def test_it_is_down_while_the_last_probes_all_failed_and_at_no_other_time(
    failures: int, probes: list[bool]
) -> None:
    streak, down = Streak(failures), False
    for count, succeeded in enumerate(probes, 1):
        down ^= streak.turns(succeeded=succeeded)
        assert down is (count >= failures and not any(probes[count - failures : count]))


# ---- all of them ----------------------------------------------------------------------------


class Told:
    """What was said of upstreams."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str | None]] = []

    def __call__(self, upstream: str, failure: str | None) -> None:
        self.said.append((upstream, failure))


@contextlib.asynccontextmanager
async def probing(*each: ProbeTerms) -> AsyncIterator[Told]:
    told = Told()
    running = spawn(Prober(each, told).run(), name="probes")
    try:
        yield told
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()


@pytest.mark.asyncio
async def test_a_change_is_told_once_and_probing_goes_on() -> None:
    plays: list[Play] = [[YES], [NO], [NO], [NO], [YES], [NO], [YES]]
    async with scripted(*plays) as upstream, probing(terms(origin_of(upstream))) as told:
        await until(lambda: len(upstream.seen) > 8, "it is not probed")

        assert told.said == [("up", "it answered 500"), ("up", None)]
        assert upstream.connections == len(upstream.seen), "each is a connection of its own"


@pytest.mark.asyncio
async def test_one_upstream_that_hangs_holds_up_no_other() -> None:
    async with scripted([Stall()]) as silent, scripted([NO]) as broken:
        hanging = msgspec.structs.replace(terms(origin_of(silent)), upstream="silent")
        async with probing(hanging, terms(origin_of(broken))) as told:
            await until(lambda: bool(told.said) and bool(silent.seen), "it is held up")
            await until(lambda: len(broken.seen) > 5, "it is not probed any more")

            assert told.said == [("up", "it answered 500")]
            assert silent.connections == 1, "one at a time"
        await until(lambda: silent.open == 0, "a connection is left")


@pytest.mark.asyncio
async def test_without_probes_it_ends_and_leaves_nothing() -> None:
    async with asyncio.timeout(PATIENCE_S):
        await Prober([], Told()).run()
    assert repr(Prober([], Told())) == "<Prober []>"
