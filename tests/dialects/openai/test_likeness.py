import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.dialects.openai.counts import PlainChunk
from llmrouter.dialects.openai.events import NOT_PLAIN, plain_count
from llmrouter.dialects.openai.likeness import TEXT_BYTES_MAX, VAIN_MAX, Likeness
from llmrouter.http1 import sse

walk = msgspec.json.Decoder(PlainChunk).decode


def event(text: str, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "x", "created": 7, "choices": [choice], "usage": None, **more}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def taught(*events: bytes) -> Likeness:
    """What has learned from these, as a tap does."""
    likeness = Likeness()
    for each in events:
        if not likeness.knows(each) and plain_count(walk, each) != NOT_PLAIN:
            likeness.learn(each)
    return likeness


def test_an_event_is_known_by_two_before_it() -> None:
    assert not taught().knows(event("a"))
    assert not taught(event("a")).knows(event("b"))
    assert taught(event("a"), event("b")).knows(event(" c "))
    assert taught(event("a"), event("b")).knows(event(""))
    assert taught(event("a"), event("a"), event("b")).knows(event("schön"))


def test_several_strings_may_differ() -> None:
    """Some providers pad each event, so that its length does not tell the text."""
    likeness = taught(event("a", padding="x7"), event("bc", padding="y"))

    assert likeness.knows(event("d", padding=""))
    assert likeness.knows(event("d", padding="zzz"))
    assert not likeness.knows(event("d"))
    assert not likeness.knows(event('d"', padding="zzz"))
    assert not likeness.knows(event("d", padding='"'))


def test_three_strings_may_differ_and_stand_next_to_each_other() -> None:
    likeness = taught(b'data: {"x":["p","q","r"]}\n\n', b'data: {"x":["p2","","r2"]}\n\n')

    assert likeness.knows(b'data: {"x":["","q","3"]}\n\n')
    assert not likeness.knows(b'data: {"x":["","q"]}\n\n')
    assert not likeness.knows(b'data: {"x":["","q","r","s"]}\n\n')


@pytest.mark.parametrize(
    "odd",
    [
        event('"'),
        event("\\"),
        event("\n"),
        event("x" * (TEXT_BYTES_MAX + 1)),
        event("c", created=8),
        event("c", usage={"prompt_tokens": 1}),
        event("c", error={"message": "out of memory"}),
        event("c") + event("c"),
        event("c")[:-1],
        event("c").replace(b"\n", b"\r\n"),
        event("c").replace(b'"c"', b'"c'),
        event("c").replace(b'"c"', b'"c","usage":{"prompt_tokens":1},"x":"c"'),
        event("c").replace(b'"c"', b'"c\n"'),
        event("c").replace(b'"c"', b'"\ndata: c"'),
        event("c").replace(b'"c"', b'"\x01"'),
        event("c").replace(b'"c"', b'"'),
        event("c").replace(b'"c"', b"7"),
        b"id: 1\n" + event("c"),
        b"data: [DONE]\n\n",
        b"\n\n",
        b"",
    ],
)
def test_what_differs_in_more_than_a_text_is_walked_over(odd: bytes) -> None:
    likeness = taught(event("a"), event("b"))

    assert not likeness.knows(odd)
    assert likeness.knows(event("c"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1}', b'{"a":2}'),
        (b'{"a":"x"}', b'{"b":"x"}'),
        (b'{"a" :"x"}', b'{"b" :"x"}'),
        (b'{"a":"x"}', b'{"a":"x","b":"y"}'),
        (b'{"a":"x"}', b'{"a": "x"}'),
        (b'{"a":"x"}', b'{"a":null}'),
        (b'{"a":"\\"x"}', b'{"a":"\\"y"}'),
        (b'["p","q","r","s"]', b'["p2","q2","r2","s2"]'),
    ],
)
def test_where_more_differs_than_some_values_nothing_is_learned(one: bytes, other: bytes) -> None:
    one, other = (b"data: %b\n\n" % data for data in (one, other))
    likeness = taught(one, other)

    assert not likeness.knows(one)
    assert not likeness.knows(other)


def test_a_stream_whose_events_are_never_alike_is_given_up() -> None:
    likeness = taught(*(event("x", created=each) for each in range(VAIN_MAX + 1)))

    assert not taught_more(likeness).knows(event("c"))
    assert taught_more(taught()).knows(event("c"))


def taught_more(likeness: Likeness) -> Likeness:
    for each in (event("a"), event("b")):
        likeness.learn(each)
    return likeness


def test_a_stream_may_change_its_likeness_for_ever() -> None:
    """Its reasoning ends, another choice speaks, the second in which an event was made is over."""
    likeness = taught()
    for second in range(3 * VAIN_MAX):
        for text in ("a", "b"):
            assert not likeness.knows(event(text, created=second))
            likeness.learn(event(text, created=second))
        assert likeness.knows(event("c", created=second))


_texts = st.text('ab"\\\n:,{}é\x01\x7f ', max_size=6)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Events alike but for some of their strings, each spoiled or not."""
    frame = draw(
        st.sampled_from(
            [
                b'{"choices":[{"delta":{"content":%b}}],"usage":null}',
                b'{"usage":null,"x":%b,"y":{"z":%b}}',
                b"{%b:%b}",
                b"[%b,%b,%b]",
                b'{"usage":%b}',
                b'{"usage":null,%b:{},"x":"y"}',
            ]
        )
    )
    found = []
    for _ in range(draw(st.integers(3, 6))):
        strings = [msgspec.json.encode(draw(_texts)) for _ in range(frame.count(b"%b"))]
        text = bytearray(b"data: %b\n\n" % (frame % tuple(strings)))
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            at = draw(st.integers(0, len(text)))
            text[at : at + draw(st.integers(0, 3))] = draw(
                st.sampled_from([b"", b'"', b"\\", b"\n", b"}", b",", b":", b"\r", b"usage"])
            )
        found.append(bytes(text))
    return found


@given(streams())
def test_what_is_known_is_one_plain_event_to_the_walk(stream: list[bytes]) -> None:
    likeness = taught()
    for each in stream:
        known = likeness.knows(each)
        plain = plain_count(walk, each) != NOT_PLAIN
        if known:
            assert plain
            assert list(sse.events(each)) == [each]
            assert msgspec.json.decode((sse.data_of(each) or b"").replace(b"\x7f", b""))
        elif plain:
            likeness.learn(each)
