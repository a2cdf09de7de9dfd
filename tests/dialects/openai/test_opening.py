import pytest

from llmrouter.contracts.call import Objection, Operation
from llmrouter.contracts.dialect import RefusedInStream
from llmrouter.dialects.openai.opening import opens
from llmrouter.errors import UpstreamError


def event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


def delta(members: bytes, *, rest: bytes = b'"finish_reason":null') -> bytes:
    return b'{"id":"x","choices":[{"index":0,"delta":%b,%b}]}' % (members, rest)


def text(said: bytes, *, rest: bytes = b'"finish_reason":null') -> bytes:
    return b'{"id":"x","choices":[{"index":0,"text":"%b",%b}]}' % (said, rest)


NOT_YET = [
    delta(b'{"role":"assistant","content":""}'),
    delta(b'{"role":"assistant","content":null,"refusal":null,"tool_calls":[],"audio":{}}'),
    delta(b'{"role":"assistant"}'),
    delta(b'{"role":"assistant","channel":"analysis"}'),
    delta(b'{"content":""}', rest=b'"finish_reason":""'),
    delta(b"{}", rest=b'"logprobs":null'),
    delta(b"null"),
    text(b""),
    b'{"choices":[]}',
    b'{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}',
    b'{"choices":[],"usage":{"prompt_tokens":3}}',
    b'{"choices":null,"usage":{"prompt_tokens":3}}',
    b'{"usage":{"prompt_tokens":3}}',
    b'{"choices":[],"error":null}',
    b'{"choices":[{"delta":{"role":"assistant"}},{"delta":{"role":"assistant"}}]}',
    b'{"choices":[{"delta":{"role":"assistant"},"logprobs":NaN}]}',
]
ANSWERS = [
    delta(b'{"content":"h"}'),
    delta(b'{"role":"assistant","content":" "}'),
    delta(b'{"content":["h"]}'),
    delta(b'{"tool_calls":[{"index":0}]}'),
    delta(b'{"function_call":{"name":"f"}}'),
    delta(b'{"refusal":"no"}'),
    delta(b'{"reasoning_content":"hm"}'),
    delta(b'{"reasoning":"hm"}'),
    delta(b'{"audio":{"id":"a"}}'),
    delta(b'{"unheard_of":1}'),
    delta(b"{}", rest=b'"finish_reason":"stop"'),
    delta(b"null", rest=b'"finish_reason":"stop"'),
    text(b"h"),
    text(b"", rest=b'"finish_reason":"length"'),
    b'{"choices":[{"delta":{}},{"delta":{"content":"h"}}]}',
    b'{"choices":[{"delta":{"content":"h"},"logprobs":NaN}]}',
    b"[DONE]",
    # of shapes that we do not know
    b'{"choices":[{"message":{"content":"h"}}]}',
    b'{"choices":{"0":{}}}',
    b'{"choices":[{"delta":"h"}]}',
    b'{"text":"h"}',
    b'["h"]',
    b'"h"',
]


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETION])
@pytest.mark.parametrize("data", NOT_YET)
def test_an_announcement_does_not_open(operation: Operation, data: bytes) -> None:
    assert not opens(operation, event(data))
    assert not opens(operation, event(data) + b": ping\n\n" + event(data))
    assert opens(operation, event(data) + event(delta(b'{"content":"h"}')))


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETION])
@pytest.mark.parametrize("data", ANSWERS)
def test_the_answer_and_whatever_we_do_not_know_opens(operation: Operation, data: bytes) -> None:
    assert opens(operation, event(data))
    assert opens(operation, b": ping\n\n" + event(NOT_YET[0]) + event(data))


@pytest.mark.parametrize("block", [b"", b": ping\n\n", b"event: x\n\n", b"data:\n\n", b"id: 1\n\n"])
@pytest.mark.parametrize("operation", list(Operation))
def test_an_event_without_data_does_not_open(operation: Operation, block: bytes) -> None:
    assert not opens(operation, block)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (b"response.created", False),
        (b"response.queued", False),
        (b"response.in_progress", False),
        (b"response.output_item.added", False),
        (b"response.content_part.added", False),
        (b"response.reasoning_summary_part.added", False),
        (b"keepalive", False),
        (b"response.output_text.delta", True),
        (b"response.function_call_arguments.delta", True),
        (b"response.reasoning_summary_text.delta", True),
        (b"response.refusal.delta", True),
        (b"response.web_search_call.in_progress", True),
        (b"response.output_item.done", True),
        (b"response.completed", True),
        (b"response.incomplete", True),
        (b"response.unheard_of", True),
    ],
)
def test_a_response_opens_at_whatever_does_not_announce_it(kind: bytes, expected: bool) -> None:
    said = event(b'{"type":"%b","response":{"error":null},"error":null}' % kind)

    assert opens(Operation.RESPONSE, b"event: x\n" + said) is expected


@pytest.mark.parametrize("data", [b"{}", b'{"type":7}', b"[]", b"[DONE]"])
def test_a_response_of_a_shape_that_we_do_not_know_opens(data: bytes) -> None:
    assert opens(Operation.RESPONSE, event(data))


CODE = b"context_length_exceeded"
REFUSALS = [
    (Operation.CHAT, b'{"error":{"message":"no","code":"%b"}}' % CODE),
    (Operation.CHAT, b'{"choices":[],"error":{"code":"%b"}}' % CODE),
    (Operation.COMPLETION, b'{"error":{"code":400,"type":"exceed_context_size_error"}}'),
    (Operation.RESPONSE, b'{"type":"error","code":"%b","message":"no"}' % CODE),
    (Operation.RESPONSE, b'{"type":"error","error":{"code":"%b"}}' % CODE),
    (Operation.RESPONSE, b'{"type":"response.failed","response":{"error":{"code":"%b"}}}' % CODE),
    (Operation.RESPONSE, b'{"error":{"code":"%b"}}' % CODE),
]


@pytest.mark.parametrize(("operation", "data"), REFUSALS)
def test_an_error_before_the_answer_is_a_refusal_that_says_why(
    operation: Operation, data: bytes
) -> None:
    for code, why in ((CODE, Objection.CONTEXT_LENGTH), (b"server_error", None)):
        said = data.replace(b"exceed_context_size_error", code).replace(CODE, code)

        with pytest.raises(RefusedInStream) as caught:
            opens(operation, b": ping\n\n" + event(said))

        assert caught.value.objection is why


@pytest.mark.parametrize(
    "data", [b'{"choices":[', b"x", b'{"choices":7', b'{"type":"response.created"']
)
@pytest.mark.parametrize("operation", list(Operation))
def test_a_malformed_event_before_the_answer_is_refused(operation: Operation, data: bytes) -> None:
    with pytest.raises(UpstreamError, match="not whole JSON"):
        opens(operation, event(data))


def test_what_comes_behind_the_beginning_is_not_looked_at() -> None:
    """It is the tap's."""
    begun = event(delta(b'{"content":"h"}'))

    assert opens(Operation.CHAT, begun + event(b"{"))
    assert opens(Operation.CHAT, begun + event(b'{"error":{}}'))
