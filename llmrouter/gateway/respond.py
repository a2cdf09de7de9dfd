"""Last step: the answer, passed on as it is but for its framing.

It was judged before: what comes here is an answer, whole or begun, or a refusal of the upstream's
own that the caller is to have. Where its client leaves while it passes, the rest of it is heard
out: see `drain`.
"""

import asyncio

from llmrouter.errors import Source, UpstreamError
from llmrouter.gateway.drain import drain
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.relay import PlainRelay, StreamRelay
from llmrouter.gateway.reply import Reply
from llmrouter.gateway.verdict import ERRORS_FROM


async def respond(exchange: Exchange, reply: Reply, meter: Meter) -> None:
    """Pass on the answer that has begun; raises RouterError only if nothing was sent yet."""
    meter.streams = reply.is_stream
    if reply.is_stream:
        await _stream(exchange, reply, meter)
    elif reply.complete:
        respond_whole(exchange, reply, meter)
    else:
        await _long_plain(exchange, reply, meter)


def respond_whole(exchange: Exchange, reply: Reply, meter: Meter) -> None:
    """The same for a plain answer that is complete: there is nothing to wait for."""
    meter.streams = False
    if reply.status < ERRORS_FROM:
        meter.usage = reply.usage
    else:
        meter.outcome = "upstream_error"
    exchange.connection.respond(_head(exchange, reply), reply.body)


async def _pass_on(relay: PlainRelay | StreamRelay, exchange: Exchange, reply: Reply) -> None:
    """Pass on an answer; where its client leaves, hear the rest of it first."""
    left: asyncio.CancelledError | None = None
    try:
        await relay.run(relay)
    except asyncio.CancelledError as error:
        left = error
    if left is not None:
        await drain(exchange, reply, left)
        raise left


async def _long_plain(exchange: Exchange, reply: Reply, meter: Meter) -> None:
    relay = PlainRelay(exchange, reply, _head(exchange, reply))
    meter.has_passed = True
    try:
        await _pass_on(relay, exchange, reply)
    finally:
        if relay.is_whole:
            meter.usage = exchange.dialect.read_usage_tail(relay.tail)
    if relay.error is not None:
        exchange.error = relay.error
        meter.outcome = "upstream_error"


async def _stream(exchange: Exchange, reply: Reply, meter: Meter) -> None:
    tap = exchange.dialect.tap(exchange.call)
    spending = meter.spending
    spending.on_extended = meter.extended
    relay = StreamRelay(exchange, reply, _head(exchange, reply), tap, spending)
    try:
        await _pass_on(relay, exchange, reply)
    finally:
        meter.usage, meter.is_whole, spending.events = tap.usage, tap.complete, relay.events
        spending.on_extended = None  # else each would keep the other, for the collector to find
    if relay.error is not None:
        exchange.error = relay.error
        of_upstream = relay.error.source is Source.UPSTREAM
        meter.outcome = "upstream_error" if of_upstream else "router_error"


def _head(exchange: Exchange, reply: Reply) -> bytes:
    headers, passes = reply.headers, exchange.dialect.response_headers
    passed = b"".join([b"%b: %b\r\n" % (name, headers[name]) for name in headers if name in passes])
    if reply.shows_secret(passed):
        raise UpstreamError("the upstream showed our credential in a header; tell your operator")
    passed += b"x-llmrouter-deployment: %b\r\n" % exchange.deployment.encode()
    if exchange.served_by:
        passed += b"x-llmrouter-model: %b\r\n" % exchange.served_by.encode()
    return exchange.head(reply.status, passed + exchange.limit_headers)
