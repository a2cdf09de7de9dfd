import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from llmrouter.http1.downstream import PIPELINED_MAX, ServerConnection
from llmrouter.http1.request import Request
from llmrouter.tasks import spawn
from tests.http1.wire import EVENT, GET, Gate, Wire, get, post, reading_little, turn, whole
from tests.support.application import HEAD, Script, echo, serving, settings
from tests.support.certificates import Authority
from tests.support.leaks import Failures
from tests.support.raw import Ending, chunked, connected
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio


async def test_requests_on_one_connection_are_answered_one_after_the_other() -> None:
    async with serving(Script()) as running, connected(running.address) as client:
        for n in range(5):
            await client.send(post(b"body %d" % n, target=b"/%d" % n))
            response = await client.response()
            assert response.body == b"POST /%d body %d" % (n, n)
            assert b"connection" not in response.headers


async def test_pipelined_requests_are_answered_in_order_even_if_the_first_is_slow() -> None:
    served: list[bytes] = []
    slow = asyncio.Event()

    async def serve(connection: ServerConnection, request: Request) -> None:
        if request.target == b"/0":
            await slow.wait()
        served.append(request.target)
        await echo(connection, request)

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(b"".join(get(b"/%d" % n) for n in range(5)))
        await until(lambda: len(running.script.opened) == 5, "not all were read")
        assert served == []
        slow.set()
        for n in range(5):
            assert (await client.response()).body == b"GET /%d " % n


async def test_many_pipelined_requests_in_small_pieces_are_all_answered() -> None:
    requests = b"".join(post(b"%d" % n) for n in range(100))
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(*(requests[at : at + 97] for at in range(0, len(requests), 97)))
        for n in range(100):
            assert (await client.response()).body == b"POST / %d" % n


async def test_more_pipelined_requests_than_may_wait_are_refused_behind_those_that_do() -> None:
    wire = Wire(Script())
    count = PIPELINED_MAX + 50
    wire.connection.data_received(b"".join(get(b"/%d" % n) for n in range(count)))
    wire.connection.data_received(get(b"/behind"))
    await until(lambda: len(wire.script.served) == PIPELINED_MAX, "not all were served")
    await turn()
    *answers, last = wire.transport.written.split(b"HTTP/1.1 ")[1:]
    assert [answer.rpartition(b"\r\n")[2] for answer in answers] == [
        b"GET /%d " % n for n in range(PIPELINED_MAX)
    ]
    assert last.startswith(b"400 ")
    assert b"connection: close\r\n" in last
    assert len(wire.script.opened) == PIPELINED_MAX
    await wire.lose()


async def test_a_connection_on_which_too_many_requests_wait_is_closed() -> None:
    gate = Gate()
    async with serving(Script(gate)) as running, connected(running.address) as client:
        await client.send(b"".join(get(b"/%d" % n) for n in range(PIPELINED_MAX * 2)))
        await until(lambda: len(running.script.opened) >= PIPELINED_MAX, "not all were read")
        gate.open.set()
        for n in range(PIPELINED_MAX):
            assert (await client.response()).body == b"GET /%d " % n
        assert (await client.response()).status == 400
        assert await client.read_all() == b""
        assert client.ending is Ending.CLOSED


async def test_a_refused_request_among_others_keeps_its_place_and_the_connection() -> None:
    gate = Gate()
    async with serving(Script(gate)) as running, connected(running.address) as client:
        await client.send(get(b"/1") + post(b"small", target=b"/refused") + get(b"/2"))
        await until(lambda: len(running.script.opened) == 3, "not all were read")
        gate.open.set()
        assert (await client.response()).body == b"GET /1 "
        assert (await client.response()).status == 401
        assert (await client.response()).body == b"GET /2 "


@pytest.mark.parametrize("framed", ["sized", "chunked"])
async def test_a_body_arrives_however_it_is_framed_and_cut(framed: str) -> None:
    body = bytes(range(256)) * 20
    sized = post(body)
    coded = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(
        body[at : at + 500] for at in range(0, len(body), 500)
    )
    raw = sized if framed == "sized" else coded
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(raw[:70], raw[70:71], raw[71:3000], raw[3000:])
        assert (await client.response()).body == b"POST / " + body


