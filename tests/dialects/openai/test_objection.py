import msgspec
import pytest

from llmrouter.contracts.call import Objection
from llmrouter.dialects.openai.objection import is_filtered, objection

TOO_LONG, FILTERED = Objection.CONTEXT_LENGTH, Objection.CONTENT_FILTER
NESTED = '{"error":{"code":"content_filter","type":"invalid_request_error"}}'


def encoded(value: object) -> bytes:
    return msgspec.json.encode(value)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ({"code": "context_length_exceeded", "type": "invalid_request_error"}, TOO_LONG),
        ({"code": 400, "type": "exceed_context_size_error", "n_ctx": 8192}, TOO_LONG),
        ({"code": "content_filter", "param": "prompt", "type": None, "status": 400}, FILTERED),
        ({"code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}, FILTERED),
        ({"code": "content_policy_violation"}, FILTERED),
        ({"code": "invalid_prompt"}, FILTERED),
        ({"code": "data_inspection_failed", "type": "data_inspection_failed"}, FILTERED),
        ({"type": "content_filter"}, FILTERED),
        ({"code": 400, "metadata": {"raw": NESTED, "provider_name": "x"}}, FILTERED),
        # neither
        ({"code": "invalid_api_key"}, None),
        ({"code": 400, "type": "BadRequestError"}, None),
        ({"code": ["content_filter"], "type": {}}, None),
        ({"code": None, "type": None}, None),
        ({"message": "context_length_exceeded", "param": "content_filter"}, None),
        ({"message": "This model's maximum context length is 8192 tokens"}, None),
        ({"metadata": {"raw": "content_filter"}}, None),
        ({"metadata": {"raw": '{"code":"content_filter"'}}, None),
        ({}, None),
    ],
)
def test_a_code_tells_why(error: dict[str, object], why: Objection | None) -> None:
    """By codes alone: words of a message change, and may be the caller's own."""
    assert objection(encoded({"error": error})) is why
    assert objection(encoded([{"error": error}])) is why
    assert objection(encoded({"error": {"error": error}})) is why
    assert objection(encoded({"detail": encoded({"error": error}).decode()})) is why
    assert objection(encoded({"object": "error", **error})) is why


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'"content_filter"',
        b"<html>content_filter</html>",
        b'{"error":"context_length_exceeded"}',
        b'{"messages":[{"code":"content_filter"}]}',
        b"[" * 100_000,
        b'{"error":' * 50 + b'{"code":"content_filter"}' + b"}" * 50,
        b"[" + b"{}," * 100 + b'{"code":"content_filter"}]',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_other_bodies_tell_nothing(body: bytes) -> None:
    assert objection(body) is None


def test_the_outermost_code_counts() -> None:
    inner = {"code": "content_filter"}
    error = {"code": "context_length_exceeded", "innererror": inner}

    assert objection(encoded({"error": error})) is TOO_LONG


def test_what_is_not_quite_json_is_read() -> None:
    assert objection(b'{"error":{"x":NaN,"y":"\xff","code":"content_filter"}}') is FILTERED


@pytest.mark.parametrize(
    ("body", "filtered"),
    [
        (b'{"choices":[{"finish_reason":"content_filter"}]}', True),
        (b'{"choices":[{"finish_reason":"stop"},{"finish_reason":"content_filter"}]}', True),
        (b'{"choices":[{"x":NaN,"finish_reason":"content_filter"}]}', True),
        (
            b'{"status":"incomplete","incomplete_details":{"reason":"content_filter"},"output":[]}',
            True,
        ),
        (b'{"incomplete_details":{"reason":"max_output_tokens"},"x":"content_filter"}', False),
        (b'{"incomplete_details":null,"x":"content_filter"}', False),
        (
            b'{"choices":[{"finish_reason":"stop","content_filter_results":{},'
            b'"message":{"content":"content_filter"}}]}',
            False,
        ),
        (b'{"choices":[{"finish_reason":null}],"x":"content_filter"}', False),
        (b'{"choices":"content_filter"}', False),
        (b'{"choices":[{"finish_reason":"stop"}]}', False),
        (b"content_filter", False),
        (b"", False),
    ],
)
def test_an_answer_says_that_it_was_filtered(body: bytes, filtered: bool) -> None:
    assert is_filtered(body) is filtered
