import re
from json import JSONEncoder

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.call import Call, Operation
from llmrouter.dialects.openai.output import CHOICES_MAX, COMMAS_MAX, TOKENS_MAX
from llmrouter.dialects.openai.request import read_call
from llmrouter.errors import InvalidJson, InvalidRequest

CHAT, COMPLETION = Operation.CHAT, Operation.COMPLETION
EMBEDDING, RESPONSE = Operation.EMBEDDING, Operation.RESPONSE
LIMITS = [
    (CHAT, "max_tokens"),
    (CHAT, "max_completion_tokens"),
    (COMPLETION, "max_tokens"),
    (RESPONSE, "max_output_tokens"),
]
CHOICES = [(operation, name) for operation in (CHAT, COMPLETION) for name in ("n", "best_of")]

over_limits = pytest.mark.parametrize(("operation", "name"), LIMITS)
over_choices = pytest.mark.parametrize(("operation", "name"), CHOICES)


def asked(operation: Operation, members: str) -> Call:
    return read_call(operation, f'{{"model":"m"{members and ","}{members}}}'.encode())


# ---- what a call allows itself -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "members", "output_max", "choices"),
    [
        (CHAT, "", None, 1),
        (CHAT, '"max_tokens":100', 100, 1),
        (CHAT, '"max_completion_tokens":100', 100, 1),
        (CHAT, '"max_tokens":0', 0, 1),
        (CHAT, '"max_tokens":null', None, 1),
        (CHAT, '"max_tokens":null,"max_completion_tokens":7', 7, 1),
        (CHAT, '"max_tokens":7,"max_completion_tokens":null', 7, 1),
        (CHAT, '"max_output_tokens":5', None, 1),
        (CHAT, '"max_tokens":100,"n":3', 300, 3),
        (CHAT, '"max_tokens":100,"n":null,"best_of":null', 100, 1),
        (CHAT, '"n":3', None, 3),
        (CHAT, '"max_tokens":5,"prompt":["a","b"]', 5, 1),
        (COMPLETION, "", None, 1),
        (COMPLETION, '"max_tokens":16', 16, 1),
        (COMPLETION, '"max_completion_tokens":16', None, 1),
        (COMPLETION, '"max_tokens":10,"n":2,"best_of":5', 50, 5),
        (COMPLETION, '"max_tokens":10,"n":5,"best_of":2', 50, 5),
        (COMPLETION, '"max_tokens":10,"n":2,"prompt":["a","b","c"]', 60, 6),
        (RESPONSE, "", None, 1),
        (RESPONSE, '"max_output_tokens":9', 9, 1),
        (RESPONSE, '"max_tokens":9', None, 1),
        (RESPONSE, '"max_output_tokens":9,"n":4,"prompt":{"id":"p"}', 9, 1),
        (EMBEDDING, "", 0, 1),
        (EMBEDDING, '"input":["a","b"],"max_tokens":9,"n":4', 0, 1),
    ],
)
def test_what_a_call_lets_its_answer_use(
    operation: Operation, members: str, output_max: int | None, choices: int
) -> None:
    """FR-003: what a strict budget holds."""
    call = asked(operation, members)

    assert (call.output_max, call.choices) == (output_max, choices)


@pytest.mark.parametrize(("first", "second"), [(1, 100_000), (100_000, 1), (5, 5)])
def test_of_two_limits_the_larger_counts(first: int, second: int) -> None:
    """FR-003: a server that knows only one of them may go as far as that allows."""
    call = asked(CHAT, f'"max_completion_tokens":{first},"max_tokens":{second}')

    assert call.output_max == max(first, second)


@pytest.mark.parametrize("operation", [CHAT, COMPLETION, RESPONSE])
@pytest.mark.parametrize("overruling", ["100000", "-1", '"x"', "1"])
def test_a_member_that_overrules_the_limit_leaves_none(
    operation: Operation, overruling: str
) -> None:
    """FR-003: a llama.cpp server reads this one instead."""
    limit = '"max_tokens":1,"max_output_tokens":1'

    assert asked(operation, f'{limit},"n_predict":{overruling}').output_max is None
    assert asked(operation, f'{limit},"n_predict":null').output_max == 1


# ---- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ("null", 1),
        ('""', 1),
        ('"[1,2]"', 1),
        ('"a","suffix":"[b,c]"', 1),
        ("[]", 1),
        ("[1]", 1),
        ("[1, 2, 3]", 1),
        ('["a"]', 1),
        ('["a","b"]', 2),
        ('["a,b","c\\",\\"d"]', 2),
        ('[ "[1]" , "" , "" ]', 3),
        ("[[1,2],[3]]", 2),
        ("[[1,2]]", 1),
        ("[[],[],[]]", 3),
        ('["a",[1,2],"b"]', 3),
        ('[1,"a",2]', 3),
        ('{"id":"p"}', 1),
    ],
)
def test_each_prompt_has_answers_of_its_own(prompt: str, count: int) -> None:
    """FR-003: a list of numbers is one prompt of tokens, any other list is many prompts."""
    call = asked(COMPLETION, f'"max_tokens":10,"prompt":{prompt}')

    assert (call.output_max, call.choices) == (10 * count, count)


