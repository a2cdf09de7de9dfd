from collections.abc import Callable

import pytest

from llmrouter.contracts.call import Operation, Usage
from llmrouter.contracts.dialect import MalformedEvent
from llmrouter.dialects.openai.taps import CompletionTap, ResponseTap
from tests.dialects.recorded import call

Tap = CompletionTap | ResponseTap

USAGE = b'{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}'
READ = Usage(prompt_tokens=3, output_tokens=5)

DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}\n\n'
USAGE_EVENT = b'data: {"id":"x","choices":[],"usage":' + USAGE + b"}\n\n"
DONE = b"data: [DONE]\n\n"


def chat(*, wants_usage: bool = False) -> CompletionTap:
    return CompletionTap(call(Operation.CHAT, wants_usage=wants_usage))


def responses() -> ResponseTap:
    return ResponseTap(call(Operation.RESPONSE))


# ---- streams of completions ----------------------------------------------------------------------


def test_the_usage_event_goes_only_to_those_who_asked() -> None:
    for fed in (
        [DELTA, USAGE_EVENT, DONE],
        [DELTA + USAGE_EVENT + DONE],
        [DELTA + USAGE_EVENT, DONE],
    ):
        silent, asking = chat(), chat(wants_usage=True)

        assert b"".join(map(silent.feed, fed)) == DELTA + DONE
        assert b"".join(map(asking.feed, fed)) == DELTA + USAGE_EVENT + DONE
        assert silent.usage == asking.usage == READ
        assert silent.complete
        assert asking.complete


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"delta":{}}],"usage":' + USAGE + b"}\n\n",
        b'data: {"usage":' + USAGE + b',"choices":[{"delta":{"content":"last words"}}]}\n\n',
        b'data: {"usage":' + USAGE + b"}\n\n",
        b'data: {"choices":null,"usage":' + USAGE + b"}\n\n",
        b'data: {"choices":{},"usage":' + USAGE + b"}\n\n",
        b'data: {"choices":"","usage":' + USAGE + b"}\n\n",
        b'data: {"error":{"message":"out of memory"},"choices":[],"usage":' + USAGE + b"}\n\n",
        b': note\nid: 7\nevent: x\ndata: {"choices":[{}],"usage":' + USAGE + b"}\n\n",
    ],
)
def test_an_event_with_more_than_usage_passes_and_is_counted(event: bytes) -> None:
    """Some servers put usage beside the last words, or beside what went wrong."""
    tap = chat()

    assert tap.feed(event) == event
    assert tap.usage == READ


@pytest.mark.parametrize(
    "event",
    [
        b'data:{"choices":[],"usage":' + USAGE + b"}\n\n",
        b'data: {"choices": [ ], "usage": ' + USAGE + b"}\r\n\r\n",
        b'data: {"choices":[],\ndata: "usage":' + USAGE + b"}\n\n",
        b'id: 7\ndata: {"usage":' + USAGE + b',"choices":[]}\n\n',
        b'data: {"choices":[],"usage":' + USAGE + b',"sla_metrics":{"ttft_ms":1}}\n\n',
        b'data: {"choices":[],"error":null,"usage":' + USAGE + b"}\r\r",
        b'data: {"choices":[],"usage":{"prompt_tokens":3.0,"completion_tokens":5.0}}\n\n',
    ],
)
def test_the_usage_event_is_known_in_every_form(event: bytes) -> None:
    tap = chat()

    assert tap.feed(DELTA + event + DELTA) == DELTA + DELTA
    assert tap.usage == READ


@pytest.mark.parametrize("usage", [b'"odd"', b"{}", b'{"prompt_tokens":null}', b"[1]"])
def test_usage_that_cannot_be_read_is_taken_out_and_not_counted(usage: bytes) -> None:
    tap = chat()
    tap.feed(USAGE_EVENT)

    assert tap.feed(b'data: {"choices":[],"usage":' + usage + b"}\n\n") == b""
    assert tap.usage == READ


def test_the_last_usage_counts() -> None:
    """Some servers tell it with every event, growing."""
    tap = chat(wants_usage=True)
    for count in range(1, 6):
        event = (
            b'data: {"choices":[{}],"usage":{"prompt_tokens":3,"completion_tokens":%d}}\n\n' % count
        )
        assert tap.feed(event) == event

    assert tap.usage == READ


