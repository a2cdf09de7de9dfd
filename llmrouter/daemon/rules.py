"""Part of the composition root: from the limits and budgets of router.toml to rules.

Each table becomes a scope, also one without rules: a user's own table, even an empty one, takes the
place of the table that stands for every user.
"""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from llmrouter.config.money import nano_usd
from llmrouter.config.problems import Key
from llmrouter.config.quotas import amount, counted_model, ruled
from llmrouter.config.schema import Budget, Limit, Model, Settings
from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.metering.prices import Price
from llmrouter.units import MS_PER_S

_KINDS = {"teams": "team", "users": "user"}


def rules(settings: Settings) -> dict[Scope, tuple[Rule, ...]]:
    """The rules of every org, team and user of settings that were checked, limits first."""
    models = settings.models
    return {
        _scope(found.key): (
            *(_limit(limit, models) for limit in found.table.limits),
            *(_budget(budget, models) for budget in found.table.budgets),
        )
        for found in ruled(settings)
    }


def key_rules(settings: Settings, own: Iterable[Rule]) -> tuple[Rule, ...]:
    """A key's own rules, with the models that are meant by the aliases in them.

    Of two that thereby count the same, the smaller holds: whoever issued the key could not tell,
    and the file may have made the alias since.
    """
    meant: dict[str, Rule] = {}
    for rule in own:
        resolved = replace(rule, model=counted_model(rule.model, settings.models))
        other = meant.setdefault(resolved.name, resolved)
        if resolved.amount < other.amount:
            meant[resolved.name] = resolved
    return tuple(meant.values())


def prices(settings: Settings) -> dict[str, Price]:
    """The prices that stand in the settings, by model."""
    return {
        name: Price.of_usd(model.price.input, model.price.cached_input, model.price.output)
        for name, model in settings.models.items()
        if model.price is not None
    }


def _scope(key: Key) -> Scope:
    """The scope of a table; `orgs.acme.users."*"` is that of a user called `*`."""
    match key:
        case ("orgs", str(org)):
            return Scope(kind="org", name=org)
        case ("orgs", str(org), str(table), str(name)):
            return Scope(kind=_KINDS[table], name=f"{org}/{name}")
        case _:
            raise AssertionError(f"no table of rules stands at {key}")


def _limit(limit: Limit, models: Mapping[str, Model]) -> Rule:
    kind, fits = amount(limit)
    return Rule(
        kind=kind,
        amount=fits,
        per=limit.per or "",
        model=counted_model(limit.model, models),
        burst=limit.burst,
        at_limit=limit.at_limit,
        wait_ms=_ms(limit.wait),
    )


def _budget(budget: Budget, models: Mapping[str, Model]) -> Rule:
    return Rule(
        kind=Kind.USD,
        amount=nano_usd(budget.usd),
        per=budget.per,
        model=counted_model(budget.model, models),
        at_limit=budget.at_limit,
        wait_ms=_ms(budget.wait),
        strict=budget.strict,
        cut=budget.mid_stream == "cut",
    )


def _ms(seconds: float) -> int:
    """At least one: whoever says to wait does not mean not at all."""
    return max(1, round(seconds * MS_PER_S))
