import asyncio
from pathlib import Path

import pytest

from llmrouter.errors import UpstreamError
from llmrouter.gateway.reply import OPENING_BYTES_MAX, PLAIN_BYTES_MAX, Reply
from llmrouter.http1.errors import ConnectionLost, HttpError
from llmrouter.http1.upstream import UpstreamTimeouts
from tests.support.gateway import PATIENT, Reached, shown, staged
from tests.support.idle import nothing_upstream
from tests.support.transport import FakeTransport
from tests.support.upstream import Play, Stall, Wait, answer, stream

pytestmark = pytest.mark.asyncio

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 30\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 30\r\n\r\n"
LOST = ConnectionLost("lost", stale=False)


def shows_nothing(_: bytes) -> bool:
    return False


def opens(events: bytes) -> bool:
    if b"wrong" in events:
        raise UpstreamError("wrong")
    return b"text" in events


class Wire:
    """A reply over a connection whose transport the test holds."""

    def __init__(self, limits: UpstreamTimeouts = PATIENT) -> None:
        loop = asyncio.get_running_loop()
        self.transport = FakeTransport()
        self.connection = nothing_upstream()
        self.connection.connection_made(self.transport)
        self.reply = Reply(loop, self.connection, opens, shows_nothing)
        self.connection.expect(self.reply, limits)

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)

    async def has_arrived(self) -> bool:
        """Whether whoever waits for it is woken."""
        for _ in range(3):
            await asyncio.sleep(0)
        return self.reply._waiter.done()


class Receiver:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        raise AssertionError("a response has one head")

    def response_data(self, data: bytes) -> None:
        self.heard.append(data)

    def response_end(self, *, framed: bool) -> None:
        self.heard.append(framed)

    def response_lost(self, error: HttpError) -> None:
        self.heard.append(type(error))


@pytest.mark.parametrize(
    ("pieces", "arrives"),
    [
        ((), False),
        ((SSE,), False),
        ((SSE, b"text"), False),
        ((SSE + b"text\n\n",), True),
        ((SSE, b"te", b"xt\n", b"\n"), True),
        ((SSE, b": ping\n\n", b"role\n\n"), False),
        ((SSE, b"role\n\n", b"text\n\n"), True),
        ((SSE, b"wrong\n\n"), True),
        ((JSON, b"{"), False),
        ((JSON, b"{" + b" " * 28), False),
        ((JSON, b"{" + b" " * 28, b"}"), True),
        ((SSE.replace(b"200 OK", b"500 No"), b"{"), False),
        ((b"not http",), True),
    ],
)
async def test_whoever_waits_is_woken_when_there_is_enough(
    pieces: tuple[bytes, ...], arrives: bool
) -> None:
    wire = Wire()
    wire.feed(*pieces)
    assert await wire.has_arrived() is arrives


async def test_a_plain_answer_wakes_once_it_is_too_long_to_be_held() -> None:
    wire = Wire()
    length = b"%d" % (PLAIN_BYTES_MAX + 100)
    wire.feed(JSON.replace(b"30", length), b" " * PLAIN_BYTES_MAX)
    assert not await wire.has_arrived()
    wire.feed(b" ")
    assert await wire.has_arrived()
    assert not wire.reply.complete


async def test_what_came_and_what_comes_goes_to_whoever_takes_over() -> None:
    wire, receiver = Wire(), Receiver()
    wire.feed(SSE, b"0123456789")
    wire.reply.hand_over(receiver)
    wire.feed(b"0123456789", b"0123456789")
    assert receiver.heard == [b"0123456789"] * 3 + [True]


async def test_a_reply_that_ended_before_it_was_taken_over_ends_then() -> None:
    wire, receiver = Wire(), Receiver()
    wire.feed(SSE + b"012345678901234567890123456789")
    assert receiver.heard == []
    wire.reply.hand_over(receiver)
    assert receiver.heard == [b"012345678901234567890123456789", True]


async def test_a_reply_that_was_lost_before_it_was_taken_over_is_lost_then() -> None:
    wire, receiver = Wire(), Receiver()
    wire.feed(SSE, b"text\n\n")
    wire.connection.connection_lost(None)
    assert not wire.reply.is_lost()
    wire.reply.hand_over(receiver)
    assert receiver.heard == [b"text\n\n", ConnectionLost]


async def test_a_stream_that_begins_with_nonsense_is_lost_and_its_connection_reset() -> None:
    wire = Wire()
    wire.feed(SSE, b"role\n\n", b"wrong\n\n")
    assert wire.reply.is_lost()
    assert isinstance(wire.reply.error, UpstreamError)
    assert wire.transport.aborted


