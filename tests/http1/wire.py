"""What the tests of both halves of a downstream connection share: requests, and a fake wire."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from llmrouter.http1.downstream import ServerConnection
from llmrouter.http1.request import Request
from llmrouter.http1.server import Server, ServerSettings
from llmrouter.tasks import spawn
from tests.support.application import FULL, HEAD, Script, Serving, echo, serving, settings
from tests.support.raw import RawClient, connected
from tests.support.transport import FakeTransport

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
GET_10 = b"GET / HTTP/1.0\r\n\r\n"
EVENT = b"data: {}\n\n"


def get(target: bytes, *lines: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nhost: a\r\n%b\r\n" % (target, b"".join(n + b"\r\n" for n in lines))


def post(body: bytes, *lines: bytes, target: bytes = b"/") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n%b\r\n%b" % (
        target,
        len(body),
        b"".join(line + b"\r\n" for line in lines),
        body,
    )


async def events(connection: ServerConnection, request: Request) -> None:
    connection.begin(HEAD)
    for _ in range(3):
        connection.send(EVENT)
    connection.finish()


def whole(size: int) -> Callable[[ServerConnection, Request], Awaitable[None]]:
    """Answers with so many bytes, in one piece."""

    async def serve(connection: ServerConnection, request: Request) -> None:
        connection.respond(HEAD, b"x" * size)

    return serve


@contextlib.asynccontextmanager
async def reading_little(
    serve: Callable[[ServerConnection, Request], Awaitable[None]],
    limits: ServerSettings | None = None,
) -> AsyncIterator[tuple[Serving, RawClient]]:
    """A client of a server, with so little between the two that what it does not read is unsent."""
    async with (
        serving(Script(serve), limits, send_buffer_bytes=4096) as running,
        connected(running.address, receive_buffer_bytes=4096) as client,
    ):
        yield running, client


class Gate:
    """Holds every exchange until the test lets it go on."""

    def __init__(self, then: Callable[[ServerConnection, Request], Awaitable[None]] = echo) -> None:
        self.open = asyncio.Event()
        self.then = then

    async def __call__(self, connection: ServerConnection, request: Request) -> None:
        await self.open.wait()
        await self.then(connection, request)


class Wire:
    """A connection on a fake transport."""

    def __init__(self, script: Script, limits: ServerSettings | None = None) -> None:
        self.script = script
        self.server = Server(script, spawn, limits or settings(), full=FULL)
        self.transport = FakeTransport()
        connection = self.server.protocol()
        assert isinstance(connection, ServerConnection)
        self.connection = connection
        connection.connection_made(self.transport)

    async def receive(self, *pieces: bytes) -> bytes:
        """Let these come in, each in a turn of its own; returns what was written."""
        for piece in pieces:
            self.connection.data_received(piece)
            await turn()
        return self.transport.take()

    async def lose(self) -> None:
        self.connection.connection_lost(None)
        self.server.abort()
        await turn()


async def turn() -> None:
    """Let everything happen that can without any time passing."""
    for _ in range(10):
        await asyncio.sleep(0)


# ---- requests and answers in order -----------------------------------------------------------
