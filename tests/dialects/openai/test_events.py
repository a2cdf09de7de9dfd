from json import JSONDecoder

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.call import Operation
from llmrouter.contracts.dialect import MalformedEvent
from llmrouter.dialects.openai.events import NOT_PLAIN, is_end, is_malformed, plain_count
from llmrouter.dialects.openai.taps import CompletionTap, ResponseTap
from llmrouter.http1 import sse
from tests.dialects.openai import written
from tests.dialects.recorded import call

walk = msgspec.json.Decoder(msgspec.Raw).decode

CHUNK = (
    b'{"id":"x","choices":[{"index":0,"delta":{"content":"a\\nb\\u00e9"},"p":-1.5e-3}],"u":null}'
)


def is_read(data: bytes) -> bool:
    """By a reader that is not ours, and that SDKs use."""
    try:
        JSONDecoder().decode(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return False
    return True


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """JSON that was truncated, or had bytes changed, taken out and put in; or not at all."""
    source = draw(st.randoms(use_true_random=False))
    text = bytearray(draw(st.sampled_from([CHUNK, written.value(draw(written.values), source)])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        match draw(st.sampled_from(["cut", "change", "drop", "add"])):
            case "cut":
                del text[at:]
            case "change":
                text[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "drop":
                del text[at : at + draw(st.integers(1, 5))]
            case _:
                text[at:at] = draw(
                    st.sampled_from(
                        [b"NaN", b"}", b"]", b",", b"0", b'"', b"\\", b"\xff", b"\\ud800"]
                    )
                )
    return bytes(text)


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """Some events, spoiled or not, written as the format allows."""
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    block = b""
    for data in draw(st.lists(spoiled(), min_size=1, max_size=3)):
        block += draw(st.sampled_from([b"", b": ping" + end, b"event: x" + end, b"data" + end]))
        block += draw(st.sampled_from([b"data: ", b"data:"])) + data + end + end
    return block


@given(spoiled())
def test_malformed_is_what_another_reader_of_json_does_not_read(data: bytes) -> None:
    assert is_malformed(data) is (bool(data) and not is_end(data) and not is_read(data))


@given(blocks())
def test_a_plain_block_has_no_event_that_is_malformed_or_the_end(block: bytes) -> None:
    data = [sse.data_of(event) or b"" for event in sse.events(block)]

    plain = plain_count(walk, block)
    if plain != NOT_PLAIN:
        assert all(map(is_read, filter(None, data)))
        assert not any(map(is_end, data))
        assert plain == sum(map(bool, data))


@given(blocks())
def test_a_tap_refuses_just_what_another_reader_does_not_read(block: bytes) -> None:
    sound = b""
    for event in sse.events(block):
        data = sse.data_of(event)
        if data and not is_read(data):
            break
        sound += event
    for tap in (
        CompletionTap(call(Operation.CHAT, wants_usage=True)),
        ResponseTap(call(Operation.RESPONSE)),
    ):
        if sound == block:
            assert tap.feed(block) == block
            assert tap.events == sum(bool(sse.data_of(event)) for event in sse.events(block))
            continue
        with pytest.raises(MalformedEvent) as caught:
            tap.feed(block)
        assert caught.value.sound == sound


@pytest.mark.parametrize("cut", range(1, len(CHUNK)))
def test_an_event_cut_anywhere_is_malformed(cut: int) -> None:
    assert is_malformed(CHUNK[:cut])
    assert plain_count(walk, b"data: " + CHUNK[:cut] + b"\n\n") == NOT_PLAIN


@pytest.mark.parametrize(
    ("block", "plain"),
    [
        (b"data: {}\n\n", 1),
        (b"data:{}\n\ndata: [1]\r\n\r\n", 2),
        (b"event: x\nid: 7\ndata: {}\n\n", 1),
        (b"data: {}\r\rdata: {}\n\n\n\n: x\n\n", 2),
        (b": a comment\n\n", 0),
        (b"", 0),
        (b"data: {\ndata: }\n\n", NOT_PLAIN),
        (b"data: {}\ndata: {}\n\n", NOT_PLAIN),
        (b"data: {}\ndata\n\n", NOT_PLAIN),
        (b"data: [DONE]\n\n", NOT_PLAIN),
        (b"data: {}\n\ndata: [DONE]\n\n", NOT_PLAIN),
        (b"data:\n\n", NOT_PLAIN),
        (b"data: NaN\n\n", NOT_PLAIN),
    ],
)
def test_a_block_is_plain_where_each_event_has_one_line_of_json(block: bytes, plain: int) -> None:
    assert plain_count(walk, block) == plain


def test_what_the_walk_does_not_take_is_not_plain() -> None:
    class Silent(msgspec.Struct):
        usage: None = None

    silent = msgspec.json.Decoder(Silent).decode

    assert plain_count(silent, b'data: {"usage":null}\n\n') == 1
    assert plain_count(silent, b'data: {"usage":{}}\n\n') == NOT_PLAIN


@pytest.mark.parametrize(
    ("data", "ends"),
    [(b"[DONE]", True), (b"[DONE] bye", True), (b" [DONE]", False), (b'"[DONE]"', False)],
)
def test_the_end_marker_begins_its_event(data: bytes, ends: bool) -> None:
    assert is_end(data) is ends
    assert not (ends and is_malformed(data))
