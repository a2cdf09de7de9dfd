"""The dialect object: which paths, headers and bodies make up the OpenAI API."""

from collections.abc import Iterable, Mapping

import msgspec

from llmrouter.contracts.call import Call, Operation
from llmrouter.contracts.dialect import Dialect, StreamTap
from llmrouter.dialects.openai import (
    answer,
    conversation,
    objection,
    opening,
    prompt,
    refusal,
    request,
    taps,
)
from llmrouter.errors import RouterError

_encode = msgspec.json.Encoder().encode
_UPSTREAM_PATHS = {
    Operation.CHAT: b"/chat/completions",
    Operation.COMPLETION: b"/completions",
    Operation.EMBEDDING: b"/embeddings",
    Operation.RESPONSE: b"/responses",
}


class _Model(msgspec.Struct):
    id: str
    created: int
    object: str = "model"
    owned_by: str = "llmrouter"


class _Models(msgspec.Struct):
    data: list[_Model]
    object: str = "list"


class OpenAI:
    """OpenAI's API, as its SDKs and the many compatible servers speak it."""

    name = "openai"
    paths: Mapping[bytes, Operation] = {
        b"/v1" + path: operation for operation, path in _UPSTREAM_PATHS.items()
    }
    models_path = b"/v1/models"
    # Not passed on: `openai-organization` and `openai-project`, which would let a caller choose
    # the account that our credential bills; `idempotency-key`, since all callers share that account
    # and would get each other's answers; `content-type`, whose charset could make another reader
    # see another model; and `accept-encoding`, since we read what comes back.
    request_headers = frozenset({b"accept", b"user-agent", b"openai-beta"})
    # Not passed on: the names and rate limits of our account, and cookies.
    response_headers = frozenset(
        {
            b"content-type",
            b"content-encoding",
            b"cache-control",
            b"openai-model",
            b"openai-version",
            b"openai-processing-ms",
            b"retry-after",
            b"retry-after-ms",
            b"x-should-retry",
        }
    )

    def presented_key(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        authorization = headers.get(b"authorization")
        if authorization is None:
            return headers.get(b"x-api-key") or headers.get(b"api-key")
        scheme, _, rest = authorization.partition(b" ")
        return rest.strip() if scheme.lower() == b"bearer" else authorization

    def credential_headers(self, secret: str) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"authorization", b"Bearer " + secret.encode("ascii")),)

    def upstream_path(self, operation: Operation) -> bytes:
        return _UPSTREAM_PATHS[operation]

    # Functions as they are, so that a call of them costs no second one.
    read_call = staticmethod(request.read_call)
    is_prompt_bounded = staticmethod(prompt.is_bounded)
    upstream_body = staticmethod(request.upstream_body)
    read_usage = staticmethod(answer.read_usage)
    read_usage_tail = staticmethod(answer.read_usage_tail)
    opens = staticmethod(opening.opens)
    is_filtered = staticmethod(objection.is_filtered)
    objection = staticmethod(objection.objection)
    conversation = staticmethod(conversation.conversation)

    def tap(self, call: Call) -> StreamTap:
        if call.operation is Operation.RESPONSE:
            return taps.ResponseTap(call)
        return taps.CompletionTap(call)

    error_body = staticmethod(refusal.error_body)

    def error_event(self, call: Call, error: RouterError, request_id: str) -> bytes:
        if call.operation is Operation.RESPONSE:
            return refusal.response_error_event(error, request_id)
        return refusal.completion_error_event(error, request_id)

    def models_body(self, models: Iterable[str], created_at_s: int) -> bytes:
        return _encode(_Models([_Model(model, created_at_s) for model in models]))

    def model_body(self, model: str, created_at_s: int) -> bytes:
        return _encode(_Model(model, created_at_s))


_: type[Dialect] = OpenAI
