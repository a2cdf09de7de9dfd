"""The writing half of a downstream connection: one response at a time, whole or streamed.

A response is either given whole (`respond`) or streamed (`begin`, `send`, `finish`); head and first
bytes leave in one write. A stream that cannot be finished is `cut`: the last chunk is missing (or
the connection is reset), so no client can take it for complete.

A whole response may be held back until the end of the turn (see `outbox`). Invariant: nothing is
held back while another exchange is served, nor once the connection is closing.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from llmrouter.http1 import chunks
from llmrouter.http1.outbox import SHARED_BYTES_MAX
from llmrouter.http1.request import Request
from llmrouter.http1.reset import reset

if TYPE_CHECKING:
    from llmrouter.http1.server import Server

CLOSE: Final = b"connection: close\r\n\r\n"
_KEEP_ALIVE_10: Final = b"connection: keep-alive\r\n\r\n"


class ResponseWriter(asyncio.Protocol):
    """Writes responses to the requests that its subclass reads."""

    __slots__ = (
        "_chunked",
        "_head",
        "_lingering",
        "_on_writable",
        "_request",
        "_responded",
        "_server",
        "_transport",
        "_unwritten",
        "_writable",
    )

    def __init__(self, server: "Server") -> None:
        # for the process
        self._server = server
        # for the connection
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._unwritten = b""
        """A whole response that is held back until the end of the turn."""
        self._lingering = False
        """Nothing more is served: what was written leaves, then the connection ends."""
        # for the exchange being served
        self._request: Request | None = None
        self._head: bytes | None = None
        """Of a streamed response: None before it begins, b"" once it has left."""
        self._chunked = False
        self._responded = False
        self._on_writable: Callable[[bool], None] | None = None

    def is_open(self) -> bool:
        """Something can still be written."""
        return self._transport is not None

    def has_begun(self) -> bool:
        """A streamed response has begun, so there can be no other."""
        return self._head is not None

    def respond(self, head: bytes, body: bytes) -> None:
        """Send a whole response: `head` is status line and headers, each line CRLF-ended."""
        request = self._request
        assert request is not None
        if self._transport is None or self._lingering:
            self._responded = True
            return  # lost or aborted, though its task does not know yet
        assert not self._responded
        self._responded = True
        framing = b"content-length: %d\r\n%b" % (len(body), self._connection_header(request))
        if request.method == b"HEAD":
            body = b""
        answer = head + framing + body
        if len(answer) <= SHARED_BYTES_MAX and self._server.outbox.holds_back(self):
            self._unwritten = answer
        else:
            self._transport.write(answer)

    def write_out(self) -> None:
        """Write now what was held back."""
        if self._unwritten and self._transport is not None:
            self._transport.write(self._unwritten)
        self._unwritten = b""

    def begin(self, head: bytes) -> None:
        """Start a streamed response; its head leaves with the first bytes."""
        request = self._request
        assert request is not None
        assert self._head is None
        assert self._lingering or not self._responded
        assert request.method != b"HEAD", "a body would be taken for the next response"
        self._chunked = request.minor_version == 1
        if self._chunked:
            self._head = head + b"transfer-encoding: chunked\r\n" + self._connection_header(request)
        else:
            request.keep_alive = False
            self._head = head + CLOSE

    def send(self, data: bytes) -> None:
        """Pass on bytes of a streamed response; never waits (see `on_writable`)."""
        if self._transport is None or not data:
            return  # an empty chunk would be the last one
        if self._chunked:
            data = chunks.framed(data)
        if self._head:
            data = self._head + data
            self._head = b""
        self._transport.write(data)

    def finish(self) -> None:
        """End a streamed response as complete."""
        if self._lingering:
            return  # aborted, though its task does not know yet
        assert self._head is not None
        assert not self._responded
        self._responded = True
        last = self._head + (b"0\r\n\r\n" if self._chunked else b"")
        if self._transport is not None and last:
            self._transport.write(last)

    def cut(self) -> None:
        """End a streamed response as visibly incomplete: what was sent arrives, no end does."""
        self._responded = True
        if self._chunked:
            self._close()
        else:
            # Without chunks a close would look like the end; only a reset does not.
            self.abort()

    def abort(self) -> None:
        """Reset the connection at once, dropping whatever is unsent."""
        self._responded = self._lingering = True
        self._unwritten = b""
        if self._transport is not None:
            reset(self._transport)

    def on_writable(self, listener: Callable[[bool], None] | None) -> None:
        """Tell `listener` when the client stops (False) or resumes (True) taking bytes."""
        self._on_writable = listener
        if listener is not None and not self._writable:
            listener(False)

    # ---- inside -------------------------------------------------------------------------

    def _respond_to(self, request: Request) -> None:
        """From now on it is this request that is answered."""
        self._request = request
        self._responded = False
        self._head = None

    def _connection_header(self, request: Request) -> bytes:
        """The connection header, where one is needed, and the empty line that ends every head."""
        if not request.complete or not request.keep_alive or self._server.draining:
            request.keep_alive = False
            return CLOSE
        return b"\r\n" if request.minor_version == 1 else _KEEP_ALIVE_10

    def _set_writable(self, writable: bool) -> None:
        self._writable = writable
        if self._on_writable is not None:
            self._on_writable(writable)

    def _close(self) -> None:
        """Send what is unsent, then close."""
        raise NotImplementedError
