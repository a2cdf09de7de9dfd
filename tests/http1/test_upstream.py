import asyncio
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.downstream import WRITE_BUFFER_BYTES, ServerConnection
from llmrouter.http1.errors import ConnectionLost, HttpError, ResponseError, ResponseTimeout
from llmrouter.http1.pool import Pool
from llmrouter.http1.request import Request
from llmrouter.http1.upstream import HEAD_BYTES_MAX, STALE_S, UpstreamConnection, UpstreamTimeouts
from tests.http1.wire import reading_little
from tests.support.application import HEAD, Script, serving
from tests.support.raw import connected
from tests.support.receiver import ASK, Caller, Receiver, calling, origin_at, timeouts
from tests.support.transport import FakeLoop, FakeTransport
from tests.support.upstream import (
    LAST_CHUNK,
    Cut,
    Drip,
    Play,
    Reset,
    Stall,
    Step,
    Wait,
    answer,
    chunk,
    scripted,
    stream,
    stream_head,
)
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

YES = answer(b"yes")
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\n\r\nyes"


async def play(*steps: Step) -> Receiver:
    """What a receiver hears of this play, and nothing of it is left."""
    async with scripted(steps) as upstream:
        async with calling(origin_at(upstream.address)) as caller:
            receiver = await caller.ask()
        await until(lambda: upstream.open == 0, "a connection is left")
        return receiver


# ---- how a response is framed ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "status", "body", "framed"),
    [
        (YES, 200, b"yes", True),
        (answer(b""), 200, b"", True),
        (stream(b"y", b"e", b"s"), 200, b"yes", True),
        (stream(), 200, b"", True),
        (stream_head() + b"3;ext\r\nyes\r\n0\r\nx-trailer: 1\r\n\r\n", 200, b"yes", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b"", True),
        (answer(b"no", status=500), 500, b"no", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + YES, 200, b"yes", True),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 3 + YES, 200, b"yes", True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nyes", 200, b"yes", True),
        (answer(b"yes", headers=b"connection: upgrade\r\nupgrade: h2c\r\n"), 200, b"yes", True),
        (b"HTTP/1.1 200\r\ncontent-length: 3\r\n\r\nyes", 200, b"yes", True),
    ],
)
@pytest.mark.parametrize("drip", [False, True])
async def test_a_response_comes_out_whole_however_it_is_framed_and_cut(
    raw: bytes, status: int, body: bytes, framed: bool, drip: bool
) -> None:
    receiver = await play(Drip(raw) if drip else raw)
    assert receiver.heard[0] == "head"
    assert receiver.heard[-1] == "end"
    assert (receiver.status, receiver.body, receiver.framed) == (status, body, framed)
    assert b"link" not in receiver.headers
    assert b"x-trailer" not in receiver.headers


@pytest.mark.parametrize("drip", [False, True])
async def test_a_response_may_end_with_its_connection_and_says_so(drip: bool) -> None:
    receiver = await play(Drip(UNTIL_CLOSED) if drip else UNTIL_CLOSED, Cut())
    assert (receiver.status, receiver.body, receiver.framed) == (200, b"yes", False)


async def test_headers_have_lower_case_names_and_repeated_ones_are_joined() -> None:
    receiver = await play(answer(b"", headers=b"X-A: 1\r\nx-a: 2\r\nX-B:\r\n"))
    assert receiver.headers == {b"x-a": b"1, 2", b"x-b": b"", b"content-length": b"0"}


async def test_what_one_read_holds_is_delivered_at_once_however_many_chunks_it_is() -> None:
    receiver = await play(stream(*[b"data: x\n\n"] * 10))
    assert receiver.heard == ["head", "data", "end"]


async def test_each_event_of_a_paced_stream_is_delivered_as_it_comes() -> None:
    gates = [asyncio.Event() for _ in range(3)]
    steps: list[Step] = [stream_head()]
    for gate in gates:
        steps += [Wait(gate), chunk(b"event")]
    async with (
        scripted([*steps, LAST_CHUNK]) as upstream,
        calling(origin_at(upstream.address)) as caller,
    ):
        receiver = Receiver()
        await caller.send(receiver)
        for count, gate in enumerate(gates, 1):
            gate.set()
            await until(lambda n=count: len(receiver.pieces) == n, "not delivered")  # type: ignore[misc]
        await receiver.end()
    assert receiver.body == b"event" * 3


