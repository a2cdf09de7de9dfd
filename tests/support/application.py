"""An application whose answers a test writes, and a running server of it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from llmrouter.http1.downstream import ServerConnection
from llmrouter.http1.errors import MessageError
from llmrouter.http1.request import Request
from llmrouter.http1.server import Server, ServerSettings
from llmrouter.tasks import spawn

HEAD = b"HTTP/1.1 200 OK\r\n"
FULL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\nconnection: close\r\n\r\nfull"
Serve: TypeAlias = Callable[[ServerConnection, Request], Awaitable[None]]


async def echo(connection: ServerConnection, request: Request) -> None:
    """Answer with what was asked: method, target, body."""
    connection.respond(HEAD, b"%b %b %b" % (request.method, request.target, request.body))


def refuse(connection: ServerConnection) -> None:
    """Answer a request without having looked at its body."""
    connection.respond(b"HTTP/1.1 401 Unauthorized\r\n", b"no key")


class Script:
    """Serves every request with one coroutine; notes what came and how it ended."""

    def __init__(self, serve: Serve = echo, *, refused: bytes = b"/refused") -> None:
        self.serve = serve
        self.refused = refused
        """The target whose requests are answered without their body."""
        self.opened: list[Request] = []
        self.served: list[Request] = []
        self.cancelled: list[Request] = []

    def open(self, connection: ServerConnection, request: Request) -> "Turn":
        self.opened.append(request)
        if request.target == self.refused:
            request.wants_body = False
        return Turn(self, connection, request)

    def reject(self, request: Request, error: MessageError) -> tuple[bytes, bytes]:
        return b"HTTP/1.1 %d Refused\r\n" % error.status, error.reason.encode()


class Turn:
    """One exchange of a script."""

    def __init__(self, script: Script, connection: ServerConnection, request: Request) -> None:
        self._script = script
        self._connection = connection
        self._request = request

    async def serve(self) -> None:
        if not self._request.wants_body:
            refuse(self._connection)
            return
        try:
            await self._script.serve(self._connection, self._request)
        except asyncio.CancelledError:
            self._script.cancelled.append(self._request)
            raise
        self._script.served.append(self._request)


def settings(
    *,
    connections: int = 100,
    head_bytes: int = 65_536,
    body_bytes: int = 1_000_000,
    buffered_bytes: int = 100_000_000,
    head_s: float = 60.0,
    body_s: float = 60.0,
    idle_s: float = 60.0,
) -> ServerSettings:
    """Settings under which nothing happens by itself, but for what a test wants to happen."""
    return ServerSettings(
        connections=connections,
        head_bytes=head_bytes,
        body_bytes=body_bytes,
        buffered_bytes=buffered_bytes,
        head_s=head_s,
        body_s=body_s,
        idle_s=idle_s,
    )


class Serving:
    """A server that runs, where it listens, and what it serves."""

    def __init__(self, server: Server, script: Script, address: tuple[str, int]) -> None:
        self.server = server
        self.script = script
        self.address = address


@contextlib.asynccontextmanager
async def serving(
    script: Script,
    limits: ServerSettings | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    send_buffer_bytes: int | None = None,
) -> AsyncIterator[Serving]:
    """Serve `script` on a free port; at the end whatever is left is reset."""
    loop = asyncio.get_running_loop()
    server = Server(script, spawn, limits or settings(), full=FULL)
    listener = await loop.create_server(server.protocol, "127.0.0.1", 0, ssl=tls)
    bound = listener.sockets[0]
    if send_buffer_bytes is not None:
        bound.setsockopt(1, 7, send_buffer_bytes)  # SOL_SOCKET, SO_SNDBUF: inherited on accept
    try:
        yield Serving(server, script, bound.getsockname())
    finally:
        listener.close()
        server.abort()
        async with asyncio.timeout(10):
            await server.emptied()
