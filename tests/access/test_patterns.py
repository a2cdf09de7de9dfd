from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.access.patterns import PATTERNS_MAX, ModelPatterns


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ([], "anything", True),
        (["*"], "anything", True),
        (["*"], "", True),
        (["gpt-4o"], "gpt-4o", True),
        (["gpt-4o"], "gpt-4o-mini", False),
        (["gpt-4o"], "GPT-4o", False),
        (["gpt-4o*"], "gpt-4o", True),
        (["gpt-4o*"], "gpt-4o-mini", True),
        (["gpt-4o*"], "gpt-4", False),
        (["*-mini"], "gpt-4o-mini", True),
        (["*-mini"], "gpt-4o-mini-2024", False),
        (["gpt-*-mini"], "gpt-4o-mini", True),
        (["gpt-*-mini"], "gpt-mini", False),
        (["a*a"], "a", False),
        (["*o*"], "claude", False),
        (["*o*"], "gpt-4o-mini", True),
        (["**"], "x", True),
        (["gpt-4o", "claude-*"], "claude-sonnet-4", True),
        (["gpt-4o", "claude-*"], "gemini-2.5-pro", False),
        (["gpt.4o"], "gpt-4o", False),
        (["meta-llama/Llama-3:70b"], "meta-llama/Llama-3:70b", True),
    ],
)
def test_allows(patterns: list[str], model: str, allowed: bool) -> None:
    """FR-002: policy decides by the model's name."""
    assert ModelPatterns(patterns).allows(model) is allowed


@given(st.lists(st.text("ab*", min_size=1, max_size=8), min_size=1), st.text("ab", max_size=12))
def test_agrees_with_the_shell_on_stars(patterns: list[str], model: str) -> None:
    expected = any(fnmatchcase(model, pattern) for pattern in patterns)

    assert ModelPatterns(patterns).allows(model) is expected


def test_a_long_name_and_many_stars_do_not_backtrack() -> None:
    """A regular expression of this pattern would not end within a day."""
    assert not ModelPatterns(["*a" * 60 + "*b"]).allows("a" * 10_000)


@pytest.mark.parametrize(
    "text", ["gpt 4", "gpt\n", "gpt-4,gpt-5", "gpt-?", "gpt-[45]", "{a,b}", "a\\*", '"a"', "\x00"]
)
def test_what_would_mean_something_else_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"is not a model pattern: write a model's name, with '\*'"
    ):
        ModelPatterns(["fine", text])


@pytest.mark.parametrize("text", ["", "x" * 257])
def test_a_pattern_of_no_sensible_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"has {len(text)} characters; write 1 to 256"):
        ModelPatterns([text])


def test_too_many_patterns_are_refused() -> None:
    with pytest.raises(ValueError, match="1001 model patterns are too many"):
        ModelPatterns(["x"] * (PATTERNS_MAX + 1))


def test_equal_patterns_are_equal() -> None:
    assert ModelPatterns(["a", "b*"]) == ModelPatterns(("a", "b*"))
    assert hash(ModelPatterns(["a"])) == hash(ModelPatterns(["a"]))
    assert ModelPatterns(["a"]) != ModelPatterns(["b"])
    assert repr(ModelPatterns(["a", "b*"])) == "<ModelPatterns a, b*>"
    assert repr(ModelPatterns()) == "<ModelPatterns every model>"
