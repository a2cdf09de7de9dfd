import asyncio
import random

import pytest

from llmrouter.http1.downstream import CUT_BY_US, ServerConnection
from llmrouter.http1.request import Request
from llmrouter.http1.server import Server
from llmrouter.tasks import spawn
from tests.http1.corpus import MESSAGES
from tests.http1.mutation import mutants
from tests.support.application import FULL, HEAD, Script, Serving, echo, serving, settings
from tests.support.garbage import no_collector
from tests.support.leaks import other_tasks
from tests.support.raw import Ending, RawClient, connected
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
FUZZ_SHORT = 500
FUZZ_FULL = 20_000
AT_ONCE = 20


# ---- the limit on connections ----------------------------------------------------------------


@pytest.mark.parametrize("first", [b"", GET])
async def test_one_connection_too_many_is_told_so_and_closed(first: bytes) -> None:
    async with (
        serving(Script(), settings(connections=2)) as running,
        connected(running.address) as one,
        connected(running.address) as two,
    ):
        for client in (one, two):
            await client.send(GET)
            assert (await client.response()).status == 200
        async with connected(running.address) as three:
            await three.send(first)
            assert await three.read_all() == FULL
        assert len(running.server.connections) == 2
        await one.send(GET)
        assert (await one.response()).status == 200
        assert len(running.script.served) == 3


async def test_a_connection_that_ends_makes_room_for_another() -> None:
    async with serving(Script(), settings(connections=1)) as running:
        for _ in range(3):
            async with connected(running.address) as client:
                await client.send(GET)
                assert (await client.response()).status == 200
            await until(lambda: not running.server.connections, "no room was made")


async def test_many_connections_are_served_at_once() -> None:
    async with serving(Script()) as running:

        async def ask(number: int) -> None:
            async with connected(running.address) as client:
                for _ in range(3):
                    await client.send(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % number)
                    assert (await client.response()).body == b"GET /%d " % number

        await asyncio.gather(*(ask(number) for number in range(50)))
        assert len(running.script.served) == 150


# ---- the end of a server ---------------------------------------------------------------------


async def test_it_is_empty_when_the_last_connection_has_ended() -> None:
    gate = asyncio.Event()

    async def serve(connection: ServerConnection, request: Request) -> None:
        await gate.wait()
        await echo(connection, request)

    async with serving(Script(serve)) as running, connected(running.address) as client:
        await client.send(GET)
        await until(lambda: len(running.script.opened) == 1, "nothing was read")
        running.server.drain()
        emptied = spawn(running.server.emptied(), name="emptied")
        await asyncio.sleep(0)
        assert not emptied.done()
        gate.set()
        async with asyncio.timeout(10):
            await emptied
        assert (await client.response()).status == 200


async def test_one_that_never_had_a_connection_is_empty() -> None:
    server = Server(Script(), spawn, settings(), full=FULL)
    server.drain()
    async with asyncio.timeout(10):
        await server.emptied()


async def test_aborting_resets_everything_that_is_left() -> None:
    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.begin(HEAD)
        connection.send(b"half")
        await asyncio.Event().wait()

    async with (
        serving(Script(serve)) as running,
        connected(running.address) as busy,
        connected(running.address) as idle,
    ):
        await busy.send(GET)
        await busy.read_until(b"half")
        await until(lambda: len(running.server.connections) == 2, "not accepted")
        running.server.abort()
        for client in (busy, idle):
            await client.read_all()
            assert client.ending is Ending.RESET
        await running.server.emptied()
        assert len(running.server.deadlines) == 0
        assert len(running.script.cancelled) == 1


