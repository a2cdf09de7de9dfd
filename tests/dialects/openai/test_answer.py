import pytest

from llmrouter.contracts.call import Operation, Usage
from llmrouter.dialects.openai.answer import (
    CompletionTap,
    ResponseTap,
    read_usage,
    read_usage_tail,
)
from llmrouter.errors import UpstreamError
from tests.dialects.recorded import call

USAGE = b'{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}'
READ = Usage(prompt_tokens=3, output_tokens=5)

DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}\n\n'
USAGE_EVENT = b'data: {"id":"x","choices":[],"usage":' + USAGE + b"}\n\n"
DONE = b"data: [DONE]\n\n"


def chat(*, wants_usage: bool = False) -> CompletionTap:
    return CompletionTap(call(Operation.CHAT, wants_usage=wants_usage))


def responses() -> ResponseTap:
    return ResponseTap(call(Operation.RESPONSE))


# ---- plain answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"usage":' + USAGE + b"}", READ),
        (b' {"choices":[{"usage":1}],\n"usage" : ' + USAGE + b',"x":1} \r\n', READ),
        (b'{"choices":[]}', None),
        (b'{"usage":null}', None),
        (b'{"usage":{}}', None),
        (b'{"usage":[1]}', None),
        (b'{"usage":"none"}', None),
        (b'{"usage":{"prompt_tokens":null,"completion_tokens":null}}', None),
        (b'{"usage":{"prompt_tokens":3.0,"completion_tokens":5.0}}', READ),
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":5,"x":"\xff"}}', READ),
        (
            b'{"usage":{"prompt_tokens":3,"completion_tokens":%d}}' % (10**13),
            Usage(prompt_tokens=3),
        ),
        (b"{}", None),
        (b"[]", None),
        (b"null", None),
        (b'"text"', None),
        # not quite JSON, but read by SDKs
        (b'{"logprob":-Infinity,"usage":' + USAGE + b"}", READ),
        (b'{"logprob":NaN,"usage":' + USAGE + b"}", READ),
        (b'{"content":"\\ud83d","usage":' + USAGE + b"}", READ),
        (b'\xef\xbb\xbf{"usage":' + USAGE + b"}", READ),
    ],
)
def test_usage_of_a_plain_answer(body: bytes, usage: Usage | None) -> None:
    """FR-004, and what the upstream was paid for is not thrown away for a detail."""
    assert read_usage(body) == usage


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b" ",
            b"{",
            b'{"usage":',
            b'{"usage":' + USAGE,
            b'{"a":1}{"usage":1}',
            b"[1",
            b'"te',
        ),
        *(b'{"a":1}\n{"a":1}', b'{"a":1}x', b'{"a":1}\x00', b"<html></html>", b"Internal error"),
        b"data: " + USAGE,
        b'{"usage":"none"',
        b'{"usage":{"prompt_tokens":1.5',
        b'{"usage":{"prompt_tokens":1.5}}}',
        b'{"logprob":NaN,"usage":' + USAGE,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"usage":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_not_one_whole_answer_is_refused(body: bytes) -> None:
    """A cut answer is never passed off as whole."""
    with pytest.raises(UpstreamError, match="not whole JSON"):
        read_usage(body)


@pytest.mark.parametrize(
    "usage",
    [b'{"prompt_tokens":3.0}', b'{"cost":"much"}', b'"none"', b"[1,2]", b'{"prompt_tokens":-1}'],
)
def test_usage_of_an_odd_shape_does_not_make_a_cut_answer_whole(usage: bytes) -> None:
    whole = b'{"choices":[{"x":"y"}],"usage":' + usage + b',"z":[{}]}'
    read_usage(whole)
    for cut in range(len(whole)):
        with pytest.raises(UpstreamError):
            read_usage(whole[:cut])


@pytest.mark.parametrize(
    ("tail", "usage"),
    [
        (b'ext"}],"usage":' + USAGE + b"}", READ),
        (b'ext"}],"usage":' + USAGE + b',"service_tier":"default","fingerprint":null}\n', READ),
        (b'ext"}],"usage" : ' + USAGE + b" }", READ),
        (b'ext"}],"usage":' + USAGE + b',"kind":"usage"}', READ),
        (
            b'"choices":[{"usage":1}],"usage":' + USAGE + b',"x":{"usage":{"prompt_tokens":99}}}',
            READ,
        ),
        (b'ext \\"usage\\": 1"}],"usage":' + USAGE + b"}", READ),
        (b'"x":{"usage":' + USAGE + b"}}", None),
        (b'"x":[{"usage":' + USAGE + b"}]}", None),
        (b'"usage":null}', None),
        (b'"usage":{}}', None),
        (b'"usage":{"prompt_tok', None),
        (b'"usage":' + USAGE, None),
        (b'sage":' + USAGE + b"}", None),
        (b"", None),
        (b'"usage"' * 500, None),
        (b'"usage":' + b"[" * 4000, None),
    ],
)
def test_usage_of_a_tail(tail: bytes, usage: Usage | None) -> None:
    """FR-004: an answer too long to be held is counted all the same."""
    assert read_usage_tail(tail) == usage


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
        b"data: x\ndata: [DONE]\n\n",
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

    with pytest.raises(UpstreamError, match="not whole JSON"):
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


def test_only_the_end_of_a_response_is_looked_into() -> None:
    """What else may be wrong in a block is for the caller to see."""
    tap = responses()
    block = b'data: {"cut\n\n' + event_of(b"response.completed", b"{}") + DONE

    assert tap.feed(block) == block
    assert tap.complete


def test_a_cut_end_of_a_response_is_refused() -> None:
    with pytest.raises(UpstreamError, match="not whole JSON"):
        responses().feed(b'data: {"type":"response.completed","response":{"usage":\n\n')