# ---- whether the connection is used again ----------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (YES, True),
        (stream(b"yes"), True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + YES, True),
        (answer(b"no", status=500), True),
        (answer(b"yes", headers=b"connection: close\r\n"), False),
        (answer(b"yes", headers=b"connection: x, Close\r\n"), False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nyes", False),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nyes", True),
        (YES + YES, False),
        (YES + b"H", False),
        (YES + b"<html>", False),
        (stream(b"yes") + b"0\r\n\r\n", False),
        (answer(b"yes", headers=b"connection: close\r\n") + YES, False),
    ],
)
async def test_a_connection_is_used_again_only_if_nothing_speaks_against_it(
    raw: bytes, kept: bool
) -> None:
    async with (
        scripted([raw], [answer(b"next")]) as upstream,
        calling(origin_at(upstream.address)) as caller,
    ):
        first = await caller.ask()
        assert first.heard[-1] == "end"
        second = await caller.ask()
        assert second.body == b"next"
        assert upstream.connections == (1 if kept else 2)


@pytest.mark.parametrize(("unsent_bytes", "kept"), [(0, 1), (1, 0)])
async def test_a_connection_that_answered_before_its_request_had_left_is_not_used_again(
    unsent_bytes: int, kept: int
) -> None:
    """The rest of that request would stand before the next one."""
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        clocked = Clocked(caller)
        clocked.transport.unsent_bytes = unsent_bytes
        clocked.receive(YES, at_s=101)
        assert clocked.receiver.heard[-1] == "end"
        assert len(caller.pool._idle) == kept
        assert clocked.transport.is_closing() is not bool(kept)
        clocked.connection.abandon()


async def test_a_promise_to_keep_a_connection_for_ages_ends_nothing() -> None:
    """Python refuses to read a number of so many digits."""
    promise = b"keep-alive: timeout=" + b"9" * 5000 + b"\r\n"
    receiver = await play(answer(b"yes", headers=promise), Stall())
    assert (receiver.heard[-1], receiver.body) == ("end", b"yes")


async def test_surplus_bytes_are_never_the_next_response_even_if_they_come_late() -> None:
    late = asyncio.Event()
    steps: Play = [YES, Wait(late), answer(b"smuggled")]
    async with (
        scripted(steps, [answer(b"next")]) as upstream,
        calling(origin_at(upstream.address)) as caller,
    ):
        await caller.ask()
        late.set()
        await until(lambda: len(caller.deadlines) == 0, "it is kept")
        assert (await caller.ask()).body == b"next"


# ---- responses that do not end well ----------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nye",
        stream_head(),
        stream_head() + b"3\r\nye",
        stream_head() + b"3\r\nyes\r\n",
        stream_head() + b"3\r\nyes\r\n0\r\n",
    ],
)
@pytest.mark.parametrize("how", [Cut(), Reset()], ids=["cut", "reset"])
async def test_a_response_that_is_cut_short_is_lost(raw: bytes, how: Cut | Reset) -> None:
    receiver = await play(raw, how)
    assert isinstance(receiver.error, ConnectionLost)
    assert not receiver.error.stale
    assert ("before an answer" in str(receiver.error)) is (not receiver.status)


async def test_a_response_that_only_a_close_may_end_is_lost_in_a_reset() -> None:
    went_on = asyncio.Event()
    async with (
        scripted([UNTIL_CLOSED, Wait(went_on), Reset()]) as upstream,
        calling(origin_at(upstream.address)) as caller,
    ):
        receiver = Receiver()
        await caller.send(receiver)
        await until(lambda: receiver.body == b"yes", "not delivered")
        went_on.set()
        await receiver.end()
    assert receiver.heard[-1] == "lost"


async def test_every_place_to_cut_a_stream_is_noticed() -> None:
    raw = stream(b"data: a\n\n", b"data: [DONE]\n\n")
    plays: list[Play] = [[raw[:at], Cut()] for at in range(len(raw))]
    async with scripted(*plays) as upstream, calling(origin_at(upstream.address)) as caller:
        for _ in plays:
            receiver = await caller.ask()
            assert receiver.heard[-1] == "lost"


