"""Models of router.toml, as routing goes by them."""

from typing import Any

import msgspec
import pytest

from llmrouter.config.schema import Settings
from llmrouter.daemon import routing
from llmrouter.daemon.rules import prices, prices_at
from llmrouter.gateway.shadow import Shadow
from llmrouter.metering.prices import PriceBook, PriceTable
from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.conditions import Conditions
from llmrouter.routing.facts import NO_FACTS
from llmrouter.routing.failure import FallbackOn
from llmrouter.routing.routes import Policy, Route, Routes
from llmrouter.routing.strategy import STRATEGIES, StrategyTerms

UP: dict[str, Any] = {"url": "http://up.test/v1", "dialect": "openai"}


def settings(models: dict[str, Any], **upstreams: Any) -> Settings:
    return msgspec.convert({"upstreams": upstreams or {"up": UP}, "models": models}, Settings)


def made(found: Settings) -> Routes:
    conditions = Conditions(routing.breakers(found), now_s=0.0)
    book = PriceBook(PriceTable(explicit=prices(found)))
    return routing.routes(found, conditions, book)


def the_route(model: dict[str, Any], **others: Any) -> Route:
    return made(settings({"m": {"deployments": [{"upstream": "up"}], **model}, **others})).find("m")


def test_a_model_that_says_little_has_the_documented_policy() -> None:
    route = the_route({})
    assert route.policy == Policy(
        attempts_max=3,
        repeats_share=0.2,
        fallbacks=(),
        fallback_on=frozenset({FallbackOn.UNAVAILABLE, FallbackOn.CONTEXT_LENGTH}),
        hedge_after=None,
        context_max=None,
    )
    assert (route.aliases, route.output_max, route.hedge) == ((), None, None)
    (only,) = route.deployments
    assert (only.upstream, only.model, only.weight, only.tags) == ("up", None, 1, {})


def test_what_a_model_says_is_its_policy() -> None:
    route = the_route(
        {
            "aliases": ["n"],
            "retry": {"attempts": 5, "budget": 0.5},
            "fallbacks": ["o"],
            "fallback_on": ["content_filter"],
            "hedge_after": 1.5,
            "context": 8_000,
            "max_output": 500,
        },
        o={"deployments": [{"upstream": "up"}]},
    )
    assert route.policy == Policy(
        attempts_max=5,
        repeats_share=0.5,
        fallbacks=("o",),
        fallback_on=frozenset({FallbackOn.CONTENT_FILTER}),
        hedge_after=1.5,
        context_max=8_000,
    )
    assert (route.aliases, route.output_max) == (("n",), 500)
    assert route.hedge is not None


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_can_be_had(name: str) -> None:
    route = the_route({"strategy": name, "deployments": [{"upstream": "up", "model": "a"}] * 2})
    terms = StrategyTerms(cost=lambda *_: None, random=lambda: 0.0)
    assert type(route.strategy) is type(STRATEGIES[name](route.deployments, terms))
    assert route.choose(0.0, NO_FACTS) in route.deployments


def test_the_cheapest_is_so_by_the_prices_of_the_file() -> None:
    dear, cheap = {"input": 9, "output": 9}, {"input": 1, "output": 1}
    found = settings(
        {
            "m": {
                "strategy": "cheapest",
                "deployments": [
                    {"upstream": "up", "model": "a", "price": dear},
                    {"upstream": "up", "model": "b", "price": cheap},
                ],
            }
        }
    )
    book = PriceBook(PriceTable(explicit=prices(found), explicit_at=prices_at(found)))
    conditions = Conditions(routing.breakers(found), now_s=0.0)
    chosen = routing.routes(found, conditions, book).find("m").choose(0.0, NO_FACTS)
    assert chosen is not None
    assert chosen.model == "b"


