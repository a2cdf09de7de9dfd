"""Why a call was refused, or its answer kept back: by codes, never by the words of a message.

The codes are OpenAI's own and those that compatible servers document. Some servers have none: they
say `400` and explain it in words; what they refuse is nothing but refused.
"""

from collections.abc import Iterable, Iterator

import msgspec

from llmrouter.contracts.call import Objection
from llmrouter.dialects.openai import lenient

_TOO_LONG, _FILTERED = Objection.CONTEXT_LENGTH, Objection.CONTENT_FILTER
_OBJECTIONS = {
    "context_length_exceeded": _TOO_LONG,
    "exceed_context_size_error": _TOO_LONG,  # a type; llama.cpp
    "content_filter": _FILTERED,
    "content_policy_violation": _FILTERED,
    "image_content_policy_violation": _FILTERED,
    "misalignment_policy_violation": _FILTERED,
    "bio_policy": _FILTERED,
    "invalid_prompt": _FILTERED,  # what reasoning models call a prompt that is against the policy
    "moderation_blocked": _FILTERED,
    "ResponsibleAIPolicyViolation": _FILTERED,  # Azure
    "data_inspection_failed": _FILTERED,  # Alibaba
    "DataInspectionFailed": _FILTERED,
    "SensitiveContentDetected": _FILTERED,  # Volcano Engine
    "InputTextSensitiveContentDetected": _FILTERED,
    "InputImageSensitiveContentDetected": _FILTERED,
}
_CODES = ("code", "type")
_INNER = ("error", "innererror", "inner_error", "response", "detail", "metadata", "raw")
"""The members in which an error holds another; `raw` holds one as text."""
_DEPTH_MAX = 8
_LIST_MAX = 16
_FILTER = "content_filter"


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    incomplete_details: _Details | None = None


_answer = msgspec.json.Decoder(_Answer)


def objection(body: bytes) -> Objection | None:
    """Look for a code that we know; the outermost counts."""
    try:
        document = lenient.read(body)
    except ValueError:
        return None
    return next(_objections(document, _DEPTH_MAX), None)


def _objections(value: object, depth: int) -> Iterator[Objection]:
    if isinstance(value, dict):
        for code in map(value.get, _CODES):
            if isinstance(code, str) and code in _OBJECTIONS:
                yield _OBJECTIONS[code]
    if depth > 0:
        for inner in _inner(value):
            yield from _objections(inner, depth - 1)


def _inner(value: object) -> Iterable[object]:
    match value:
        case dict():
            return [value[name] for name in _INNER if name in value]
        case list():
            return value[:_LIST_MAX]
        case str() if value.startswith("{"):
            try:
                return [lenient.read(value.encode(errors="replace"))]
            except ValueError:
                return ()
        case _:
            return ()


def is_filtered(body: bytes) -> bool:
    """Whether a choice, or a response, says that it ended at a content filter."""
    if _FILTER.encode() not in body:
        return False
    answer = lenient.decode(_answer, body)
    if answer is None:
        return False
    details = answer.incomplete_details
    return (details is not None and details.reason == _FILTER) or any(
        choice.finish_reason == _FILTER for choice in answer.choices or ()
    )
