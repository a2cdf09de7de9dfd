"""Second step: what serves the model that was asked for, and whether this principal may use it.

The name is mapped first, where key, team or org say that another model serves those who ask for it;
what is found under an alias is mapped as its model is. Then the model must be one that the
principal may use, and of its deployments those count that have the tags which it requires. Who
asked for a name that leads nowhere is told the nearest that this principal may use, and no others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmrouter.access.nearest import NearestNames
from llmrouter.access.policy import ModelPolicy
from llmrouter.access.principal import Principal
from llmrouter.errors import ModelNotAllowed, ModelNotFound
from llmrouter.routing.routes import Route, Routes

FOUND_MAX: Final = 4096
"""How many pairs of key and name are remembered; callers choose the names."""
LISTED_MAX: Final = 64
"""For how many keys it is remembered what they may use."""
_SHOWN_CHARS_MAX: Final = 100
_LISTED: Final = "GET /v1/models lists what this key may use"


@dataclass(frozen=True)
class _Listed:
    """What a principal may use, in the order of the alphabet."""

    principal: Principal
    names: list[str]
    nearest: NearestNames


@dataclass(frozen=True)
class Found:
    """What serves a name."""

    route: Route
    """With those deployments alone that may serve this principal; at least one."""
    asked: str
    """The name that was asked for, after mapping."""


class Router:
    """Routes, seen through what a principal may use."""

    def __init__(self, routes: Routes, policy: ModelPolicy) -> None:
        self._routes = routes
        self._policy = policy
        self._found: dict[tuple[str, str], tuple[Principal, Found]] = {}
        self._fallbacks: dict[tuple[str, str], tuple[Principal, Route, tuple[Found, ...]]] = {}
        self._listed: dict[str, _Listed] = {}

    @property
    def policy(self) -> ModelPolicy:
        """Who may use what."""
        return self._policy

    def mapped_by(self, asked: str, principal: Principal) -> str | None:
        """Whose map has another name stand for `asked`: `key`, `team` or `org`; None: nobody's.

        Raises ModelNotFound for a name that is not mapped and leads nowhere.
        """
        whose = self._policy.mapped_by(principal, asked)
        if whose is not None:
            return whose
        return self._policy.mapped_by(principal, self._routes.covering(asked).model_of(asked))

    def whole(self, found: Found) -> Route:
        """The route with those deployments, too, that may not serve whoever it was found for."""
        return self._routes.find(found.asked)

    def find(self, asked: str, principal: Principal) -> Found:
        """Raises ModelNotFound, ModelNotAllowed."""
        key = principal.key_id, asked
        known = self._found.get(key)
        if known is not None and known[0] is principal:  # a changed key is another principal
            return known[1]
        try:
            found = self._find(asked, principal)
        except (ModelNotFound, ModelNotAllowed) as error:
            raise self._with_nearest(error, asked, principal) from None
        if len(self._found) >= FOUND_MAX:
            self._found.clear()
        self._found[key] = principal, found
        return found

    def fallbacks(self, found: Found, principal: Principal) -> tuple[Found, ...]:
        """The other models that may serve, in order: those that this principal may use."""
        key = principal.key_id, found.asked
        known = self._fallbacks.get(key)
        if known is not None and known[0] is principal and known[1] is found.route:
            return known[2]
        if len(self._fallbacks) >= FOUND_MAX:
            self._fallbacks.clear()
        fallbacks = tuple(self._fall_back(found, principal))
        self._fallbacks[key] = principal, found.route, fallbacks
        return fallbacks

    def confirm(self, served: str, principal: Principal) -> None:
        """Raise ModelNotFound, ModelNotAllowed unless `served`, a mapped name, may be used."""
        self._open(self._routes.covering(served), served, served, principal)

    def names(self, principal: Principal) -> list[str]:
        """The names that this principal can ask for as they stand."""
        return self._list(principal).names

    def check_listed(self, name: str, principal: Principal) -> None:
        """Raise ModelNotFound unless `name` is one that this principal could call."""
        if not self._may_use(principal, name):
            said = f"this key may use no model {name[:_SHOWN_CHARS_MAX]!r}"
            raise self._with_nearest(ModelNotFound(said, param="model"), name, principal)

    def _find(self, asked: str, principal: Principal) -> Found:
        name, route = self._mapped(asked, principal)
        return Found(self._open(route, name, asked, principal), name)

    def _open(self, route: Route, name: str, asked: str, principal: Principal) -> Route:
        """The part of a route that is open to the principal; raises ModelNotAllowed."""
        model = route.model_of(name)
        # A list may name the model itself, or the alias under which it was asked for.
        allows = self._policy.allows
        if not (allows(principal, model) or (name != model and allows(principal, name))):
            said = f"this key may not call the model {name[:_SHOWN_CHARS_MAX]!r}"
            raise ModelNotAllowed(said + _mapping(asked, name), param="model")
        route = self._routes.find(name)  # not before: what may not be called takes no place there
        tags = self._policy.required(principal)
        if tags:
            route = route.restricted(tags)
            if not route.deployments:
                said = f"no deployment of the model {name[:_SHOWN_CHARS_MAX]!r} has"
                said = f"{said} {_shown(tags)}, which is required for this key"
                raise ModelNotAllowed(said + _mapping(asked, name), param="model")
        return route

    def _mapped(self, asked: str, principal: Principal) -> tuple[str, Route]:
        """The name that stands for `asked`, and its route."""
        name = self._policy.mapped(principal, asked)
        if name == asked:
            route = self._routes.covering(asked)
            model = route.model_of(asked)
            if model == asked:
                return asked, route
            name = self._policy.mapped(principal, model)
            if name == model:
                return asked, route
        try:
            return name, self._routes.covering(name)
        except ModelNotFound as error:
            raise ModelNotFound(error.message + _mapping(asked, name), param="model") from None

    def _fall_back(self, found: Found, principal: Principal) -> list[Found]:
        """Each model once, however many names lead to it."""
        usable = []
        seen = {found.route.model_of(found.asked)}
        for name in found.route.policy.fallbacks:
            try:
                other = self._find(name, principal)
            except (ModelNotFound, ModelNotAllowed):
                continue  # it is there for others
            model = other.route.model_of(other.asked)
            if model not in seen:
                seen.add(model)
                usable.append(other)
        return usable

    def _may_use(self, principal: Principal, name: str) -> bool:
        try:
            self._find(name, principal)
        except (ModelNotFound, ModelNotAllowed):
            return False
        return True

    def _with_nearest(
        self, error: ModelNotFound | ModelNotAllowed, asked: str, principal: Principal
    ) -> ModelNotFound | ModelNotAllowed:
        near = ", ".join(map(repr, self._list(principal).nearest.to(asked)))
        hint = f"the nearest that this key may use: {near}; GET /v1/models lists all"
        return type(error)(f"{error.message}; {hint if near else _LISTED}", param="model")

    def _list(self, principal: Principal) -> _Listed:
        known = self._listed.get(principal.key_id)
        if known is not None and known.principal is principal:
            return known
        if len(self._listed) >= LISTED_MAX:
            self._listed.clear()
        candidates = {*self._routes.names(), *self._policy.mapped_names(principal)}
        names = sorted(name for name in candidates if self._may_use(principal, name))
        listed = self._listed[principal.key_id] = _Listed(principal, names, NearestNames(names))
        return listed


def _mapping(asked: str, name: str) -> str:
    """Says why an error is about another model than the one that was asked for."""
    if name == asked:
        return ""
    return f"; {asked[:_SHOWN_CHARS_MAX]!r} is mapped to it, which your admin can mend"


def _shown(tags: Mapping[str, str]) -> str:
    return " and ".join(f'{name} = "{value}"' for name, value in tags.items())
