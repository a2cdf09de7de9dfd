"""One downstream connection: what it reads, and a task that serves its exchanges in order.

Theory of operation. The reader (`reader`) turns bytes into requests; for each the application makes
an exchange when the head is complete, and may already know the answer then (no key, no such path):
such an exchange clears `request.wants_body` and is served without waiting for its body. Exchanges
are served strictly in the order in which they came, one at a time; while one is served, at most one
read's worth of pipelined bytes waits behind it, then reading pauses.
"""

import asyncio
import enum
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, Protocol, cast

from llmrouter.http1.deadlines import NEVER
from llmrouter.http1.errors import MessageError
from llmrouter.http1.link import CONTINUE, LINGER_S, Link
from llmrouter.http1.reader import RequestReader
from llmrouter.http1.request import Request

if TYPE_CHECKING:
    from llmrouter.http1.server import Server

WRITE_BUFFER_BYTES: Final = 65_536
"""High-water mark: what a slow reader may make us hold before its upstream is paused."""
PIPELINED_MAX: Final = 128
"""How many requests of one connection may wait: one read can hold ten thousand of them."""
CUT_BY_US: Final = "the server was aborted"
"""What the cancellation of an exchange says if it was not the client that left."""


class Exchange(Protocol):
    """What the application makes of a request."""

    def serve(self) -> Awaitable[None]:
        """Answer through the connection; cancelled when the client is gone."""


