"""Which models a principal may call, which serve instead of others, and where they may be served.

A model may be called if the org, the team and the key all allow it. Where one of them maps a name,
the key's map goes before the team's, and that before the org's. A deployment must have the tags
that the org and the team require.
"""

from collections.abc import Iterator, Mapping

import msgspec

from llmrouter.access.mapping import ModelMap
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.principal import Principal

_EVERYTHING: Mapping[str, str] = {}


class ModelTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What an org or a team says about models; without anything, all are open to it."""

    models: ModelPatterns = ModelPatterns()
    model_map: ModelMap = ModelMap()
    require: Mapping[str, str] = _EVERYTHING
    """Tags that a deployment must have, by name."""


_ANYTHING = ModelTerms()
_WHOSE = ("key", "team", "org")
"""Whose maps there are, in the order in which they are asked."""


class ModelPolicy:
    """The terms of orgs and teams; an org or team without any is as one that says nothing."""

    __slots__ = ("_orgs", "_required", "_teams")

    def __init__(
        self,
        orgs: Mapping[str, ModelTerms],
        teams: Mapping[tuple[str, str], ModelTerms],
    ) -> None:
        self._orgs = dict(orgs)
        self._teams = dict(teams)
        """By org and team: two orgs may have teams of one name."""
        self._required = {
            (org, team): {**terms.require, **self._org(org).require}
            for (org, team), terms in self._teams.items()
        }

    def allows(self, principal: Principal, model: str) -> bool:
        """Tell whether `principal` may call `model`."""
        return (
            principal.models.allows(model)
            and self._org(principal.org).models.allows(model)
            and self._team(principal).models.allows(model)
        )

    def mapped(self, principal: Principal, asked: str) -> str:
        """The name that stands for `asked` where `principal` asks for it; mostly the same."""
        for model_map in self._maps(principal):
            served = model_map.of(asked)
            if served is not None:
                return served
        return asked

    def mapped_by(self, principal: Principal, asked: str) -> str | None:
        """Whose map says what stands for `asked`: `key`, `team` or `org`; None where none does."""
        for whose, model_map in zip(_WHOSE, self._maps(principal), strict=True):
            if model_map.of(asked) is not None:
                return whose
        return None

    def mapped_names(self, principal: Principal) -> set[str]:
        """The names that are mapped for `principal` as they stand, whatever they lead to."""
        return {name for model_map in self._maps(principal) for name in model_map}

    def required(self, principal: Principal) -> Mapping[str, str]:
        """The tags that every deployment must have which serves `principal`."""
        team = principal.team
        own = None if team is None else self._required.get((principal.org, team))
        return self._org(principal.org).require if own is None else own

    def _maps(self, principal: Principal) -> Iterator[ModelMap]:
        yield principal.model_map
        yield self._team(principal).model_map
        yield self._org(principal.org).model_map

    def _org(self, name: str) -> ModelTerms:
        return self._orgs.get(name, _ANYTHING)

    def _team(self, principal: Principal) -> ModelTerms:
        if principal.team is None:
            return _ANYTHING
        return self._teams.get((principal.org, principal.team), _ANYTHING)
