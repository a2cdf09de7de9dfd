import pytest

from llmrouter.daemon.demo.directives import NONE, Directives
from llmrouter.daemon.demo.faults import (
    body_of,
    breaks_framing,
    events_of,
    pings,
    settled,
    spoiled_body,
    spoiled_stream,
)
from llmrouter.daemon.demo.shapes import ERROR, Answer, encode

EVENTS = [b'data: {"n":%d}\n\n' % number for number in range(9)]
LAST = b"data: [DONE]\n\n"
FAILED = b"data: %b\n\n" % encode(ERROR)


def stream(directives: Directives) -> list[bytes]:
    return list(events_of(Answer(events=iter(EVENTS)), directives))


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        (NONE, [*EVENTS, LAST]),
        (Directives(no_done=True), EVENTS),
        (Directives(cut=0), []),
        (Directives(cut=3), EVENTS[:3]),
        (Directives(stall=3), EVENTS[:3]),
        (Directives(cut=100), EVENTS),
        (Directives(cut=2, stall=4), EVENTS[:2]),
        (Directives(error_event=0), [FAILED]),
        (Directives(error_event=3), [*EVENTS[:3], FAILED]),
        (Directives(error_event=100), [*EVENTS, FAILED]),
        (Directives(error_event=2, cut=2), EVENTS[:2]),
        (Directives(error_event=2, no_done=True), [*EVENTS[:2], FAILED]),
        (Directives(drip=True), [*EVENTS, LAST]),
    ],
)
def test_a_stream_has_the_events_that_were_asked_for(
    directives: Directives, expected: list[bytes]
) -> None:
    assert stream(directives) == expected


def test_one_event_is_malformed_and_the_others_are_not() -> None:
    events = stream(Directives(malformed=2))

    assert events[2] == b"data: {\n\n"
    assert events[:2] + events[3:] == [*EVENTS[:2], *EVENTS[3:], LAST]


def test_what_comes_after_a_cut_is_never_made() -> None:
    events = iter(EVENTS)

    list(events_of(Answer(events=events), Directives(cut=3)))

    assert list(events) == EVENTS[3:]


def test_a_malformed_body_lacks_its_second_half() -> None:
    assert body_of(Answer(b"12345678"), Directives(malformed=5)) == b"1234"
    assert body_of(Answer(b"12345678"), NONE) == b"12345678"


def test_a_body_may_be_an_error() -> None:
    assert body_of(Answer(b"12345678"), Directives(error_event=5)) == encode(ERROR)


def test_where_the_text_begins_the_answer_knows() -> None:
    answer = Answer(events=iter(EVENTS), announced=2)

    assert settled(Directives(role_cut=True, gap=1.0), answer) == Directives(
        role_cut=True, gap=1.0, cut=2
    )
    assert settled(NONE, answer) is NONE


def test_pings_are_comments() -> None:
    assert list(pings(Directives(ping=2))) == [b": ping\n\n"] * 2
    assert list(pings(NONE)) == []


@pytest.mark.parametrize(
    ("directives", "breaks"),
    [
        (NONE, False),
        (Directives(malformed=1, no_done=True, gap=1.0), False),
        (Directives(cut=0), True),
        (Directives(stall=0), True),
        (Directives(drip=True), True),
    ],
)
def test_only_some_faults_break_the_framing(directives: Directives, breaks: bool) -> None:
    assert breaks_framing(directives) is breaks


@pytest.mark.parametrize(
    ("directives", "sent", "stays_open"),
    [
        (Directives(cut=5), b"1234", False),
        (Directives(stall=5), b"1234", True),
        (Directives(drip=True), b"12345678", False),
    ],
)
def test_a_spoiled_body_promises_all_of_itself(
    directives: Directives, sent: bytes, stays_open: bool
) -> None:
    spoiled = spoiled_body(b"12345678", directives)

    assert spoiled.framing == b"content-length: 8\r\n"
    assert b"".join(spoiled.pieces) == sent
    assert spoiled.stays_open is stays_open


@pytest.mark.parametrize(
    ("directives", "end"),
    [
        (Directives(cut=5), b"1"),
        (Directives(stall=5), b"1"),
        (Directives(drip=True), b"0\r\n\r\n"),
        (Directives(drip=True, no_done=True), b"0\r\n\r\n"),
    ],
)
def test_a_spoiled_stream_is_in_chunks_and_only_a_whole_one_has_the_last(
    directives: Directives, end: bytes
) -> None:
    spoiled = spoiled_stream(iter([b"a\n\n", b"bc"]), directives)

    assert spoiled.framing == b"transfer-encoding: chunked\r\n"
    assert b"".join(spoiled.pieces) == b"3\r\na\n\n\r\n2\r\nbc\r\n" + end


def test_a_drip_is_a_byte_at_a_time() -> None:
    pieces = list(spoiled_stream(iter(EVENTS), Directives(drip=True)).pieces)

    assert {len(piece) for piece in pieces} == {1}
