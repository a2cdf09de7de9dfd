import pytest

from llmrouter.daemon.demo.shapes import (
    DONE,
    Answer,
    Content,
    Part,
    Stamp,
    event,
    interleaved,
    stops_of,
    text_of,
    tokens_of,
)
from llmrouter.daemon.demo.tokens import PICTURE_TOKENS


@pytest.mark.parametrize(
    ("content", "text", "tokens"),
    [
        (None, "", 0),
        ("hello", "hello", 2),
        ([Part("text", "a"), Part("input_text", "b")], "a\nb", 2),
        ([Part("image_url"), Part("text", "a")], "a", PICTURE_TOKENS + 1),
        ([Part("input_image")], "", PICTURE_TOKENS),
        ([Part("input_audio")], "", 0),
    ],
)
def test_content_is_a_text_or_parts(content: Content, text: str, tokens: int) -> None:
    assert (text_of(content), tokens_of(content)) == (text, tokens)


def test_a_stop_sequence_may_stand_alone() -> None:
    assert [stops_of(None), stops_of("a"), stops_of(["a", "b"])] == [(), ("a",), ("a", "b")]


def test_names_of_one_answer_differ_from_those_of_another() -> None:
    assert Stamp(7, 0).id("chatcmpl-") == "chatcmpl-demo0000000007"
    assert Stamp(7, 0).id("msg_") != Stamp(8, 0).id("msg_")


def test_an_event_is_one_line_of_data() -> None:
    assert event({"a": "b\nc"}) == b'data: {"a":"b\\nc"}\n\n'


def test_streams_take_turns_until_the_longest_ends() -> None:
    streams = [iter([b"a", b"b", b"c"]), iter([b"1"]), iter([])]

    assert b"".join(interleaved(streams)) == b"a1bc"


def test_a_stream_ends_with_done_unless_it_says_otherwise() -> None:
    assert Answer(b"").last() == DONE
