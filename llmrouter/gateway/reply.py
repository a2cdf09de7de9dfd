"""One attempt's answer, as it arrives.

The task that waits for it is woken once: when a plain answer is complete, when a stream has come to
the answer itself, or when either is lost. Of a stream, events that come before it (a role, an empty
delta, pings) are held here: should it fail by then, another deployment can answer, and nobody has
seen anything. From then on a stream is handed over to a receiver of its own, which no task stands
behind.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from llmrouter.contracts.call import Usage
from llmrouter.errors import UpstreamError
from llmrouter.gateway.drain import NO_DRAIN, DrainBounds
from llmrouter.http1.errors import HttpError
from llmrouter.http1.sse import EventTooLong, Splitter
from llmrouter.http1.upstream import ResponseReceiver, UpstreamConnection

PLAIN_BYTES_MAX = 1024 * 1024
"""Of a plain answer held back until it is complete and checked; a longer one is passed on."""
OPENING_BYTES_MAX: Final = 256 * 1024
"""Of a stream that is held back before its answer begins; more is taken for the answer."""
_OK_MAX: Final = 300
"""Errors are plain answers, whatever their content type says."""


class Reply:
    """Receives a response until somebody takes it over."""

    __slots__ = (
        "_bytes",
        "_connection",
        "_framed",
        "_opens",
        "_pieces",
        "_receiver",
        "_splitter",
        "_waiter",
        "bounds",
        "complete",
        "error",
        "has_begun",
        "headers",
        "is_stream",
        "on_closed",
        "shows_secret",
        "status",
        "usage",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: UpstreamConnection,
        opens: Callable[[bytes], bool],
        shows_secret: Callable[[bytes], bool],
        bounds: DrainBounds = NO_DRAIN,
    ) -> None:
        self._connection = connection
        self.bounds = bounds
        """How far it is heard out once its client has gone."""
        self.shows_secret = shows_secret
        """Whether our credential for this upstream stands in some bytes of it."""
        self._opens = opens
        """Whether the answer begins in some events; raises UpstreamError where they are none."""
        self._splitter: Splitter | None = None
        """Of a stream that has not begun."""
        self._waiter: asyncio.Future[None] = loop.create_future()
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._receiver: ResponseReceiver | None = None
        """Who has taken it over; until then it hears itself, without a reference to itself: that
        would leave every answer, with its bytes, to the garbage collector."""
        self._framed = True
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.is_stream = False
        self.usage: Usage | None = None
        """Of a plain answer, once it was read."""
        self.has_begun = False
        """Something of the answer itself has come."""
        self.complete = False
        self.on_closed: Callable[[], None] | None = None
        """Told when it is closed while it runs: no receiver hears of that."""
        self.error: HttpError | OSError | UpstreamError | None = None
        """Why there will be no more of it."""

    def __repr__(self) -> str:
        state = "complete" if self.complete else "lost" if self.error else "partial"
        return f"<Reply {self.status} {state} bytes={self._bytes}>"

    def is_running(self) -> bool:
        """More of it is to come, or its end."""
        return self._connection.serves(self._receiver or self)

    def is_lost(self) -> bool:
        """Nothing has come that could be passed on, and nothing will."""
        return self.error is not None and not (self.is_stream and self.has_begun)

    @property
    def body(self) -> bytes:
        """What has come so far."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    @property
    def framing_tells_end(self) -> bool:
        """Its head says where it ends; else only a close does, and a cut looks the same."""
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers

    async def arrives_within(self, seconds: float) -> bool:
        """Wait for its `arrival`, but not longer; whether it has come."""
        await asyncio.wait((self._waiter,), timeout=seconds)
        return self._waiter.done()

    @property
    def arrival(self) -> asyncio.Future[None]:
        """Done once there is enough to answer with, or `error` says why there never will be."""
        return self._waiter

    def fail(self, error: HttpError | OSError | UpstreamError) -> None:
        """There will be no answer."""
        self.error = error
        self._wake()

    def hand_over(self, receiver: ResponseReceiver) -> None:
        """Give what has come, and all that will, to `receiver`."""
        pieces, self._pieces = self._pieces, []
        if self._connection.serves(self):
            self._receiver = receiver
            self._connection.hand_over(receiver)
        for piece in pieces:
            receiver.response_data(piece)
        if self.complete:
            receiver.response_end(framed=self._framed)
        elif isinstance(self.error, HttpError):
            receiver.response_lost(self.error)

    def divert(self, receiver: ResponseReceiver) -> ResponseReceiver:
        """Give the rest of it, while it runs, to `receiver`; returns whose it was before."""
        before, self._receiver = self._receiver or self, receiver
        self._connection.hand_over(receiver)
        return before

    def pause(self, *, paused: bool) -> None:
        """Stop or go on reading from upstream."""
        if not self.is_running():
            return
        if paused:
            self._connection.pause()
        else:
            self._connection.resume()

    def close(self) -> None:
        """Nobody wants the rest, if there is any: upstream is told by a reset."""
        if self.is_running():
            self._connection.abandon()
            if self.on_closed is not None:
                self.on_closed()
        self._receiver = None  # either refers to this: only a collector could free them all
        self.on_closed = None

    # The connection calls these.

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The head has come."""
        self.status = status
        self.headers = headers
        content_type = headers.get(b"content-type", b"").lower()
        self.is_stream = status < _OK_MAX and content_type.startswith(b"text/event-stream")

    def response_data(self, data: bytes) -> None:
        """Bytes of the body."""
        self._pieces.append(data)
        self._bytes += len(data)
        if self.is_stream:
            if not self.has_begun:
                self._look(data)
            return
        if not self.has_begun:
            self.has_begun = True
            self._connection.begun()
        if self._bytes > PLAIN_BYTES_MAX:
            self._wake()

    def response_end(self, *, framed: bool) -> None:
        """It is complete, as far as its framing tells."""
        self.complete = True
        self._framed = framed
        self._wake()

    def response_lost(self, error: HttpError) -> None:
        """It will never be complete."""
        self.fail(error)

    def _look(self, data: bytes) -> None:
        """Look for the answer itself in what a stream begins with."""
        splitter = self._splitter = self._splitter or Splitter()
        try:
            events = splitter.feed(data)
            self.has_begun = self._bytes > OPENING_BYTES_MAX or (
                bool(events) and self._opens(events)
            )
        except EventTooLong:
            self.has_begun = True  # whoever passes it on says so
        except UpstreamError as error:
            self.close()
            self.fail(error)
            return
        if self.has_begun:
            self._splitter = None
            self._connection.begun()
            self._wake()

    def _wake(self) -> None:
        if not self._waiter.done():
            self._waiter.set_result(None)


_: type[ResponseReceiver] = Reply
