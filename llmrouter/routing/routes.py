"""Routes: from the name that a caller asked for to the deployments that serve it.

An exact name wins, then an alias, then the longest pattern; of two patterns as long, the first.
"""

from collections.abc import Callable, Iterable, Sequence

from llmrouter.contracts import patterns
from llmrouter.errors import ModelNotFound
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.strategy import Strategy

_SHOWN_CHARS_MAX = 100
"""Of a name that a caller chose and that goes into our answer."""


class Route:
    """A model's deployments and its policy."""

    __slots__ = ("aliases", "deployments", "name", "output_max", "strategy")

    def __init__(
        self,
        name: str,
        deployments: Sequence[Deployment],
        strategy: Callable[[Sequence[Deployment]], Strategy],
        *,
        aliases: Iterable[str] = (),
        output_max: int | None = None,
    ) -> None:
        self.name = name
        """The model's public name, or a pattern of names."""
        self.deployments = tuple(deployments)
        self.strategy = strategy(self.deployments)
        self.aliases = tuple(aliases)
        self.output_max = output_max
        """The most output tokens that one answer can have, as far as that is known."""

    def __repr__(self) -> str:
        return f"<Route {self.name}>"

    def choose(self) -> Deployment:
        """The deployment for the next call."""
        return self.strategy.choose()

    def model_of(self, asked: str) -> str:
        """The public model that a call which asked for `asked` is counted under."""
        return asked if patterns.is_pattern(self.name) else self.name


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
        """The route of a name; raises ModelNotFound."""
        route = self._exact.get(asked)
        if route is not None:
            return route
        for parts, candidate in self._patterns:
            if patterns.matches(parts, asked):
                return candidate
        raise ModelNotFound(
            f"no deployment serves the model {asked[:_SHOWN_CHARS_MAX]!r}; GET /v1/models lists"
            " what this key may use",
            param="model",
        )

    def names(self) -> list[str]:
        """Every name that can be asked for as it stands: models and aliases, without patterns."""
        return sorted(self._exact)