@pytest.mark.parametrize(
    "raw",
    [
        b"220 mail.example.com ESMTP\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nyes",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\nx: a\n\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n\x00",
        stream_head() + b"x\r\n",
        stream_head() + b"3\r\nyess\r\n",
    ],
)
async def test_what_is_not_http_is_a_response_error(raw: bytes) -> None:
    receiver = await play(raw, Stall())
    assert isinstance(receiver.error, ResponseError)
    assert "end" not in receiver.heard


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 2 * HEAD_BYTES_MAX,
        b"HTTP/1.1 200 " + b"a" * 2 * HEAD_BYTES_MAX,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 20_000,
    ],
    ids=["a header", "a reason", "interim ones", "many headers"],
)
async def test_a_head_without_end_is_a_response_error(raw: bytes) -> None:
    receiver = await play(*(raw[at : at + 8192] for at in range(0, len(raw), 8192)), Stall())
    assert isinstance(receiver.error, ResponseError)
    assert receiver.heard == ["lost"]


@pytest.mark.parametrize(
    "raw",
    [
        stream_head() + b"0\r\nx: " + b"a" * 3 * HEAD_BYTES_MAX,
        stream_head() + b"3;" + b"a" * 3 * HEAD_BYTES_MAX,
    ],
    ids=["a trailer", "a chunk extension"],
)
async def test_framing_without_end_is_a_response_error(raw: bytes) -> None:
    receiver = await play(*(raw[at : at + 8192] for at in range(0, len(raw), 8192)), Stall())
    assert isinstance(receiver.error, ResponseError)


# ---- stale connections -----------------------------------------------------------------------


async def lost_on_reuse(*steps: Step) -> HttpError | None:
    """How a second request over the same connection is lost."""
    async with (
        scripted([YES], steps) as upstream,
        calling(origin_at(upstream.address)) as caller,
    ):
        await caller.ask()
        receiver = await caller.ask()
        assert upstream.connections == 1
        return receiver.error


@pytest.mark.parametrize("how", [Cut(), Reset()], ids=["cut", "reset"])
async def test_a_reused_connection_lost_before_a_byte_came_back_is_stale(how: Cut | Reset) -> None:
    error = await lost_on_reuse(how)
    assert isinstance(error, ConnectionLost)
    assert error.stale


@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", YES[:-1]])
async def test_a_reused_connection_lost_after_a_byte_came_back_is_not(first: bytes) -> None:
    error = await lost_on_reuse(first, Cut())
    assert isinstance(error, ConnectionLost)
    assert not error.stale


@pytest.mark.parametrize(("after_s", "stale"), [(STALE_S, True), (STALE_S + 0.1, False)])
async def test_a_reused_connection_lost_late_is_not_stale(after_s: float, stale: bool) -> None:
    """The upstream has most likely read the request, and acted on it."""
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        clocked = Clocked(caller)
        clocked.receive(YES, at_s=101)
        again = Receiver()
        clocked.connection.expect(again, timeouts())
        clocked.loop.now_s += after_s
        clocked.connection.connection_lost(None)
        assert isinstance(again.error, ConnectionLost)
        assert again.error.stale is stale


async def test_a_request_on_a_connection_already_lost_hears_so_and_sends_nothing() -> None:
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        connection = await caller.connection()
        receiver = Receiver()
        connection.expect(receiver, timeouts())
        connection.close()
        await receiver.end()
        connection.send(ASK)
        assert receiver.heard == ["lost"]
        assert repr(connection).endswith("CLOSED served=0>")


