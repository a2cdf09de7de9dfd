"""Third step: whether there is room for the call: on this node, and under every rule.

Room is taken from the leases of this worker where they suffice, which costs no I/O and no wait.
Else the ledger is asked, and the call waits for its answer; what is refused without asking is what
the ledger is known to refuse. A limit may let another model serve instead: then room is sought for
that one, and the limit that was met still counts the call, but does not refuse it.

Invariant: what is taken here is given back by the `with` of the `Spending` that is returned; where
none is returned, nothing is taken.
"""

import asyncio

import msgspec

from llmrouter.contracts.call import Call
from llmrouter.contracts.rule import MODEL_PREFIX, QUEUE
from llmrouter.errors import Draining, Overloaded, RouterError
from llmrouter.gateway import quotas
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.need import Cases
from llmrouter.gateway.route import Router
from llmrouter.gateway.spending import Flight, Spending
from llmrouter.quota.denials import Action, Denial, Denials
from llmrouter.quota.leases import Account, Amounts, Leases, Refusal
from llmrouter.quota.reservation import Reservation
from llmrouter.routing.routes import Route
from llmrouter.units import MS_PER_S

RETRY_AFTER_S = 1
LEDGER_PATIENCE_S = 10.0
"""Beyond what a rule lets a call wait: the ledger answers within milliseconds, or is not there."""
SERVED_BY_MAX = 4
"""How often a call may be passed on to another model."""


class AdmissionTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How much, how long, and for whom."""

    inflight_max: int
    """Calls that one worker carries at once."""
    hold_wait_s: float
    """How long the ledger lets a call wait for what calls in flight hold."""
    unpriced_allowed: frozenset[str]
    """The orgs whose calls to models without a price are served, although money counts."""


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
        self._hold_wait_s = terms.hold_wait_s
        self._cases = Cases(flight, leases, unpriced_allowed=terms.unpriced_allowed)

    @property
    def inflight(self) -> int:
        """Calls that this worker carries."""
        return self._flight.calls

    def try_admit(self, exchange: Exchange, call: Call, route: Route) -> Spending | None:
        """Take room at once if this worker has it; None if the ledger has to be asked.

        Raises Overloaded where the worker's share of `server.limits.inflight` is used up, and
        InvalidRequest, InsufficientQuota where the call could not be kept within its budgets.
        """
        self._check_inflight()
        case = self._cases.of(exchange, route)
        need, amounts = self._cases.need(exchange, call, case)
        leases, account, now_ms = self._leases, case.account, self._flight.now_ms()
        if not leases.reserve(account, amounts, now_ms):
            return None
        exchange.limit_headers = case.headers.at(now_ms)
        reservation = Reservation(leases, account, amounts)
        return Spending(self._flight, reservation, case.route, need, now_ms)

    async def admit(self, exchange: Exchange, call: Call, route: Route) -> Spending:
        """Ask the ledger for room, and wait as long as the rules say.

        Raises what `try_admit` does, and the error for the limit that was met.
        """
        met: list[Refusal] = []
        tried = [exchange.model]
        while True:
            case = self._cases.of(exchange, route)
            for refusal in met:
                case = case.without(refusal.lease.name)
            need, amounts = self._cases.need(exchange, call, case)
            found = await self._reserve(case.account, amounts)
            if isinstance(found, Reservation):
                now_ms = self._flight.now_ms()
                exchange.limit_headers = case.headers.at(now_ms)
                return Spending(self._flight, found, case.route, need, now_ms)
            route = self._instead(exchange, call, found, tried)
            met.append(found)
            tried.append(exchange.model)

    def _check_inflight(self) -> None:
        if self._flight.calls >= self._inflight_max:
            reason = f"this node carries as many calls as it may ({self._inflight_max} a worker)"
            raise Overloaded(f"{reason}; try again shortly", retry_after_s=RETRY_AFTER_S)

    # ---- asking the ledger ------------------------------------------------------------------

    async def _reserve(self, account: Account, amounts: Amounts) -> Reservation | Refusal:
        """Take the amounts, or say why not; raises Draining, Overloaded."""
        leases, now_ms = self._leases, self._flight.now_ms()
        reservation = Reservation(leases, account, amounts)
        refusal = leases.refusal(account, amounts, now_ms)
        if refusal is None and not leases.reserve(account, amounts, now_ms):
            refusal = await self._ask(reservation, amounts)
        if refusal is not None:
            return refusal
        try:
            self._check_inflight()  # others may have been admitted while it waited
        except Overloaded:
            reservation.release()
            raise
        return reservation

    async def _ask(self, reservation: Reservation, amounts: Amounts) -> Refusal | None:
        """Have the ledger grant what is short; it is reserved in the moment of the answer."""
        leases, account = self._leases, reservation.account
        self._check_ledger()
        answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()

        def answered(refusal: Refusal | None) -> None:
            if not answer.cancelled():
                answer.set_result(refusal)
            elif refusal is None:
                reservation.release()

        ask_id = leases.ask(account, amounts, answered, self._flight.now_ms())
        try:
            refusal = await _waited(answer, _patience_s(account, self._hold_wait_s))
        except BaseException:
            # The answer may have come in the very moment in which the waiting ended.
            if answer.cancel() or answer.cancelled():  # it has not
                leases.cancel(ask_id)
            elif answer.result() is None:
                reservation.release()
            raise
        if refusal is not None:
            self._check_ledger()  # it may have died while this was asked
        return refusal

    def _check_ledger(self) -> None:
        if self._leases.alone:
            reason = "this node is draining; try again on another"
            raise Draining(reason, retry_after_s=RETRY_AFTER_S)

    # ---- at the limit -----------------------------------------------------------------------

    def _instead(self, exchange: Exchange, call: Call, refusal: Refusal, tried: list[str]) -> Route:
        """The route that serves instead, if the rule that was met names one; else raises why not.

        Either is told to the operators.
        """
        error = quotas.refused(refusal, self._flight.now_ms())
        route = self._named_instead(exchange, refusal, tried)
        self._note(exchange, call, refusal, error, served=route is not None)
        if route is None:
            raise error
        return route

    def _named_instead(
        self, exchange: Exchange, refusal: Refusal, tried: list[str]
    ) -> Route | None:
        at_limit = refusal.lease.found.rule.at_limit
        if not at_limit.startswith(MODEL_PREFIX) or len(tried) > SERVED_BY_MAX:
            return None
        asked = at_limit.removeprefix(MODEL_PREFIX)
        principal = exchange.principal
        assert principal is not None
        try:
            route = self._router.find(asked, principal)
        except RouterError:
            return None  # this key may not use it, so it is refused as it would be without
        model = route.model_of(asked)
        if model in tried:
            return None  # else rules that name each other would let everything pass
        exchange.asked = asked
        exchange.model = exchange.served_by = model
        return route

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


async def _waited(answer: asyncio.Future[Refusal | None], patience_s: float) -> Refusal | None:
    try:
        async with asyncio.timeout(patience_s):
            return await answer
    except TimeoutError:
        reason = "the ledger of this node does not answer; tell your operator"
        raise Overloaded(reason, retry_after_s=RETRY_AFTER_S) from None


def _patience_s(account: Account, hold_wait_s: float) -> float:
    """How long an answer may take: the longest wait there is, and what it takes to ask."""
    rules = (lease.found.rule for lease in account.gating)
    waits = [rule.wait_ms / MS_PER_S for rule in rules if rule.at_limit == QUEUE]
    return LEDGER_PATIENCE_S + max((hold_wait_s, *waits))
