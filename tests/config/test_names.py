"""Names: which model a name leads to."""

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.access.issued import KeyTerms
from llmrouter.access.patterns import ModelPatterns
from llmrouter.config.names import (
    aliases,
    counted_as,
    find_model,
    is_user_name,
    matches,
    model_name_problem,
    name_findings,
)
from llmrouter.config.schema import Deployment, Model, Org, Settings, User
from llmrouter.contracts.patterns import is_pattern

AT_DEMO = (Deployment(upstream="demo"),)
MODELS = {
    "*": Model(deployments=AT_DEMO),
    "gpt-*": Model(deployments=AT_DEMO),
    "gpt-4o": Model(deployments=AT_DEMO, aliases=("gpt-4o-latest", "best")),
    "gpt-4*": Model(deployments=AT_DEMO),
    "*-mini": Model(deployments=AT_DEMO),
}


@pytest.mark.parametrize(
    ("pattern", "name", "does"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-*", "gpt-", True),
        ("gpt-*", "GPT-4", False),
        ("*-mini", "gpt-4o-mini", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "a1b2b3c", True),
        ("a*b*c", "acb", False),
        ("ab*ba", "aba", False),
        ("a.c", "abc", False),
        ("*", "", True),
    ],
)
def test_a_star_stands_for_any_run_of_characters(pattern: str, name: str, does: bool) -> None:
    assert matches(pattern, name) is does


@settings(deadline=None)
@given(pattern=st.text("ab*", max_size=8), name=st.text("ab", max_size=8))
def test_matches_as_the_shell_does(pattern: str, name: str) -> None:
    assert matches(pattern, name) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gpt-4o", "gpt-4o"),
        ("best", "gpt-4o"),
        ("gpt-4o-latest", "gpt-4o"),
        ("gpt-4.1", "gpt-4*"),
        ("gpt-3.5", "gpt-*"),
        ("gpt-4-mini", "gpt-4*"),  # as long as *-mini, and first in the file
        ("o1-mini", "*-mini"),
        ("claude", "*"),
        ("gpt-*", "gpt-*"),  # asked for by a caller, it is no more than a name that is covered
    ],
)
def test_an_exact_name_wins_then_an_alias_then_the_longest_pattern(name: str, model: str) -> None:
    """FR-002"""
    assert find_model(MODELS, name) == model


def test_finds_nothing_where_nothing_serves_the_name() -> None:
    assert find_model({"gpt-*": Model(deployments=AT_DEMO)}, "claude") is None


@pytest.mark.parametrize(
    ("name", "counted"),
    [("gpt-4o", "gpt-4o"), ("best", "gpt-4o"), ("gpt-4.1", "gpt-4.1"), ("gpt-4*", "gpt-4*")],
)
def test_calls_count_under_the_own_name_of_their_model(name: str, counted: str) -> None:
    assert counted_as(MODELS, name) == counted


def test_a_name_that_nothing_serves_counts_as_it_is() -> None:
    assert counted_as({}, "claude") == "claude"


def test_lists_aliases_and_patterns() -> None:
    assert aliases(MODELS) == {"gpt-4o-latest": "gpt-4o", "best": "gpt-4o"}
    assert [name for name in MODELS if not is_pattern(name)] == ["gpt-4o"]


def test_a_name_in_another_case_may_be_an_alias_of_its_own_model() -> None:
    settings = Settings(models={"gpt-4o": Model(deployments=AT_DEMO, aliases=("GPT-4o",))})

    assert list(name_findings(settings)) == []


@pytest.mark.parametrize(
    "name", ["", "a b", "a,b", "a, b*", "a?", "[ab]", "a{b}", "a\\b", "'a'", "a\n", "é", "x" * 257]
)
def test_what_is_no_model_name_is_told(name: str) -> None:
    assert model_name_problem(name).startswith("is not a model name; use letters")


@given(name=st.text(max_size=300) | st.text("ab*.:/@+~,= ?[]{}'\\\"", max_size=8))
def test_no_name_is_taken_here_that_a_policy_refuses(name: str) -> None:
    if not model_name_problem(name):
        assert ModelPatterns((name,)).texts == (name,)


@given(name=st.text(max_size=130) | st.text("a /@*\n", max_size=4))
def test_users_are_named_here_as_in_keys(name: str) -> None:
    try:
        in_key = KeyTerms(org="acme", user=name).user
    except ValueError:
        in_key = None

    assert is_user_name(name) is (in_key == name)


def test_users_that_differ_by_case_are_two() -> None:
    """Keys and identity providers tell them apart, and a table may be needed for each."""
    settings = Settings(orgs={"acme": Org(users={"Ann@x.org": User(), "ann@x.org": User()})})

    assert list(name_findings(settings)) == []
