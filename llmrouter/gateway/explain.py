"""Explaining: what would become of a call, and why, without making it.

The call goes the way of every other (`Gateway`): the same router, the same cases, the same leases,
the same conditions, the same words of refusal. But it only looks: nothing is held, sent, counted or
told to operators, and nobody's next call is served otherwise for it. How the ledger would answer is
found out on copies of its buckets (`quota.rehearsal`).

Invariant: nothing here awaits.
"""

from collections.abc import Iterable, Iterator

import msgspec

from llmrouter.access.keyring import Keyring
from llmrouter.access.principal import Principal
from llmrouter.contracts.call import Call
from llmrouter.contracts.dialect import Dialect
from llmrouter.errors import InvalidKey, RouterError
from llmrouter.gateway import quotas
from llmrouter.gateway.explanation import (
    Explanation,
    FallbackSaid,
    Outcome,
    Question,
)
from llmrouter.gateway.forward import none_usable
from llmrouter.gateway.pipeline import Steps
from llmrouter.gateway.placing import Placing, in_words
from llmrouter.gateway.reckoning import hold, limits, no_room, refusal_of
from llmrouter.gateway.route import Found
from llmrouter.quota.lease import Refusal
from llmrouter.quota.rehearsal import Rehearsal
from llmrouter.routing.failure import FailureKind
from llmrouter.routing.routes import Route
from llmrouter.units import MS_PER_S

SAMPLE = (
    "the prompt is a sample's: give the body of the call, and what it needs is foreseen by that"
)
_UNKNOWN_KEY = "the workers do not know this key yet; ask again"


class Asked(msgspec.Struct, kw_only=True):
    """What stands for the exchange of a call that nobody makes."""

    principal: Principal | None
    dialect: Dialect
    call: Call
    asked: str
    model: str
    served_by: str = ""


class Explainer:
    """Explains calls as this worker would serve them."""

    def __init__(
        self, steps: Steps, dialect: Dialect, keyring: Keyring, *, hold_wait_ms: int
    ) -> None:
        self._steps = steps
        self._dialect = dialect
        self._keyring = keyring
        self._hold_wait_ms = hold_wait_ms

    def __repr__(self) -> str:
        return f"<Explainer {self._dialect.name}>"

    def explain(self, question: Question) -> Explanation:
        """What would become of the call."""
        said = Explanation(caller=question.caller)
        if question.is_sample:
            said.notes.append(SAMPLE)
        now_s = question.at_ms / MS_PER_S
        known = self._keyring.find(question.caller.id, now_s)
        if known is None:
            said.outcome = refusal_of(InvalidKey(_UNKNOWN_KEY), question.at_ms)
            return said
        principal, ended = known
        try:
            said.outcome = _Explaining(self._steps, question, said, self._hold_wait_ms).follow(
                self._dialect, principal
            )
        except RouterError as error:
            said.outcome = refusal_of(error, question.at_ms)
        if ended is not None:  # all else is told as it would be with a key that is in force
            said.outcome = refusal_of(ended, question.at_ms)
        return said


class _Explaining:
    """One explanation; each step is one of the path's."""

    def __init__(
        self, steps: Steps, question: Question, said: Explanation, hold_wait_ms: int
    ) -> None:
        self._steps = steps
        self._question = question
        self._said = said
        self._now_s = steps.clock()
        self._placing = Placing(steps.router, steps.forwarder, question.standings, self._now_s)
        self._rehearsal = Rehearsal(question.standings, question.at_ms, hold_wait_ms=hold_wait_ms)

    def follow(self, dialect: Dialect, principal: Principal) -> Outcome:
        """Raises the RouterError that the call would end with before limits are looked at."""
        question, said = self._question, self._said
        call = dialect.read_call(question.operation, question.body)
        found = self._steps.router.find(call.model, principal)
        asking = Asked(
            principal=principal,
            dialect=dialect,
            call=call,
            asked=found.asked,
            model=found.route.model_of(found.asked),
        )
        said.served = self._placing.served(asking, found)
        self._tell_route(asking, found.route)
        route, refused = self._admit(asking, found.route)
        if route is not found.route:
            self._tell_route(asking, route)
        said.fallbacks = list(self._fallbacks(asking, route))
        return refused or self._forward(asking, route)

    def _tell_route(self, asking: Asked, route: Route) -> None:
        said = self._said
        said.strategy = in_words(route.strategy)
        said.deployments = self._placing.places(asking, route)
        said.attempts = self._placing.attempts(route)

    # ---- admit ------------------------------------------------------------------------------

    def _admit(self, asking: Asked, route: Route) -> tuple[Route, Outcome | None]:
        """The route that would serve in the end, and the refusal if there is no room for it."""
        admission, said = self._steps.admission, self._said
        admission.check_inflight()
        met: list[Refusal] = []
        tried = [asking.model]
        while True:
            foreseen = admission.foresee(asking, asking.call, route, met)
            case, amounts = foreseen.case, foreseen.amounts
            said.hold = hold(case, foreseen.need, amounts)
            said.limits = list(limits(case, amounts, self._rehearsal))
            found = self._rehearsal.refusal(case.account, amounts)
            if found is None:
                return route, None
            refusal, wait_ms = found
            following = admission.named_instead(asking, refusal, tried)
            if following is None:
                return route, no_room(refusal, wait_ms, self._question.at_ms)
            said.notes.append(f"{refusal.lease.name} has no room: {asking.model} would serve")
            met.append(refusal)
            tried.append(asking.model)
            route = following

    # ---- forward ----------------------------------------------------------------------------

    def _forward(self, asking: Asked, route: Route) -> Outcome:
        """A call for which there is room goes to a deployment, or else to another model."""
        instead = asking.served_by or None
        if any(place.turn for place in self._said.deployments):
            return Outcome(admitted=True, served_by=instead)
        may_fall_back = route.falls_back_on(FailureKind.SATURATED) and route.repeats.left
        for fallback in self._said.fallbacks if may_fall_back else ():
            if not fallback.why_not:
                return Outcome(admitted=True, served_by=fallback.model)
        return refusal_of(none_usable(route, self._now_s).error, self._question.at_ms)

    def _fallbacks(self, asking: Asked, route: Route) -> Iterator[FallbackSaid]:
        """Each that the route names, and why it would not take over if it would not."""
        router, principal = self._steps.router, asking.principal
        assert principal is not None
        usable = router.fallbacks(Found(route, asking.call.model), principal)
        for name in route.policy.fallbacks:
            try:
                found = router.find(name, principal)
                why_not = self._why_not(asking, found, usable)
            except RouterError as error:
                why_not = error.message
            yield FallbackSaid(model=name, why_not=why_not)

    def _why_not(self, asking: Asked, found: Found, usable: Iterable[Found]) -> str:
        """Why a model would not take over now; raises RouterError where it cannot be admitted."""
        if all(found.route is not one.route for one in usable):
            return "it is the same model as one before it"
        if not found.route.usable(self._now_s):
            return "no deployment of it can be used now"
        model = found.route.model_of(found.asked)
        instead = msgspec.structs.replace(asking, asked=found.asked, model=model)
        foreseen = self._steps.admission.foresee(instead, asking.call, found.route)
        refused = self._rehearsal.refusal(foreseen.case.account, foreseen.amounts)
        if refused is None:
            return ""
        return str(quotas.refused(refused[0], self._question.at_ms))
