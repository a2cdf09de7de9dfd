from collections.abc import Callable, Iterator

import httpx2
import openai
import pytest

from llmrouter.dialects.openai import refusal
from llmrouter.errors import (
    CODES,
    InsufficientQuota,
    InvalidRequest,
    LimitState,
    ModelNotFound,
    Overloaded,
    QuotaHeld,
    QuotaRefused,
    RateLimitExceeded,
    RouterError,
    UpstreamError,
)

SDK_ERRORS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    402: openai.APIStatusError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    405: openai.APIStatusError,
    408: openai.APIStatusError,
    413: openai.APIStatusError,
    429: openai.RateLimitError,
    431: openai.APIStatusError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}
TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
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


SPENT = LimitState(
    scope="team",
    name="research",
    kind="usd",
    limit=5,
    per="month",
    used=5.001,
    resets_at="2026-11-01T00:00:00Z",
)
FULL = LimitState(
    scope="key",
    name="3fQ9xW2LbT0c",
    kind="concurrent",
    limit=2,
    per=None,
    model="gpt-4o*",
    used=2,
    resets_at=None,
)
TOLD = {
    "spent": {
        "scope": "team",
        "name": "research",
        "kind": "usd",
        "limit": 5,
        "per": "month",
        "used": 5.001,
        "resets_at": "2026-11-01T00:00:00Z",
    },
    "full": {
        "scope": "key",
        "name": "3fQ9xW2LbT0c",
        "kind": "concurrent",
        "limit": 2,
        "per": None,
        "model": "gpt-4o*",
        "used": 2,
        "resets_at": None,
    },
}
over_limits = pytest.mark.parametrize(
    ("error", "told"),
    [
        (InsufficientQuota("5 of 5 USD are spent", limit=SPENT), TOLD["spent"]),
        (QuotaHeld("wait for your calls", limit=FULL, retry_after_s=1), TOLD["full"]),
    ],
    ids=TOLD,
)


def said_of_limit(error: openai.APIError) -> object:
    assert isinstance(error.body, dict)
    return error.body["limit"]


@over_limits
def test_the_sdk_tells_which_limit_was_met(error: QuotaRefused, told: dict[str, object]) -> None:
    """FR-003."""
    body = refusal.error_body(error, "req-1")

    with client(error.status, body) as sdk, pytest.raises(openai.APIStatusError) as caught:
        sdk.models.list()

    assert said_of_limit(caught.value) == told


@over_limits
def test_the_sdk_tells_why_a_stream_was_cut(error: QuotaRefused, told: dict[str, object]) -> None:
    """FR-003: a budget that ends while an answer runs ends it with a reason."""
    of_chat = refusal.completion_error_event(error, "req-1")
    with stream(CHUNK + of_chat) as sdk, pytest.raises(openai.APIError) as caught:
        list(chat_stream(sdk))
    assert (caught.value.code, said_of_limit(caught.value)) == (error.code, told)

    of_response = refusal.response_error_event(error, "req-1")
    with stream(DELTA + of_response) as sdk, pytest.raises(openai.APIError) as caught:
        list(response_stream(sdk))
    assert (caught.value.code, said_of_limit(caught.value)) == (error.code, told)


def test_a_refusal_that_met_no_limit_names_none() -> None:
    body = refusal.error_body(RateLimitExceeded("slower", retry_after_s=2), "req-1")

    assert body == (
        b'{"error":{"message":"slower","type":"rate_limit_error","param":null,'
        b'"code":"rate_limit_exceeded","request_id":"req-1","retry_after_s":2}}'
    )


def test_the_sdk_does_not_ask_again_when_a_budget_is_spent() -> None:
    """FR-003: nothing comes of asking again, so the status is one that SDKs do not retry."""
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(402, content=refusal.error_body(InsufficientQuota("spent"), "r"))

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    with openai.OpenAI(api_key="k", base_url="http://router.test/v1", http_client=http) as sdk:
        assert sdk.max_retries > 0
        with pytest.raises(openai.APIStatusError):
            sdk.models.list()

    assert len(asked) == 1


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
