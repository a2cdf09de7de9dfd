import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts import patterns
from llmrouter.errors import ModelNotFound
from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.condition import Condition
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import NO_FACTS
from llmrouter.routing.failure import RULES, FailureKind, FallbackOn
from llmrouter.routing.routes import NAMED_MAX, RESTRICTED_MAX, Policy, Route, Routes
from llmrouter.routing.strategy import STRATEGIES, Strategy, StrategyTerms
from tests.support.fleet import fleet


def ordered(deployments: Sequence[Deployment]) -> Strategy:
    terms = StrategyTerms(cost=lambda *_: None, random=lambda: 0.0)
    return STRATEGIES["ordered"](deployments, terms)


def route(name: str, *aliases: str) -> Route:
    return Route(name, fleet(1), ordered, aliases=aliases)


ROUTES = [
    route("*"),
    route("gpt-*"),
    route("gpt-4*"),
    route("gpt-*-mini"),
    route("gpt-4o", "best", "gpt-4-latest"),
    route("claude", "gpt-4o-mini"),
]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("gpt-4o", "gpt-4o"),
        ("best", "gpt-4o"),
        ("gpt-4-latest", "gpt-4o"),
        ("gpt-4o-mini", "claude"),
        ("gpt-4", "gpt-4*"),
        ("gpt-4.1-mini", "gpt-*-mini"),
        ("gpt-5", "gpt-*"),
        ("GPT-4o", "*"),
        ("llama", "*"),
        ("", "*"),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_exact_before_alias_before_the_longest_pattern(asked: str, found: str, seed: int) -> None:
    """FR-002: in whatever order the routes stand."""
    routes = random.Random(seed).sample(ROUTES, len(ROUTES))

    assert Routes(routes).find(asked).name == found


@pytest.mark.parametrize("routes", [[route("a"), route("b", "a")], [route("b", "a"), route("a")]])
def test_a_model_s_own_name_wins_over_another_s_alias(routes: list[Route]) -> None:
    assert Routes(routes).find("a").name == "a"


def test_of_two_patterns_as_long_the_first_wins() -> None:
    assert Routes([route("a*b"), route("ab*")]).find("ab").name == "a*b"
    assert Routes([route("ab*"), route("a*b")]).find("ab").name == "ab*"


@given(st.lists(st.text("ab*", min_size=1, max_size=4), unique=True), st.text("ab", max_size=5))
def test_what_is_found_covers_the_name_and_nothing_longer_does(
    names: list[str], asked: str
) -> None:
    covering = [name for name in names if patterns.matches(patterns.split(name), asked)]
    routes = Routes([route(name) for name in names])

    if not covering:
        with pytest.raises(ModelNotFound):
            routes.find(asked)
    elif asked in names:
        assert routes.find(asked).name == asked
    else:
        longest = max(map(len, covering))
        assert routes.find(asked).name == next(name for name in covering if len(name) == longest)


@pytest.mark.parametrize(
    "asked", ["gpt-9", "x" * 1_000_000, "\n\r\x00", "模" * 10_000, "\u202e" * 500]
)
def test_what_nobody_serves_is_said_in_a_short_line(asked: str) -> None:
    """FR-007: the name is the caller's, and goes into our answer and the log."""
    with pytest.raises(ModelNotFound, match=r"no deployment serves the model '.*'$") as caught:
        Routes([route("gpt-4o")]).find(asked)

    assert caught.value.param == "model"
    assert len(caught.value.message) < 1_200
    assert caught.value.message.isprintable()


def test_a_model_is_counted_under_its_own_name_and_a_pattern_s_under_the_name_asked_for() -> None:
    assert route("gpt-4o", "best").model_of("best") == "gpt-4o"
    assert route("gpt-*").model_of("gpt-5") == "gpt-5"


def test_names_are_those_that_can_be_asked_for_as_they_stand() -> None:
    """FR-002: the list of models."""
    assert Routes(ROUTES).names() == ["best", "claude", "gpt-4-latest", "gpt-4o", "gpt-4o-mini"]
    assert Routes([]).names() == []


# ---- deployments -----------------------------------------------------------------------------


def of_several(count: int, policy: Policy | None = None, *, tags: bool = False) -> Route:
    deployments = fleet(*[1] * count)
    if tags:
        regions = ("eu", "us", "eu")
        deployments = [
            replace(one, tags={"region": region, "tier": str(at)})
            for at, (one, region) in enumerate(zip(deployments, regions, strict=True))
        ]
    return Route("m", deployments, ordered, policy=policy or Policy())


def rest(deployment: Deployment, until_s: float) -> None:
    deployment.condition.rest_until(until_s, "429", 0.0)


def test_a_route_chooses_as_its_strategy_does() -> None:
    several = of_several(3)
    assert several.choose(0.0, NO_FACTS) is several.deployments[0]


def test_what_is_out_is_not_chosen() -> None:
    several = of_several(3)
    a, b, c = several.deployments
    rest(a, 10.0)
    assert several.choose(0.0, NO_FACTS) is b
    b.condition.sound = False
    assert several.usable(0.0) == [c]
    assert several.usable(10.0) == [a, c]


