import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.http1.sse import EVENT_BYTES_MAX, EventTooLong, Splitter, data_of, events

LINE_ENDS = [b"\n", b"\r\n", b"\r"]

line_ends = st.sampled_from(LINE_ENDS)
contents = st.sampled_from([b"data: {}", b"data: a b", b":", b"event: x", b"id:7", b"data:", b"x"])
lines = st.tuples(contents, line_ends).map(b"".join)


@st.composite
def whole_events(draw: st.DrawFn) -> bytes:
    """An event, with the empty line that ends it."""
    block = b"".join(draw(st.lists(lines, min_size=1, max_size=4)))
    end = draw(line_ends)
    return block + (b"\r\n" if block.endswith(b"\r") and end == b"\n" else end)


def is_boundary(stream: bytes, at: int) -> bool:
    """The specification, slowly: the line that ends at `at` is empty."""
    ends: list[tuple[int, int]] = []
    place = 0
    while place < at:
        size = 2 if stream[place : place + 2] == b"\r\n" else 1
        if stream[place : place + 1] in (b"\r", b"\n"):
            ends.append((place, place + size))
        place += size
    if place != at:  # between a CR and its LF: the CR alone is an end, too
        ends[-1] = (ends[-1][0], at)
    return len(ends) >= 2 and ends[-1][1] == at and ends[-2][1] == ends[-1][0]


@st.composite
def chopped_streams(draw: st.DrawFn) -> list[bytes]:
    stream = b"".join(draw(st.lists(whole_events(), max_size=6)))
    stream += draw(st.sampled_from([b"", b"data: unfin", b"data: x\n", b"\r", b"\n"]))
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *places, len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(chopped_streams())
def test_nothing_is_lost_and_every_output_ends_with_a_whole_event(pieces: list[bytes]) -> None:
    splitter = Splitter()
    stream = b"".join(pieces)
    passed = 0
    for piece in pieces:
        out = splitter.feed(piece)
        assert stream[passed:].startswith(out)
        passed += len(out)
        assert not out or is_boundary(stream, passed)
    assert passed + splitter.held_bytes == len(stream)


@given(chopped_streams())
def test_a_whole_event_is_never_held_back(pieces: list[bytes]) -> None:
    splitter = Splitter()
    seen = b""
    passed = 0
    for piece in pieces:
        seen += piece
        passed += len(splitter.feed(piece))
        held = seen[passed:]
        assert not any(is_boundary(seen, passed + at) for at in range(1, len(held) + 1))


@given(st.lists(whole_events(), max_size=5), st.data())
def test_whole_events_leave_nothing_behind_however_they_are_chopped(
    asked: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(asked)
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *places, len(stream)]
    splitter = Splitter()
    out = b"".join(splitter.feed(stream[start:end]) for start, end in itertools.pairwise(edges))
    assert out == stream
    assert splitter.held_bytes == 0


PAIRS = [pair for pair in itertools.product(LINE_ENDS, repeat=2) if pair != (b"\r", b"\n")]


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("bytewise", [True, False])
def test_an_event_ends_at_any_two_line_ends(first: bytes, second: bytes, bytewise: bool) -> None:
    event = b"data: a" + first + second
    stream = event + b"data: b"
    splitter = Splitter()
    size = 1 if bytewise else len(stream)
    out = b"".join(splitter.feed(stream[at : at + size]) for at in range(0, len(stream), size))
    assert out == event
    assert splitter.held_bytes == len(b"data: b")
    assert list(events(stream)) == [event, b"data: b"]


@pytest.mark.parametrize("end", LINE_ENDS)
def test_one_line_end_is_none_of_an_event(end: bytes) -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: a" + end) == b""
    assert splitter.feed(b"data: b" + end) == b""
    assert splitter.feed(end).count(b"data") == 2


def test_what_comes_in_whole_events_is_passed_on_uncopied() -> None:
    data = b"data: {}\n\n" * 3
    assert Splitter().feed(data) is data


def test_an_event_may_be_long_but_not_endless() -> None:
    splitter = Splitter()
    piece = b"x" * (1024 * 1024)
    for _ in range(EVENT_BYTES_MAX // len(piece)):
        assert splitter.feed(piece) == b""
    assert splitter.held_bytes == EVENT_BYTES_MAX
    with pytest.raises(EventTooLong):
        splitter.feed(b"x")


def test_a_long_event_that_ends_is_passed_on() -> None:
    splitter = Splitter()
    splitter.feed(b"data: " + b"x" * 1_000_000)
    assert len(splitter.feed(b"\n\n")) == 1_000_008
    assert splitter.held_bytes == 0


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"", []),
        (b"data: a\n\n", [b"data: a\n\n"]),
        (b"data: a\n\ndata: b\n\n", [b"data: a\n\n", b"data: b\n\n"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"data: a\r\n\r\n", b"data: b\r\n\r\n"]),
        (b"data: a\r\rdata: b\r\r", [b"data: a\r\r", b"data: b\r\r"]),
        (b"data: a\n\ndata: b", [b"data: a\n\n", b"data: b"]),
        (b"data: a\n\n\n\ndata: b\n\n", [b"data: a\n\n\n\n", b"data: b\n\n"]),
        (b"event: x\ndata: a\n\n: ping\n\n", [b"event: x\ndata: a\n\n", b": ping\n\n"]),
    ],
)
def test_a_block_is_taken_apart_into_events(block: bytes, expected: list[bytes]) -> None:
    assert list(events(block)) == expected


@given(st.lists(whole_events(), max_size=6))
def test_the_events_of_a_block_make_up_the_block(asked: list[bytes]) -> None:
    block = b"".join(asked)
    assert b"".join(events(block)) == block
    assert len(list(events(block))) <= len(asked)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a \n\n", b" a "),
        (b"data: a\r\n\r\n", b"a"),
        (b"data: a\r\r", b"a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\ndata:\ndata: b\n\n", b"a\n\nb"),
        (b"event: x\nid: 1\ndata: a\nretry: 5\n\n", b"a"),
        (b"data: [DONE]\n\n", b"[DONE]"),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b": ping\n\n", None),
        (b"event: ping\n\n", None),
        (b"datax: a\n\n", None),
        (b" data: a\n\n", None),
        (b"\n\n", None),
        (b"data: a\x0bb\x0cc\x1cd\x85e\xe2\x80\xa8f\n\n", b"a\x0bb\x0cc\x1cd\x85e\xe2\x80\xa8f"),
        (b"data: unfinished", b"unfinished"),
    ],
)
def test_the_data_of_an_event(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


@given(
    st.lists(
        st.sampled_from([b"data: ", b"data:", b"data", b"x", b":", b"\n", b"\n\n", b"\r", b"\r\n"])
    ).map(b"".join)
)
def test_what_is_common_is_read_as_all_else(block: bytes) -> None:
    """Each has a short way for events of one line: it comes to what the format says."""
    ends = [end.end() for end in re.finditer(rb"(?:\n|\r\n?+)(?:\n|\r\n?+)+", block)]
    starts = [0, *ends]
    cut = [block[start:end] for start, end in zip(starts, [*ends, len(block)], strict=True)]
    lines = [line for line in block.splitlines() if line == b"data" or line.startswith(b"data:")]
    said = b"\n".join(line[5:].removeprefix(b" ") for line in lines)

    assert list(events(block)) == [event for event in cut if event]
    assert data_of(block) == (said if lines else None)
