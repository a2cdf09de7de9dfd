"""The rest of an answer whose client has gone: heard for a while, to learn what the call used.

An upstream works on, and bills, until it notices that nobody listens; what it used it says in its
last bytes. So it is heard out, within bounds that each upstream has its own of: seconds and bytes
from the moment in which the client left. What comes is given to whoever read the answer before, and
is counted as if it still passed; whatever that one sends goes nowhere, for its connection is lost.
Meanwhile the call is in flight: it keeps what it holds, and a server that drains waits for it.

An answer that ends in time gives its connection back to the pool; one that does not is reset.

Not heard out: what we ended ourselves (a server that was aborted, a budget that cuts its streams,
so that it is exceeded by no more than has come), and calls that were not sent yet. A second
cancellation ends a drain: a server that is aborted does not wait for it.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from llmrouter.errors import UpstreamError
from llmrouter.http1 import sse
from llmrouter.http1.downstream import CUT_BY_US
from llmrouter.http1.errors import HttpError, ResponseTimeout
from llmrouter.http1.upstream import ResponseReceiver

if TYPE_CHECKING:
    from llmrouter.gateway.exchange import Exchange
    from llmrouter.gateway.meter import Meter
    from llmrouter.gateway.reply import Reply

_OK_FROM, _OK_MAX = 200, 300


class DrainBounds(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far an answer is heard out that nobody waits for."""

    within_s: float
    """From the moment in which its client left; 0 where it is not heard out at all."""
    bytes_max: int
    """Of its body, from the same moment."""


NO_DRAIN = DrainBounds(within_s=0, bytes_max=0)
"""For upstreams that bill nothing once they are left: they are left at once."""


def has_left(error: asyncio.CancelledError) -> bool:
    """Whether an exchange was cancelled because its client has gone, and not by us."""
    return error.args != (CUT_BY_US,)


async def drain(exchange: "Exchange", reply: "Reply", left: asyncio.CancelledError) -> None:
    """Hear the upstream out, within its bounds; whoever calls this raises `left` afterwards."""
    bounds = reply.bounds
    if not bounds.within_s or not has_left(left) or not reply.is_running():
        return
    if exchange.connection.is_aborted():  # since it left: of two cancels a task hears the first
        return
    drained = _Drained(reply, bounds.bytes_max)
    reply.pause(paused=False)  # its client may have been slower than it
    timer = asyncio.get_running_loop().call_later(bounds.within_s, drained.end)
    try:
        with contextlib.suppress(asyncio.CancelledError):  # `left` is raised in place of a second
            await drained.over
    finally:
        timer.cancel()


class _Drained:
    """Stands between an upstream and the reader of its answer, and knows when it is enough."""

    __slots__ = ("_bytes_left", "_reader", "over")

    def __init__(self, reply: "Reply", bytes_max: int) -> None:
        self._reader = reply.divert(self)
        self._bytes_left = bytes_max
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reply.on_closed = self.end  # its reader may cut it

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._reader.response_head(status, headers)

    def response_data(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        self._reader.response_data(data)
        if self._bytes_left < 0:
            self.end()

    def response_end(self, *, framed: bool) -> None:
        self._reader.response_end(framed=framed)
        self.end()

    def response_lost(self, error: HttpError) -> None:
        self._reader.response_lost(error)
        self.end()

    def end(self) -> None:
        """It is enough."""
        if not self.over.done():
            self.over.set_result(None)


def note_unpassed(exchange: "Exchange", reply: "Reply", meter: "Meter") -> None:
    """Tell `meter` what came of an answer whose client left before any of it could pass."""
    lost = isinstance(reply.error, HttpError) and not isinstance(reply.error, ResponseTimeout)
    if reply.is_stream:
        _note_stream(exchange, reply, meter)
        meter.gave_nothing = lost and not meter.spending.events
    elif not reply.complete:
        meter.gave_nothing = lost
    elif _OK_FROM <= reply.status < _OK_MAX:
        meter.streams = False
        try:
            meter.usage = exchange.dialect.read_usage(reply.body)
        except UpstreamError:
            meter.gave_nothing = True
    else:
        meter.gave_nothing = True


def _note_stream(exchange: "Exchange", reply: "Reply", meter: "Meter") -> None:
    tap = exchange.dialect.tap(exchange.call)
    block = sse.Splitter().feed(reply.body)
    with contextlib.suppress(UpstreamError):  # what is malformed has come all the same
        block = tap.feed(block)
    meter.streams = True
    meter.usage, meter.is_whole = tap.usage, tap.complete
    meter.spending.events += sum(1 for event in sse.events(block) if sse.data_of(event))


_: type[ResponseReceiver] = _Drained