@pytest.mark.parametrize("count", [1, 2])
def test_where_all_are_out_none_is_chosen_and_it_is_known_until_when(count: int) -> None:
    several = of_several(count)
    for at, one in enumerate(several.deployments):
        rest(one, 10.0 + at)
    assert several.choose(0.0, NO_FACTS) is None
    assert several.usable_at(0.0) == 10.0
    assert several.choose(10.0, NO_FACTS) is several.deployments[0]
    assert several.usable_at(10.0) == 10.0


@pytest.mark.parametrize("count", [1, 3])
def test_what_only_probes_call_down_is_used_where_nothing_else_is_left(count: int) -> None:
    several = of_several(count)
    for one in several.deployments:
        one.condition.sound = False
    assert several.choose(0.0, NO_FACTS) is several.deployments[0]
    rest(several.deployments[0], 10.0)
    others = list(several.deployments[1:])
    assert several.usable(0.0) == others
    assert several.choose(0.0, NO_FACTS) is (others[0] if others else None)


@pytest.mark.parametrize("kind", FailureKind)
@pytest.mark.parametrize("on", FallbackOn)
def test_other_models_serve_after_those_failures_that_its_policy_names(
    kind: FailureKind, on: FallbackOn
) -> None:
    several = of_several(1, Policy(fallback_on=frozenset({on})))
    special = {
        FailureKind.TOO_LONG: FallbackOn.CONTEXT_LENGTH,
        FailureKind.FILTERED: FallbackOn.CONTENT_FILTER,
    }
    named = special.get(kind, FallbackOn.UNAVAILABLE) is on
    assert several.falls_back_on(kind) == (named and kind is not FailureKind.UNFIT)
    assert RULES[kind].fallback or not several.falls_back_on(kind)


def test_a_second_attempt_is_made_only_where_that_is_wanted() -> None:
    assert of_several(2).hedge is None
    hedge = of_several(2, Policy(hedge_after=1.5)).hedge
    assert hedge is not None
    assert hedge.delay_s() == 1.5


def test_a_restricted_route_has_what_fits_and_the_budget_of_the_whole() -> None:
    whole = of_several(3, Policy(hedge_after=1.0), tags=True)
    part = whole.restricted({"region": "eu"})
    assert list(part.deployments) == [whole.deployments[0], whole.deployments[2]]
    assert part.repeats is whole.repeats
    assert part.hedge is whole.hedge
    assert (part.name, part.policy) == (whole.name, whole.policy)
    assert whole.restricted({"region": "eu"}) is part
    assert whole.restricted({}) is whole
    assert whole.restricted({"region": "eu", "tier": "2"}).deployments == (whole.deployments[2],)
    assert whole.restricted({"region": "mars"}).deployments == ()
    assert part.choose(0.0, NO_FACTS) is whole.deployments[0]


def test_restricted_routes_are_remembered_within_bounds() -> None:
    whole = of_several(3, tags=True)
    for number in range(RESTRICTED_MAX + 10):
        whole.restricted({"region": str(number)})
    assert len(whole._restricted) <= RESTRICTED_MAX


def test_repr_shows_what_is_there() -> None:
    assert repr(Routes(ROUTES)) == "<Routes exact=5 patterns=4>"
    assert repr(ROUTES[4]) == "<Route gpt-4o deployments=1>"


# ---- names under a pattern -------------------------------------------------------------------


def passing_on(name: str = "m-*") -> Route:
    """A route that passes names on; each has a condition of its own."""
    conditions: dict[str, Condition] = {}

    def condition_of(asked: str) -> Condition:
        return conditions.setdefault(asked, Condition(f"up/{asked}", BreakerTerms(), now_s=0.0))

    deployment = Deployment(
        upstream="up", condition=condition_of(name), condition_of=condition_of, tags={"a": "b"}
    )
    return Route(name, [deployment], ordered)


def test_what_fails_under_one_name_of_a_pattern_speaks_against_no_other() -> None:
    routes = Routes([passing_on()])
    bad, good = routes.find("m-bad"), routes.find("m-good")
    for condition in [bad.deployments[0].condition] * 5:
        condition.failed("no", 1.0, condition.enter(1.0))
    assert bad.choose(1.0, NO_FACTS) is None
    assert good.choose(1.0, NO_FACTS) is not None
    assert routes.find("m-bad") is bad


def test_names_under_a_pattern_share_its_attempt_budget_and_its_tags() -> None:
    routes = Routes([passing_on()])
    one, other = routes.find("m-1"), routes.find("m-2")
    assert one.repeats is other.repeats
    assert one.restricted({"a": "b"}) is one
    assert one.restricted({"a": "c"}).deployments == ()


def test_only_so_many_names_under_a_pattern_are_told_apart() -> None:
    """Callers choose them."""
    pattern = passing_on()
    routes = Routes([pattern])
    named = [routes.find(f"m-{number}") for number in range(NAMED_MAX)]
    assert pattern not in named
    assert routes.find("m-one-more") is pattern
    assert routes.find("m-0") is named[0]
