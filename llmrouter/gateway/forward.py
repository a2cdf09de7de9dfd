"""Fourth step: send the call to a deployment, and wait for the answer to begin."""

import asyncio
import logging
from collections.abc import Mapping

from llmrouter.contracts.call import Call
from llmrouter.errors import UpstreamError
from llmrouter.gateway.drain import NO_DRAIN, DrainBounds, drain, note_unpassed
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.failure import translated
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.reply import Reply
from llmrouter.gateway.upstream import Upstream
from llmrouter.http1.errors import ConnectionLost, HttpError
from llmrouter.http1.upstream import UpstreamConnection
from llmrouter.routing.deployment import Deployment

_log = logging.getLogger(__name__)

JOINED_BODY_BYTES_MAX = 65_536
"""Up to here head and body are joined for one write; a longer body is not copied for it."""
TELL_EVERY_S = 60.0
"""How often the log says that calls go unrecorded, while they do."""


class Forwarder:
    """Makes attempts at deployments."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        drains: Mapping[str, DrainBounds] | None = None,
        *,
        serves_unrecorded: bool = False,
    ) -> None:
        self._upstreams = upstreams
        self._drains = drains or {}
        """By upstream, how far its answers are heard out whose clients have gone."""
        self._serves_unrecorded = serves_unrecorded
        """Calls are served although the journal cannot take their begin."""
        self._unrecorded = 0
        self._tell_at = 0.0
        self._loop = asyncio.get_running_loop()

    async def forward(
        self, exchange: Exchange, call: Call, deployment: Deployment, meter: Meter
    ) -> Reply:
        """Send `call`; return its answer once that has begun (see `reply`).

        The call's begin is in the journal before its first byte leaves, unless calls are served
        unrecorded. Raises UpstreamUnreachable, UpstreamTimeout, UpstreamError, and Overloaded where
        the journal cannot be written. If the client leaves meanwhile, the answer is heard out.
        """
        upstream = self._upstreams[deployment.upstream]
        model = deployment.model_for(exchange.asked)
        exchange.deployment = f"{upstream.name}/{model}"
        meter.spending.served_at(upstream.name, model)
        body = upstream.dialect.upstream_body(call, model)
        head = upstream.request_head(call.operation, exchange.request, len(body))
        connection = upstream.pool.take() or await self._connect(upstream, exchange)
        reply = self._expect(upstream, connection)

        def send() -> None:
            meter.is_sent = True
            _send(connection, head, body)

        def failed(error: OSError) -> None:
            if self._serves_unrecorded:
                self._tell_unrecorded(error)
                meter.unrecorded()
                send()
            else:
                meter.never_begun()
                reply.fail(error)

        try:
            meter.begin(call, send, failed)
            await reply.arrived()
            if isinstance(reply.error, ConnectionLost) and reply.error.stale:
                # The upstream closed it in the moment in which we reused it, and read nothing.
                connection = await self._connect(upstream, exchange)
                meter.attempts += 1
                reply = self._expect(upstream, connection)
                _send(connection, head, body)
                await reply.arrived()
            _check(reply, upstream, exchange)
        except asyncio.CancelledError as left:
            if meter.is_sent:
                await drain(reply, left)
                note_unpassed(exchange, call, reply, meter)
            reply.close()
            raise
        except BaseException:
            reply.close()  # no connection waits on for an answer that nobody takes
            raise
        meter.first_byte()
        return reply

    async def _connect(self, upstream: Upstream, exchange: Exchange) -> UpstreamConnection:
        try:
            return await upstream.pool.fresh(upstream.timeouts.connect_s)
        except HttpError as error:
            raise translated(error, exchange) from error

    def _expect(self, upstream: Upstream, connection: UpstreamConnection) -> Reply:
        bounds = self._drains.get(upstream.name, NO_DRAIN)
        reply = Reply(self._loop, connection, upstream.is_given_away_by, bounds)
        connection.expect(reply, upstream.timeouts)
        return reply

    def _tell_unrecorded(self, error: OSError) -> None:
        """At the first such call, and then now and again how many there were."""
        self._unrecorded += 1
        now = self._loop.time()
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY_S
            _log.error("calls_unrecorded=%d reason=%r", self._unrecorded, error.strerror)


def _check(reply: Reply, upstream: Upstream, exchange: Exchange) -> None:
    """Raise RouterError where there is nothing that could be passed on."""
    if reply.error is not None and reply.is_lost():
        raise translated(reply.error, exchange)
    if reply.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UpstreamError(f"the upstream '{upstream.name}' answered in a coding not asked for")
    if upstream.is_given_away_by(reply.body):
        reason = f"the upstream '{upstream.name}' answered {reply.status} and showed our credential"
        raise UpstreamError(f"{reason}; tell your operator")


def _send(connection: UpstreamConnection, head: bytes, body: bytes) -> None:
    if len(body) <= JOINED_BODY_BYTES_MAX:
        connection.send(head + body)
    else:
        connection.send(head)
        connection.send(body)
