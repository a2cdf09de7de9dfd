import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.patterns import is_pattern, matches, split


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "GPT-4o", False),
        ("gpt-*", "gpt-", True),
        ("gpt-*", "gpt-4o", True),
        ("gpt-*", "gpt", False),
        ("*", "", True),
        ("*", "anything at all", True),
        ("**", "x", True),
        ("*-mini", "gpt-4o-mini", True),
        ("*-mini", "-mini", True),
        ("*-mini", "mini", False),
        ("a*a", "aa", True),
        ("a*a", "a", False),
        ("ab*ba", "aba", False),
        ("*ab*ab*", "ab", False),
        ("*a*a", "a", False),
        ("a*b*bc", "abc", False),
        ("a*b*bc", "abbc", True),
        ("*ab*ab*", "abab", True),
        ("a*b*c", "abbc", True),
        ("a*b*c", "acb", False),
        ("*a*", "", False),
        ("", "", True),
        ("", "a", False),
        ("gpt.4?", "gpt-4o", False),
        ("[ab]*", "a", False),
        ("gpt-*", "gpt-\n4", True),
        ("gpt-*", "gpt-*", True),
    ],
)
def test_a_star_stands_for_any_text(pattern: str, name: str, covered: bool) -> None:
    """FR-002."""
    assert matches(split(pattern), name) is covered


@given(st.text("ab*", max_size=8), st.text("ab*", max_size=12))
def test_agrees_with_a_regular_expression(pattern: str, name: str) -> None:
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))

    assert matches(split(pattern), name) is (re.fullmatch(expression, name, re.DOTALL) is not None)


@given(st.text("ab*", max_size=8))
def test_what_stands_between_the_stars_is_kept(pattern: str) -> None:
    assert "*".join(split(pattern)) == pattern
    assert is_pattern(pattern) is (len(split(pattern)) > 1)


def test_a_long_name_and_many_stars_take_no_time() -> None:
    """Callers choose the names; a regular expression of this pattern would not end within a day."""
    assert not matches(split("*a" * 60 + "*b"), "a" * 10_000)