def test_a_deployment_shares_its_condition_wherever_it_stands() -> None:
    one = {"upstream": "up", "model": "a"}
    found = made(
        settings(
            {
                "m": {"deployments": [one, {"upstream": "up"}]},
                "n": {"deployments": [{**one, "weight": 7}]},
                "x-*": {"deployments": [{"upstream": "up"}, {"upstream": "up", "model": "b"}]},
            }
        )
    )
    m, n, x = found.find("m"), found.find("n"), found.find("x-1")
    assert m.deployments[0].condition is n.deployments[0].condition
    names = [one.condition.name for one in (*m.deployments, *x.deployments)]
    assert names == ["up/a", "up/m", "up/x-1", "up/b"]
    assert found.find("x-2").deployments[0].condition is not x.deployments[0].condition
    assert found.find("x-2").deployments[1].condition is x.deployments[1].condition


@pytest.mark.parametrize(
    ("model", "route", "name"), [("a", "m", "up/a"), (None, "m", "up/m"), (None, "g-*", "up/g-*")]
)
def test_a_deployment_is_called_by_upstream_and_model(
    model: str | None, route: str, name: str
) -> None:
    assert routing.deployment_name("up", model, route) == name


def test_a_deployment_has_the_tags_of_its_upstream_and_its_own_before_them() -> None:
    up = {**UP, "tags": {"region": "eu", "tier": "gold"}}
    found = settings(
        {"m": {"deployments": [{"upstream": "up", "tags": {"tier": "tin", "gpu": "h"}}]}}, up=up
    )
    (only,) = made(found).find("m").deployments
    assert only.tags == {"region": "eu", "tier": "tin", "gpu": "h"}


def test_fallbacks_of_fallbacks_stand_behind_them_each_once() -> None:
    at = {"deployments": [{"upstream": "up"}]}
    route = the_route(
        {"fallbacks": ["a", "b"]},
        a={**at, "fallbacks": ["c", "b"]},
        b={**at, "fallbacks": ["d"]},
        c={**at, "fallbacks": ["p-1"]},
        d=at,
        **{"p-*": {**at, "fallbacks": ["d"]}},
    )
    assert route.policy.fallbacks == ("a", "b", "c", "d", "p-1")


def test_an_alias_of_a_fallback_leads_on_as_its_model_does() -> None:
    at = {"deployments": [{"upstream": "up"}]}
    others = {"a": {**at, "aliases": ["other"], "fallbacks": ["b"]}, "b": at}
    assert the_route({"fallbacks": ["other"]}, **others).policy.fallbacks == ("other", "b")


def test_time_outs_of_models_are_those_that_they_name() -> None:
    at = {"deployments": [{"upstream": "up"}]}
    found = settings(
        {
            "m": {**at, "timeouts": {"first_token": 90, "total": 900}},
            "n": at,
            "o": {**at, "timeouts": {"connect": 1, "idle": 2.5}},
        }
    )
    assert routing.model_timeouts(found) == {
        "m": {"first_s": 90.0, "total_s": 900.0},
        "o": {"connect_s": 1.0, "idle_s": 2.5},
    }


def test_breakers_are_those_of_upstreams() -> None:
    breaker = {"failures": 3, "error_rate": 0.9, "window": 7, "rest": 2, "rest_max": 9}
    found = settings(
        {"m": {"deployments": [{"upstream": "up"}]}}, up=UP, up2={**UP, "breaker": breaker}
    )
    assert routing.breakers(found) == {
        "up": BreakerTerms(),
        "up2": BreakerTerms(failures=3, error_rate=0.9, window_s=7, rest_s=2, rest_max_s=9),
    }


def test_shadows_are_those_of_the_models_that_have_one() -> None:
    at = {"deployments": [{"upstream": "up"}]}
    shadow = {"upstream": "up", "model": "new", "share": 0.1}
    found = settings({"m": {**at, "shadow": shadow}, "n": at})
    assert routing.shadows(found) == {"m": Shadow(upstream="up", model="new", share=0.1)}


def test_what_is_drawn_is_from_nought_up_to_one_and_differs() -> None:
    drawn = [routing.draw() for _ in range(100)]
    assert all(0 <= one < 1 for one in drawn)
    assert len(set(drawn)) > 90
