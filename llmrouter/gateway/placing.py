"""What an explanation says of a route: its deployments in order, and how often they are tried."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from llmrouter.contracts.patterns import is_pattern
from llmrouter.gateway.exchange import Asking
from llmrouter.gateway.explanation import AttemptsSaid, Place, Served, TimeoutsSaid
from llmrouter.gateway.forward import Forwarder, facts_of
from llmrouter.gateway.route import Found, Router
from llmrouter.quota.ledger import Standing
from llmrouter.routing.cheapest import Cheapest
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.fastest import Fastest
from llmrouter.routing.inflight import LeastInflight
from llmrouter.routing.routes import Route
from llmrouter.routing.sticky import Sticky
from llmrouter.routing.strategy import Ordered, Strategy, Weighted, in_order

_IN_WORDS: Mapping[type[Strategy], str] = {
    Weighted: "weighted: in turn, each as often as its weight says",
    Ordered: "ordered: the first that can be used",
    LeastInflight: "least-inflight: of two drawn by lot, the one with less to carry",
    Fastest: "fastest: where the first token should come soonest",
    Cheapest: "cheapest: the lowest price for a typical call",
    Sticky: "sticky: what belongs together stays at one deployment",
}


class Placing:
    """Looks at routes for one call that nobody makes; chooses nothing for anybody else."""

    def __init__(
        self, router: Router, forwarder: Forwarder, standings: Iterable[Standing], now_s: float
    ) -> None:
        self._router = router
        self._forwarder = forwarder
        self._places = {one.bucket.rpartition("/")[0]: one for one in standings}
        """How many calls upstreams hold, by the scope's part of the bucket's name."""
        self._now_s = now_s

    def served(self, asking: Asking, found: Found) -> Served:
        """What serves the name that was asked for."""
        call, principal = asking.call, asking.principal
        assert principal is not None
        route, name = found.route, found.asked
        is_mapped = name != call.model
        return Served(
            asked=call.model,
            operation=call.operation,
            stream=call.stream,
            mapped_to=name if is_mapped else None,
            mapped_by=self._router.mapped_by(call.model, principal) if is_mapped else None,
            model=asking.model,
            route=route.name,
            found_by=_found_by(route, name),
            required=dict(self._router.policy.required(principal)),
        )

    def places(self, asking: Asking, route: Route) -> list[Place]:
        """The deployments in the order in which they would be tried, then those that are out."""
        usable = route.usable(self._now_s)
        ordered = in_order(route.strategy, usable, self._now_s, facts_of(asking, route))
        found = [
            self._place(one, route, asking.asked, turn, "") for turn, one in enumerate(ordered, 1)
        ]
        for one, why_not in self._out(asking, route, ordered):
            found.append(self._place(one, route, asking.asked, None, why_not))
        return found

    def attempts(self, route: Route) -> AttemptsSaid:
        """How often a call to the route may be sent."""
        policy = route.policy
        return AttemptsSaid(
            most=policy.attempts_max,
            repeats_left=route.repeats.left,
            repeats_share=policy.repeats_share,
            fallback_on=tuple(sorted(policy.fallback_on)),
            hedge_after=policy.hedge_after,
            hedge_delay=None if route.hedge is None else route.hedge.delay_s(),
        )

    def _out(
        self, asking: Asking, route: Route, usable: list[Deployment]
    ) -> Iterator[tuple[Deployment, str]]:
        principal = asking.principal
        assert principal is not None
        required = self._router.policy.required(principal)
        for one in self._router.whole(Found(route, asking.asked)).deployments:
            missing = required.items() - one.tags.items()
            if missing:
                tags = " and ".join(f"{name} = {value}" for name, value in sorted(missing))
                yield one, f"it has not the tag {tags}, which this key requires"
            elif one not in usable:
                yield one, one.condition.why_not(self._now_s)

    def _place(
        self, deployment: Deployment, route: Route, asked: str, turn: int | None, why_not: str
    ) -> Place:
        condition = deployment.condition
        timeouts = self._forwarder.timeouts_at(deployment, route)
        held = self._places.get(f"upstream/{deployment.upstream}")
        return Place(
            deployment=condition.name,
            upstream=deployment.upstream,
            model=deployment.model_for(asked),
            weight=deployment.weight,
            tags=dict(deployment.tags),
            turn=turn,
            why_not=why_not,
            breaker=condition.breaker.state.value,
            inflight=condition.inflight,
            latency=condition.latency.now(self._now_s) or None,
            places_left=None if held is None else held.capacity - held.claimed,
            timeouts=TimeoutsSaid(
                connect=timeouts.connect_s,
                first_token=timeouts.first_s,
                idle=timeouts.idle_s,
                total=timeouts.total_s,
            ),
        )


def _found_by(route: Route, name: str) -> Literal["name", "alias", "pattern"]:
    if is_pattern(route.name):
        return "pattern"
    return "name" if name == route.name else "alias"


def in_words(strategy: Strategy) -> str:
    """How it chooses."""
    return _IN_WORDS[type(strategy)]
