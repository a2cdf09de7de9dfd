"""Third step: whether there is room for the call: on this node, and under every rule.

Room is taken from the leases of this worker where they suffice, which costs no I/O and no wait.
Else the ledger is asked, and the call waits for its answer; what is refused without asking is what
the ledger is known to refuse. A limit may let another model serve instead: then room is sought for
that one, and the limit that was met still counts the call, but does not refuse it.

Invariant: what is taken here is given back by the `with` of the `Spending` that is returned; where
none is returned, nothing is taken.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from llmrouter.contracts.call import Call
from llmrouter.contracts.rule import MODEL_PREFIX
from llmrouter.errors import Overloaded, RouterError
from llmrouter.gateway import quotas
from llmrouter.gateway.exchange import Asking, Exchange
from llmrouter.gateway.need import Case, Cases
from llmrouter.gateway.needs import Need
from llmrouter.gateway.room import RETRY_AFTER_S, Room
from llmrouter.gateway.route import Found, Router
from llmrouter.gateway.spending import Flight, Spending
from llmrouter.quota.denials import Action, Denial, Denials
from llmrouter.quota.leases import Amounts, Leases, Refusal
from llmrouter.quota.reservation import Reservation
from llmrouter.routing.routes import Route

SERVED_BY_MAX = 4
"""How often a call may be passed on to another model."""


@dataclass(frozen=True, kw_only=True)
class AdmissionTerms:
    """How much, how long, and for whom."""

    inflight_max: int
    """Calls that one worker carries at once."""
    hold_wait_s: float
    """How long the ledger lets a call wait for what calls in flight hold."""
    unpriced_allowed: frozenset[str]
    """The orgs whose calls to models without a price are served, although money counts."""


class Foreseen:
    """What a call needs, and of which leases."""

    __slots__ = ("amounts", "case", "need")

    def __init__(self, case: Case, need: Need, amounts: Amounts) -> None:
        self.case = case
        self.need = need
        self.amounts = amounts


class Admission:
    """Takes room for calls."""

    def __init__(
        self,
        flight: Flight,
        leases: Leases,
        denials: Denials,
        router: Router,
        terms: AdmissionTerms,
    ) -> None:
        self._flight = flight
        self._leases = leases
        self._denials = denials
        self._router = router
        self._inflight_max = terms.inflight_max
        self.room = Room(leases, flight.now_ms, terms.hold_wait_s)
        self._cases = Cases(flight, leases, unpriced_allowed=terms.unpriced_allowed)

    @property
    def inflight(self) -> int:
        """Calls that this worker carries."""
        return self._flight.calls

    def try_admit(self, exchange: Exchange, call: Call, route: Route) -> Spending | Foreseen:
        """Take room at once if this worker has it; else what `admit` may ask the ledger for.

        Raises Overloaded where the worker's share of `server.limits.inflight` is used up, and
        InvalidRequest, InsufficientQuota where the call could not be kept within its budgets.
        """
        self.check_inflight()
        foreseen = self.foresee(exchange, call, route)
        case, amounts = foreseen.case, foreseen.amounts
        leases, account, now_ms = self._leases, case.account, self._flight.now_ms()
        if not leases.reserve(account, amounts, now_ms):
            return foreseen
        exchange.limit_headers = case.headers.at(now_ms)
        reservation = Reservation(leases, account, amounts)
        return Spending(self._flight, reservation, case.route, foreseen.need, now_ms)

    async def admit(self, exchange: Exchange, call: Call, foreseen: Foreseen) -> Spending:
        """Ask the ledger for room, and wait as long as the rules say.

        Raises what `try_admit` does, and the error for the limit that was met.
        """
        met: list[Refusal] = []
        tried = [exchange.model]
        while True:
            case = foreseen.case
            found = await self.room.take(case.account, foreseen.amounts)
            if isinstance(found, Reservation):
                return self._admitted(exchange, case, foreseen.need, found)
            route = self._instead(exchange, call, found, tried)
            met.append(found)
            tried.append(exchange.model)
            foreseen = self.foresee(exchange, call, route, met)

    def foresee(
        self, asking: Asking, call: Call, route: Route, met: Iterable[Refusal] = ()
    ) -> Foreseen:
        """What the call needs; the limits that it has `met` do not refuse it again.

        Takes nothing. Raises InvalidRequest, InsufficientQuota as `try_admit` does.
        """
        case = self._cases.of(asking, route)
        for refusal in met:
            case = case.without(refusal.lease.name)
        need, amounts = self._cases.need(asking, call, case)
        return Foreseen(case, need, amounts)

    async def fall_back(self, exchange: Exchange, to: Found, counted: tuple[str, ...]) -> Spending:
        """Take room for the same call at another model; `exchange` is of that model from then on.

        Limits on requests that count one of the models `counted` have counted this call already.
        Raises what `admit` does; then `exchange` is as it was.
        """
        before = exchange.asked, exchange.model, exchange.served_by, exchange.limit_headers
        exchange.asked = to.asked
        exchange.model = exchange.served_by = to.route.model_of(to.asked)
        try:
            case = self._cases.of(exchange, to.route).falling_back_from(counted)
            need, amounts = self._cases.need(exchange, exchange.call, case)
            return await self._take(exchange, case, need, amounts)
        except BaseException:
            exchange.asked, exchange.model, exchange.served_by, exchange.limit_headers = before
            raise

    async def _take(self, exchange: Exchange, case: Case, need: Need, amounts: Amounts) -> Spending:
        found = await self.room.take(case.account, amounts)
        if isinstance(found, Refusal):
            raise quotas.refused(found, self._flight.now_ms())
        return self._admitted(exchange, case, need, found)

    def _admitted(
        self, exchange: Exchange, case: Case, need: Need, reservation: Reservation
    ) -> Spending:
        try:
            self.check_inflight()  # others may have been admitted while it waited
        except Overloaded:
            reservation.release()
            raise
        now_ms = self._flight.now_ms()
        exchange.limit_headers = case.headers.at(now_ms)
        return Spending(self._flight, reservation, case.route, need, now_ms)

    def check_inflight(self) -> None:
        """Raise Overloaded where this worker carries as many calls as it may."""
        if self._flight.calls >= self._inflight_max:
            reason = f"this node carries as many calls as it may ({self._inflight_max} a worker)"
            raise Overloaded(f"{reason}; try again shortly", retry_after_s=RETRY_AFTER_S)

    # ---- at the limit -----------------------------------------------------------------------

    def _instead(self, exchange: Exchange, call: Call, refusal: Refusal, tried: list[str]) -> Route:
        """The route that serves instead, if the rule that was met names one; else raises why not.

        Either is told to the operators.
        """
        error = quotas.refused(refusal, self._flight.now_ms())
        route = self.named_instead(exchange, refusal, tried)
        self._note(exchange, call, refusal, error, served=route is not None)
        if route is None:
            raise error
        return route

    def named_instead(self, exchange: Asking, refusal: Refusal, tried: list[str]) -> Route | None:
        """The route that the rule names which was met; the call asks for that from then on."""
        at_limit = refusal.lease.found.rule.at_limit
        if not at_limit.startswith(MODEL_PREFIX) or len(tried) > SERVED_BY_MAX:
            return None
        asked = at_limit.removeprefix(MODEL_PREFIX)
        principal = exchange.principal
        assert principal is not None
        try:
            found = self._router.find(asked, principal)
        except RouterError:
            return None  # this key may not use it, so it is refused as it would be without
        model = found.route.model_of(found.asked)
        if model in tried:
            return None  # else rules that name each other would let everything pass
        exchange.asked = found.asked
        exchange.model = exchange.served_by = model
        return found.route

    def _note(
        self, exchange: Exchange, call: Call, refusal: Refusal, error: RouterError, *, served: bool
    ) -> None:
        principal, now_ms = exchange.principal, self._flight.now_ms()
        assert principal is not None
        self._denials.note(
            Denial(
                at_ms=now_ms,
                last_ms=now_ms,
                org=principal.org,
                team=principal.team,
                user=principal.user,
                key_id=principal.key_id,
                model=call.model,
                action=Action.DOWNGRADED if served else Action.REFUSED,
                code=error.code,
                bucket=refusal.lease.name,
                served_by=exchange.served_by if served else None,
                limit=refusal.lease.found.rule.amount,
                balance=refusal.refused.left,
                wanted=refusal.wanted,
            )
        )
