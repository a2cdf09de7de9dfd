"""One upstream connection: sends a request, delivers the response to a receiver by plain calls.

A receiver hears of the head, of bytes as they come (once per read, however many chunks it held)
and of exactly one end: `response_end` or `response_lost`; of nothing more once it has abandoned the
connection. Nothing here awaits, so the bytes of a running stream reach the downstream transport in
the same turn of the loop in which they came.

Time-outs are one deadline that the pool's sweep looks at: `first_s` after the request until the
receiver says that the answer has `begun`, then `idle_s` after the latest bytes, and never later
than `total_s`. Bytes that are no answer yet (pings, a head, a role) do not put it off.
"""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

from llmrouter.http1 import chunks
from llmrouter.http1.deadlines import NEVER
from llmrouter.http1.errors import ConnectionLost, HttpError, ResponseError, ResponseTimeout
from llmrouter.http1.reset import reset

if TYPE_CHECKING:
    from llmrouter.http1.pool import Pool

HEAD_BYTES_MAX: Final = 65_536
"""Of a response, and of framing in a row; the largest heads that providers send are about 4 kB."""
STALE_S = 1.0
"""An upstream that breaks off later than this has most likely read the request, and acted on it."""
_KEEP_ALIVE_MARGIN_S: Final = 1.0
"""How long before the upstream says it will close an idle connection we stop using it."""
_SPENT: Final = httptools.HttpResponseParser(None)
"""Of all connections that are not made yet, or lost."""


@dataclass(frozen=True, kw_only=True)
class UpstreamTimeouts:
    """Seconds; see the module."""

    connect_s: float
    first_s: float
    idle_s: float
    total_s: float


