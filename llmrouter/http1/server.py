"""The server side: what it serves, within which limits, and all its connections on one loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec

from llmrouter.http1.deadlines import Deadlines
from llmrouter.http1.downstream import CUT_BY_US, Exchange, ServerConnection
from llmrouter.http1.errors import MessageError
from llmrouter.http1.outbox import Outbox
from llmrouter.http1.request import Buffered, Request

SWEEP_EVERY_S = 0.1


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What protects a server from its clients: sizes in bytes, time-outs in seconds."""

    connections: int
    """How many may stand at once; one more is told so and closed."""
    head_bytes: int
    body_bytes: int
    buffered_bytes: int
    """Of all bodies held in memory together."""
    head_s: float
    """From the first byte of a request (or the accept) to the end of its head."""
    body_s: float
    """From the end of a head to the end of its body."""
    idle_s: float
    """Between requests; and for how long a reader may take nothing."""


class Application(Protocol):
    """What a server serves."""

    def open(self, connection: ServerConnection, request: Request) -> Exchange:
        """The head has arrived. Nothing may be awaited; clear `request.wants_body` to refuse."""

    def reject(self, request: Request, error: MessageError) -> tuple[bytes, bytes]:
        """Head (status line and headers) and body for a request that cannot be served at all."""


class Spawn(Protocol):
    """Runs a coroutine as a named task."""

    def __call__(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """The running task."""


class Server:
    """All downstream connections of one loop, over however many listeners."""

    def __init__(
        self, application: Application, spawn: Spawn, settings: ServerSettings, *, full: bytes
    ) -> None:
        self.application = application
        self._spawn = spawn
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.deadlines = Deadlines(self.loop, SWEEP_EVERY_S)
        self.outbox = Outbox(self.loop)
        self.connections: set[ServerConnection] = set()
        self.buffered = Buffered(settings.buffered_bytes)
        self.draining = False
        self.aborting = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._full = full
        """A whole response for a connection over the limit."""
        self._emptied = asyncio.Event()

    def protocol(self) -> asyncio.Protocol:
        """A protocol for one accepted connection."""
        return ServerConnection(self)

    def admits(self, transport: asyncio.Transport) -> bool:
        """Whether one more connection may stand; if not, it is told so and closed."""
        if len(self.connections) < self.settings.connections:
            return True
        transport.write(self._full)
        transport.close()
        return False

    def drain(self) -> None:
        """Close what is idle; let the rest finish, each closing after its current exchange."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    async def emptied(self) -> None:
        """Wait until no connection is left, and every exchange has put its books in order."""
        while self.connections:
            self._emptied.clear()
            await self._emptied.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def abort(self) -> None:
        """Reset every connection that is left, and stop the timer."""
        self.aborting = True
        for connection in list(self.connections):
            connection.abort()
        for task in self._tasks:
            if task.cancelling():  # its client has gone, and it has not ended yet
                task.cancel(CUT_BY_US)
        self.deadlines.close()

    def start(self, serving: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a connection's task."""
        task = self._spawn(serving, name="downstream connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def opened(self, connection: ServerConnection) -> None:
        """Count a connection, and watch its deadline."""
        self.connections.add(connection)
        self.deadlines.watch(connection)

    def lost(self, connection: ServerConnection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self.deadlines.forget(connection)
        if not self.connections:
            self._emptied.set()
