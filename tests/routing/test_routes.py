import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts import patterns
from llmrouter.errors import ModelNotFound
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.routes import Route, Routes
from llmrouter.routing.strategy import Ordered


def route(name: str, *aliases: str) -> Route:
    return Route(name, [Deployment(upstream="main")], Ordered, aliases=aliases)


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
    with pytest.raises(ModelNotFound, match=r"no deployment serves the model '.*; GET") as caught:
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


def test_a_route_chooses_as_its_strategy_does() -> None:
    assert route("gpt-4o").choose() == Deployment(upstream="main")


def test_repr_shows_what_is_there() -> None:
    assert repr(Routes(ROUTES)) == "<Routes exact=5 patterns=4>"
    assert repr(ROUTES[4]) == "<Route gpt-4o>"
