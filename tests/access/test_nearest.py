import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.access.nearest import NAMES_MAX, NEAREST_MAX, NearestNames

KNOWN = ["gpt", "gpt-4o", "gpt-4o-mini", "claude-sonnet-4", "meta/llama", "demo"]


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("gtp", "gpt"),
        ("gpt4o", "gpt-4o"),
        ("GPT-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("claude", "claude-sonnet-4"),
        ("claude-sonet-4", "claude-sonnet-4"),
        ("llama", "meta/llama"),
        ("demo-latest", "demo"),
    ],
)
def test_the_name_that_was_meant_comes_first(asked: str, first: str) -> None:
    """FR-002: named clearly, with the nearest names."""
    assert NearestNames(KNOWN).to(asked)[0] == first


@pytest.mark.parametrize("asked", ["x", "", "zz-9", "模型", "\ud800", "q" * 1_000_000])
def test_nothing_is_near_to_what_is_like_nothing(asked: str) -> None:
    assert NearestNames(KNOWN).to(asked) == []


@given(st.lists(st.text(max_size=20), max_size=20), st.text(max_size=300))
def test_names_only_what_it_knows_and_at_most_three(known: list[str], asked: str) -> None:
    near = NearestNames(known).to(asked)

    assert set(near) <= set(known)
    assert len(near) <= NEAREST_MAX


@given(st.lists(st.text("abc-123", min_size=1, max_size=12), min_size=1, unique=True))
def test_a_known_name_is_nearest_to_itself(known: list[str]) -> None:
    """Others may share all of its letters and pairs, but none has more in common with it."""
    near = NearestNames(known[:NEAREST_MAX]).to(known[0])

    assert known[0] in near


def test_so_many_names_are_compared_and_no_more() -> None:
    names = [f"model-{number:03}" for number in range(NAMES_MAX + 1)]

    assert NearestNames(names).to(names[-2])[0] == names[-2]
    assert names[-1] not in NearestNames(names).to(names[-1])
    assert repr(NearestNames(names)) == f"<NearestNames of {NAMES_MAX}>"
