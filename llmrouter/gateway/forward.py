"""Fourth step: send the call to a deployment, and wait for the answer to begin.

Until then another deployment may be tried: which one, when, and how often, `routing.attempts` says;
how one attempt goes, `attempt`. Every attempt but the one that answers, or failed last, is noted as
passed over, with what it may have used. Where what was sent may be billed although it failed, or is
still under way, as much is held again before the call is sent once more; else it is not sent.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from llmrouter.errors import NoDeploymentAvailable
from llmrouter.gateway.attempt import Attempt
from llmrouter.gateway.exchange import Asking, Exchange
from llmrouter.gateway.hedge import race
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.room import Room
from llmrouter.gateway.timeouts import Timeouts
from llmrouter.gateway.upstream import Upstream
from llmrouter.gateway.verdict import Failure
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.routing.attempts import Attempts, Next
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.failure import FailureKind
from llmrouter.routing.routes import Route
from llmrouter.routing.strategy import NO_FACTS, Facts

_SOON_S: Final = 1
"""When to try again, where nothing says when a deployment can be used."""


class Unserved(Exception):
    """No deployment of a model gave an answer; `failure` is how the last attempt ended."""

    def __init__(self, failure: Failure, attempt: Attempt | None) -> None:
        super().__init__(str(failure.error))
        self.failure = failure
        self.attempt = attempt
        """The last one, closed; None where none could be made."""


class Forwarder:
    """Makes attempts at deployments."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        timeouts: Timeouts,
        room: Room,
        random: Callable[[], float],
    ) -> None:
        self._upstreams = upstreams
        self.timeouts = timeouts
        self._room = room
        self._random = random
        self._clock = asyncio.get_running_loop().time

    def timeouts_at(self, deployment: Deployment, route: Route) -> UpstreamTimeouts:
        """How long an attempt there may take where the caller asks for nothing else."""
        return self.timeouts.of(route, self._upstreams[deployment.upstream], {})

    async def forward(self, exchange: Exchange, meter: Meter) -> Attempt:
        """Have the call answered by a deployment of its route: an attempt whose answer has begun.

        Raises Unserved, and Overloaded where the journal cannot be written. If the client leaves
        meanwhile, the answer is heard out.
        """
        route = meter.spending.route
        facts = facts_of(exchange, route)
        if exchange.attempts is None:
            route.repeats.first()
        else:
            exchange.attempts.move_to(route, facts)
        deployment = route.choose(self._clock(), facts)
        if deployment is None:
            raise Unserved(none_usable(route, self._clock()), None)
        wait_s = 0.0
        suspects: tuple[Attempt, ...] = ()
        while True:
            attempt = await self._try(exchange, meter, deployment, wait_s)
            if (failure := attempt.failure) is None:
                for other in suspects:
                    other.blame()
                return attempt
            attempt.close()
            if attempt.is_suspect:
                suspects = (*suspects, attempt)
            meter.gave_nothing = not attempt.may_be_billed
            attempts = self._attempts(exchange, route, attempt)
            if wait_s and failure.kind is FailureKind.SATURATED:
                attempts.waited_in_vain(attempt.deployment)
            following = attempts.next_after(failure.kind, attempt.deployment, self._clock())
            wait_s = self._wait_s(attempt, attempts) if following is None else 0.0
            if wait_s:
                following = Next(attempt.deployment, 0.0)
            if following is None or not await self._comes_to(following, attempt, meter):
                raise Unserved(failure, attempt)
            meter.passed_over(attempt)
            meter.gave_nothing = True  # until the next is sent
            deployment = following.deployment

    def may_fall_back(self, exchange: Exchange, route: Route, unserved: Unserved) -> bool:
        """Whether another model may be tried; if so, that is counted as a repeat."""
        attempts = self._attempts(exchange, route, unserved.attempt)
        return attempts.may_fall_back(unserved.failure.kind, self._clock())

    async def _comes_to(self, following: Next, failed: Attempt, meter: Meter) -> bool:
        """Hold again what may be billed, and pause: whether the next attempt can be made then."""
        if failed.may_be_billed and not await self._hold_again(meter):
            return False
        if following.pause_s:
            await asyncio.sleep(following.pause_s)
        return self._allows(following.deployment)

    def _attempts(self, exchange: Exchange, route: Route, first: Attempt | None) -> Attempts:
        """What the call has tried; made once its first attempt has failed, or is late."""
        if exchange.attempts is None:
            upstreams = (self._upstreams[each.upstream] for each in route.deployments)
            total_s = max(
                self.timeouts.of(route, upstream, exchange.timeouts).total_s
                for upstream in upstreams
            )
            facts = facts_of(exchange, route)
            began_at = self._clock() if first is None else first.began_at
            ends_at_s = began_at + total_s
            exchange.attempts = Attempts(route, facts, self._random, ends_at_s=ends_at_s)
            exchange.attempts.count += exchange.resent
        return exchange.attempts

    def _wait_s(self, failed: Attempt, attempts: Attempts) -> float:
        """How long a place is waited for where nothing follows; 0 if not at all."""
        failure, now = failed.failure, self._clock()
        assert failure is not None
        passes = failed.deployment.condition.passes(now)
        return attempts.wait_s(failure.kind, now) if passes else 0.0

    async def _hold_again(self, meter: Meter) -> bool:
        is_held = await meter.spending.hold_again(self._room)
        if is_held:
            meter.held_again()
        return is_held

    async def _try(
        self, exchange: Exchange, meter: Meter, deployment: Deployment, wait_s: float
    ) -> Attempt:
        """Make one attempt, or two where the first token is late; it has answered, or failed.

        For a place at a full upstream it waits for so long.
        """
        attempt = self._attempt(exchange, meter, deployment)
        attempt.serves()
        left: asyncio.CancelledError | None = None
        try:
            if attempt.start_at_once() or await attempt.start(wait_s) is None:
                hedge = meter.spending.route.hedge
                if hedge is None or not exchange.call.stream:
                    await attempt.finish()
                else:
                    attempt = await self._hedged(exchange, meter, attempt)
            if attempt.failure is None:
                meter.first_byte()
        except asyncio.CancelledError as error:
            left = error
        except BaseException:
            attempt.close()  # no connection waits on for an answer that nobody takes
            raise
        if left is not None:
            await attempt.leave(left)
            attempt.close()
            raise left
        return attempt

    async def _hedged(self, exchange: Exchange, meter: Meter, first: Attempt) -> Attempt:
        """Wait for its first token; where that is late, for the first of two attempts."""
        hedge = meter.spending.route.hedge
        assert hedge is not None
        delay_s = hedge.delay_s()
        second = None
        if delay_s is not None and not await first.reply.arrives_within(delay_s):
            second = await self._second(exchange, meter, first)
        if second is None:
            await first.finish()
            chosen = first
        else:
            chosen = await race(first, second, meter)
            chosen.serves()
            if chosen.failure is not None:
                other = second if chosen is first else first
                assert other.failure is not None
                attempts = self._attempts(exchange, meter.spending.route, first)
                attempts.failed_as_well(other.failure.kind, other.deployment)
        if chosen is not first:
            hedge.late(first.running_s)
            first.was_late()
        elif chosen.failure is None:
            hedge.observed(first.running_s)
        return chosen

    async def _second(self, exchange: Exchange, meter: Meter, first: Attempt) -> Attempt | None:
        """An attempt beside the first, if there is a deployment, a repeat and room for it."""
        route = meter.spending.route
        attempts = self._attempts(exchange, route, first)
        deployment = attempts.beside(first.deployment, self._clock())
        if deployment is None:
            return None
        is_held = await self._hold_again(meter)
        if not is_held or first.reply.arrival.done() or not self._allows(deployment):
            attempts.withdraw(first.deployment)
            return None
        return self._attempt(exchange, meter, deployment)

    def _allows(self, deployment: Deployment) -> bool:
        """Whether its breaker does: other calls may have found out that it does not work."""
        return deployment.condition.breaker.allows(self._clock())

    def _attempt(self, exchange: Exchange, meter: Meter, deployment: Deployment) -> Attempt:
        upstream = self._upstreams[deployment.upstream]
        timeouts = self.timeouts.of(meter.spending.route, upstream, exchange.timeouts)
        if exchange.attempts is not None:
            timeouts = _within(timeouts, exchange.attempts.left_s(self._clock()))
        return Attempt(deployment, upstream, exchange, meter, timeouts)


def facts_of(exchange: Asking, route: Route) -> Facts:
    """What its strategy goes by."""
    if not route.strategy.wants_facts:
        return NO_FACTS
    principal = exchange.principal
    assert principal is not None
    conversation = exchange.dialect.conversation(exchange.call)
    return Facts(exchange.asked, principal.key_id, principal.user, conversation)


def _within(timeouts: UpstreamTimeouts, left_s: float) -> UpstreamTimeouts:
    """The same for a later attempt: all of them share the time of one."""
    return replace(timeouts, total_s=min(timeouts.total_s, left_s))


def none_usable(route: Route, now_s: float) -> Failure:
    """What becomes of a call to a route of which no deployment can be used now."""
    usable_at = route.usable_at(now_s)
    retry_after_s = _SOON_S if usable_at is None else max(_SOON_S, -int(now_s - usable_at) + 1)
    said = f"no deployment of the model '{route.name}' can be used now"
    error = NoDeploymentAvailable(f"{said}; try again later", retry_after_s=retry_after_s)
    return Failure(kind=FailureKind.SATURATED, error=error)
