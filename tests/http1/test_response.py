"""The writing half: what leaves, in which writes, and how a stream that is cut ends."""

import asyncio

import pytest

from llmrouter.http1.downstream import WRITE_BUFFER_BYTES, ServerConnection
from llmrouter.http1.request import Request
from tests.http1.wire import EVENT, GET, GET_10, Gate, Wire, events, reading_little, turn
from tests.support.application import HEAD, Script, serving
from tests.support.leaks import Failures
from tests.support.raw import Ending, connected
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio


async def test_a_streamed_answer_is_chunked_and_keeps_the_connection() -> None:
    async with serving(Script(events)) as running, connected(running.address) as client:
        for _ in range(2):
            await client.send(GET)
            response = await client.response()
            assert response.headers[b"transfer-encoding"] == b"chunked"
            assert response.body == EVENT * 3
            assert response.whole


async def test_head_and_body_leave_in_one_write() -> None:
    wire = Wire(Script())
    await wire.receive(GET)
    wire.connection.data_received(GET)
    await turn()
    assert len(wire.transport.writes) == 1
    await wire.lose()


async def test_head_and_first_event_leave_in_one_write() -> None:
    wire = Wire(Script(events))
    wire.connection.data_received(GET)
    await turn()
    head, *rest = wire.transport.writes
    assert head == HEAD + b"transfer-encoding: chunked\r\n\r\na\r\n" + EVENT + b"\r\n"
    assert rest == [b"a\r\n" + EVENT + b"\r\n"] * 2 + [b"0\r\n\r\n"]
    await wire.lose()


async def test_an_empty_stream_is_a_whole_answer() -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.begin(HEAD)
        assert connection.has_begun()
        connection.finish()

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET)
        response = await client.response()
        assert (response.body, response.whole) == (b"", True)


async def test_sending_nothing_does_not_end_a_stream() -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.begin(HEAD)
        connection.send(b"")
        connection.send(EVENT)
        connection.send(b"")
        connection.send(EVENT)
        connection.finish()

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET)
        assert (await client.response()).body == EVENT * 2


async def test_head_is_answered_with_the_length_but_not_the_body() -> None:
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(b"HEAD /a HTTP/1.1\r\nhost: a\r\n\r\n" + GET)
        response = await client.response(to=b"HEAD")
        assert response.headers[b"content-length"] == b"%d" % len(b"HEAD /a ")
        assert (await client.response()).body == b"GET / "


async def test_http_1_0_gets_a_sized_answer_and_a_close() -> None:
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(GET_10)
        response = await client.response()
        assert response.headers == {b"content-length": b"6", b"connection": b"close"}
        assert await client.read_all() == b""
        assert client.ending is Ending.CLOSED


async def test_http_1_0_may_keep_the_connection() -> None:
    async with serving(Script()) as running, connected(running.address) as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            assert (await client.response()).headers[b"connection"] == b"keep-alive"


async def test_http_1_0_gets_a_stream_that_the_close_ends() -> None:
    async with serving(Script(events)) as running, connected(running.address) as client:
        await client.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        response = await client.response()
        assert response.headers == {b"connection": b"close"}
        assert (response.body, response.whole) == (EVENT * 3, True)


async def test_a_stream_to_http_1_0_that_is_cut_ends_in_a_reset() -> None:
    sent = asyncio.Event()

    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.begin(HEAD)
        connection.send(EVENT)
        await sent.wait()
        connection.cut()

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET_10)
        await client.read_until(EVENT)
        sent.set()
        await client.read_all()
        assert client.ending is Ending.RESET


# ---- answers that are cut --------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_a_stream_that_is_cut_arrives_as_far_as_it_went_and_is_not_whole(count: int) -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.begin(HEAD)
        for _ in range(count):
            connection.send(EVENT)
        connection.cut()

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET)
        raw = await client.read_all()
        assert raw.count(EVENT) == count
        assert b"0\r\n\r\n" not in raw
        assert raw.endswith(EVENT + b"\r\n") or (raw, count) == (b"", 0)


async def test_a_slow_reader_is_felt_and_holds_little_more_than_the_high_water_mark() -> None:
    piece = b"x" * 16_384
    pieces = 400
    sizes: list[int] = []
    heard: list[bool] = []

    async def serve(connection: ServerConnection, request: Request) -> None:
        writable = asyncio.Event()
        writable.set()

        def listen(ok: bool) -> None:
            heard.append(ok)
            if ok:
                writable.set()
            else:
                writable.clear()

        connection.on_writable(listen)
        connection.begin(HEAD)
        for _ in range(pieces):
            await writable.wait()
            connection.send(piece)
            assert connection._transport is not None
            sizes.append(connection._transport.get_write_buffer_size())
            await asyncio.sleep(0)
        connection.finish()

    async with reading_little(serve) as (_, client):
        await client.send(GET)
        await until(lambda: False in heard, "the slow reader was not felt")
        response = await client.response()
        assert response.body == piece * pieces
    assert max(sizes) <= WRITE_BUFFER_BYTES + len(piece) + 100
    assert heard[:4] == [False, True, False, True]


async def test_a_listener_that_comes_late_hears_at_once_that_nothing_can_be_written() -> None:
    gate = Gate()
    wire = Wire(Script(gate))
    await wire.receive(GET)
    heard: list[bool] = []
    wire.connection.pause_writing()
    wire.connection.on_writable(heard.append)
    wire.connection.resume_writing()
    wire.connection.on_writable(None)
    wire.connection.pause_writing()
    assert heard == [False, True]
    wire.connection.resume_writing()
    gate.open.set()
    await turn()
    await wire.lose()


async def test_what_is_sent_to_a_client_that_is_gone_goes_nowhere() -> None:
    done: list[str] = []

    async def serve(connection: ServerConnection, request: Request) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert not connection.is_open()
            connection.begin(HEAD)
            connection.send(EVENT)
            connection.finish()
            done.append("stream")
        connection._responded, connection._head = False, None
        connection.respond(HEAD, b"")
        done.append("whole")

    wire = Wire(Script(serve))
    await wire.receive(GET)
    await wire.lose()
    assert done == ["stream", "whole"]
    assert wire.transport.take() == b""


async def test_a_stream_to_head_is_a_bug_and_sends_no_body(no_leaks: Failures) -> None:
    async with serving(Script(events)) as running, connected(running.address) as client:
        await client.send(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert await client.read_all() == b""
    assert "AssertionError" in "".join(no_leaks.seen)
    no_leaks.seen.clear()
