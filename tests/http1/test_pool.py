import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmrouter.http1 import pool as pool_module
from llmrouter.http1.errors import ConnectError, ConnectTimeout
from llmrouter.http1.origin import Origin
from llmrouter.http1.upstream import UpstreamConnection
from llmrouter.tasks import spawn
from tests.support.certificates import Authority
from tests.support.garbage import no_collector
from tests.support.leaks import open_sockets
from tests.support.receiver import Receiver, calling, origin_at
from tests.support.upstream import Cut, Play, Stall, Wait, answer, scripted
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

YES = answer(b"yes")


async def test_a_connection_is_used_again() -> None:
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        for _ in range(3):
            assert (await caller.ask()).body == b"yes"
        assert upstream.connections == 1
        assert repr(caller.pool) == f"<Pool {caller.pool.origin!r} open=1 idle=1>"


async def test_the_connection_that_was_used_last_is_used_next() -> None:
    gates = [asyncio.Event() for _ in range(3)]
    plays: list[Play] = [[Wait(gate), YES] for gate in gates]
    async with scripted(*plays) as upstream, calling(origin_at(upstream.address)) as caller:
        receivers, connections = [Receiver() for _ in gates], []
        for number, receiver in enumerate(receivers):
            connections.append(await caller.send(receiver))
            await until(lambda n=number: len(upstream.seen) == n + 1, "not asked")  # type: ignore[misc]
        for number in (1, 2, 0):
            gates[number].set()
            await receivers[number].end()
        assert [caller.pool.take() for _ in range(4)] == [
            connections[0],
            connections[2],
            connections[1],
            None,
        ]


async def test_only_so_many_unused_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_MAX", 2)
    gate = asyncio.Event()
    play: Play = [Wait(gate), YES]
    async with scripted(play) as upstream, calling(origin_at(upstream.address)) as caller:
        receivers = [Receiver() for _ in range(5)]
        for receiver in receivers:
            await caller.send(receiver)
        assert len(caller.deadlines) == 5
        gate.set()
        for receiver in receivers:
            await receiver.end()
        await until(lambda: upstream.open == 2, "too many are kept", lambda: upstream.open)
        assert len(caller.deadlines) == 2


async def test_an_unused_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_S", 0.1)
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        await caller.ask()
        assert upstream.open == 1
        await until(lambda: upstream.open == 0, "it is kept")
        assert caller.pool.take() is None
        assert len(caller.deadlines) == 0


@pytest.mark.parametrize(
    ("promise", "kept_s"),
    [
        (b"timeout=5", 4),
        (b"timeout=5, max=100", 4),
        (b"max=100, timeout=30", 29),
        (b"Timeout=5", 4),
        (b"timeout=500", pool_module.IDLE_S),
        (b"max=100", pool_module.IDLE_S),
        (b"timeout=soon", pool_module.IDLE_S),
        (b"timeout=", pool_module.IDLE_S),
    ],
)
async def test_an_upstream_that_says_how_long_it_waits_is_believed(
    promise: bytes, kept_s: float
) -> None:
    loop = asyncio.get_running_loop()
    play = [answer(b"yes", headers=b"Keep-Alive: %b\r\n" % promise)]
    async with scripted(play) as upstream, calling(origin_at(upstream.address)) as caller:
        await caller.ask()
        connection = caller.pool.take()
        assert connection is not None
        assert connection.deadline == pytest.approx(loop.time() + kept_s, abs=2.0)
        assert connection.deadline <= loop.time() + kept_s
        connection.close()


@pytest.mark.parametrize("promise", [b"timeout=0", b"timeout=1"])
async def test_an_upstream_that_hardly_waits_is_not_kept_waiting(promise: bytes) -> None:
    play = [answer(b"yes", headers=b"keep-alive: %b\r\n" % promise)]
    async with scripted(play) as upstream, calling(origin_at(upstream.address)) as caller:
        await caller.ask()
        assert caller.pool.take() is None
        await until(lambda: upstream.open == 0, "it is kept")


async def test_a_connection_that_the_upstream_closed_while_unused_is_not_used() -> None:
    async with scripted([YES, Cut()]) as upstream, calling(origin_at(upstream.address)) as caller:
        await caller.ask()
        await until(lambda: not caller.deadlines, "its end was not noticed", lambda: caller.pool)
        assert caller.pool.take() is None
        assert (await caller.ask()).body == b"yes"
        assert upstream.connections == 2


