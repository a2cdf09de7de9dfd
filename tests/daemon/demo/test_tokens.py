import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.daemon.demo import tokens


@given(st.text())
def test_the_tokens_of_a_text_are_counted_and_joined_are_the_text(text: str) -> None:
    pieces = list(tokens.pieces(text))

    assert "".join(pieces) == text
    assert len(pieces) == tokens.count(text)
    assert all(len(piece) == tokens.TOKEN_CHARS for piece in pieces[:-1])


@pytest.mark.parametrize(("text", "count"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2)])
def test_a_token_is_a_started_run_of_four_characters(text: str, count: int) -> None:
    assert tokens.count(text) == count


def test_raw_json_is_counted_by_its_bytes_taken_together() -> None:
    assert tokens.count_raw([msgspec.Raw(b'{"a":1}'), msgspec.Raw(b"{}")]) == 3
    assert tokens.count_raw(()) == 0


@given(st.text(max_size=100), st.integers(0, 127))
def test_prose_is_the_same_for_the_same_words_and_of_modest_length(said: str, choice: int) -> None:
    text = tokens.prose(said, choice)

    assert text == tokens.prose(said, choice)
    assert text.startswith(tokens.OPENING + " You said")
    assert len(text.split()) - len(said.split()) >= 20
    assert len(text.split()) <= 75 + len(said.split())
    assert text.endswith(".")


def test_prose_repeats_what_was_said_on_one_line_and_not_at_length() -> None:
    assert "You said: one two three." in tokens.prose(" one\n two\tthree ", 0)
    assert len(tokens.prose("word " * 10_000, 0)) < 700
    assert "You said nothing." in tokens.prose(" \n ", 0)


def test_other_words_and_other_choices_get_another_text() -> None:
    texts = {tokens.prose(said, choice) for said in ("a", "b", "c") for choice in range(3)}

    assert len(texts) == 9


@given(st.text(max_size=50), st.integers(0, 5_000))
def test_prose_of_a_length_has_exactly_that_length(text: str, chars: int) -> None:
    made = tokens.prose_of_length(text, chars)

    assert len(made) == chars
    assert made.startswith(text[:chars])
