import asyncio
import http.client
import socket
from collections.abc import Awaitable, Callable

import pytest

from llmrouter.http1 import link
from llmrouter.http1.deadlines import NEVER
from llmrouter.http1.downstream import ServerConnection
from llmrouter.http1.request import Request
from tests.http1.wire import (
    EVENT,
    GET,
    GET_10,
    Gate,
    Wire,
    events,
    get,
    post,
    reading_little,
    turn,
    whole,
)
from tests.support.application import HEAD, Script, echo, serving, settings
from tests.support.raw import Ending, connected
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio


# ---- whether it is there ---------------------------------------------------------------------


@pytest.mark.parametrize("serve", [echo, events])
async def test_a_client_that_ends_its_sending_side_still_gets_its_answers(
    serve: Callable[[ServerConnection, Request], Awaitable[None]],
) -> None:
    gate = Gate(serve)
    async with serving(Script(gate)) as running, connected(running.address) as client:
        await client.send(GET + GET)
        client.shutdown()
        await until(lambda: len(running.script.opened) == 2, "not all were read")
        gate.open.set()
        assert (await client.response()).whole
        assert (await client.response()).whole
        assert await client.read_all() == b""
        assert client.ending is Ending.CLOSED


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_vanishes_while_nothing_is_written_is_noticed(how: str) -> None:
    loop = asyncio.get_running_loop()
    async with serving(Script(Gate())) as running, connected(running.address) as client:
        await client.send(GET)
        await until(lambda: len(running.script.opened) == 1, "nothing was read")
        began_s = loop.time()
        client.close() if how == "close" else client.reset()
        await until(lambda: len(running.script.cancelled) == 1, "the exchange was not cancelled")
        assert loop.time() - began_s < 4


@pytest.mark.usefixtures("probed_often")
async def test_a_client_that_pipelines_and_vanishes_is_noticed() -> None:
    async with serving(Script(Gate())) as running, connected(running.address) as client:
        await client.send(GET)
        await until(lambda: len(running.script.opened) == 1, "nothing was read")
        await client.send(GET)
        await until(lambda: len(running.script.opened) == 2, "nothing was read")
        client.close()
        await until(lambda: len(running.script.cancelled) == 1, "the exchange was not cancelled")


@pytest.mark.usefixtures("probed_often")
async def test_a_client_that_vanishes_before_the_first_bytes_of_a_stream_is_noticed() -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.begin(HEAD)
        await asyncio.Event().wait()

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET)
        await until(lambda: len(running.script.opened) == 1, "nothing was read")
        client.close()
        await until(lambda: len(running.script.cancelled) == 1, "the exchange was not cancelled")


@pytest.mark.usefixtures("probed_often")
async def test_a_client_that_vanishes_within_a_stream_is_noticed_by_its_next_bytes() -> None:
    more = asyncio.Event()

    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.begin(HEAD)
        connection.send(EVENT)
        await more.wait()
        while True:
            connection.send(EVENT)
            await asyncio.sleep(0)

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET)
        await client.read_until(EVENT)
        client.close()
        more.set()
        await until(lambda: len(running.script.cancelled) == 1, "the exchange was not cancelled")