async def test_a_connection_on_which_something_came_unasked_is_not_used() -> None:
    gate = asyncio.Event()
    play: Play = [YES, Wait(gate), answer(b"never asked for")]
    async with scripted(play, [YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        await caller.ask()
        gate.set()
        await until(lambda: not caller.deadlines, "it is kept", lambda: caller.pool)
        assert (await caller.ask()).body == b"yes"
        assert upstream.connections == 2


async def test_closing_drops_all_connections() -> None:
    async with scripted([YES], [Stall()]) as upstream:
        async with calling(origin_at(upstream.address)) as caller:
            await caller.ask()
            used = Receiver()
            await caller.send(used)
            caller.pool.close()
            await used.end()
            await until(lambda: upstream.open == 0, "a connection is left")
        assert repr(caller.pool).endswith("open=0 idle=0>")


async def test_a_connection_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with scripted([YES], unix_path=path) as upstream:
        origin = Origin.from_url("http://localhost/v1", unix_path=path)
        async with calling(origin) as caller:
            assert (await caller.ask()).body == b"yes"
        assert upstream.connections == 1


# ---- no connection ---------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "host..invalid", "x" * 70])
async def test_no_one_there_is_a_connect_error(host: str) -> None:
    origin = Origin(host=host, port=free_port(), host_header=b"a", path_prefix=b"")
    async with calling(origin) as caller:
        with pytest.raises(ConnectError) as failed:
            await caller.pool.fresh(10.0)
        assert str(failed.value)
        assert len(caller.deadlines) == 0


async def test_a_unix_socket_that_is_not_there_is_a_connect_error(tmp_path: Path) -> None:
    origin = Origin.from_url("http://localhost", unix_path=str(tmp_path / "none"))
    async with calling(origin) as caller:
        with pytest.raises(ConnectError):
            await caller.pool.fresh(10.0)


@contextlib.asynccontextmanager
async def never_accepting() -> AsyncIterator[tuple[str, int]]:
    """An address whose queue of connections is full, so that one more is not answered."""
    with contextlib.ExitStack() as waiting:
        listener = waiting.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
        yield address


async def test_no_answer_is_a_connect_time_out() -> None:
    loop = asyncio.get_running_loop()
    async with never_accepting() as address, calling(origin_at(address)) as caller:
        began_s, before = loop.time(), open_sockets()
        with pytest.raises(ConnectTimeout, match=r"no connection within 0\.2 s"):
            await caller.pool.fresh(0.2)
        assert 0.1 < loop.time() - began_s < 5
        await until(lambda: open_sockets() <= before, "a socket is left")


async def test_a_caller_who_gives_up_leaves_no_half_made_connection() -> None:
    async with never_accepting() as address, calling(origin_at(address)) as caller:
        before = open_sockets()
        making = spawn(caller.pool.fresh(60.0), name="making")
        await until(lambda: open_sockets() > before, "it was not begun")
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        await until(lambda: open_sockets() <= before, "a socket is left")


async def test_a_caller_who_gives_up_at_any_moment_leaves_no_connection_behind() -> None:
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        for turns in range(12):
            making = spawn(caller.pool.fresh(60.0), name="making")
            for _ in range(turns):
                await asyncio.sleep(0)
            if making.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await making
            else:
                (await making).close()
        await until(lambda: upstream.open == 0, "a connection is left")
        assert repr(caller.pool).endswith("open=0 idle=0>")


async def test_an_upstream_that_speaks_first_is_not_asked() -> None:
    greet = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet.wait()
        writer.write(b"220 mail.example.com\r\n")
        assert await reader.read() == b""
        writer.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with calling(origin_at(listener.sockets[0].getsockname())) as caller:
        connection = await caller.pool.fresh(10.0)
        greet.set()
        await until(lambda: not connection.is_open(), "it is still used")
        assert caller.pool.take() is None
    listener.close()


# ---- TLS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


def secure(address: tuple[str, int], trusted: Authority) -> Origin:
    return Origin(
        host="localhost",
        port=address[1],
        tls=trusted.client_context(),
        host_header=b"localhost",
        path_prefix=b"",
    )


async def test_over_tls_the_certificate_is_verified_and_the_name_sent(authority: Authority) -> None:
    names: list[str | None] = []
    context = authority.server_context("localhost")
    context.sni_callback = lambda _tls, name, _context: names.append(name)
    async with (
        scripted([YES], tls=context) as upstream,
        calling(secure(upstream.address, authority)) as caller,
    ):
        for _ in range(2):
            assert (await caller.ask()).body == b"yes"
        assert (names, upstream.connections) == (["localhost"], 1)


@pytest.mark.parametrize("fault", ["untrusted", "wrong name", "no TLS"])
async def test_an_upstream_that_cannot_prove_itself_is_not_asked(
    authority: Authority, stranger: Authority, fault: str
) -> None:
    name = "other.example" if fault == "wrong name" else "localhost"
    context = None if fault == "no TLS" else authority.server_context(name)
    trusted = stranger if fault == "untrusted" else authority
    async with (
        scripted([YES], tls=context) as upstream,
        calling(secure(upstream.address, trusted)) as caller,
    ):
        # To a plain upstream our greeting is a request that never ends.
        limit_s = 0.2 if fault == "no TLS" else 10.0
        with pytest.raises((ConnectError, ConnectTimeout)) as failed:
            await caller.pool.fresh(limit_s)
        assert ("certificate" in str(failed.value)) is (fault != "no TLS")
        assert upstream.seen == []


async def test_a_stalled_handshake_is_a_connect_time_out_and_leaves_nothing(
    authority: Authority,
) -> None:
    async with scripted([Stall()]) as upstream:
        async with calling(secure(upstream.address, authority)) as caller:
            with pytest.raises(ConnectTimeout):
                await caller.pool.fresh(0.2)
        await until(lambda: upstream.open == 0, "a connection is left")


async def test_over_tls_a_response_that_is_cut_is_lost(authority: Authority) -> None:
    play: Play = [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", Cut()]
    async with (
        scripted(play, tls=authority.server_context("localhost")) as upstream,
        calling(secure(upstream.address, authority)) as caller,
    ):
        receiver = await caller.ask()
        assert (receiver.heard[-1], receiver.body) == ("lost", b"half")


async def test_a_connection_that_is_never_made_leaves_nothing_to_the_collector() -> None:
    """As after a TLS handshake that fails."""
    async with scripted([YES]) as upstream, calling(origin_at(upstream.address)) as caller:
        async with no_collector() as found:
            for _ in range(3):
                UpstreamConnection(caller.pool, asyncio.get_running_loop())
        assert found == {}
