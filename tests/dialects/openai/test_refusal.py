from collections.abc import Callable, Iterator

import httpx2
import openai
import pytest

from llmrouter.dialects.openai import refusal
from llmrouter.errors import (
    CODES,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RouterError,
    UpstreamError,
)

SDK_ERRORS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    405: openai.APIStatusError,
    408: openai.APIStatusError,
    413: openai.APIStatusError,
    431: openai.APIStatusError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}
TYPES = {401: "authentication_error", 403: "permission_error"}
"""By status; any other is the client's fault below 500, and not from there on."""

CHUNK = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
)
DELTA = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","item_id":"i","output_index":0,'
    b'"content_index":0,"delta":"hi","sequence_number":1,"logprobs":[]}\n\n'
)


def client(status: int, body: bytes, content_type: str = "application/json") -> openai.OpenAI:
    """The official SDK, in front of an answer."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": content_type}, content=body)

    return openai.OpenAI(
        api_key="k",
        base_url="http://router.test/v1",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
    )


def stream(events: bytes) -> openai.OpenAI:
    return client(200, events, "text/event-stream; charset=utf-8")


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.code)
def test_the_sdk_raises_its_own_class_for_each_of_our_errors(kind: type[RouterError]) -> None:
    """FR-007: an unmodified client understands why."""
    error = kind("what was wrong; what to do", param="model", retry_after_s=3)
    body = refusal.error_body(error, "req-1")

    with client(kind.status, body) as sdk, pytest.raises(SDK_ERRORS[kind.status]) as caught:
        sdk.chat.completions.create(model="m", messages=[])

    raised = caught.value
    assert raised.status_code == kind.status
    assert "what was wrong; what to do" in raised.message
    assert (raised.code, raised.param) == (kind.code, "model")
    other = "server_error" if kind.status >= 500 else "invalid_request_error"
    assert raised.type == TYPES.get(kind.status, other)
    assert isinstance(raised.body, dict)
    assert (raised.body["request_id"], raised.body["retry_after_s"]) == ("req-1", 3)


class _Throttled(RouterError):
    status, code = 429, "rate_limit_exceeded"


class _OverBudget(RouterError):
    status, code = 402, "insufficient_quota"


@pytest.mark.parametrize(
    ("kind", "said"), [(_Throttled, "rate_limit_error"), (_OverBudget, "insufficient_quota")]
)
def test_limits_and_budgets_have_types_of_their_own(kind: type[RouterError], said: str) -> None:
    """FR-003."""
    body = refusal.error_body(kind("too much"), "req-1")

    with client(kind.status, body) as sdk, pytest.raises(openai.APIStatusError) as caught:
        sdk.models.list()

    assert (caught.value.type, caught.value.code) == (said, kind.code)


def test_the_members_that_sdks_read_are_there_also_when_empty() -> None:
    body = refusal.error_body(InvalidRequest("no"), "req-1")

    assert body == (
        b'{"error":{"message":"no","type":"invalid_request_error","param":null,'
        b'"code":"invalid_request","request_id":"req-1"}}'
    )


def chat_stream(sdk: openai.OpenAI) -> Iterator[object]:
    return iter(sdk.chat.completions.create(model="m", messages=[], stream=True))


def completion_stream(sdk: openai.OpenAI) -> Iterator[object]:
    return iter(sdk.completions.create(model="m", prompt="", stream=True))


def response_stream(sdk: openai.OpenAI) -> Iterator[object]:
    return iter(sdk.responses.create(model="m", input="", stream=True))


@pytest.mark.parametrize("opened", [chat_stream, completion_stream])
@pytest.mark.parametrize("rest", [b"", b"data: [DONE]\n\n"], ids=["cut", "done"])
def test_the_sdk_raises_in_the_middle_of_a_stream_of_completions(
    opened: Callable[[openai.OpenAI], Iterator[object]], rest: bytes
) -> None:
    """A cut answer is never passed off as whole."""
    event = refusal.completion_error_event(UpstreamError("the upstream broke off"), "req-1")

    with stream(CHUNK + event + rest) as sdk:
        chunks = opened(sdk)
        next(chunks)
        with pytest.raises(openai.APIError, match="the upstream broke off") as caught:
            next(chunks)

    assert caught.value.code == "upstream_error"


def test_the_sdk_raises_in_the_middle_of_a_stream_of_a_response() -> None:
    event = refusal.response_error_event(
        UpstreamError("the upstream broke off", param="p"), "req-1"
    )

    with stream(DELTA + event) as sdk:
        events = response_stream(sdk)
        next(events)
        with pytest.raises(openai.APIError, match="the upstream broke off") as caught:
            next(events)

    assert (caught.value.code, caught.value.param) == ("upstream_error", "p")


def test_the_error_event_of_a_response_has_the_shape_of_the_api_too() -> None:
    """Clients that do not look for `error` look for this."""
    event = refusal.response_error_event(Overloaded("full", retry_after_s=1), "req-1")

    assert event == (
        b"event: error\n"
        b'data: {"type":"error","code":"overloaded","message":"full","param":null,'
        b'"error":{"message":"full","type":"server_error","param":null,"code":"overloaded",'
        b'"request_id":"req-1","retry_after_s":1}}\n\n'
    )


@pytest.mark.parametrize("make", [refusal.completion_error_event, refusal.response_error_event])
def test_no_message_can_break_out_of_its_event(make: Callable[[RouterError, str], bytes]) -> None:
    event = make(ModelNotFound("x\n\ndata: [DONE]\r\n\r\n\x00"), "req-1")

    assert event.count(b"\n\n") == 1
    assert b"\r" not in event
    assert b"\x00" not in event
