"""Routes: from the name that a caller asked for to the deployments that serve it.

An exact name wins, then an alias, then the longest pattern; of two patterns as long, the first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from llmrouter.contracts import patterns
from llmrouter.errors import ModelNotFound
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.failure import RULES, FailureKind, FallbackOn, fallback_on
from llmrouter.routing.hedging import HedgeDelay
from llmrouter.routing.repeats import Repeats
from llmrouter.routing.strategy import Facts, Strategy

_SHOWN_CHARS_MAX: Final = 100
"""Of a name that a caller chose and that goes into our answer."""
NAMED_MAX: Final = 256
"""Names under one pattern that are told apart."""
RESTRICTED_MAX: Final = 256
"""Sets of required tags that a route is remembered for; they are those of router.toml."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What becomes of a call that a deployment does not answer."""

    attempts_max: int = 3
    """Attempts a call may make in all, the first included."""
    repeats_share: float = 0.2
    """Of the calls, how many may be repeats."""
    fallbacks: tuple[str, ...] = ()
    """Other models to try, in order; those that they fall back to stand behind them."""
    fallback_on: frozenset[FallbackOn] = frozenset(
        {FallbackOn.UNAVAILABLE, FallbackOn.CONTEXT_LENGTH}
    )
    hedge_after: float | Literal["p95"] | None = None
    """When a second attempt is made beside a first that has no token yet; see `HedgeDelay`."""
    context_max: int | None = None
    """The most tokens that prompt and output can have together, as far as that is known."""


DEFAULT_POLICY: Final = Policy()


class Route:
    """A model's deployments and its policy."""

    __slots__ = (
        "_make_strategy",
        "_named",
        "_only",
        "_restricted",
        "aliases",
        "answers_past_filters",
        "deployments",
        "hedge",
        "name",
        "output_max",
        "policy",
        "repeats",
        "strategy",
    )

    def __init__(
        self,
        name: str,
        deployments: Sequence[Deployment],
        strategy: Callable[[Sequence[Deployment]], Strategy],
        *,
        aliases: Iterable[str] = (),
        output_max: int | None = None,
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        self.name = name
        """The model's public name, or a pattern of names."""
        self.aliases = tuple(aliases)
        self.output_max = output_max
        """The most output tokens that one answer can have, as far as that is known."""
        self.policy = policy
        self.answers_past_filters = FallbackOn.CONTENT_FILTER in policy.fallback_on
        """Another model answers what a content filter has cut; asked for every plain answer."""
        self.repeats = Repeats(policy.repeats_share)
        after = policy.hedge_after
        self.hedge = None if after is None else HedgeDelay(after)
        self._make_strategy = strategy
        self._named: dict[str, Route] = {}
        self._restricted: dict[frozenset[tuple[str, str]], Route] = {}
        self._serve(deployments)

    def _serve(self, deployments: Sequence[Deployment]) -> None:
        self.deployments = tuple(deployments)
        self.strategy = self._make_strategy(self.deployments)
        self._only = self.deployments[0] if len(self.deployments) == 1 else None

    def __repr__(self) -> str:
        return f"<Route {self.name} deployments={len(self.deployments)}>"

    def model_of(self, asked: str) -> str:
        """The public model that a call which asked for `asked` is counted under."""
        return asked if patterns.is_pattern(self.name) else self.name

    def usable(self, now_s: float) -> list[Deployment]:
        """The deployments that a call may go to now.

        Probes may be wrong, and calls show more: where nothing else is left, what only probes call
        down is usable after all.
        """
        found = [one for one in self.deployments if one.condition.is_usable(now_s)]
        return found or [one for one in self.deployments if one.condition.passes(now_s)]

    def choose(self, now_s: float, facts: Facts) -> Deployment | None:
        """The deployment for a call's first attempt; None if none can be used now."""
        only = self._only
        if only is not None:
            return only if only.condition.passes(now_s) else None
        usable = self.usable(now_s)
        return self.strategy.choose(usable, now_s, facts) if usable else None

    def usable_at(self, now_s: float) -> float | None:
        """When the first of them can be used again, as far as that is known."""
        times = [one.condition.usable_at(now_s) for one in self.deployments]
        return min((time for time in times if time is not None), default=None)

    def falls_back_on(self, kind: FailureKind) -> bool:
        """Whether another model may serve after such a failure."""
        return RULES[kind].fallback and fallback_on(kind) in self.policy.fallback_on

    def for_name(self, asked: str) -> "Route":
        """Of a pattern, the route of one name: what fails under one speaks against no other.

        Callers choose the names; those beyond the first NAMED_MAX share the pattern's.
        """
        route = self._named.get(asked)
        if route is None:
            if len(self._named) >= NAMED_MAX:
                return self
            route = self._named[asked] = self._with([one.named(asked) for one in self.deployments])
        return route

    def restricted(self, tags: Mapping[str, str]) -> "Route":
        """The same route with those deployments alone that have all of `tags`; perhaps none."""
        fitting = [one for one in self.deployments if tags.items() <= one.tags.items()]
        if len(fitting) == len(self.deployments):
            return self
        wanted = frozenset(tags.items())
        route = self._restricted.get(wanted)
        if route is None:
            if len(self._restricted) >= RESTRICTED_MAX:
                self._restricted.clear()
            route = self._restricted[wanted] = self._with(fitting)
        return route

    def _with(self, deployments: Sequence[Deployment]) -> "Route":
        route = Route(
            self.name,
            deployments,
            self._make_strategy,
            aliases=self.aliases,
            output_max=self.output_max,
            policy=self.policy,
        )
        route.repeats, route.hedge = self.repeats, self.hedge  # they are the model's
        return route


class Routes:
    """All routes of a configuration."""

    def __init__(self, routes: Iterable[Route]) -> None:
        by_name: dict[str, Route] = {}
        by_alias: dict[str, Route] = {}
        by_pattern = []
        for route in routes:
            if patterns.is_pattern(route.name):
                by_pattern.append(route)
            else:
                by_name[route.name] = route
                by_alias |= dict.fromkeys(route.aliases, route)
        self._exact = by_alias | by_name
        by_pattern.sort(key=lambda route: len(route.name), reverse=True)
        self._patterns = [(patterns.split(route.name), route) for route in by_pattern]

    def __repr__(self) -> str:
        return f"<Routes exact={len(self._exact)} patterns={len(self._patterns)}>"

    def find(self, asked: str) -> Route:
        """The route of a name, under a pattern that of this name alone; raises ModelNotFound."""
        route = self.covering(asked)
        return route.for_name(asked) if patterns.is_pattern(route.name) else route

    def covering(self, asked: str) -> Route:
        """The route of a name, under a pattern that of all its names; raises ModelNotFound."""
        route = self._exact.get(asked)
        if route is not None:
            return route
        for parts, candidate in self._patterns:
            if patterns.matches(parts, asked):
                return candidate
        shown = asked[:_SHOWN_CHARS_MAX]
        raise ModelNotFound(f"no deployment serves the model {shown!r}", param="model")

    def names(self) -> list[str]:
        """Every name that can be asked for as it stands: models and aliases, without patterns."""
        return sorted(self._exact)