class _Waiting(enum.Enum):
    """What a connection that serves nothing waits for; each has a time-out of its own."""

    REQUEST = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class ServerConnection(Link):
    """Reads requests, serves them in order, writes responses."""

    __slots__ = (
        "_exchange",
        "_reader",
        "_ready",
        "_task",
        "_waiter",
        "_waiting",
    )

    def __init__(self, server: "Server") -> None:
        super().__init__(server)
        # for the connection
        self._ready: deque[tuple[Request, Exchange]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._waiting: _Waiting | None = None
        # for the exchange being read
        self._exchange: Exchange | None = None

    def __repr__(self) -> str:
        if self._transport is None:
            state = "CLOSED"
        elif self._lingering:
            state = "LINGERING"
        elif self._request is not None:
            state = "SERVING"
        else:
            state = "READING" if self._reader.is_mid_request() else "IDLE"
        return f"<ServerConnection {state}>"

    # ---- asyncio calls these ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        # Not before: nothing would ever part the two after a TLS handshake that failed.
        self._reader = RequestReader(self, self._server.settings, self._server.buffered)
        transport = cast("asyncio.Transport", transport)
        if not self._server.admits(transport):
            self._lingering = True
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._wait_for(_Waiting.HEAD, self._server.settings.head_s)
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._lingering:
            self._drop(len(data))
            return
        try:
            self._reader.feed(data)
        except MessageError as error:
            self._refuse(error)
            return
        if self._request is not None:
            if self._ready or self._reader.is_mid_request():
                self._pause_reading()
        elif not self._ready:
            self._wait_for_next()
        elif not self._writable:
            self._pause_reading()

    def eof_received(self) -> bool:
        """The client will send no more; it may still be reading."""
        self.write_out()
        if self._lingering or (self._request is None and not self._ready):
            return False
        if self._transport is None or not self._transport.can_write_eof():
            return False  # TLS knows no half-close
        self._half_closed = True
        self._probe_from_now_on()
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        self._gone()
        self._server.lost(self)
        if (unfinished := self._reader.unfinished()) is not None:
            unfinished.drop_body()
        self._reader.close()
        self._exchange = None
        self._forget_ready()
        if self._request is not None:
            assert self._task is not None
            self._task.cancel(CUT_BY_US if self._server.aborting else None)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def resume_writing(self) -> None:
        """The client has caught up; what waits for that is served."""
        super().resume_writing()
        self._wake()

    # ---- the reader and the sweep call these ----------------------------------------------

    def request_head(self, request: Request) -> None:
        """Ask the application what it makes of this request."""
        if len(self._ready) >= PIPELINED_MAX:
            raise MessageError(400, f"more than {PIPELINED_MAX} requests wait on this connection")
        exchange = self._server.application.open(self, request)
        if not request.wants_body:
            self._enqueue(request, exchange)
            return
        self._exchange = exchange

    def request_complete(self, request: Request) -> None:
        """Serve it when its turn comes; a refused one already waits for it."""
        exchange = self._exchange
        if request.wants_body and exchange is not None:
            self._exchange = None
            self._enqueue(request, exchange)

    def expired(self, now: float) -> None:
        """A deadline passed: of a head, a body, an idle connection, a reader that stalled."""
        if self._is_being_read():
            self.deadline = now + self._server.settings.idle_s
            return
        self.deadline = now + LINGER_S
        if self._lingering or self._request is not None or not self._writable:
            self.abort()
        elif self._ready:
            return  # it came just in time, and is served in this turn of the loop
        elif self._waiting is _Waiting.BODY:
            self._refuse(MessageError(408, "the request's body did not arrive in time"))
        elif self._reader.is_mid_request():
            self._refuse(MessageError(408, "the request's head did not arrive in time"))
        else:
            self._close()

    # ---- the application calls these --------------------------------------------------------

    def is_aborted(self) -> bool:
        """Its server was told to wait for nothing any more."""
        return self._server.aborting

    def reject(self, request: Request, error: MessageError) -> None:
        """Answer a request that cannot be served at all."""
        self.respond(*self._server.application.reject(request, error))

    def drain(self) -> None:
        """Close now if idle, else after the exchange that is being read or served."""
        idle = self._request is None and not self._ready and not self._reader.is_mid_request()
        if idle and self._transport is not None:
            self.write_out()
            self._transport.close()

    # ---- inside -------------------------------------------------------------------------

    def _enqueue(self, request: Request, exchange: Exchange) -> None:
        self._ready.append((request, exchange))
        if self._task is None:
            self._task = self._server.start(self._run())
        else:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _run(self) -> None:
        """Serve exchange after exchange until the connection ends."""
        try:
            await self._serve_in_order()
        finally:
            if self._request is not None:
                self._request.drop_body()
            self._forget_ready()
            if not self._lingering:  # an exchange failed: nobody will ever answer it
                self.write_out()  # but if it was answered before, the answer leaves
                self.abort()

    async def _serve_in_order(self) -> None:
        while self._transport is not None and not self._lingering:
            if self._ready:
                self.write_out()
            if not self._ready or not self._writable:
                self._waiter = self._loop.create_future()
                await self._waiter
                continue
            request, exchange = self._ready.popleft()
            self._respond_to(request)
            self._waiting = None
            self.deadline = NEVER
            await exchange.serve()
            self._end_exchange(request)

    def _end_exchange(self, request: Request) -> None:
        self._request = None
        self._on_writable = None
        request.drop_body()
        if self._transport is None or self._lingering:
            return
        if not self._responded:
            self.abort()
        elif not request.complete:
            self._linger()
        elif not request.keep_alive or self._is_last():
            self._close()
        else:
            self._next_exchange()

    def _is_last(self) -> bool:
        """Nothing more will be served here: the client has ended, or we drain and nothing waits."""
        if self._ready:
            return False
        return self._half_closed or (self._server.draining and not self._reader.is_mid_request())

    def _next_exchange(self) -> None:
        if self._ready:
            return
        self._resume_reading()
        self._wait_for_next()

    def _wait_for_next(self) -> None:
        """Arm the time-out of what comes next: the rest of a body or a head, or a request."""
        settings = self._server.settings
        if not self._reader.is_mid_request():
            if self._waiting is not _Waiting.HEAD:
                self._wait_for(_Waiting.REQUEST, settings.idle_s)
        elif self._reader.is_reading_body():
            self._invite_body()
            self._wait_for(_Waiting.BODY, settings.body_s)
        else:
            self._wait_for(_Waiting.HEAD, settings.head_s)

    def _wait_for(self, waiting: _Waiting, timeout_s: float) -> None:
        if waiting is self._waiting:
            return  # a byte now and then does not buy more time
        self._waiting = waiting
        self.deadline = self._loop.time() + timeout_s

    def _invite_body(self) -> None:
        request = self._reader.unfinished()
        if request is None or not request.expects_continue:
            return
        request.expects_continue = False
        if request.body_bytes == 0 and self._transport is not None:
            self.write_out()
            self._transport.write(CONTINUE)

    def _refuse(self, error: MessageError) -> None:
        """Answer a broken request, once those before it are answered, and end the connection."""
        self._reader.ended = True
        request = self._reader.unfinished() or Request(b"")
        request.keep_alive = False
        self._exchange = None
        if request.wants_body:  # else it is refused already
            self._enqueue(request, _Refused(self, request, error))

    def _forget_ready(self) -> None:
        for request, _ in self._ready:
            request.drop_body()
        self._ready.clear()


class _Refused:
    """The exchange of a request that is no proper request."""

    def __init__(self, connection: ServerConnection, request: Request, error: MessageError) -> None:
        self._connection = connection
        self._request = request
        self._error = error

    async def serve(self) -> None:
        """Say what was wrong with it."""
        self._connection.reject(self._request, self._error)