async def test_a_client_that_asks_to_close_gets_its_answer_and_the_close() -> None:
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(get(b"/", b"connection: close"))
        response = await client.response()
        assert response.headers[b"connection"] == b"close"
        assert await client.read_all() == b""
        assert client.ending is Ending.CLOSED


async def test_trailers_are_no_headers_of_the_next_request() -> None:
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            b"0\r\nauthorization: x\r\n\r\n" + GET
        )
        await client.response()
        await client.response()
        assert all(b"authorization" not in asked.headers for asked in running.script.opened)


# ---- HTTP/1.0 --------------------------------------------------------------------------------


async def test_an_exchange_that_fails_ends_its_connection_and_is_logged(
    no_leaks: Failures,
) -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        raise RuntimeError("a bug of ours")

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET)
        assert await client.read_all() == b""
        assert client.ending is Ending.RESET
    assert "a bug of ours" in "".join(no_leaks.seen)
    no_leaks.seen.clear()


async def test_an_exchange_that_answers_nothing_ends_its_connection() -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        return

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET)
        assert await client.read_all() == b""


async def test_an_application_that_fails_at_the_head_ends_the_connection(
    no_leaks: Failures,
) -> None:
    class Broken(Script):
        def open(self, connection: ServerConnection, request: Request) -> None:  # type: ignore[override]  # a bug
            raise RuntimeError("a bug of ours")

    async with serving(Broken()) as running, connected(running.address) as client:
        await client.send(GET)
        await client.read_all()
        await until(lambda: not running.server.connections, "the connection is left")
    assert no_leaks.seen
    no_leaks.seen.clear()


# ---- expect: 100-continue --------------------------------------------------------------------

EXPECTING = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_a_body_is_invited_once() -> None:
    wire = Wire(Script())
    assert await wire.receive(EXPECTING[:20], EXPECTING[20:]) == CONTINUE
    assert await wire.receive(b"a") == b""
    assert (await wire.receive(b"bc")).startswith(HEAD)
    await wire.lose()


async def test_a_chunked_body_is_invited_once() -> None:
    wire = Wire(Script())
    head = EXPECTING.replace(b"content-length: 3", b"transfer-encoding: chunked")
    assert await wire.receive(head) == CONTINUE
    assert await wire.receive(b"3") == b""
    assert await wire.receive(b"\r\n", b"abc\r\n") == b""
    assert (await wire.receive(b"0\r\n\r\n")).startswith(HEAD)
    await wire.lose()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (EXPECTING + b"abc", b"200"),
        (EXPECTING.replace(b"POST / ", b"POST /refused "), b"401"),
        (EXPECTING.replace(b"length: 3", b"length: 3000000"), b"413"),
        (EXPECTING.replace(b"host: a", b"host: a, b"), b"400"),
        (EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0") + b"abc", b"200"),
        (EXPECTING.replace(b"100-continue", b"417"), b"400"),
    ],
    ids=["came along", "refused", "too large", "malformed", "HTTP/1.0", "unknown"],
)
async def test_a_body_is_not_invited_if_it_is_here_or_not_wanted(
    request_: bytes, status: bytes
) -> None:
    wire = Wire(Script())
    assert (await wire.receive(request_)).startswith(b"HTTP/1.1 " + status)
    await wire.lose()


async def test_a_pipelined_body_is_invited_when_its_turn_comes() -> None:
    gate = Gate()
    wire = Wire(Script(gate))
    assert await wire.receive(GET + EXPECTING) == b""
    gate.open.set()
    await turn()
    first, invitation = wire.transport.take().split(b"GET / ")
    assert first.startswith(HEAD)
    assert invitation == CONTINUE
    assert (await wire.receive(b"abc")).endswith(b"POST / abc")
    await wire.lose()