async def test_a_stream_that_never_comes_to_its_answer_is_held_back_within_bounds() -> None:
    wire = Wire()
    ping = b": ping\n\n"
    wire.feed(SSE.replace(b"30", b"999999999"))
    wire.feed(ping * (OPENING_BYTES_MAX // len(ping)))
    assert not await wire.has_arrived()
    wire.feed(ping)
    assert await wire.has_arrived()
    assert not wire.reply.is_lost()


async def test_pings_do_not_put_off_the_time_of_the_first_token() -> None:
    wire = Wire(UpstreamTimeouts(connect_s=1, first_s=30, idle_s=5, total_s=60))
    before = wire.connection.deadline
    wire.feed(SSE.replace(b"30", b"99"), b": ping\n\n", b"role\n\n")
    assert wire.connection.deadline == before
    wire.feed(b"text\n\n")
    assert wire.connection.deadline < before


@pytest.mark.parametrize("pieces", [(), (SSE,), (JSON, b"{"), (SSE, b"role\n\n")])
async def test_it_is_lost_where_nothing_can_be_passed_on(pieces: tuple[bytes, ...]) -> None:
    wire = Wire()
    wire.feed(*pieces)
    wire.connection.connection_lost(None)
    assert wire.reply.is_lost()
    assert await wire.has_arrived()


async def test_closing_resets_an_answer_that_still_runs_and_no_other() -> None:
    wire = Wire()
    wire.feed(SSE, b"01234")
    wire.reply.close()
    assert wire.transport.aborted
    done = Wire()
    done.feed(SSE, b"012345678901234567890123456789")
    done.reply.close()
    done.reply.pause(paused=True)
    assert not done.transport.aborted
    assert done.transport.is_reading()


async def test_pausing_stops_the_reading_once() -> None:
    wire = Wire()
    wire.feed(SSE, b"01234")
    wire.reply.pause(paused=True)
    wire.reply.pause(paused=True)
    assert not wire.transport.is_reading()
    wire.reply.pause(paused=False)
    wire.reply.pause(paused=False)
    assert wire.transport.is_reading()


async def test_a_connection_that_serves_another_call_is_left_alone() -> None:
    """The pool may have lent it anew while somebody still holds the old reply."""
    wire = Wire()
    wire.feed(JSON, b"012345678901234567890123456789")
    other = Reply(asyncio.get_running_loop(), wire.connection, opens, shows_nothing)
    wire.connection.expect(other, PATIENT)
    wire.reply.close()
    wire.reply.pause(paused=True)
    wire.reply.hand_over(Receiver())
    assert not wire.transport.aborted
    assert wire.transport.is_reading()
    assert wire.connection.serves(other)


async def test_what_fails_before_it_is_sent_is_lost() -> None:
    wire = Wire()
    error = OSError("disk full")
    wire.reply.fail(error)
    wire.reply.fail(LOST)
    assert await wire.has_arrived()
    assert wire.reply.is_lost()


@pytest.mark.parametrize(
    ("pieces", "shown_as"),
    [
        ((), "<Reply 0 partial bytes=0>"),
        ((SSE, b"01234"), "<Reply 200 partial bytes=5>"),
        ((JSON, b"012345678901234567890123456789"), "<Reply 200 complete bytes=30>"),
        ((b"not http",), "<Reply 0 lost bytes=0>"),
    ],
)
async def test_its_repr_shows_its_state(pieces: tuple[bytes, ...], shown_as: str) -> None:
    wire = Wire()
    wire.feed(*pieces)
    assert repr(wire.reply) == shown_as


async def test_a_plain_answer_leaves_only_when_it_is_whole(tmp_path: Path) -> None:
    halfway, go_on = Reached(), asyncio.Event()
    whole = answer(b'{"a": "b"}')
    play: Play = [whole[:-3], Wait(halfway), Wait(go_on), whole[-3:]]
    async with staged(tmp_path, play) as stage, stage.connected() as client:
        await client.send(stage.chat())
        await halfway.wait()
        go_on.set()
        first = await client.read()
        assert first.endswith(b'{"a": "b"}')


async def test_a_connection_is_used_again_once_its_answer_is_whole(tmp_path: Path) -> None:
    plays: list[Play] = [[answer(b"{}")], [stream(b"data: [DONE]\n\n")], [answer(b"{}")], [Stall()]]
    async with staged(tmp_path, *plays) as stage, stage.connected() as client:
        for wants_stream in (False, True, False):
            await client.send(stage.chat(stream=wants_stream))
            assert (await shown(client)).status == 200
        assert {seen.connection for seen in stage.upstream.seen} == {0}
