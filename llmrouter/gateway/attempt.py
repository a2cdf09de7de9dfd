"""One try at one deployment: a place there, a connection, the call sent, an answer judged.

An attempt tells the condition of its deployment how it went: once, by `close`, however it ended.
What it gives to the caller is a `Reply`; what went wrong is a `Failure`, and others may follow.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from llmrouter.contracts.call import Usage
from llmrouter.errors import NoDeploymentAvailable, RouterError, Source
from llmrouter.gateway.drain import drain, note_unpassed
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.reply import Reply
from llmrouter.gateway.slots import Slots
from llmrouter.gateway.upstream import Upstream
from llmrouter.gateway.verdict import Failure, filtered, judge, unreachable
from llmrouter.http1.errors import ConnectionLost, HttpError
from llmrouter.http1.upstream import UpstreamConnection, UpstreamTimeouts
from llmrouter.metering.records import NO_USAGE
from llmrouter.metering.records import Attempt as AttemptRecord
from llmrouter.quota.reservation import Reservation
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.failure import RULES, FailureKind

JOINED_BODY_BYTES_MAX: Final = 65_536
"""Up to here head and body are joined for one write; a longer body is not copied for it."""
THROTTLED_REST_S: Final = 1.0
"""How long one rests that answers 429 without a word of how long, to a call that another serves."""
BROKEN_REST_MAX_S: Final = 60.0
"""How long one rests at most that failed otherwise, whatever it says: its breaker does the rest."""
HEDGED: Final = "hedged"
"""The outcome of an attempt that lost against another one."""


class Attempt:
    """A try; to be closed."""

    __slots__ = (
        "_condition",
        "_exchange",
        "_is_closed",
        "_is_judged",
        "_is_proved",
        "_is_sent",
        "_loop",
        "_meter",
        "_slot",
        "_spell",
        "_timeouts",
        "asked_at",
        "began_at",
        "deployment",
        "failure",
        "model",
        "reply",
        "upstream",
    )

    def __init__(
        self,
        deployment: Deployment,
        upstream: Upstream,
        exchange: Exchange,
        meter: Meter,
        timeouts: UpstreamTimeouts,
    ) -> None:
        self._loop = loop = upstream.loop
        self._exchange = exchange
        self._meter = meter
        self._timeouts = timeouts
        self._slot: Reservation | None = None
        self._is_judged = False
        self._is_proved = False
        """Its success was told when its answer began."""
        self._is_sent = False
        self._is_closed = False
        self.deployment = deployment
        self.upstream = upstream
        self.model = deployment.model_for(exchange.asked)
        """The model's name upstream."""
        self.reply: Reply
        """Its answer, once it was sent."""
        self.failure: Failure | None = None
        """Why it gave no answer to the call."""
        self._condition = condition = deployment.condition
        self.began_at = now = loop.time()
        """On the loop's clock."""
        self.asked_at = now
        """The same, but once it had its place at the upstream: what it waited for is ours."""
        self._spell = condition.enter(now)

    def __repr__(self) -> str:
        return f"<Attempt {self.name} failure={self.failure}>"

    @property
    def name(self) -> str:
        """Of the deployment, as callers and books see it."""
        return f"{self.upstream.name}/{self.model}"

    @property
    def is_sent(self) -> bool:
        """Something was sent upstream, or may have been."""
        return self._is_sent

    @property
    def was_made(self) -> bool:
        """The upstream was tried, whether it could be reached or not."""
        return self.failure is None or self.failure.kind is not FailureKind.SATURATED

    @property
    def may_be_billed(self) -> bool:
        """The upstream may still work on it, or has, and has not said what was used."""
        failure = self.failure
        return failure is None or failure.kind is FailureKind.SILENT

    def serves(self) -> None:
        """It is this one that the call is served by, as far as is known by now."""
        self._exchange.deployment = self.name
        self._meter.spending.served_at(self.upstream.name, self.model)

    # ---- the way there ----------------------------------------------------------------------

    def start_at_once(self) -> bool:
        """Send the call if there is nothing to wait for, as `start` does; whether that was so."""
        upstream = self.upstream
        if upstream.slots is not None:
            return False
        connection = upstream.pool.take()
        if connection is None:
            return False
        try:
            head, body = self._message()
        except BaseException:
            connection.close()  # nobody else knows of it
            raise
        self._send(connection, head, body)
        return True

    async def start(self, wait_s: float = 0.0) -> Failure | None:
        """Send the call; where the upstream has no place, wait for one for so long.

        Its begin is in the journal before its first byte leaves, unless calls are served
        unrecorded.
        """
        upstream = self.upstream
        if upstream.slots is not None:
            try:
                may_be_sent = await self._take_place(upstream.slots, wait_s)
            except RouterError as error:  # the ledger is gone
                return self._fail(Failure(kind=FailureKind.SATURATED, error=error))
            if not may_be_sent:
                return self._fail(_saturated(upstream))
        head, body = self._message()
        try:
            connection = upstream.pool.take() or await self._fresh()
        except HttpError as error:
            return self._fail(unreachable(error, upstream))
        self._send(connection, head, body)
        return None

    async def _take_place(self, slots: Slots, wait_s: float) -> bool:
        """Take a place at the upstream; whether the call may be sent then.

        What that takes is time of the call, and none of the upstream's. Nobody is sent there who
        has none left, or if others have found out meanwhile that it is of no use.
        """
        self._slot = slots.take_here()
        if self._slot is not None:
            return True
        condition = self._condition
        spell, rested = condition.breaker.spell, condition.is_resting(self.began_at)
        self._slot = await _place(slots, wait_s)
        self.asked_at = now = self._loop.time()
        left_s = self._timeouts.total_s - (now - self.began_at)
        self._timeouts = replace(self._timeouts, total_s=left_s)
        is_of_use = condition.breaker.spell == spell and (rested or not condition.is_resting(now))
        return self._slot is not None and left_s > 0 and is_of_use

    async def run(self) -> Failure | None:
        """Start and finish it."""
        return await self.start() or await self.finish()

    async def finish(self) -> Failure | None:
        """Wait for its answer to begin, and judge it."""
        reply = self.reply
        await reply.arrival
        if _is_stale(reply) and self._exchange.may_resend():
            try:
                connection = await self._fresh()
            except HttpError as error:
                return self._fail(unreachable(error, self.upstream))
            self._meter.attempts += 1
            self._send(connection, *self._message())
            reply = self.reply
            await reply.arrival
        failure = judge(reply, self.upstream, self._exchange.call)
        if self._meter.spending.route.answers_past_filters and failure is None:
            failure = self._filter_failure()
        if failure is not None:
            return self._fail(failure)
        condition, now = self._condition, self._loop.time()
        condition.first_token(now - self.asked_at, now)
        if condition.is_probed():
            # The answer may last for minutes, and others wait for what its begin already proves.
            condition.succeeded(now, self._spell)
            self._is_proved = True
        return None

    def _filter_failure(self) -> Failure | None:
        """A plain answer may be a content filter's, and another model may answer past it."""
        upstream, reply = self.upstream, self.reply
        if reply.is_stream or not upstream.dialect.is_filtered(reply.body):
            return None
        return filtered(reply, upstream)

    async def _fresh(self) -> UpstreamConnection:
        return await self.upstream.pool.fresh(self._timeouts.connect_s)

    def _message(self) -> tuple[bytes, bytes]:
        """Head and body to send; not kept, for they hold the prompt."""
        exchange, upstream = self._exchange, self.upstream
        call = exchange.call
        body = upstream.dialect.upstream_body(call, self.model)
        return upstream.request_head(call.operation, exchange.request, len(body)), body

    def _send(self, connection: UpstreamConnection, head: bytes, body: bytes) -> None:
        upstream, call = self.upstream, self._exchange.call
        opens = partial(upstream.dialect.opens, call.operation)
        self.reply = reply = Reply(
            self._loop, connection, opens, upstream.is_given_away_by, upstream.terms.drain
        )
        self._is_sent = True
        connection.expect(reply, self._timeouts)
        self._meter.begin(call, _sender(connection, head, body, self._meter), reply.fail)

    # ---- how it went ------------------------------------------------------------------------

    def _fail(self, failure: Failure) -> Failure:
        self.failure = failure
        now = self._loop.time()
        condition, rests_s = self._condition, failure.retry_after_s
        if rests_s is not None and failure.kind is not FailureKind.THROTTLED:
            rests_s = min(rests_s, BROKEN_REST_MAX_S)
        if failure.kind is FailureKind.SILENT:
            self.was_late()
        if RULES[failure.kind].counts:
            condition.failed(str(failure.error), now, self._spell)
            self._is_judged = True
        if rests_s and failure.kind not in _ALIVE:  # else one caller's mistake would stop all
            condition.rest_until(now + rests_s, str(failure.error), now)
        return failure

    def used(self) -> tuple[Usage, bool]:
        """What it used, though it gave no answer, and whether that is our own estimate."""
        if not self.is_sent:
            return NO_USAGE, False
        if self.reply.usage is not None:
            return self.reply.usage, False
        if self.may_be_billed:
            return self._meter.spending.passed(stream=self._exchange.call.stream), True
        return NO_USAGE, False

    def record(self) -> AttemptRecord:
        """What there is to say of it, where it is not the one that answers."""
        usage, estimated = self.used()
        failure = self.failure
        return AttemptRecord(
            deployment=self.name,
            upstream=self.upstream.name,
            outcome=HEDGED if failure is None else "upstream_error",
            error_code=None if failure is None else failure.error.code,
            usage=usage,
            estimated=estimated,
            duration_ms=int((self._loop.time() - self.began_at) * 1000),
        )

    @property
    def is_suspect(self) -> bool:
        """Its failure may be the deployment's fault or the call's: its status alone does not tell.

        Which it was shows where another deployment answers the call. Were it taken for the
        deployment's at once, one caller with a call of that kind could stop all others.
        """
        failure = self.failure
        assert failure is not None
        if failure.kind is FailureKind.THROTTLED:
            return failure.retry_after_s is None
        return failure.kind is FailureKind.ABSENT

    def blame(self) -> None:
        """Another deployment has answered the call: so it is this one's fault."""
        failure, condition, now = self.failure, self._condition, self._loop.time()
        assert failure is not None
        if failure.kind is FailureKind.THROTTLED:
            condition.rest_until(now + THROTTLED_REST_S, str(failure.error), now)
        else:
            condition.failed(str(failure.error), now, condition.breaker.spell)

    def was_late(self) -> None:
        """No first token has come until now: its deployment is at least so slow."""
        self._condition.first_token(self.running_s, self._loop.time())

    @property
    def running_s(self) -> float:
        """How long ago the upstream was asked."""
        return self._loop.time() - self.asked_at

    async def leave(self, left: asyncio.CancelledError) -> None:
        """Its client has gone: hear the rest of the answer, to learn what was used."""
        if self.is_sent and self._meter.is_sent:
            await drain(self._exchange, self.reply, left)
            note_unpassed(self._exchange, self.reply, self._meter)

    def close(self, *, passed: bool = False) -> None:
        """Give back what it takes; `passed` where all of its answer has passed, or it was cut.

        Closing it again does nothing.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._slot is not None:
            self._slot.release()
            self._slot = None
        if self.is_sent:
            self.reply.close()
        condition = self._condition
        condition.leave()
        if self._is_judged:
            return
        self._is_judged = True
        if passed or (self.failure is not None and self.failure.kind in _ALIVE):
            self._tell()
        elif not self._is_proved:
            condition.left(self._spell)

    def _tell(self) -> None:
        error, now = self._exchange.error, self._loop.time()
        if error is not None and error.source is Source.UPSTREAM and self.failure is None:
            self._condition.failed(str(error), now, self._spell)
        elif not self._is_proved:
            self._condition.succeeded(now, self._spell)


_ALIVE: Final = frozenset({FailureKind.UNFIT, FailureKind.TOO_LONG, FailureKind.FILTERED})
"""Refusals that only a server which works can make."""


async def _place(slots: Slots, wait_s: float) -> Reservation | None:
    try:
        async with asyncio.timeout(wait_s or None):
            return await slots.take(waits=wait_s > 0)
    except TimeoutError:
        return None


def _is_stale(reply: Reply) -> bool:
    """The upstream closed a connection in the moment in which we reused it, and read nothing."""
    return isinstance(reply.error, ConnectionLost) and reply.error.stale


def _saturated(upstream: Upstream) -> Failure:
    said = f"the upstream '{upstream.name}' holds as many calls as it may; try again shortly"
    error = NoDeploymentAvailable(said, retry_after_s=1)
    return Failure(kind=FailureKind.SATURATED, error=error)


def _sender(
    connection: UpstreamConnection, head: bytes, body: bytes, meter: Meter
) -> Callable[[], None]:
    def send() -> None:
        meter.sent()
        if len(body) <= JOINED_BODY_BYTES_MAX:
            connection.send(head + body)
        else:
            connection.send(head)
            connection.send(body)

    return send
