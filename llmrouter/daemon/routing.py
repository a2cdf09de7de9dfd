"""Part of the composition root: from the models of router.toml to routes, and how long they wait.

A deployment is known by its name wherever it stands: routes that lead to the same model of the same
upstream share its condition.
"""

import random
from collections.abc import Callable, Mapping, Sequence

from llmrouter.config.names import find_model
from llmrouter.config.schema import Deployment as DeploymentTable
from llmrouter.config.schema import Model, Settings
from llmrouter.config.tags import tags_of
from llmrouter.contracts.patterns import is_pattern
from llmrouter.gateway.shadow import Shadow
from llmrouter.metering.prices import PriceBook
from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.condition import Condition
from llmrouter.routing.conditions import Conditions
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import StickyBy
from llmrouter.routing.failure import FallbackOn
from llmrouter.routing.routes import Policy, Route, Routes
from llmrouter.routing.strategy import STRATEGIES, Strategy, StrategyTerms

draw: Callable[[], float] = random.Random().random  # noqa: S311 - it spreads choices, no more
"""Spreads choices and pauses; nothing is kept secret by it."""


def breakers(settings: Settings) -> dict[str, BreakerTerms]:
    """When breakers open, by upstream."""
    return {
        name: BreakerTerms(
            failures=table.breaker.failures,
            error_rate=table.breaker.error_rate,
            window_s=table.breaker.window,
            rest_s=table.breaker.rest,
            rest_max_s=table.breaker.rest_max,
        )
        for name, table in settings.upstreams.items()
    }


def routes(settings: Settings, conditions: Conditions, prices: PriceBook) -> Routes:
    """What can be asked for."""
    return Routes(
        _route(name, model, settings, conditions, prices) for name, model in settings.models.items()
    )


def deployment_name(upstream: str, model: str | None, route: str) -> str:
    """What a deployment is called, and shares its condition by: `upstream/model`.

    Where it passes on the name that was asked for, that is the route's, which may be a pattern.
    """
    return f"{upstream}/{model or route}"


def model_timeouts(settings: Settings) -> dict[str, dict[str, float]]:
    """What models say of time-outs: seconds by the member of `UpstreamTimeouts`, by model."""
    found = {}
    for name, model in settings.models.items():
        own = model.timeouts
        said = {
            "connect_s": own.connect,
            "first_s": own.first_token,
            "idle_s": own.idle,
            "total_s": own.total,
        }
        if given := {member: value for member, value in said.items() if value is not None}:
            found[name] = given
    return found


def shadows(settings: Settings) -> dict[str, Shadow]:
    """Where calls are copied to, by model."""
    return {
        name: Shadow(
            upstream=model.shadow.upstream, model=model.shadow.model, share=model.shadow.share
        )
        for name, model in settings.models.items()
        if model.shadow is not None
    }


def _route(
    name: str, model: Model, settings: Settings, conditions: Conditions, prices: PriceBook
) -> Route:
    def cost(deployment: Deployment, asked: str) -> int | None:
        return prices.typical(name, deployment.upstream, deployment.model_for(asked))

    terms = StrategyTerms(cost=cost, random=draw, sticky_by=StickyBy(model.sticky_by))

    def strategy(deployments: Sequence[Deployment]) -> Strategy:
        return STRATEGIES[model.strategy](deployments, terms)

    return Route(
        name,
        [_deployment(table, name, settings, conditions) for table in model.deployments],
        strategy,
        aliases=model.aliases,
        output_max=model.max_output,
        policy=Policy(
            attempts_max=model.retry.attempts,
            repeats_share=model.retry.budget,
            fallbacks=tuple(_onward(name, settings.models)),
            fallback_on=frozenset(map(FallbackOn, model.fallback_on)),
            hedge_after=model.hedge_after,
            context_max=model.context,
        ),
    )


def _deployment(
    table: DeploymentTable, route: str, settings: Settings, conditions: Conditions
) -> Deployment:
    def condition_of(asked: str) -> Condition:
        return conditions.of(deployment_name(table.upstream, None, asked))

    passes_many_on = table.model is None and is_pattern(route)
    return Deployment(
        upstream=table.upstream,
        model=table.model,
        weight=table.weight,
        tags=tags_of(table, settings),
        condition=conditions.of(deployment_name(table.upstream, table.model, route)),
        condition_of=condition_of if passes_many_on else None,
    )


def _onward(name: str, models: Mapping[str, Model]) -> list[str]:
    """The fallbacks of a model, then theirs, nearest first; each once."""
    names = list(models[name].fallbacks)
    for found in names:  # grows while it is walked; loops were refused when it was read
        model = find_model(models, found)
        more = models[model].fallbacks if model is not None else ()
        names.extend(one for one in more if one not in names)
    return names
