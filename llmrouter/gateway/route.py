"""Second step: what serves the model that was asked for, and whether this principal may use it."""

from llmrouter.access.policy import ModelPolicy
from llmrouter.access.principal import Principal
from llmrouter.errors import ModelNotFound
from llmrouter.routing.routes import Route, Routes

FOUND_MAX = 4096
"""How many pairs of key and name are remembered; callers choose the names."""


class Router:
    """Routes, seen through what a principal may use."""

    def __init__(self, routes: Routes, policy: ModelPolicy) -> None:
        self._routes = routes
        self._policy = policy
        self._found: dict[tuple[str, str], tuple[Principal, Route]] = {}

    def find(self, asked: str, principal: Principal) -> Route:
        """Raises ModelNotFound, ModelNotAllowed."""
        key = principal.key_id, asked
        found = self._found.get(key)
        if found is not None and found[0] is principal:  # a changed key is another principal
            return found[1]
        route = self._find(asked, principal)
        if len(self._found) >= FOUND_MAX:
            self._found.clear()
        self._found[key] = principal, route
        return route

    def _find(self, asked: str, principal: Principal) -> Route:
        route = self._routes.find(asked)
        model = route.model_of(asked)
        # A list may name the model itself, or the alias under which it was asked for.
        if model == asked or not self._policy.allows(principal, asked):
            self._policy.check(principal, model)
        return route

    def names(self, principal: Principal) -> list[str]:
        """The names that this principal can ask for as they stand."""
        return [name for name in self._routes.names() if self._may_use(principal, name)]

    def check_listed(self, name: str, principal: Principal) -> None:
        """Raise ModelNotFound unless `name` is one that this principal could call."""
        self._routes.find(name)
        if not self._may_use(principal, name):
            raise ModelNotFound(
                f"this key may use no model {name[:100]!r}; GET /v1/models lists those that it may",
                param="model",
            )

    def _may_use(self, principal: Principal, name: str) -> bool:
        model = self._routes.find(name).model_of(name)
        return self._policy.allows(principal, name) or self._policy.allows(principal, model)