prompts = st.one_of(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
    st.lists(st.lists(st.integers(0, 200_000)), min_size=1),
)


@given(prompts, st.integers(0, 10_000), st.integers(1, 128), st.integers(1, 128))
def test_the_most_is_the_product_of_all(
    found: list[object], limit: int, n: int, best_of: int
) -> None:
    members = {"prompt": found, "max_tokens": limit, "n": n, "best_of": best_of}
    body = JSONEncoder().encode({"model": "m", **members}).encode()

    assert read_call(COMPLETION, body).output_max == limit * max(n, best_of) * len(found)


def test_more_prompts_than_can_be_counted_are_refused() -> None:
    """FR-008: every loop has a limit."""
    most = '"a",' * COMMAS_MAX

    with pytest.raises(InvalidRequest, match="send it in several calls") as caught:
        asked(COMPLETION, f'"prompt":[{most}"a","a"]')

    assert caught.value.param == "prompt"
    assert asked(COMPLETION, f'"prompt":[{most}"a"]').choices == COMMAS_MAX + 1
    tokens = "1," * COMMAS_MAX
    assert asked(COMPLETION, f'"prompt":[{tokens}1,1]').choices == 1


def is_readable(operation: Operation, depth: int) -> bool:
    nested = "[" * depth + '"a"' + "]" * depth
    try:
        return asked(operation, f'"prompt":["b",{nested}]').model == "m"
    except InvalidJson:
        return False


def test_prompts_are_counted_as_deeply_as_a_body_can_be_read() -> None:
    """They are decoded further down than the body is, and how deep can be decoded has an end."""
    found = [is_readable(CHAT, depth) for depth in range(700, 1000)]

    assert set(found) == {True, False}
    assert [is_readable(COMPLETION, depth) for depth in range(700, 1000)] == found


# ---- what is no number that can be ---------------------------------------------------------------


@over_limits
@pytest.mark.parametrize(
    ("written", "read"),
    [("100.0", 100), ("1e3", 1000), ("1E+2", 100), ("-0", 0), (str(TOKENS_MAX), TOKENS_MAX)],
)
def test_a_whole_number_may_be_written_like_a_fraction(
    operation: Operation, name: str, written: str, read: int
) -> None:
    """Servers that read it take it for what it is."""
    assert asked(operation, f'"{name}":{written}').output_max == read


NO_NUMBERS = ['"5"', '""', "true", "false", "[]", "[5]", "{}"]
ODD_NUMBERS = ["-1", "-1.0", "0.5", "100.5", "1e-3", "1e18", "1e400", "9" * 30, "9" * 5000]


@over_limits
@pytest.mark.parametrize("written", [*NO_NUMBERS, *ODD_NUMBERS, str(TOKENS_MAX + 1)])
def test_a_limit_that_is_none_is_refused(operation: Operation, name: str, written: str) -> None:
    """FR-007: the answer names the member, and says what can be."""
    with pytest.raises(InvalidRequest, match=f"whole number from 0 to {TOKENS_MAX}") as caught:
        asked(operation, f'"{name}":{written}')

    assert caught.value.param == name
    assert len(caught.value.message) < 200
    shown = "no number" if written in NO_NUMBERS else written[:20]
    assert f"the member '{name}' is {shown}" in caught.value.message


@over_choices
@pytest.mark.parametrize("written", [*NO_NUMBERS, *ODD_NUMBERS, "0", str(CHOICES_MAX + 1)])
def test_a_number_of_choices_that_is_none_is_refused(
    operation: Operation, name: str, written: str
) -> None:
    """FR-003: whatever a server made of it, it would not be what was held."""
    with pytest.raises(InvalidRequest, match=f"whole number from 1 to {CHOICES_MAX}") as caught:
        asked(operation, f'"{name}":{written}')

    assert caught.value.param == name


def test_no_prompt_is_shown_that_stands_in_the_wrong_place() -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(CHAT, '"max_tokens":"my secret plan"')

    assert "secret" not in caught.value.message


def test_a_product_that_the_books_cannot_hold_is_refused() -> None:
    """FR-008."""
    with pytest.raises(InvalidRequest, match=re.escape("ask for less")):
        asked(CHAT, f'"max_tokens":{TOKENS_MAX},"n":{CHOICES_MAX}')

    assert asked(CHAT, f'"max_tokens":{10**9},"n":{CHOICES_MAX}').output_max == 10**12
