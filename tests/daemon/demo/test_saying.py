import msgspec
import pytest

from llmrouter.daemon.demo import tokens
from llmrouter.daemon.demo.directives import NONE, Directives
from llmrouter.daemon.demo.saying import Ending, Function, Prompt, say

HELLO = Prompt(said="hello", tokens=2)
CITY = msgspec.Raw(b'{"type":"object","properties":{"city":{"type":"string"}}}')


def but(**changes: object) -> Prompt:
    return msgspec.structs.replace(HELLO, **changes)


def test_the_same_prompt_gets_the_same_text() -> None:
    said = say(HELLO, NONE)

    assert said == say(but(), NONE)
    assert said.text == tokens.prose("hello", 0)
    assert said.ending is Ending.STOP
    assert said.tokens == tokens.count(said.text)


def test_choices_differ() -> None:
    assert len({say(HELLO, NONE, choice).text for choice in range(5)}) == 5


@pytest.mark.parametrize("most", [0, 1, 7, 40])
def test_the_answer_never_has_more_tokens_than_it_may(most: int) -> None:
    said = say(but(tokens_max=most), NONE)

    assert said.tokens == most
    assert said.ending is Ending.LENGTH
    assert tokens.prose("hello", 0).startswith(said.text)


def test_an_answer_that_just_fits_is_whole() -> None:
    whole = say(HELLO, NONE)

    assert say(but(tokens_max=whole.tokens), NONE) == whole
    assert say(but(tokens_max=whole.tokens - 1), NONE).ending is Ending.LENGTH


def test_it_stops_where_the_first_stop_sequence_would_stand() -> None:
    said = say(but(stops=("You", "upstream", "", "never")), NONE)

    assert said.text == "This is the demo "
    assert said.ending is Ending.STOP


@pytest.mark.parametrize("wanted", [1, 3, 500, 2_000])
def test_tokens_are_exactly_as_many_as_asked_for(wanted: int) -> None:
    said = say(HELLO, Directives(tokens=wanted))

    assert said.tokens == wanted
    assert said.ending is Ending.STOP
    assert len(said.text) == wanted * tokens.TOKEN_CHARS


def test_max_tokens_holds_against_a_directive_too() -> None:
    said = say(but(tokens_max=10), Directives(tokens=500))

    assert (said.tokens, said.ending) == (10, Ending.LENGTH)


def test_bytes_are_exactly_as_many_as_asked_for() -> None:
    assert len(say(but(said="é"), Directives(bytes=1_001)).text.encode()) == 1_001


def test_reasoning_comes_on_top_and_before_the_text() -> None:
    plain = say(HELLO, NONE)
    thought = say(HELLO, Directives(reasoning=30))
    short = say(but(tokens_max=32), Directives(reasoning=30))
    none = say(but(tokens_max=20), Directives(reasoning=30))

    assert (thought.text, thought.tokens) == (plain.text, plain.tokens + 30)
    assert (short.tokens, short.reasoning_tokens, short.text) == (32, 30, "This is ")
    assert (none.tokens, none.reasoning_tokens, none.text) == (20, 20, "")


def test_a_filtered_text_ends_half_way() -> None:
    said = say(HELLO, Directives(content_filter=True))

    assert said.ending is Ending.FILTERED
    assert said.text == tokens.prose("hello", 0)[: len(tokens.prose("hello", 0)) // 2]


def test_a_function_is_called_with_arguments_that_fit() -> None:
    said = say(but(function=Function("weather", CITY)), NONE)

    assert (said.function, said.text) == ("weather", '{"city":"demo city"}')
    assert said.tokens == tokens.count(said.text)


@pytest.mark.parametrize("parameters", [b"null", b"{}"])
def test_a_function_without_parameters_gets_an_empty_object(parameters: bytes) -> None:
    assert say(but(function=Function("now", msgspec.Raw(parameters))), NONE).text == "{}"


def test_neither_directives_nor_stops_break_json() -> None:
    said = say(but(schema=CITY, stops=("city",)), Directives(tokens=500))

    assert said.text == '{"city":"demo city"}'


def test_arguments_are_cut_by_max_tokens_as_a_text_is() -> None:
    said = say(but(function=Function("weather", CITY), tokens_max=2), NONE)

    assert (said.text, said.tokens, said.ending) == ('{"city":', 2, Ending.LENGTH)