async def test_a_long_stream_in_single_bytes_is_not_taken_for_framing_without_end() -> None:
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        clocked = Clocked(caller)
        clocked.receive(stream_head(), at_s=101)
        for _ in range(HEAD_BYTES_MAX // 3):
            for piece in (b"1", b"\r\n", b"x", b"\r\n"):
                clocked.receive(piece, at_s=101)
        clocked.receive(LAST_CHUNK, at_s=102)
        assert clocked.receiver.heard[-1] == "end"


CHUNK_LIKE = b"5\r\nhello\r\n"
"""A body that would be one chunk of another."""


@pytest.mark.parametrize(
    ("reads", "heard", "body"),
    [
        ([chunk(b"a"), chunk(b"b")], [], b""),
        ([LAST_CHUNK, answer(CHUNK_LIKE)], ["head", "data", "end"], CHUNK_LIKE),
        (
            [LAST_CHUNK, answer(CHUNK_LIKE).removesuffix(CHUNK_LIKE), CHUNK_LIKE],
            ["head", "data", "end"],
            CHUNK_LIKE,
        ),
        ([LAST_CHUNK, answer(b"")[:-2], b"\r\n"], ["head", "end"], b""),
    ],
)
async def test_a_body_behind_a_status_that_is_none_is_never_heard(
    reads: list[bytes], heard: list[str], body: bytes
) -> None:
    """The parser reads one behind a status below 100, and then waits for the head of another."""
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        clocked = Clocked(caller)
        clocked.receive(b"HTTP/1.1 099 X\r\ntransfer-encoding: chunked\r\n\r\n", at_s=101)
        for read in reads:
            clocked.receive(read, at_s=101)
        assert clocked.receiver.heard == heard
        assert clocked.receiver.body == body


_chunks = st.binary(min_size=1, max_size=300).map(chunk) | st.sampled_from(
    [
        chunk(b"7\r\n7\r\n7"),
        b"3;x=y\r\nyes\r\n",
        b"0A\r\n0123456789\r\n",
        chunk(b"x" * 5000),
        LAST_CHUNK,
        b"0\r\nx: 1\r\n\r\n",
        b"0\r\nx: 3\r\n3\r\nyes\r\n\r\n",
        b"5\r\nlies\r\n",
        b"4\r\nlies!\r\n",
        b"3\r\nyes",
        b"\r\n",
        b"5",
    ]
)


@given(st.lists(_chunks, max_size=8), st.data())
async def test_what_comes_is_the_same_however_it_is_cut_into_reads(
    parts: list[bytes], data: st.DataObject
) -> None:
    """In one read the parser sees all of it; a chunk in a read of its own may pass it by."""
    body = b"".join(parts)
    ends = set(itertools.accumulate(map(len, parts)))
    cuts = data.draw(st.sets(st.sampled_from(sorted(ends | {0})) | st.integers(0, len(body))))
    reads = [body[start:end] for start, end in itertools.pairwise(sorted(cuts | {0, len(body)}))]

    def heard(*reads: bytes) -> tuple[bytes, bool, bool]:
        loop = FakeLoop(now_s=100.0)
        pool = Pool(origin_at(("127.0.0.1", 9)), Deadlines(loop, 1.0))
        connection = UpstreamConnection(pool, loop)
        connection.connection_made(FakeTransport())
        receiver = Receiver()
        connection.expect(receiver, timeouts())
        for read in reads:
            connection.data_received(read)
            if receiver.ended.is_set():
                break
        return receiver.body, "end" in receiver.heard, "lost" in receiver.heard

    whole = heard(stream_head() + body)
    assert heard(stream_head(), *reads)[1:] == whole[1:]
    if not whole[2]:  # of what is lost, more or less has come before
        assert heard(stream_head(), *reads) == whole


# ---- time-outs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "limits"),
    [
        ([Stall()], timeouts(first_s=0.1)),
        ([stream_head(), Stall()], timeouts(first_s=0.1)),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", Stall()], timeouts(first_s=0.1)),
        ([stream_head(), chunk(b"x"), Stall()], timeouts(idle_s=0.1)),
        ([stream_head(), Stall()], timeouts(total_s=0.1)),
        ([stream_head(), chunk(b"x"), Stall()], timeouts(total_s=0.1)),
    ],
    ids=["no head", "no body", "interim", "silent", "total before", "total within"],
)
async def test_a_silent_upstream_times_out_and_is_reset(
    steps: Play, limits: UpstreamTimeouts
) -> None:
    async with scripted(steps) as upstream, calling(origin_at(upstream.address)) as caller:
        receiver = await caller.ask(limits)
        assert isinstance(receiver.error, ResponseTimeout)
        await until(lambda: upstream.resets == 1, "it was not told")


