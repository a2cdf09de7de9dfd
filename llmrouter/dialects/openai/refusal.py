"""Refusals, in the shape that OpenAI's own SDKs read."""

import msgspec

from llmrouter.errors import LimitState, QuotaRefused, RouterError

_TYPES = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error"}
_encode = msgspec.json.Encoder().encode


class _Error(msgspec.Struct, omit_defaults=True):
    message: str
    type: str
    param: str | None
    code: str
    request_id: str
    retry_after_s: int | None = None
    limit: LimitState | None = None


class _Body(msgspec.Struct):
    error: _Error


class _ResponseEvent(msgspec.Struct, tag_field="type", tag="error"):
    """The `error` event of the responses API, with the `error` member at which SDKs raise."""

    code: str
    message: str
    param: str | None
    error: _Error


def _error(error: RouterError, request_id: str) -> _Error:
    return _Error(
        message=error.message,
        type=_type(error.status),
        param=error.param,
        code=error.code,
        request_id=request_id,
        retry_after_s=error.retry_after_s,
        limit=error.limit if isinstance(error, QuotaRefused) else None,
    )


def _type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == 429 else _TYPES.get(status, "invalid_request_error")


def error_body(error: RouterError, request_id: str) -> bytes:
    """`{"error": {"message", "type", "param", "code", "request_id", …}}`."""
    return _encode(_Body(_error(error, request_id)))


def completion_error_event(error: RouterError, request_id: str) -> bytes:
    """The event at which SDKs raise in the middle of a stream of completions."""
    return b"data: %b\n\n" % error_body(error, request_id)


def response_error_event(error: RouterError, request_id: str) -> bytes:
    """The same for a stream of the responses API."""
    inner = _error(error, request_id)
    event = _ResponseEvent(code=inner.code, message=inner.message, param=inner.param, error=inner)
    return b"event: error\ndata: %b\n\n" % _encode(event)
