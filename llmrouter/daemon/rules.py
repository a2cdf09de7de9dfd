"""Part of the composition root: from the limits, budgets and prices of router.toml to plain values.

Each table becomes a scope, also one without rules: a user's own table, even an empty one, takes the
place of the table that stands for every user.
"""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from llmrouter.config.money import nano_usd
from llmrouter.config.problems import Key
from llmrouter.config.quotas import amount, counted_model, ruled
from llmrouter.config.schema import Budget, Deployment, Limit, Model, Settings
from llmrouter.config.schema import Price as ModelPrice
from llmrouter.contracts.rule import QUEUE, Kind, Rule, Scope
from llmrouter.metering.prices import Price
from llmrouter.units import MS_PER_S

_KINDS = {"teams": "team", "users": "user"}


def rules(settings: Settings) -> dict[Scope, tuple[Rule, ...]]:
    """The rules of every org, team and user of settings that were checked, limits first.

    How many calls an upstream may hold at once is a rule as well: calls wait for a place there.
    """
    models = settings.models
    wait_ms = _ms(settings.quotas.hold_wait)
    of_upstreams = {
        Scope(kind="upstream", name=name): (_places(table.concurrent, wait_ms),)
        for name, table in settings.upstreams.items()
        if table.concurrent is not None
    }
    of_callers = {
        _scope(found.key): (
            *(_limit(limit, models) for limit in found.table.limits),
            *(_budget(budget, models) for budget in found.table.budgets),
        )
        for found in ruled(settings)
    }
    return of_callers | of_upstreams


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
    """The prices that stand with models in the settings, by model."""
    return {
        name: _price(model.price)
        for name, model in settings.models.items()
        if model.price is not None
    }


def prices_at(settings: Settings) -> dict[str, dict[str, Price]]:
    """The prices that stand with deployments in the settings, as a `PriceTable` has them."""
    found = {
        name: {
            _place(deployment): _price(deployment.price)
            for deployment in model.deployments
            if deployment.price is not None
        }
        for name, model in settings.models.items()
    }
    return {name: own for name, own in found.items() if own}


def _place(deployment: Deployment) -> str:
    """`upstream/model`; `upstream` alone where the name that was asked for is passed on."""
    if deployment.model is None:
        return deployment.upstream
    return f"{deployment.upstream}/{deployment.model}"


def _price(table: ModelPrice) -> Price:
    return Price.of_usd(table.input, table.cached_input, table.output)


def _scope(key: Key) -> Scope:
    """The scope of a table; `orgs.acme.users."*"` is that of a user called `*`."""
    match key:
        case ("orgs", str(org)):
            return Scope(kind="org", name=org)
        case ("orgs", str(org), str(table), str(name)):
            return Scope(kind=_KINDS[table], name=f"{org}/{name}")
        case _:
            raise AssertionError(f"no table of rules stands at {key}")


def _places(concurrent: int, wait_ms: int) -> Rule:
    return Rule(kind=Kind.CONCURRENT, amount=concurrent, at_limit=QUEUE, wait_ms=wait_ms)


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