class ResponseReceiver(Protocol):
    """Who hears of a response."""

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Status and headers (names in lower case) are complete."""

    def response_data(self, data: bytes) -> None:
        """Bytes of the body, its framing taken off."""

    def response_end(self, *, framed: bool) -> None:
        """The response is complete; `framed` is False where only a close marks its end."""

    def response_lost(self, error: HttpError) -> None:
        """There will be no more of it, and it is not complete."""


class UpstreamConnection(asyncio.Protocol):
    """One connection of a pool: idle, or busy with one request."""

    __slots__ = (
        "_announced",
        "_barren_bytes",
        "_begun",
        "_between_chunks",
        "_complete",
        "_first_at",
        "_head_complete",
        "_headers",
        "_idle_s",
        "_keep_alive",
        "_loop",
        "_parser",
        "_paused",
        "_pieces",
        "_pool",
        "_receiver",
        "_sent_at",
        "_status",
        "_surplus",
        "_total_at",
        "_transport",
        "deadline",
        "retires_at",
        "served",
    )

    def __init__(self, pool: "Pool", loop: asyncio.AbstractEventLoop) -> None:
        # for the connection
        self._pool = pool
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = _SPENT
        self.served = 0
        """How many responses have come over this connection."""
        self.retires_at = NEVER
        """From when on it serves no other request."""
        self.deadline = NEVER
        # for the request
        self._receiver: ResponseReceiver | None = None
        self._headers: dict[bytes, bytes] = {}
        self._status = 0
        self._barren_bytes = 0
        """Came since the last of the body: of a head, of chunk lines, of trailers."""
        self._head_complete = False
        self._announced = False
        self._complete = False
        self._between_chunks = False
        """The parser stands between two chunks; what is one whole chunk would leave it there."""
        self._keep_alive = False
        self._surplus = False
        """More came than the one response that was asked for."""
        self._paused = False
        self._pieces: list[bytes] = []
        self._begun = False
        """The answer itself has begun to come."""
        self._first_at = NEVER
        self._idle_s = 0.0
        self._total_at = NEVER
        self._sent_at = 0.0

    def __repr__(self) -> str:
        state = "CLOSED" if self._transport is None else "BUSY" if self._receiver else "IDLE"
        return f"<UpstreamConnection {self._pool.origin!r} {state} served={self.served}>"

    def is_open(self) -> bool:
        """A request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    # ---- the pool's user calls these ----------------------------------------------------

    def expect(self, receiver: ResponseReceiver, timeouts: UpstreamTimeouts) -> None:
        """Take the connection for one request; its response goes to `receiver`."""
        assert self._receiver is None
        now = self._loop.time()
        self._receiver = receiver
        self._sent_at = now
        self._idle_s = timeouts.idle_s
        self._total_at = now + timeouts.total_s
        self.deadline = self._first_at = now + min(timeouts.first_s, timeouts.total_s)
        self._begun = False
        self._head_complete = self._announced = self._complete = False
        self._between_chunks = False
        self._barren_bytes = 0
        self._pieces = []

    def send(self, request: bytes) -> None:
        """Write the request; if the connection is lost by now, the receiver has heard so."""
        if self._transport is not None and self._receiver is not None:
            self._transport.write(request)

    def serves(self, receiver: ResponseReceiver) -> bool:
        """Whether the response to `receiver` is still to end; after it, another may be served."""
        return self._receiver is receiver

    def hand_over(self, receiver: ResponseReceiver) -> None:
        """Deliver the rest of the running response to `receiver`."""
        assert self._receiver is not None
        self._receiver = receiver

    def begun(self) -> None:
        """The answer itself has begun: from now on no pause in it may be longer than `idle_s`."""
        self._begun = True
        if not self._paused:
            self._touch()

    def pause(self) -> None:
        """Stop reading: downstream cannot take more. Only `total_s` runs on."""
        if not self._paused and self._transport is not None and not self._complete:
            self._paused = True
            self.deadline = self._total_at
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._touch()
            self._transport.resume_reading()

    def abandon(self) -> None:
        """Nobody wants the response any more: reset the connection, so that upstream stops too."""
        self._receiver = None
        if self._transport is not None:
            reset(self._transport)

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    # ---- asyncio calls these --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, TLS included."""
        self._parser = httptools.HttpResponseParser(self)
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._receiver is None:
            self.close()  # bytes that nobody asked for cannot be the start of the next response
            return
        if self._between_chunks:
            piece = chunks.only_chunk(data)
            if piece:  # as of nearly every read of a paced stream
                self._deliver(piece)
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                self._lose(ResponseError(f"the response is not HTTP/1.1: {error}"))
                return
            self._surplus = True
        # Of a size line that has begun the parser tells at its end: the read ends within it then.
        self._between_chunks = self._between_chunks and data.endswith(b"\n")
        if not self._announced and not self._announce_head(len(data)):
            return
        if self._pieces:
            self._deliver_pieces()
        elif not self._complete and not self._may_go_on(len(data)):
            return
        if self._complete and self._receiver is not None:
            self._end(framed=True)

    def eof_received(self) -> bool:
        """The upstream will send no more, so the connection is of no more use."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        self._transport = None
        self._parser = _SPENT  # it refers to this: only a collector could free both
        self._pool.lost(self)
        if self._receiver is None:
            return
        if error is None and self._head_complete and not self._is_framed():
            self._end(framed=False)
            return
        silent = self.served > 0 and not self._head_complete and self._barren_bytes == 0
        stale = silent and self._loop.time() - self._sent_at <= STALE_S
        what = "reset" if error is not None else "closed"
        when = "during the answer" if self._head_complete else "before an answer"
        self._lose(ConnectionLost(f"the connection was {what} {when}", stale=stale))

    def expired(self, _now: float) -> None:
        """A deadline passed: the upstream is silent, or the connection idle for long enough."""
        self.deadline = NEVER
        if self._receiver is None:
            self.close()
            return
        self._lose(ResponseTimeout("the upstream was silent for too long"))

    # ---- httptools calls these --------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a response, or of an interim one, or of one too many."""
        if self._complete:
            self._surplus = True
        else:
            self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are dropped."""
        if self._head_complete:
            return
        name = name.lower()
        if name in self._headers:
            value = self._headers[name] + b", " + value
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        """The head is complete; interim ones (1xx) are dropped."""
        if self._surplus:
            return
        self._status = self._parser.get_status_code()
        if self._status >= 200:
            self._head_complete = True

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if not self._surplus:
            self._pieces.append(piece)

    def on_chunk_header(self) -> None:
        """The line before a chunk, also before the last one, which is empty."""
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        """A chunk, and the line end behind it; of the last one, all that follows.

        A status below 200 should have no body, and llhttp reads one for those below 100.
        """
        self._between_chunks = self._head_complete and not self._surplus

    def on_message_complete(self) -> None:
        """The response is whole."""
        self._between_chunks = False
        if self._head_complete:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()  # known here, and never after

    # ---- inside ---------------------------------------------------------------------------

    def _announce_head(self, fed: int) -> bool:
        """Tell the receiver of the head; False if there is nothing to tell yet, or no more."""
        receiver = self._receiver
        assert receiver is not None
        if self._head_complete:
            self._announced = True
            receiver.response_head(self._status, self._headers)
            return self._receiver is not None
        self._may_go_on(fed)
        return False

    def _may_go_on(self, fed: int) -> bool:
        """Count bytes that brought none of the body; False if there were too many in a row."""
        self._barren_bytes += fed
        if self._barren_bytes <= HEAD_BYTES_MAX:
            return True
        what = "chunk extensions or trailers are" if self._head_complete else "the head is"
        self._lose(ResponseError(f"{what} longer than {HEAD_BYTES_MAX} bytes"))
        return False

    def _deliver_pieces(self) -> None:
        pieces, self._pieces = self._pieces, []
        self._deliver(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _deliver(self, data: bytes) -> None:
        receiver = self._receiver
        assert receiver is not None
        self._barren_bytes = 0
        if not self._paused:
            self._touch()
        receiver.response_data(data)

    def _touch(self) -> None:
        if self._begun:
            self.deadline = min(self._loop.time() + self._idle_s, self._total_at)
        else:
            self.deadline = self._first_at

    def _is_framed(self) -> bool:
        return b"content-length" in self._headers or b"transfer-encoding" in self._headers

    def _end(self, *, framed: bool) -> None:
        receiver = self._receiver
        assert receiver is not None
        self._receiver = None
        self.served += 1
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()
        # An answer may come before its request has left whole: then the rest of that request would
        # stand before the next one.
        unsent = self._transport is not None and self._transport.get_write_buffer_size() > 0
        if framed and self._keep_alive and not self._surplus and not unsent:
            self._pool.release(self, self._idle_for_s())
        else:
            self.close()
        receiver.response_end(framed=framed)

    def _idle_for_s(self) -> float:
        """How long the upstream says it keeps an idle connection (`Keep-Alive: timeout=5`)."""
        promise = self._headers.get(b"keep-alive")
        if promise is None:
            return NEVER
        digits = promise.lower().partition(b"timeout=")[2].partition(b",")[0].strip()[:9]
        return int(digits) - _KEEP_ALIVE_MARGIN_S if digits.isdigit() else NEVER

    def _lose(self, error: HttpError) -> None:
        receiver = self._receiver
        assert receiver is not None
        self.abandon()
        receiver.response_lost(error)