# ---- requests that are refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (get(b"/", b"cookie: " + b"c" * 70_000), 431),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000001\r\n\r\n", 413),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
async def test_a_bad_request_is_answered_and_the_connection_closed(raw: bytes, status: int) -> None:
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(raw)
        response = await client.response()
        assert response.status == status
        assert response.headers[b"connection"] == b"close"
        assert await client.read_all() == b""
        assert client.ending is Ending.CLOSED
        assert running.script.opened == []


async def test_a_bad_request_is_answered_after_those_before_it() -> None:
    gate = Gate()
    async with serving(Script(gate)) as running, connected(running.address) as client:
        await client.send(get(b"/1") + get(b"/2") + b"GET / HTTP/1.1\r\n\r\n" + get(b"/never"))
        await until(lambda: len(running.script.opened) == 2, "not all were read")
        gate.open.set()
        assert (await client.response()).body == b"GET /1 "
        assert (await client.response()).body == b"GET /2 "
        assert (await client.response()).status == 400
        assert await client.read_all() == b""
        assert len(running.script.opened) == 2


async def test_a_refused_body_that_exceeds_its_limit_gets_one_answer() -> None:
    head = b"POST /refused HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(head + chunked([b"x" * 1_000_001]))
        assert (await client.response()).status == 401
        assert await client.read_all() == b""


# ---- back-pressure ---------------------------------------------------------------------------


async def test_one_who_pipelines_and_does_not_read_is_served_no_further() -> None:
    size = 200_000

    async with reading_little(whole(size)) as (running, client):
        await client.send(GET * 50)
        await until(lambda: len(running.script.served) >= 1, "nothing was served")
        await turn()
        assert len(running.script.served) <= 2
        for _ in range(50):
            assert len((await client.response()).body) == size


async def test_one_who_sends_while_another_request_waits_is_not_read() -> None:
    gate = Gate()
    wire = Wire(Script(gate))
    await wire.receive(GET)
    assert wire.transport.is_reading()
    await wire.receive(GET)
    assert not wire.transport.is_reading()
    gate.open.set()
    await turn()
    assert wire.transport.is_reading()
    assert len(wire.script.served) == 2
    await wire.lose()


async def test_one_who_does_not_read_is_not_read_either() -> None:
    wire = Wire(Script())
    wire.connection.pause_writing()
    for _ in range(10):
        if wire.transport.is_reading():
            await wire.receive(GET)
    assert len(wire.script.served) == 0
    assert len(wire.script.opened) <= 2
    wire.connection.resume_writing()
    await turn()
    assert len(wire.script.served) == len(wire.script.opened)
    assert wire.transport.is_reading()
    await wire.lose()


# ---- the memory that bodies take --------------------------------------------------------------


async def test_bodies_are_held_until_their_exchange_has_ended() -> None:
    gate = Gate()
    wire = Wire(Script(gate))
    await wire.receive(post(b"abc") + post(b"de")[:-1])
    assert wire.server.buffered.bytes == 4
    gate.open.set()
    await turn()
    assert wire.server.buffered.bytes == 1
    await wire.receive(b"e")
    assert wire.server.buffered.bytes == 0
    await wire.lose()


async def cut_at_once(connection: ServerConnection, request: Request) -> None:
    connection.begin(HEAD)
    connection.cut()


async def fail(connection: ServerConnection, request: Request) -> None:
    raise RuntimeError("a bug of ours")


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "is over"])
@pytest.mark.parametrize("serve", [echo, cut_at_once, fail])
@pytest.mark.parametrize(
    "raw",
    [
        post(b"abc"),
        post(b"abc") * 3,
        post(b"abc")[:-1],
        post(b"abc", b"connection: close"),
        post(b"abc") + b"\x00",
        post(b"abc") + post(b"abc")[:-1],
        post(b"abc") + post(b"abc", target=b"/refused")[:-1],
    ],
    ids=["one", "three", "partial", "last", "then bad", "then partial", "then refused"],
)
async def test_no_body_is_held_once_its_connection_is_gone(
    raw: bytes,
    serve: Callable[[ServerConnection, Request], Awaitable[None]],
    waits: bool,
    no_leaks: Failures,
) -> None:
    wire = Wire(Script(Gate(serve) if waits else serve))
    await wire.receive(raw)
    await wire.lose()
    assert wire.server.buffered.bytes == 0
    no_leaks.seen.clear()


