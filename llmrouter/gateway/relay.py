"""A running answer on its way through: from the upstream's read straight to the client's write.

`StreamRelay` passes on whole events, so that whatever must be said after a cut stands on its own;
an answer without its dialect's end marker is ended by an error event and a cut, never cleanly.
`PlainRelay` passes on a plain answer too long to be held back; a cut of it stays visible in its
framing.

A slow reader pauses the upstream: what it has not taken is never more than one high-water mark and
one read. Once its client has gone a relay may be given more (see `drain`): it counts that, and what
it sends goes nowhere. Invariant: nothing here awaits but `done`.
"""

import asyncio
import re
from typing import Final

from llmrouter.contracts.dialect import MalformedEvent, StreamTap
from llmrouter.errors import RouterError, UpstreamError
from llmrouter.gateway import quotas
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.failure import translated
from llmrouter.gateway.reply import Reply
from llmrouter.gateway.spending import Spending
from llmrouter.http1.errors import HttpError
from llmrouter.http1.sse import EventTooLong, Splitter
from llmrouter.http1.upstream import ResponseReceiver
from llmrouter.quota.leases import Refusal

_ECHO: Final = "the upstream showed our credential in its answer; tell your operator"


class _Relay:
    """What both kinds share: beginning the response, slowing down, and ending once."""

    __slots__ = ("_connection", "_done", "_exchange", "_head", "_reply", "error", "is_whole")

    def __init__(self, exchange: Exchange, reply: Reply, head: bytes) -> None:
        self._exchange = exchange
        self._connection = exchange.connection
        self._reply = reply
        self._head: bytes | None = head
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: RouterError | None = None
        """Why the answer was cut."""
        self.is_whole = False
        """All of it has come."""

    async def run(self, receiver: ResponseReceiver) -> None:
        """Pass on everything, until the end."""
        connection = self._connection
        self._reply.hand_over(receiver)
        connection.on_writable(self._slow_down)
        try:
            await self._done
        finally:
            connection.on_writable(None)
            if self._head is not None:
                self._exchange.status = 0  # nothing was sent

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The head has come long since."""
        raise AssertionError("a response has one head")

    def _slow_down(self, writable: bool) -> None:
        self._reply.pause(paused=not writable)

    def _begin(self) -> None:
        if self._head is not None:
            self._connection.begin(self._head)
            self._head = None

    def _send(self, data: bytes) -> None:
        self._begin()
        self._connection.send(data)

    def _finish(self) -> None:
        self.is_whole = True
        self._begin()
        self._connection.finish()
        self._end()

    def _end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


class StreamRelay(_Relay):
    """Passes on a stream of events."""

    __slots__ = ("_events_held", "_shows_secret", "_spending", "_splitter", "events", "tap")

    def __init__(
        self,
        exchange: Exchange,
        reply: Reply,
        head: bytes,
        tap: StreamTap,
        spending: Spending,
    ) -> None:
        super().__init__(exchange, reply, head)
        self._spending = spending
        self._splitter = Splitter()
        self.tap = tap
        self.events = 0
        """How many with data have passed."""
        # Copies: among 200 streams the reply and the spending have left the processor's cache until
        # the next event. Not to look at them takes 5 to 9 % off an event.
        self._shows_secret = reply.shows_secret
        self._events_held = 0

    def response_data(self, data: bytes) -> None:
        """Events came, or parts of them."""
        if self.error is not None:
            return
        try:
            block = self._splitter.feed(data)
            if block:
                block = self.tap.feed(block)
        except MalformedEvent as error:
            self._pass(error.sound)
            self._cut(error)
        except EventTooLong:
            self._cut(UpstreamError("the upstream sent an event too long to be passed on"))
        except UpstreamError as error:
            self._cut(error)
        else:
            if block:
                self._pass(block)

    def _pass(self, block: bytes) -> None:
        """Pass on whole events, if there are any; beyond what the hold is for, extend it."""
        if self._shows_secret(block):
            self._cut(UpstreamError(_ECHO))
        elif block:
            self._send(block)
            self.events = self.tap.events
            if self.events > self._events_held:
                spending = self._spending
                spending.events = self.events
                spending.extend(self._out_of_money)
                self._events_held = spending.events_held

    def _out_of_money(self, refusal: Refusal) -> None:
        """A budget has ended that cuts the streams it pays for."""
        if self.error is None and not self.tap.complete:
            self._cut(quotas.ended(refusal, self._spending.now_ms()))

    def response_end(self, *, framed: bool) -> None:
        """The upstream has ended its answer; whether it is whole, the dialect knows."""
        self._close_with(UpstreamError("the upstream ended its answer without its end marker"))

    def response_lost(self, error: HttpError) -> None:
        """The upstream broke off; only what comes after the end marker may be lost."""
        self._close_with(translated(error, self._exchange.upstream_name))

    def _close_with(self, error: RouterError) -> None:
        """Finish if the end marker has passed, else cut for the reason `error`; once only."""
        if self.error is not None:
            return
        if self.tap.complete and not self._splitter.held_bytes:
            self._finish()
        else:
            self._cut(error)

    def _cut(self, error: RouterError) -> None:
        """Say what happened, then end visibly incomplete; the first reason holds."""
        if self.error is not None:
            return
        self.error = error
        exchange = self._exchange
        self._send(exchange.dialect.error_event(exchange.call, error, exchange.request_id))
        self._end()  # first, or the end of the connection would look like the client's doing
        self._connection.cut()
        self._reply.close()


class _Nesting:
    """Follows the brackets of a JSON text, to tell its end where no framing does."""

    __slots__ = ("_depth", "_escape", "_in_string", "_opened")
    _MARKS = re.compile(rb'\\.|["{}\[\]]', re.DOTALL)

    def __init__(self) -> None:
        self._depth = 0
        self._opened = False
        self._in_string = False
        self._escape = b""
        """A backslash whose second half is still to come."""

    @property
    def closed(self) -> bool:
        return self._opened and self._depth == 0 and not self._in_string

    def feed(self, data: bytes) -> None:
        data = self._escape + data
        end = 0
        for match in self._MARKS.finditer(data):
            end, mark = match.end(), match[0]
            if mark == b'"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._opened = True
                self._depth += 1 if mark in b"{[" else -1
        self._escape = b"\\" if data.endswith(b"\\") and end < len(data) else b""


class PlainRelay(_Relay):
    """Passes on a long plain answer, and keeps its last bytes, where usage stands."""

    __slots__ = ("_nesting", "tail")
    TAIL_BYTES = 4096

    def __init__(self, exchange: Exchange, reply: Reply, head: bytes) -> None:
        super().__init__(exchange, reply, head)
        self._nesting = None if reply.framing_tells_end else _Nesting()
        self.tail = b""

    def response_data(self, data: bytes) -> None:
        """A piece of the answer came."""
        if self.error is not None:
            return
        seen = self.tail + data
        if self._reply.shows_secret(seen):
            self._cut(UpstreamError(_ECHO))
            return
        self.tail = seen[-self.TAIL_BYTES :]
        if self._nesting is not None:
            self._nesting.feed(data)
        self._send(data)

    def response_end(self, *, framed: bool) -> None:
        """It is complete; where its framing cannot tell, its brackets must."""
        if self.error is not None:
            return
        if framed or (self._nesting is not None and self._nesting.closed):
            self._finish()
        else:
            self._cut(UpstreamError("the upstream ended its answer before it was whole"))

    def response_lost(self, error: HttpError) -> None:
        """The upstream broke off."""
        if self.error is None:
            self._cut(translated(error, self._exchange.upstream_name))

    def _cut(self, error: RouterError) -> None:
        self.error = error
        self._end()  # first, or the end of the connection would look like the client's doing
        self._connection.cut()


_: tuple[type[ResponseReceiver], ...] = (StreamRelay, PlainRelay)