@pytest.mark.usefixtures("probed_often")
@pytest.mark.parametrize("request_", [GET, GET_10])
async def test_probes_never_come_after_an_answer_has_begun(request_: bytes) -> None:
    script = Script()
    wire = Wire(script)
    probes = 0

    async def probed() -> None:
        nonlocal probes
        for _ in range(5):
            await asyncio.sleep(0.02)
            probes += wire.transport.take().count(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def serve(connection: ServerConnection, request: Request) -> None:
        await probed()
        assert (probes > 0) is (request.minor_version == 1)
        connection.begin(HEAD)
        connection.send(EVENT)
        connection.finish()
        wire.transport.take()
        await asyncio.sleep(0.1)
        assert wire.transport.take() == b""

    script.serve = serve
    wire.connection.data_received(request_)
    assert wire.connection.eof_received()
    await until(lambda: bool(script.served), "not served")
    await wire.lose()


def asked_by_the_library(address: tuple[str, int]) -> tuple[int, bytes]:
    """What http.client takes for the answer, its sending side closed."""
    asking = http.client.HTTPConnection(*address, timeout=10)
    asking.request("GET", "/")
    assert asking.sock is not None
    asking.sock.shutdown(socket.SHUT_WR)
    with asking.getresponse() as response:
        found = response.status, response.read()
    asking.close()
    return found


@pytest.mark.usefixtures("probed_often")
async def test_a_client_that_knows_few_interim_answers_gets_its_real_one() -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        await asyncio.sleep(0.1)
        await echo(connection, request)

    async with serving(Script(serve)) as running:
        found = await asyncio.to_thread(asked_by_the_library, running.address)
    assert found == (200, b"GET / ")


@pytest.mark.usefixtures("probed_often")
async def test_no_probe_follows_a_whole_answer() -> None:
    wire = Wire(Script())

    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.respond(HEAD, b"whole")
        await turn()
        assert wire.transport.take()
        await asyncio.sleep(0.1)
        assert wire.transport.take() == b""

    wire.script.serve = serve
    wire.connection.data_received(GET)
    assert wire.connection.eof_received()
    await until(lambda: bool(wire.script.served), "not served")
    await wire.lose()


@pytest.mark.usefixtures("probed_often")
async def test_probes_end_when_reading_goes_on() -> None:
    gate = Gate()
    wire = Wire(Script(gate))
    await wire.receive(GET + GET[:5], b"/")
    await until(lambda: bool(wire.transport.writes), "no probe came")
    gate.open.set()
    await turn()
    assert wire.transport.is_reading()
    gate.open.clear()
    await wire.receive(b" HTTP/1.1\r\nhost: a\r\n\r\n")
    await asyncio.sleep(0.1)
    assert wire.transport.take() == b""
    await wire.lose()


# ---- whether it reads -------------------------------------------------------------------------


async def test_a_reader_that_stalls_is_dropped() -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.begin(HEAD)
        connection.send(b"x" * 8_000_000)
        await asyncio.Event().wait()

    async with reading_little(serve, settings(idle_s=0.2)) as (running, client):
        await client.send(GET)
        await until(lambda: len(running.script.cancelled) == 1, "the reader is waited for")


@pytest.mark.parametrize("last", [GET, get(b"/", b"connection: close"), GET * 2])
async def test_a_reader_that_stalls_within_a_whole_answer_is_dropped(last: bytes) -> None:
    async with reading_little(whole(8_000_000), settings(idle_s=0.2)) as (running, client):
        await client.send(last)
        await until(lambda: len(running.server.connections) == 1, "not accepted")
        await until(lambda: not running.server.connections, "the reader is waited for")


@pytest.mark.parametrize("last", [GET, get(b"/", b"connection: close")])
async def test_a_reader_that_is_slow_but_does_not_stall_gets_all(last: bytes) -> None:
    size = 1_000_000

    async with reading_little(whole(size), settings(idle_s=0.2)) as (_, client):
        await client.send(last)
        got = 0
        for _ in range(12):
            got += len(await client.read_exactly(30_000))
            await asyncio.sleep(0.1)
        assert got == 360_000
        rest = await client.read_exactly(size - got)
        assert len(rest) == size - got


async def test_a_connection_is_idle_after_an_answer_that_was_read_slowly() -> None:
    async with reading_little(whole(3_000_000), settings(idle_s=0.3)) as (running, client):
        await client.send(GET)
        await until(lambda: len(running.script.served) == 1, "not served")
        assert len((await client.response()).body) == 3_000_000
        assert await client.read_all() == b""
        assert client.ending is Ending.CLOSED


# ---- parting ----------------------------------------------------------------------------------


async def test_a_refusal_arrives_while_the_client_is_still_sending() -> None:
    size = 900_000
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(b"POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
        response = await client.response()
        assert (response.status, response.body) == (401, b"no key")
        assert response.headers[b"connection"] == b"close"
        await client.send(b"x" * size)
        assert await client.read_all() == b""
        assert client.ending is Ending.CLOSED


async def test_a_refused_client_that_sends_on_and_on_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "LINGER_BYTES", 100_000)
    wire = Wire(Script())
    await wire.receive(b"POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n")
    assert wire.transport.ended
    await wire.receive(b"x" * 50_000, b"x" * 50_000)
    before = wire.transport.aborted
    await wire.receive(b"x")
    assert (before, wire.transport.aborted) == (False, True)
    await wire.lose()


async def test_a_refused_client_that_sends_no_more_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "LINGER_S", 0.1)
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(post(b"", target=b"/refused").replace(b"length: 0", b"length: 9"))
        assert (await client.response()).status == 401
        await until(lambda: not running.server.connections, "the connection is left")


async def test_one_who_does_not_read_the_rest_of_a_cut_stream_is_not_waited_for() -> None:
    gate = Gate()

    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.begin(HEAD)
        connection.send(EVENT)
        connection.pause_writing()
        connection.cut()
        connection.resume_writing()
        await gate.open.wait()

    wire = Wire(Script(serve))
    await wire.receive(GET)
    assert wire.transport.closed
    wire.connection.expired(wire.connection.deadline)
    assert wire.connection.deadline < NEVER
    assert wire.transport.aborted
    await wire.lose()
