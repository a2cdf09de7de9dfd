"""Shadows: copies of calls that go to a second deployment, whose answers nobody gets.

They show how a deployment would do before it serves anybody. A shadow is nobody's call: it holds
nothing of limits and budgets, is counted in no org's usage, and stands in the books under SHADOW,
with the request id of the call that it is a copy of. It never waits for anything, and never makes
its call wait: where a place, a connection or the journal is wanting, there is none.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from llmrouter.contracts.call import Call, Usage
from llmrouter.contracts.dialect import StreamTap
from llmrouter.errors import UpstreamError
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.reply import Reply
from llmrouter.gateway.upstream import Upstream
from llmrouter.http1.errors import HttpError
from llmrouter.http1.sse import EventTooLong, Splitter
from llmrouter.http1.upstream import ResponseReceiver, UpstreamConnection
from llmrouter.metering import costs
from llmrouter.metering.journal import Journal
from llmrouter.metering.prices import Price, PriceBook
from llmrouter.metering.records import NO_USAGE, Begin, End
from llmrouter.tasks import spawn

SHADOW = "(shadow)"
"""The org and the key of shadows in the books; no name that can be configured has brackets."""
RUNNING_MAX = 256
"""Shadows of one worker at once: each holds a connection, and until it is sent, a prompt."""
_ERRORS_FROM = 300


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """Where the calls to one model are copied to."""

    upstream: str
    model: str | None
    """None passes on the name that was asked for."""
    share: float
    """Of the calls, how many are copied."""


class Ledgers(msgspec.Struct, frozen=True):
    """Where shadows are accounted, and by which clocks."""

    journal: Journal
    prices: PriceBook
    now_ms: Callable[[], int]


class Shadows:
    """Casts shadows."""

    def __init__(
        self,
        shadows: Mapping[str, Shadow],
        upstreams: Mapping[str, Upstream],
        ledgers: Ledgers,
        random: Callable[[], float],
    ) -> None:
        self._shadows = shadows
        """By the name of a route."""
        self._upstreams = upstreams
        self._ledgers = ledgers
        self._random = random
        self._running: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Shadows of={len(self._shadows)} running={len(self._running)}>"

    def cast(self, exchange: Exchange, route: str) -> None:
        """Copy a call that was admitted, if its route has a shadow and its turn has come."""
        shadow = self._shadows.get(route)
        if shadow is None or self._random() >= shadow.share:
            return
        if len(self._running) >= RUNNING_MAX:
            return
        follower = _Follower(self._upstreams[shadow.upstream], shadow, exchange, self._ledgers)
        task = spawn(follower.run(route), name="shadow")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        """Leave all that run; each is in the journal when this returns."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(set(self._running))


class _Follower:
    """One shadow, from its connection to its end in the journal."""

    def __init__(
        self, upstream: Upstream, shadow: Shadow, exchange: Exchange, ledgers: Ledgers
    ) -> None:
        self._upstream = upstream
        self._ledgers = ledgers
        self._loop = asyncio.get_running_loop()
        self._asked_model = exchange.model
        self._model = shadow.model or exchange.asked
        self._request_id = exchange.request_id
        self._call: Call = exchange.call
        body = upstream.dialect.upstream_body(self._call, self._model)
        operation = self._call.operation
        self._message = upstream.request_head(operation, exchange.request, len(body)) + body
        self._dialect = exchange.dialect.name
        self._seq = 0
        self._status = 0
        self._usage: Usage | None = None
        self._outcome = "upstream_error"

    async def run(self, route: str) -> None:
        """Send it, and hear its answer out."""
        upstream = self._upstream
        slot = None
        if upstream.slots is not None and (slot := upstream.slots.take_here()) is None:
            return
        began_at = self._loop.time()
        try:
            connection = upstream.pool.take() or await upstream.pool.fresh(
                upstream.terms.timeouts.connect_s
            )
            await self._hear(connection)
        except (HttpError, UpstreamError):
            pass  # its end says so
        finally:
            if slot is not None:
                slot.release()
            if self._seq:
                self._end(route, began_at)

    async def _hear(self, connection: UpstreamConnection) -> None:
        upstream = self._upstream
        opens = partial(upstream.dialect.opens, self._call.operation)
        reply = Reply(self._loop, connection, opens, upstream.is_given_away_by)
        connection.expect(reply, upstream.terms.timeouts)
        try:
            self._begin(connection, reply)
            await reply.arrival
            self._status = reply.status
            if reply.is_lost():
                return
            if reply.is_stream:
                await self._hear_stream(reply)
            elif reply.complete and reply.status < _ERRORS_FROM:
                self._usage = upstream.dialect.read_usage(reply.body)
                self._outcome = "ok"
        finally:
            reply.close()

    async def _hear_stream(self, reply: Reply) -> None:
        tap = self._upstream.dialect.tap(self._call)
        listener = _Listener(tap)
        reply.hand_over(listener)
        await listener.over
        self._usage = tap.usage
        if tap.complete:
            self._outcome = "ok"

    def _begin(self, connection: UpstreamConnection, reply: Reply) -> None:
        call, ledgers = self._call, self._ledgers
        self._seq = ledgers.journal.next_seq()
        record = Begin(
            seq=self._seq,
            at_ms=ledgers.now_ms(),
            request_id=self._request_id,
            org=SHADOW,
            key_id=SHADOW,
            model=self._asked_model,
            deployment=f"{self._upstream.name}/{self._model}",
            upstream=self._upstream.name,
            dialect=self._dialect,
            operation=call.operation,
            stream=call.stream,
        )
        message = self._message
        self._message, self._call = b"", call.without_body()

        def unwritten(error: OSError) -> None:
            self._seq = 0
            reply.fail(error)

        ledgers.journal.begin(record, lambda: connection.send(message), unwritten)

    def _end(self, route: str, began_at: float) -> None:
        ledgers, usage = self._ledgers, self._usage
        price: Price | None = ledgers.prices.price(route, self._upstream.name, self._model)
        used = usage or NO_USAGE
        ledgers.journal.end(
            End(
                seq=self._seq,
                at_ms=ledgers.now_ms(),
                request_id=self._request_id,
                status=self._status,
                outcome=self._outcome,
                usage=used,
                cost_nano_usd=used.cost_nano_usd if price is None else costs.cost(price, used),
                price=None if price is None else price.text,
                estimated=usage is None,
                duration_ms=int((self._loop.time() - began_at) * 1000),
            )
        )


class _Listener:
    """Hears a stream for what it says was used."""

    __slots__ = ("_splitter", "_tap", "over")

    def __init__(self, tap: StreamTap) -> None:
        self._tap = tap
        self._splitter = Splitter()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def response_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        raise AssertionError("a response has one head")

    def response_data(self, data: bytes) -> None:
        try:
            if block := self._splitter.feed(data):
                self._tap.feed(block)
        except (UpstreamError, EventTooLong):
            self._done()

    def response_end(self, *, framed: bool) -> None:
        self._done()

    def response_lost(self, error: HttpError) -> None:
        self._done()

    def _done(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


_: type[ResponseReceiver] = _Listener