class Clocked:
    """A connection on a fake transport and a fake clock."""

    def __init__(self, caller: Caller, **limits: float) -> None:
        self.loop = FakeLoop(now_s=100.0)
        self.connection = UpstreamConnection(caller.pool, self.loop)
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)
        self.receiver = Receiver()
        self.connection.expect(self.receiver, timeouts(**limits))
        self.connection.send(ASK)

    def receive(self, data: bytes, *, at_s: float) -> float:
        """Let bytes come at this time; returns by when more must."""
        self.loop.now_s = at_s
        self.connection.data_received(data)
        return self.connection.deadline

    def begin(self, *, at_s: float) -> None:
        """The receiver says that the answer itself has begun."""
        self.loop.now_s = at_s
        self.connection.begun()


async def test_a_pause_before_the_begin_gives_no_more_time_for_it() -> None:
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        clocked = Clocked(caller, first_s=10, idle_s=5, total_s=100)
        clocked.receive(stream_head() + chunk(b"a ping"), at_s=101)
        clocked.connection.pause()
        clocked.loop.now_s = 105.0
        clocked.connection.resume()
        assert clocked.connection.deadline == 110


async def test_the_deadline_is_the_begin_then_the_latest_byte_and_never_past_the_total() -> None:
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        clocked = Clocked(caller, first_s=10, idle_s=5, total_s=20)
        assert clocked.connection.deadline == 110
        assert clocked.receive(stream_head(), at_s=106) == 110
        assert clocked.receive(chunk(b"a ping"), at_s=107) == 110
        clocked.begin(at_s=109)
        assert clocked.connection.deadline == 114
        assert clocked.receive(b"1\r\n", at_s=110) == 114
        assert clocked.receive(b"x\r\n", at_s=113) == 118
        assert clocked.receive(chunk(b"x"), at_s=117) == 120
        assert clocked.receive(chunk(b"x"), at_s=119) == 120


async def test_a_pause_stops_the_idle_clock_but_not_the_total() -> None:
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        clocked = Clocked(caller, first_s=10, idle_s=5, total_s=100)
        clocked.receive(stream_head() + chunk(b"x"), at_s=101)
        clocked.begin(at_s=101)
        clocked.connection.pause()
        clocked.connection.pause()
        assert not clocked.transport.is_reading()
        assert clocked.connection.deadline == 200
        assert clocked.receive(chunk(b"in flight"), at_s=102) == 200
        clocked.loop.now_s = 150.0
        clocked.connection.resume()
        clocked.connection.resume()
        assert clocked.transport.is_reading()
        assert clocked.connection.deadline == 155
        clocked.receive(LAST_CHUNK, at_s=151)
        assert clocked.receiver.heard[-1] == "end"


async def test_a_response_that_ends_while_paused_leaves_a_connection_that_reads() -> None:
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        clocked = Clocked(caller)
        clocked.receive(stream_head() + chunk(b"x"), at_s=101)
        clocked.connection.pause()
        clocked.receive(LAST_CHUNK, at_s=102)
        assert clocked.receiver.heard[-1] == "end"
        assert clocked.transport.is_reading()
        clocked.connection.pause()
        assert clocked.transport.is_reading()
        assert caller.pool.take() is clocked.connection


async def test_a_pause_over_a_real_connection_outlasts_the_idle_time_out() -> None:
    more = asyncio.Event()
    steps: Play = [stream_head(), chunk(b"a"), Wait(more), chunk(b"b"), LAST_CHUNK]
    async with scripted(steps) as upstream, calling(origin_at(upstream.address)) as caller:
        receiver = Receiver()
        connection = await caller.connection()
        receiver.on["data"] = connection.pause
        connection.expect(receiver, timeouts(idle_s=0.1))
        connection.send(ASK)
        await until(lambda: receiver.body == b"a", "nothing came")
        await asyncio.sleep(0.3)
        assert not receiver.ended.is_set()
        receiver.on.clear()
        more.set()
        connection.resume()
        await receiver.end()
        assert (receiver.heard[-1], receiver.body) == ("end", b"ab")


# ---- receivers that do not stay --------------------------------------------------------------


