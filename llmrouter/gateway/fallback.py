"""When no deployment of a model gives an answer: another model takes over, or the caller is told.

Another model is another call as far as limits, budgets and prices go: what the first one holds is
given back and settled at what its attempts used, and room is taken for the second. Both have a
record; that of the first says that it was replaced. A caller is told what became of the model that
was asked for: that a fallback refuses the call (a prefilled turn, a parameter) would mislead.
"""

import msgspec

from llmrouter.errors import RouterError
from llmrouter.gateway.admit import Admission
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.forward import Forwarder, Unserved
from llmrouter.gateway.meter import Meter
from llmrouter.gateway.route import Found, Router
from llmrouter.gateway.spending import Spending
from llmrouter.gateway.verdict import Failure
from llmrouter.metering.records import NO_USAGE
from llmrouter.routing.failure import FailureKind
from llmrouter.routing.routes import Route


class TakeOver(msgspec.Struct, frozen=True):
    """A model that takes over: its room, and what came before it."""

    spending: Spending
    counted: tuple[str, ...]
    """The models that the call was counted for by limits on requests."""
    tried: tuple[Route, ...]
    attempts: int
    meter: Meter | None
    """Whose record is still to end."""
    first: Unserved
    """What became of the model that was asked for..."""
    served_by: str
    """...and what callers see that served in its place even then; empty if it did itself."""


class Fallbacks:
    """Finds the model that takes over."""

    def __init__(self, router: Router, admission: Admission, forwarder: Forwarder) -> None:
        self._router = router
        self._admission = admission
        self._forwarder = forwarder

    async def take_over(
        self, exchange: Exchange, meter: Meter, unserved: Unserved, before: TakeOver | None
    ) -> TakeOver | None:
        """Find the model that takes over, and room for it; None if none does."""
        route = meter.spending.route
        tried = (route,) if before is None else (*before.tried, route)
        candidates = self._candidates(exchange, tried, unserved.failure.kind)
        if not candidates or not self._forwarder.may_fall_back(exchange, route, unserved):
            return None
        counted = () if before is None else before.counted
        served_by = exchange.served_by if before is None else before.served_by
        if meter.has_begun:
            counted = (*counted, exchange.model)
        _end(meter, unserved)
        for found in candidates:
            try:
                spending = await self._admission.fall_back(exchange, found, counted)
            except RouterError:
                continue  # there is no room for it
            return TakeOver(
                spending=spending,
                counted=counted,
                tried=tried,
                attempts=_attempts(meter, unserved),
                meter=meter.hand_over(),
                first=unserved if before is None else before.first,
                served_by=served_by,
            )
        return None

    def _candidates(
        self, exchange: Exchange, tried: tuple[Route, ...], kind: FailureKind
    ) -> list[Found]:
        """The fallbacks of the model that was asked for, and were not tried."""
        principal, asked, failed = exchange.principal, tried[0], tried[-1]
        assert principal is not None
        found = self._router.fallbacks(Found(asked, exchange.call.model), principal)
        names = {route.name for route in tried}
        candidates = [one for one in found if one.route.name not in names]
        if kind is not FailureKind.TOO_LONG:
            return candidates
        return [one for one in candidates if _is_longer(one.route, failed)]


def told(exchange: Exchange, meter: Meter, unserved: Unserved, before: TakeOver | None) -> Failure:
    """What the caller is told where nothing takes over from the model that was tried last."""
    if before is None:
        return unserved.failure
    _end(meter, unserved)
    first = before.first
    exchange.served_by = before.served_by
    if first.attempt is not None:
        exchange.deployment = first.attempt.name
    return first.failure


def _end(meter: Meter, unserved: Unserved) -> None:
    """Settle a call at what its attempts used, of which none has answered; once."""
    if meter.is_settled:
        return
    attempt, error = unserved.attempt, unserved.failure.error
    usage, estimated = (NO_USAGE, False) if attempt is None else attempt.used()
    meter.settle_failed(error, usage, estimated=estimated)


def _attempts(meter: Meter, unserved: Unserved) -> int:
    """How many were made in all."""
    return meter.attempts if unserved.attempt is not None else meter.attempts - 1


def _is_longer(route: Route, than: Route) -> bool:
    """Whether a prompt that is too long for one may fit the other, as far as that is known."""
    mine, other = route.policy.context_max, than.policy.context_max
    return mine is None or other is None or mine > other