async def test_aborting_ends_what_outlives_its_client_too() -> None:
    """The client has gone, and what served it goes on for reasons of its own."""
    ends: list[object] = []

    async def serve(connection: ServerConnection, request: Request) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as first:
            ends.append(first.args)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as second:
                ends.append(second.args)
            raise

    async with serving(Script(serve)) as running:
        async with connected(running.address) as client:
            await client.send(GET)
            await until(lambda: len(running.script.opened) == 1, "nothing was read")
            client.reset()
        await until(lambda: len(ends) == 1, "the client is still there")
        assert not running.server.connections
        running.server.abort()
        async with asyncio.timeout(10):
            await running.server.emptied()
        assert ends == [(), (CUT_BY_US,)]


# ---- whatever comes over the wire ------------------------------------------------------------


async def bombard(running: Serving, raw: bytes, chance: random.Random) -> None:
    """Send this in a few pieces, then leave in one of the ways in which clients leave."""
    async with connected(running.address) as client:
        try:
            await client.send(*pieces(raw, chance))
            await leave(client, chance)
        except (BrokenPipeError, ConnectionResetError):
            return  # it was refused while we were sending


def pieces(raw: bytes, chance: random.Random) -> list[bytes]:
    edges = sorted(chance.randint(0, len(raw)) for _ in range(chance.randint(0, 3)))
    return [raw[a:b] for a, b in zip([0, *edges], [*edges, len(raw)], strict=True)]


async def leave(client: RawClient, chance: random.Random) -> None:
    match chance.randrange(4):
        case 0:
            client.close()
        case 1:
            client.reset()
        case _:
            client.shutdown()
            answered = await client.read_all()
            assert answered == b"" or answered.startswith(b"HTTP/1.1 ")


async def fuzz(count: int) -> None:
    limits = settings(body_bytes=1000, head_bytes=4096, head_s=5.0, body_s=5.0, idle_s=5.0)
    chance = random.Random(count)
    before = other_tasks()
    async with serving(Script(), limits) as running:
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(raw: bytes) -> None:
            async with limit:
                await bombard(running, raw, chance)

        async with asyncio.TaskGroup() as group:
            for raw in mutants(count, seed=count):
                group.create_task(one(raw))
        server = running.server
        await until(
            lambda: not server.connections, "connections are left", lambda: server.connections
        )
        await until(lambda: other_tasks() == before, "tasks are left", other_tasks)
        assert len(server.deadlines) == 0
        assert server.buffered.bytes == 0
        async with connected(running.address) as client:
            await client.send(GET)
            assert (await client.response()).status == 200


async def test_five_hundred_mutated_requests_leave_nothing_behind() -> None:
    await fuzz(FUZZ_SHORT)


@pytest.mark.slow
async def test_twenty_thousand_mutated_requests_leave_nothing_behind() -> None:
    await fuzz(FUZZ_FULL)


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_every_message_of_the_corpus_is_answered_as_it_must_be(bytewise: bool) -> None:
    limits = settings(body_bytes=1000, head_bytes=4096)
    async with serving(Script(), limits) as running:
        for message in MESSAGES:
            raw = message.raw
            last = bool(message.asked) and not message.asked[-1].keep_alive
            if bytewise and (len(raw) > 2000 or last):
                continue  # what is sent after the last request may be answered by a reset
            async with connected(running.address) as client:
                await (client.drip(raw) if bytewise else client.send(raw))
                for asked in message.asked:
                    response = await client.response(to=asked.method)
                    assert response.status == 200, message.name
                    if asked.method != b"HEAD":
                        expected = b"%b %b %b" % (asked.method, asked.target, asked.body)
                        assert response.body == expected, message.name
                if message.status is not None:
                    response = await client.response()
                    assert response.status == message.status, message.name
                    assert response.headers[b"connection"] == b"close"
                client.shutdown()
                assert await client.read_all() == b"", message.name
        await until(lambda: not running.server.connections, "connections are left")


async def test_a_connection_that_is_never_made_leaves_nothing_to_the_collector() -> None:
    """As after a TLS handshake that fails."""
    server = Server(Script(), spawn, settings(), full=FULL)
    async with no_collector() as found:
        for _ in range(3):
            server.protocol()
    assert found == {}
