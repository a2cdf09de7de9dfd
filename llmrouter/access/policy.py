"""Which models a principal may call: those that its org, its team and its key all allow."""

from collections.abc import Mapping

from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.principal import Principal
from llmrouter.errors import ModelNotAllowed

_EVERY_MODEL = ModelPatterns()
_MODEL_SHOWN_CHARS_MAX = 100  # the caller chose the name, and it goes into our answer


class ModelPolicy:
    """The model patterns of orgs and teams; an org or team without any allows every model."""

    __slots__ = ("_orgs", "_teams")

    def __init__(
        self,
        orgs: Mapping[str, ModelPatterns],
        teams: Mapping[tuple[str, str], ModelPatterns],
    ) -> None:
        self._orgs = dict(orgs)
        self._teams = dict(teams)
        """By org and team: two orgs may have teams of one name."""

    def allows(self, principal: Principal, model: str) -> bool:
        """Tell whether `principal` may call `model`."""
        return principal.models.allows(model) and self._open_to(principal, model)

    def check(self, principal: Principal, model: str) -> None:
        """Raise ModelNotAllowed unless `principal` may call `model`."""
        if not self.allows(principal, model):
            raise ModelNotAllowed(
                f"this key may not call the model {model[:_MODEL_SHOWN_CHARS_MAX]!r};"
                " GET /v1/models lists those that it may",
                param="model",
            )

    def _open_to(self, principal: Principal, model: str) -> bool:
        org = self._orgs.get(principal.org, _EVERY_MODEL)
        if principal.team is None:
            return org.allows(model)
        team = self._teams.get((principal.org, principal.team), _EVERY_MODEL)
        return org.allows(model) and team.allows(model)