async def test_what_waits_behind_an_answer_that_ends_its_connection_is_not_held() -> None:
    gate = Gate(cut_at_once)
    wire = Wire(Script(gate))
    await wire.receive(post(b"abc") * 3)
    assert wire.server.buffered.bytes == 9
    gate.open.set()
    await turn()
    assert wire.transport.closed
    assert wire.server.buffered.bytes == 0
    await wire.lose()


async def test_a_body_for_which_there_is_no_memory_is_refused_and_the_rest_served() -> None:
    gate = Gate()
    async with (
        serving(Script(gate), settings(buffered_bytes=1000)) as running,
        connected(running.address) as one,
        connected(running.address) as two,
    ):
        await one.send(post(b"x" * 900))
        await until(lambda: running.server.buffered.bytes == 900, "not read")
        await two.send(post(b"x" * 101))
        response = await two.response()
        assert (response.status, response.headers[b"connection"]) == (503, b"close")
        gate.open.set()
        assert (await one.response()).status == 200
        await one.send(post(b"x" * 1000))
        assert (await one.response()).status == 200
        assert running.server.buffered.bytes == 0


# ---- clients that end, or vanish -------------------------------------------------------------


async def test_a_client_that_ends_in_the_middle_of_a_request_is_closed() -> None:
    async with serving(Script()) as running, connected(running.address) as client:
        await client.send(post(b"abc")[:-1])
        client.shutdown()
        assert await client.read_all() == b""
        assert running.script.served == []


STEPS = 4


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("how", ["close", "reset", "abort"])
@pytest.mark.usefixtures("probed_often")
async def test_an_exchange_is_cancelled_at_whatever_it_waits_for(step: int, how: str) -> None:
    reached: list[int] = []
    undone: list[int] = []
    gates = [asyncio.Event() for _ in range(STEPS)]

    async def serve(connection: ServerConnection, request: Request) -> None:
        try:
            for at, gate in enumerate(gates):
                reached.append(at)
                if at == 2:
                    connection.begin(HEAD)
                await gate.wait()
        finally:
            undone.extend(reached)

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET)
        for gate in gates[:step]:
            gate.set()
        await until(lambda: reached == list(range(step + 1)), "the step was not reached")
        match how:
            case "close":
                client.close()
            case "reset":
                client.reset()
            case _:
                running.server.abort()
        await until(lambda: undone == reached, "nothing was undone")
        await until(lambda: len(running.script.cancelled) == 1, "the exchange was not cancelled")
        assert reached == list(range(step + 1))


async def test_a_connection_lost_before_its_exchange_began_serves_nothing() -> None:
    wire = Wire(Script())
    wire.connection.data_received(GET)
    wire.connection.connection_lost(None)
    await turn()
    assert wire.script.served == []
    wire.server.abort()


# ---- time-outs -------------------------------------------------------------------------------


async def drip(client_sends: Callable[[bytes], int], byte: bytes) -> None:
    """One byte every now and then, until the test is over."""
    while True:
        await asyncio.sleep(0.05)
        client_sends(byte)


@pytest.mark.parametrize(
    ("begun", "status"),
    [(b"GET / HTTP/1.1\r\nx: ", 408), (post(b"x" * 5000)[:100], 408), (b"", None)],
    ids=["head", "body", "nothing"],
)
async def test_a_request_that_comes_too_slowly_is_refused_however_often_a_byte_comes(
    begun: bytes, status: int | None
) -> None:
    loop = asyncio.get_running_loop()
    limits = settings(head_s=0.3, body_s=0.3)
    async with serving(Script(), limits) as running, connected(running.address) as client:
        began_s = loop.time()
        await client.send(begun)
        dripping = spawn(drip(client.send_nowait, b"x" if begun else b"\n"), name="drip")
        if status is not None:
            assert (await client.response()).status == status
        dripping.cancel()
        await client.read_all()
        assert loop.time() - began_s < 5
        client.close()
        assert running.script.served == []


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with (
        serving(Script(), settings(idle_s=0.2)) as running,
        connected(running.address) as client,
    ):
        await client.send(GET)
        await client.response()
        assert await client.read_all() == b""
        assert client.ending is Ending.CLOSED


