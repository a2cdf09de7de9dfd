import pytest

from llmrouter.contracts.call import Usage
from llmrouter.dialects.openai.answer import read_usage, read_usage_tail
from llmrouter.errors import UpstreamError

USAGE = b'{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}'
READ = Usage(prompt_tokens=3, output_tokens=5)


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


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"overloaded","code":502}}',
        b'{"error":"overloaded"}',
        b'{"id":"x","error":{"message":"no"},"usage":{"prompt_tokens":1}}',
    ],
)
def test_an_error_behind_a_status_of_success_is_no_answer(body: bytes) -> None:
    with pytest.raises(UpstreamError, match="an error, though its status says success"):
        read_usage(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"object":"response","status":"failed","error":{"code":"server_error"}}',
        b'{"choices":[{"message":{}}],"error":{"code":"odd"}}',
        b'{"error":null}',
    ],
)
def test_an_answer_may_have_an_error_beside_what_it_says(body: bytes) -> None:
    assert read_usage(body) is None
