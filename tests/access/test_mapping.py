import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.access.mapping import MAPPED_MAX, ModelMap, read_map
from llmrouter.contracts import patterns

MAP = ModelMap({"gpt-*": "small", "gpt-4*": "large", "gpt-4": "mini", "*-4*": "late"})


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("gpt-4", "mini"),
        ("gpt-4o", "large"),
        ("gpt-3", "small"),
        ("claude-4", "late"),
        ("gpt", None),
        ("GPT-3", None),
        ("large", None),
        ("", None),
    ],
)
def test_an_exact_name_wins_then_the_longest_pattern(asked: str, served: str | None) -> None:
    """FR-002."""
    assert MAP.of(asked) == served


@pytest.mark.parametrize("texts", [{"a*": "x", "*b": "y"}, {"*b": "x", "a*": "y"}])
def test_of_two_patterns_as_long_the_first_wins(texts: dict[str, str]) -> None:
    assert ModelMap(texts).of("ab") == "x"


def test_a_name_is_mapped_once() -> None:
    """FR-002: a name that is mapped to one which is mapped is no circle."""
    assert ModelMap({"a": "b", "b": "a"}).of("a") == "b"


@given(
    st.dictionaries(st.text("ab*", min_size=1, max_size=4), st.just("served"), max_size=6),
    st.text("ab", min_size=1, max_size=5),
)
def test_what_no_name_and_no_pattern_covers_is_not_mapped(
    texts: dict[str, str], asked: str
) -> None:
    covered = any(patterns.matches(patterns.split(text), asked) for text in texts)

    assert ModelMap(texts).of(asked) == ("served" if covered else None)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"a": "a"}, "'a' is mapped to itself; name another model"),
        ({"a": "b*"}, r"'a' is mapped to the pattern 'b\*'; name one model"),
        ({"a b": "c"}, "'a b' is not a model pattern"),
        ({"a": "c,d"}, "'c,d' is not a model pattern"),
        ({"": "c"}, "has 0 characters"),
        ({"a": "c" * 257}, "has 257 characters"),
        (dict.fromkeys(map(str, range(MAPPED_MAX + 1)), "x"), "1001 mapped models are too many"),
    ],
)
def test_a_map_that_is_none_is_refused(texts: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ModelMap(texts)


def test_a_pattern_may_cover_the_model_that_it_is_mapped_to() -> None:
    assert ModelMap({"gpt-4*": "gpt-4o"}).of("gpt-4o") == "gpt-4o"


def test_maps_are_equal_when_they_map_alike() -> None:
    assert ModelMap({"a": "b"}) == ModelMap({"a": "b"})
    assert hash(ModelMap({"a": "b"})) == hash(ModelMap({"a": "b"}))
    assert ModelMap({"a": "b"}) != ModelMap({"a": "c"})
    assert ModelMap({"a*": "x", "*b": "y"}) != ModelMap({"*b": "y", "a*": "x"})
    assert ModelMap() != "empty"


def test_lists_the_names_that_can_be_asked_for_as_they_stand() -> None:
    assert list(MAP) == ["gpt-4"]


def test_shows_what_it_maps() -> None:
    assert repr(ModelMap({"a*": "b", "c": "d"})) == "<ModelMap a*=b, c=d>"
    assert repr(ModelMap()) == "<ModelMap empty>"


# ---- as people write it -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], {}),
        (["gpt-4=gpt-4o-mini"], {"gpt-4": "gpt-4o-mini"}),
        (["gpt-4*=a", "b=c/d=e"], {"gpt-4*": "a", "b": "c/d=e"}),
    ],
)
def test_reads_a_text_for_each_name(texts: list[str], found: dict[str, str]) -> None:
    assert read_map(texts) == found


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["gpt-4"], "'gpt-4' maps nothing: write the name that is asked for, '=' and the model"),
        (["=a"], "'=a' maps nothing"),
        (["a="], "'a=' maps nothing"),
        ([""], "'' maps nothing"),
        (["a=b", "a=c"], "'a' is mapped twice; give each name once"),
        (["a=a"], "'a' is mapped to itself"),
        (["a=b*"], "to the pattern"),
    ],
)
def test_says_what_it_could_not_read(texts: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_map(texts)