async def test_a_slow_exchange_is_no_idle_connection() -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        await asyncio.sleep(0.5)
        await echo(connection, request)

    limits = settings(idle_s=0.1, head_s=0.1, body_s=0.1)
    async with serving(Script(serve), limits) as running, connected(running.address) as client:
        await client.send(GET)
        assert (await client.response()).status == 200


async def test_the_next_request_has_its_time_anew() -> None:
    limits = settings(idle_s=0.4, head_s=0.4, body_s=0.4)
    async with serving(Script(), limits) as running, connected(running.address) as client:
        for _ in range(3):
            await client.send(post(b"abc")[:-1])
            await asyncio.sleep(0.2)
            await client.send(b"c")
            assert (await client.response()).status == 200


async def test_a_deadline_that_passes_as_the_request_completes_is_no_second_answer() -> None:
    wire = Wire(Script())
    wire.connection.data_received(post(b"abc")[:-1])
    wire.connection.data_received(b"c")
    wire.connection.expired(wire.server.loop.time())
    await turn()
    assert wire.transport.take().count(b"HTTP/1.1") == 1
    await wire.lose()


# ---- drain, repr, TLS ------------------------------------------------------------------------


async def test_draining_closes_what_is_idle_and_lets_the_rest_finish() -> None:
    gate = Gate()
    async with (
        serving(Script(gate)) as running,
        connected(running.address) as idle,
        connected(running.address) as busy,
        connected(running.address) as sending,
    ):
        await busy.send(GET)
        await sending.send(post(b"abc")[:-1])
        await until(lambda: len(running.script.opened) == 2, "not all were read")
        running.server.drain()
        assert await idle.read_all() == b""
        await sending.send(b"c")
        gate.open.set()
        for client in (busy, sending):
            response = await client.response()
            assert response.headers[b"connection"] == b"close"
            assert await client.read_all() == b""
            assert client.ending is Ending.CLOSED
        await running.server.emptied()


async def test_a_stream_that_began_before_the_drain_is_finished() -> None:
    drained = asyncio.Event()

    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.begin(HEAD)
        connection.send(EVENT)
        await drained.wait()
        connection.send(EVENT)
        connection.finish()

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET)
        await client.read_until(b"chunked\r\n\r\n")
        running.server.drain()
        drained.set()
        assert (await client.read_all()).count(EVENT) == 2
        assert client.ending is Ending.CLOSED


async def test_the_repr_shows_the_state() -> None:
    gate = Gate()
    wire = Wire(Script(gate))
    assert repr(wire.connection) == "<ServerConnection IDLE>"
    await wire.receive(GET[:5])
    assert repr(wire.connection) == "<ServerConnection READING>"
    await wire.receive(GET[5:])
    assert repr(wire.connection) == "<ServerConnection SERVING>"
    gate.open.set()
    await turn()
    assert repr(wire.connection) == "<ServerConnection IDLE>"
    await wire.receive(b"\x00")
    assert repr(wire.connection) == "<ServerConnection LINGERING>"
    await wire.lose()
    assert repr(wire.connection) == "<ServerConnection CLOSED>"


async def test_over_tls_a_client_is_served_and_its_going_is_noticed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    gate = Gate()
    script = Script(gate)
    async with serving(script, tls=authority.server_context("localhost")) as running:
        reader, writer = await asyncio.open_connection(
            *running.address, ssl=authority.client_context(), server_hostname="localhost"
        )
        gate.open.set()
        writer.write(GET)
        assert (await reader.readuntil(b"GET / ")).startswith(HEAD)
        gate.open.clear()
        writer.write(GET)
        await until(lambda: len(script.opened) == 2, "not read")
        writer.close()
        await writer.wait_closed()
        await until(lambda: len(script.cancelled) == 1, "the exchange was not cancelled")
        await until(lambda: not running.server.connections, "the connection is left")