@pytest.mark.parametrize("where", ["head", "data"])
@pytest.mark.parametrize(
    "steps", [[stream(b"a", b"b")], [stream_head(), chunk(b"a"), chunk(b"b"), Stall()]]
)
async def test_a_receiver_that_abandons_within_a_call_hears_nothing_more(
    where: str, steps: Play
) -> None:
    async with scripted(steps, [YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        receiver = Receiver()
        connection = await caller.connection()
        receiver.on[where] = connection.abandon
        connection.expect(receiver, timeouts())
        connection.send(ASK)
        await until(lambda: where in receiver.heard, "nothing came")
        assert receiver.heard == ["head", "data"][: 1 if where == "head" else 2]
        assert (await caller.ask()).body == b"yes"
        assert upstream.connections == 2
        assert receiver.heard == ["head", "data"][: 1 if where == "head" else 2]


@pytest.mark.parametrize(("steps", "where"), [([YES], "end"), ([b"x", Stall()], "lost")])
async def test_a_receiver_that_abandons_at_the_end_does_no_harm(steps: Play, where: str) -> None:
    async with scripted(steps, [YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        receiver = Receiver()
        connection = await caller.connection()
        receiver.on[where] = connection.abandon
        connection.expect(receiver, timeouts())
        connection.send(ASK)
        await receiver.end()
        assert (await caller.ask()).body == b"yes"


@pytest.mark.parametrize("begun", [(), (stream_head(), chunk(b"x"))], ids=["before", "within"])
async def test_an_upstream_whose_answer_is_abandoned_sees_a_reset(begun: tuple[bytes, ...]) -> None:
    async with (
        scripted([*begun, Stall()]) as upstream,
        calling(origin_at(upstream.address)) as caller,
    ):
        receiver = Receiver()
        connection = await caller.send(receiver)
        await until(lambda: len(upstream.seen) == 1, "not asked")
        await until(lambda: bool(receiver.pieces) is bool(begun), "not answered")
        assert connection.serves(receiver)
        connection.abandon()
        assert not connection.serves(receiver)
        await until(lambda: upstream.resets == 1, "it saw no reset")
        assert len(caller.deadlines) == 0


async def test_the_next_request_may_be_sent_as_the_last_response_ends() -> None:
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        second = Receiver()

        def again() -> None:
            connection = caller.pool.take()
            assert connection is not None
            connection.expect(second, timeouts())
            connection.send(ASK)

        first = Receiver()
        first.on["end"] = again
        await caller.send(first)
        await second.end()
        assert upstream.connections == 1


async def test_the_rest_of_a_response_may_be_handed_over() -> None:
    rest = asyncio.Event()
    steps: Play = [stream_head(), chunk(b"a"), Wait(rest), chunk(b"b"), LAST_CHUNK]
    async with scripted(steps) as upstream, calling(origin_at(upstream.address)) as caller:
        first, second = Receiver(), Receiver()
        connection = await caller.send(first)
        await until(lambda: first.body == b"a", "nothing came")
        connection.hand_over(second)
        rest.set()
        await second.end()
        assert (first.heard, second.heard) == (["head", "data"], ["data", "end"])


async def test_a_response_may_be_handed_over_at_its_head() -> None:
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        first, second = Receiver(), Receiver()
        connection = await caller.connection()
        first.on["head"] = lambda: connection.hand_over(second)
        connection.expect(first, timeouts())
        connection.send(ASK)
        await second.end()
        assert (first.heard, second.heard) == (["head"], ["data", "end"])


async def test_the_repr_shows_the_state() -> None:
    gate = asyncio.Event()
    async with scripted([Wait(gate), YES]) as upstream:
        async with calling(origin_at(upstream.address)) as caller:
            receiver = Receiver()
            connection = await caller.send(receiver)
            where = f"<UpstreamConnection {caller.pool.origin!r}"
            assert repr(connection) == f"{where} BUSY served=0>"
            gate.set()
            await receiver.end()
            assert repr(connection) == f"{where} IDLE served=1>"
        await until(lambda: repr(connection) == f"{where} CLOSED served=1>", "not closed")


# ---- both sides together ---------------------------------------------------------------------


class Relay(Receiver):
    """Passes a response on to a downstream connection, in the shortest way there is."""

    def __init__(self, connection: ServerConnection, pool: Pool) -> None:
        super().__init__()
        self.connection = connection
        self.pool = pool
        self.asked: UpstreamConnection | None = None
        self.pauses: list[bool] = []
        self.largest_bytes = 0

    async def __call__(self) -> None:
        try:
            self.asked = self.pool.take() or await self.pool.fresh(60.0)
            self.asked.expect(self, timeouts())
            self.asked.send(ASK)
            self.connection.on_writable(self._flow)
            await self.ended.wait()
        finally:
            if self.asked is not None and self.asked.serves(self):
                self.asked.abandon()
        if self.error is not None:
            self.connection.cut() if self.status else self.connection.respond(HEAD, b"lost")
        else:
            self.connection.finish()

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        super().response_head(status, headers)
        self.connection.begin(HEAD)

    def response_data(self, data: bytes) -> None:
        super().response_data(data)
        self.connection.send(data)
        if (transport := self.connection._transport) is not None:
            self.largest_bytes = max(self.largest_bytes, transport.get_write_buffer_size())

    def _flow(self, writable: bool) -> None:
        assert self.asked is not None
        self.pauses.append(not writable)
        if writable:
            self.asked.resume()
        elif self.asked.serves(self):
            self.asked.pause()


class Relaying:
    """An application that relays every request to one pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.relays: list[Relay] = []

    async def __call__(self, connection: ServerConnection, _request: Request) -> None:
        relay = Relay(connection, self.pool)
        self.relays.append(relay)
        await relay()


GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
READ_BYTES = 256 * 1024
"""What uvloop reads at a time."""


async def test_a_slow_client_slows_the_upstream_and_little_is_held() -> None:
    piece, count = b"x" * 50_000, 200
    steps: Play = [stream_head(), *[chunk(piece)] * count, LAST_CHUNK]
    async with scripted(steps) as upstream, calling(origin_at(upstream.address)) as caller:
        relaying = Relaying(caller.pool)
        async with reading_little(relaying) as (_, client):
            await client.send(GET)
            await until(lambda: bool(relaying.relays and relaying.relays[0].pauses), "never paused")
            relay = relaying.relays[0]
            for _ in range(100):
                await asyncio.sleep(0)
            received = len(relay.body)
            assert received < len(piece) * count / 2
            response = await client.response()
            assert (response.body, response.whole) == (piece * count, True)
            assert relay.largest_bytes <= WRITE_BUFFER_BYTES + READ_BYTES + 1000
            assert {True, False} <= set(relay.pauses)
        assert upstream.connections == 1


async def test_an_upstream_that_is_cut_cuts_the_client_and_never_looks_whole() -> None:
    steps: Play = [stream_head(), chunk(b"data: a\n\n"), Cut()]
    async with (
        scripted(steps) as upstream,
        calling(origin_at(upstream.address)) as caller,
        serving(Script(Relaying(caller.pool))) as running,
        connected(running.address) as client,
    ):
        await client.send(GET)
        response = await client.response()
        assert (response.body, response.whole) == (b"data: a\n\n", False)


Steps = list[tuple[str, Play, Callable[[Relay], bool]]]
PLACES: Steps = [
    ("waiting for the head", [Stall()], lambda relay: relay.asked is not None),
    ("waiting for the body", [stream_head(), Stall()], lambda relay: relay.status == 200),
    (
        "within the stream",
        [stream_head(), chunk(b"x"), Stall()],
        lambda relay: relay.body == b"x",
    ),
]


@pytest.mark.parametrize(("steps", "reached"), [p[1:] for p in PLACES], ids=[p[0] for p in PLACES])
async def test_a_client_that_leaves_takes_its_upstream_request_with_it(
    steps: Play, reached: Callable[[Relay], bool]
) -> None:
    async with scripted(steps) as upstream, calling(origin_at(upstream.address)) as caller:
        relaying = Relaying(caller.pool)
        async with serving(Script(relaying)) as running, connected(running.address) as client:
            await client.send(GET)
            await until(lambda: len(upstream.seen) == 1, "not asked")
            await until(lambda: reached(relaying.relays[0]), "not reached")
            client.reset()
            await until(lambda: upstream.resets == 1, "the upstream was not told")
            await until(lambda: not running.server.connections, "a connection is left")
            assert len(caller.deadlines) == 0
            assert len(running.script.cancelled) == 1
