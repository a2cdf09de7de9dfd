"""Limits and budgets: what one may say, also beside the others of its scope, and which calls count.

Calls count under the own name of the model that serves them, so an alias in a rule means its model.
Of two rules that count the same calls over the same time, one would never matter: they are refused.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from llmrouter.config.money import nano_usd
from llmrouter.config.names import counted_as, matches
from llmrouter.config.problems import Findings, Key, did_you_mean, key_text
from llmrouter.config.references import covers_any, model_problem, reference_problem
from llmrouter.config.schema import WAIT_S, Budget, Limit, Model, Org, Price, Settings, Team, User
from llmrouter.contracts.patterns import is_pattern
from llmrouter.contracts.rule import MODEL_PREFIX, QUEUE, REJECT, Kind

_MODELS_SHOWN_MAX = 8
_PRICES = ("input", "cached_input", "output")


class Ruled(Struct, frozen=True):
    """A table that holds limits and budgets."""

    key: Key
    table: Org | Team | User
    allowed: tuple[tuple[str, ...], ...]
    """Lists of models, each of which must allow what its callers ask for."""

    def rows(self) -> Iterator[tuple[Key, Limit | Budget]]:
        """Every limit and budget, by its place."""
        for index, limit in enumerate(self.table.limits):
            yield (*self.key, "limits", index), limit
        for index, budget in enumerate(self.table.budgets):
            yield (*self.key, "budgets", index), budget

    def allows(self, name: str) -> bool:
        """Whether every list has `name`."""
        return all(any(matches(pattern, name) for pattern in names) for names in self.allowed)


def ruled(settings: Settings) -> Iterator[Ruled]:
    """Every table that may hold rules: each org, then its teams, then its users."""
    for name, org in settings.orgs.items():
        key: Key = ("orgs", name)
        yield Ruled(key, org, (org.models,))
        for team_name, team in org.teams.items():
            yield Ruled((*key, "teams", team_name), team, (org.models, team.models))
        for user_name, user in org.users.items():
            yield Ruled((*key, "users", user_name), user, (org.models,))


def amount(limit: Limit) -> tuple[Kind, int]:
    """What a limit counts, and how much of it fits; of a limit that was checked."""
    if limit.requests is not None:
        return Kind.REQUESTS, limit.requests
    if limit.tokens is not None:
        return Kind.TOKENS, limit.tokens
    assert limit.concurrent is not None
    return Kind.CONCURRENT, limit.concurrent


def counted_model(model: str | None, models: Mapping[str, Model]) -> str | None:
    """The name or pattern of the models that a rule with this `model` counts; None means all."""
    return None if model in (None, "*") else counted_as(models, model)


def quota_findings(settings: Settings) -> Findings:
    """Limits, budgets and prices that contradict themselves, each other or the models."""
    for name, model in settings.models.items():
        yield from _price_findings(model.price, ("models", name, "price"))
        for index, deployment in enumerate(model.deployments):
            key: Key = ("models", name, "deployments", index, "price")
            yield from _price_findings(deployment.price, key)
    for scope in ruled(settings):
        seen: dict[tuple[str | None, ...], Key] = {}
        for key, row in scope.rows():
            found = [*_row_findings(row, key), *_model_findings(row, key, scope, settings.models)]
            yield from found
            if not found:
                first = seen.setdefault(_counted(row, settings.models), key)
                if first != key:
                    yield key, f"counts the same as {key_text(first)}; keep one"


def _price_findings(price: Price | None, key: Key) -> Findings:
    for part in _PRICES:
        usd = getattr(price, part, None)
        if usd is not None and (problem := _money_problem(usd)):
            yield (*key, part), problem


def quota_notes(settings: Settings) -> Findings:
    """Rules that count nothing or do not know enough, and users that look like patterns."""
    for scope in ruled(settings):
        user = scope.key[-1] if isinstance(scope.table, User) else ""
        if user != "*" and "*" in str(user):
            yield scope.key, 'is no pattern: only "*" itself stands for other users'
        for key, row in scope.rows():
            if row.model and is_pattern(row.model) and not covers_any(row.model, settings.models):
                message = f"'{row.model}' covers no model of this file (aliases do not count)"
                yield (*key, "model"), message
            if isinstance(row, Budget) and row.strict:
                yield from _strict_notes(row, key, scope, settings.models)


def _counted(row: Limit | Budget, models: Mapping[str, Model]) -> tuple[str | None, ...]:
    kind = Kind.USD if isinstance(row, Budget) else amount(row)[0]
    return kind, row.per, counted_model(row.model, models)


def _row_findings(row: Limit | Budget, key: Key) -> Findings:
    """What is wrong whatever else the file holds."""
    if isinstance(row, Budget):
        if problem := _money_problem(row.usd):
            yield (*key, "usd"), problem
        if row.strict and row.mid_stream == "cut":
            message = "means nothing beside strict, which lets no stream overshoot; keep one"
            yield (*key, "mid_stream"), message
    else:
        yield from _limit_findings(row, key)
    # What stands at its default cannot be told from what is absent, and does no harm.
    if row.at_limit != QUEUE and row.wait != WAIT_S:
        yield (
            (*key, "wait"),
            f'means nothing without at_limit = "{QUEUE}" (value {row.wait:g}); remove it',
        )


def _limit_findings(limit: Limit, key: Key) -> Findings:
    amounts = [limit.requests, limit.tokens, limit.concurrent]
    if sum(amount is not None for amount in amounts) != 1:
        yield key, "must hold one of requests, tokens and concurrent; write one limit for each"
        return
    if limit.concurrent is None and limit.per is None:
        yield (*key, "per"), 'is required for a rate, but missing; add per = "minute"'
    for name, value in (("per", limit.per), ("burst", limit.burst)):
        if limit.concurrent is not None and value is not None:
            yield (*key, name), f"means nothing beside concurrent (value {value!r}); remove it"


def _model_findings(
    row: Limit | Budget, key: Key, scope: Ruled, models: Mapping[str, Model]
) -> Findings:
    if row.model is not None and (problem := reference_problem(row.model, models)):
        yield (*key, "model"), problem
    if row.at_limit in (REJECT, QUEUE):
        return
    name = row.at_limit.removeprefix(MODEL_PREFIX)
    if name == row.at_limit or not name:
        hint = did_you_mean(row.at_limit, (REJECT, QUEUE))
        yield (
            (*key, "at_limit"),
            f"must be 'reject', 'queue' or 'model:NAME' (value {row.at_limit!r}){hint}",
        )
    elif problem := model_problem(name, models) or _instead_problem(name, row, scope, models):
        yield (*key, "at_limit"), problem


def _instead_problem(
    name: str, row: Limit | Budget, scope: Ruled, models: Mapping[str, Model]
) -> str | None:
    """Why `name` cannot serve what `row` is too full for, if it cannot."""
    counted = counted_as(models, name)
    if not scope.allows(name) and not scope.allows(counted):
        return f"'{name}' is not among the models that may be used here; add it to models"
    ruled_model = counted_model(row.model, models)
    if ruled_model is not None and matches(ruled_model, counted):
        covered = f"'{name}' is covered by the model '{row.model}' of this rule"
        return f"{covered}, which would refuse it again; name one that is not"
    return None


def _strict_notes(budget: Budget, key: Key, scope: Ruled, models: Mapping[str, Model]) -> Findings:
    """Models whose worst case only the call itself could tell."""
    counted = counted_model(budget.model, models)
    names = [
        f"'{name}'"
        for name, model in models.items()
        if model.max_output is None
        and (counted is None or covers_any(counted, (name,)))
        and all(any(covers_any(text, (name,)) for text in texts) for texts in scope.allowed)
    ]
    if names:
        more = f" and {len(names) - _MODELS_SHOWN_MAX} more" * (len(names) > _MODELS_SHOWN_MAX)
        shown = ", ".join(names[:_MODELS_SHOWN_MAX]) + more
        message = f"no worst case is known of calls to {shown} that name no max_tokens"
        yield (*key, "strict"), f"{message}; set max_output there"


def _money_problem(usd: float) -> str | None:
    try:
        nano_usd(usd)
    except ValueError as error:
        return str(error)
    return None