@pytest.mark.parametrize(
    "text",
    [
        b"[DONE]",
        b'\\"usage\\":{\\"prompt_tokens\\":1}',
        b"\\n\\ndata: [DONE]\\n\\n",
        b"\\u005bDONE\\u005d",
        b'{\\"choices\\":[],\\"usage\\":{}}',
    ],
)
def test_words_of_the_model_mean_nothing(text: bytes) -> None:
    """A model that is told to write the end marker ends nothing."""
    event = b'data: {"choices":[{"delta":{"content":"' + text + b'"}}],"usage":null}\n\n'
    tap = chat()

    assert tap.feed(event) == event
    assert tap.feed(DELTA + event) == DELTA + event
    assert not tap.complete
    assert tap.usage is None


def test_names_and_values_elsewhere_mean_nothing() -> None:
    choices = b'"choices":[{"usage":{"prompt_tokens":9}}]'
    event = b'data: {%b,"kind":"usage","x_groq":{"usage":{}}}\n\n' % choices
    tap = chat()

    assert tap.feed(event) == event
    assert tap.usage is None


@pytest.mark.parametrize(
    "end",
    [
        b"data: [DONE]\n\n",
        b"data:[DONE]\n\n",
        b"data: [DONE]\r\n\r\n",
        b"data: [DONE] \n\n",
        b"event: done\ndata: [DONE]\n\n",
        b"data: [DONE]\nid: 0123456789012345678901234567890\n\n",
        b"data: [DONE]\n\n: " + b"a long farewell " * 10 + b"\n\n",
        DELTA + b"data: [DONE]\n\n",
    ],
)
def test_the_end_is_known_in_every_form(end: bytes) -> None:
    tap = chat()

    assert tap.feed(end) == end
    assert tap.complete


@pytest.mark.parametrize(
    "event",
    [
        b": [DONE]\n\n",
        b": data: [DONE]\n\n",
        b"id: [DONE]\n\n",
        b"event: [DONE]\n\n",
        b'data: "[DONE]"\n\n',
        b'data: ["[DONE]"]\n\n',
        b"datum: [DONE]\n\n",
        b"data: 1\nid: [DONE]\n\n",
        b" data: [DONE]\n\n",
    ],
)
def test_what_looks_like_the_end_is_none(event: bytes) -> None:
    tap = chat()

    assert tap.feed(event) == event
    assert not tap.complete


def test_what_comes_behind_the_end_does_not_undo_it() -> None:
    tap = chat()
    tap.feed(DONE)

    assert tap.feed(b'data: {"content":"[DONE]"}\n\n') == b'data: {"content":"[DONE]"}\n\n'
    assert tap.complete


@pytest.mark.parametrize(
    "data",
    [b'{"usage":{"prompt_tokens":3', b'{"usage":1}}', b'{"choices":[],"usage":' + b"[" * 200_000],
    ids=lambda data: repr(data[:40]),
)
def test_an_event_with_usage_that_is_no_json_is_refused(data: bytes) -> None:
    tap = chat()
    tap.feed(USAGE_EVENT)

    with pytest.raises(MalformedEvent, match="not whole JSON"):
        tap.feed(b"data: " + data + b"\n\n")

    assert tap.usage == READ


@pytest.mark.parametrize("data", [b'["usage",1]', b'"usage"', b'{"usage":null,"x":"usage"}'])
def test_events_of_other_shapes_pass(data: bytes) -> None:
    tap = chat()

    assert tap.feed(b"data: " + data + b"\n\n") == b"data: " + data + b"\n\n"
    assert tap.usage is None


# ---- streams of responses ------------------------------------------------------------------------


def event_of(kind: bytes, response: bytes) -> bytes:
    return b'event: %b\ndata: {"type":"%b","response":%b}\n\n' % (kind, kind, response)


@pytest.mark.parametrize("end", [b"completed", b"incomplete", b"failed"])
def test_a_response_ends_in_one_of_three_ways(end: bytes) -> None:
    tap = responses()
    started = event_of(b"response.created", b'{"usage":null,"error":null}')
    ended = event_of(b"response." + end, b'{"usage":{"input_tokens":3,"output_tokens":5}}')

    complete = [(tap.feed(block) == block, tap.complete) for block in (started, ended + DONE)]

    assert complete == [(True, False), (True, True)]
    assert tap.usage == READ


@pytest.mark.parametrize("response", [b"{}", b'{"usage":null}', b'{"usage":"odd"}', b"null"])
def test_a_response_may_end_without_usage(response: bytes) -> None:
    tap = responses()
    ended = event_of(b"response.completed", response)

    assert tap.feed(ended) == ended
    assert tap.complete
    assert tap.usage is None


