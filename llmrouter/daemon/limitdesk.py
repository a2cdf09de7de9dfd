"""How limits and budgets stand: what `orgs show` and `keys show` look up."""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from llmrouter.access.issued import iso_utc
from llmrouter.access.ruletext import show
from llmrouter.contracts.rule import Kind, Scope
from llmrouter.quota.ledger import Standing
from llmrouter.quota.rulebook import Bucketed, Rulebook
from llmrouter.units import MS_PER_S, NANO_PER_USD


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket as people and scripts see it; money is in USD."""

    bucket: str
    scope: str
    name: str
    rule: str
    """The rule, as the command line writes it."""
    kind: str
    limit: int | float
    """What it holds when nothing is used."""
    used: int | float
    """What was spent, as the journals say."""
    claimed: int | float
    """What calls in flight hold, and workers hold ready for the next ones."""
    left: int | float
    """What is neither used nor claimed; less than nothing where it was overshot."""
    resets_at: str | None


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scopes: tuple[tuple[str, str], ...] | None = None
    """Pairs of kind and name; None means all."""


class LimitDesk:
    """What can be asked of limits and budgets; arguments and results are plain JSON values."""

    def __init__(
        self, rulebook: Rulebook, standing: Callable[[Iterable[Bucketed]], list[Standing]]
    ) -> None:
        self._rulebook = rulebook
        self._standing = standing

    def steps(self) -> Mapping[str, Callable[[dict[str, object]], object]]:
        """The operations by the names that the control socket knows them by."""
        return {"limits.list": self.list}

    def list(self, args: dict[str, object]) -> object:
        """Every bucket of some scopes, or of all that have a rule."""
        asked = msgspec.convert(args, _Asked)
        if asked.scopes is None:
            scopes = self._rulebook.scopes()
        else:
            scopes = tuple(Scope(kind=kind, name=name) for kind, name in asked.scopes)
        found = [one for scope in scopes for one in self._rulebook.of_scope(scope)]
        views = map(_view, found, self._standing(found))
        return [msgspec.to_builtins(view) for view in views]


def _view(found: Bucketed, standing: Standing) -> LimitView:
    unit = NANO_PER_USD if found.rule.kind is Kind.USD else 1
    used, claimed = standing.used, standing.claimed
    resets_at_ms = standing.resets_at_ms
    return LimitView(
        bucket=found.bucket,
        scope=found.scope.kind,
        name=found.scope.name,
        rule=show(found.rule),
        kind=found.rule.kind.value,
        limit=_amount(standing.capacity, unit),
        used=_amount(used, unit),
        claimed=_amount(claimed, unit),
        left=_amount(standing.capacity - used - claimed, unit),
        resets_at=None if resets_at_ms is None else iso_utc(-(-resets_at_ms // MS_PER_S)),
    )


def _amount(amount: int, unit: int) -> int | float:
    return amount if unit == 1 else amount / unit