@pytest.mark.parametrize(
    "event",
    [
        b'event: error\ndata: {"type":"error","code":"x","message":"overloaded"}\n\n',
        b'data: {"type":"x.delta","delta":"\\"type\\":\\"response.completed\\""}\n\n',
        b'data: {"type":"response.output_text.delta","delta":"response.completed"}\n\n',
        b'data: {"type":"response.completed.not","response":{}}\n\n',
        b'data: {"type":["response.completed"],"response":{}}\n\n',
        b'data: {"type":"x","inner":{"type":"response.completed","response":{}}}\n\n',
        b'event: response.completed\ndata: {"type":"x","response":{}}\n\n',
        b': {"type":"response.completed","response":{}}\n\n',
        b'data: {"type":"response.completed","response":7}\n\n',
        b'data: "response"\n\n',
        DONE,
    ],
)
def test_what_is_not_the_end_of_a_response(event: bytes) -> None:
    """An error event passes, but does not make an answer whole."""
    tap = responses()

    assert tap.feed(event) == event
    assert not tap.complete
    assert tap.usage is None


# ---- events that nobody can read -----------------------------------------------------------------

BROKEN = [
    b"data: {\n\n",
    b'data: {"choices":[{"delta":{"content":"h\n\n',
    b'data: {"choices":[]}}\n\n',
    b'data: {"choices":[]}{"choices":[]}\n\n',
    b"data: {}\ndata: {}\n\n",
    b"data: x\ndata: [DONE]\n\n",
    b"data: out of memory\n\n",
    b"data: \x00\n\n",
    b'data: {"a":"\x01"}\n\n',
    b"data: {'a':1}\n\n",
    b'data: {"a":\r"b":1}\n\n',
    b'data: {"a":\n1}\n\n',
    b'event: x\ndata: {"type":"response.completed","response":{"usage":\n\n',
    b"data: " + b"[" * 200_000 + b"\n\n",
]
"""Some are whole to who knows nothing of lines: but only lines of data are data."""

over_taps = pytest.mark.parametrize("make", [chat, responses])


@over_taps
@pytest.mark.parametrize("event", BROKEN, ids=lambda event: repr(event[:40]))
def test_an_event_that_nobody_can_read_is_refused_and_what_is_before_it_passes(
    make: Callable[[], Tap], event: bytes
) -> None:
    tap = make()
    before = b": ping\n\n" + DELTA

    assert tap.feed(before) == before
    with pytest.raises(MalformedEvent, match="not whole JSON") as caught:
        tap.feed(before + event + DELTA)

    assert caught.value.sound == before
    assert not tap.complete


@pytest.mark.parametrize("wants_usage", [True, False])
def test_what_is_before_a_malformed_event_passes_as_ever(wants_usage: bool) -> None:
    tap = chat(wants_usage=wants_usage)

    with pytest.raises(MalformedEvent) as caught:
        tap.feed(DELTA + USAGE_EVENT + BROKEN[0] + DONE)

    assert caught.value.sound == DELTA + (USAGE_EVENT if wants_usage else b"")
    assert tap.usage == READ
    assert not tap.complete


@pytest.mark.parametrize("event", BROKEN[:3])
def test_behind_the_end_nobody_reads(event: bytes) -> None:
    """What follows a whole answer does not unmake it."""
    ended = event_of(b"response.completed", b'{"usage":{"input_tokens":3,"output_tokens":5}}')
    for tap, end in ((chat(), DONE), (responses(), ended)):
        assert tap.feed(DELTA + end + event) == DELTA + end + event
        assert tap.feed(event + DELTA) == event + DELTA
        assert tap.complete


ODD = [
    b'data: {"choices":[{"logprobs":NaN}]}\n\n',
    b'data: {"choices":[{"logprobs":-Infinity}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
    b'data: {"choices":[{"logprobs":1e999}]}\n\n',
    b"data\n\n",
    b"data:\n\n",
    b"data: 7\n\n",
    b"event: ping\n\n",
    b'data: {"choices":\ndata: []}\n\n',
    b'data: {"a":1}\rid: 1\r\r',
]


@over_taps
@pytest.mark.parametrize("event", ODD)
def test_what_readers_let_pass_is_not_cut(make: Callable[[], Tap], event: bytes) -> None:
    tap = make()

    assert tap.feed(event) == event
    assert tap.feed(DELTA + event + DELTA) == DELTA + event + DELTA


def test_usage_is_read_beside_what_is_odd() -> None:
    """FR-004."""
    tap = chat()
    event = b'data: {"choices":[],"x":[NaN,"\\ud83d"],"usage":' + USAGE + b"}\n\n"

    assert tap.feed(DELTA + event + DELTA) == DELTA + DELTA
    assert tap.usage == READ


def test_a_response_ends_beside_what_is_odd() -> None:
    tap = responses()
    odd = b'{"x":[Infinity,"\\ud83d"],"usage":{"input_tokens":3,"output_tokens":5}}'
    tap.feed(event_of(b"response.completed", odd))

    assert tap.complete
    assert tap.usage == READ
