"""Where a stream's answer begins: until then, another deployment can give it unseen.

Servers announce an answer before there is one: by a comment, the role, an empty text, a response in
progress. What announces is listed here, and all else opens: an event of a shape that we do not know
is never held back.
"""

from typing import Final

import msgspec
from msgspec import UNSET

from llmrouter.contracts.call import Operation
from llmrouter.contracts.dialect import RefusedInStream
from llmrouter.dialects.openai import events, lenient, output
from llmrouter.dialects.openai.counts import FirstChoice, FirstChunk, FirstResponseEvent
from llmrouter.dialects.openai.objection import objection
from llmrouter.errors import UpstreamError
from llmrouter.http1 import sse

_EMPTY: Final = frozenset({b"null", b'""', b"[]", b"{}"})
_ANNOUNCING_MEMBERS: Final = frozenset({"role", "channel"})
"""Of a delta: they say who will speak, and to whom."""
_ANNOUNCING_TYPES: Final = frozenset(
    {
        *("response.created", "response.queued", "response.in_progress", "keepalive"),
        *("response.output_item.added", "response.content_part.added"),
        "response.reasoning_summary_part.added",
    }
)
_FAILING_TYPES: Final = frozenset({"error", "response.failed"})


_chunk: Final = msgspec.json.Decoder(FirstChunk)
_response_event: Final = msgspec.json.Decoder(FirstResponseEvent)


def opens(operation: Operation, block: bytes) -> bool:
    """Whether the answer begins in this block; what comes behind its beginning is not looked at.

    Raises UpstreamError, RefusedInStream.
    """
    is_response = operation is output.RESPONSE
    for event in sse.events(block):
        data = sse.data_of(event)
        if not data:
            continue
        if events.is_end(data):
            return True
        if _response_event_opens(data) if is_response else _chunk_opens(data):
            return True
    return False


def _chunk_opens(data: bytes) -> bool:
    chunk = lenient.decode(_chunk, data)
    if chunk is None:
        return _has_unknown_shape(data)
    if _is_filled(chunk.error):
        raise _refused(data)
    if chunk.choices is None:
        # Usage alone is none of the answer, and neither is what has an empty list of choices.
        return not _is_filled(chunk.usage)
    return any(_opens(choice) for choice in chunk.choices)


def _response_event_opens(data: bytes) -> bool:
    event = lenient.decode(_response_event, data)
    if event is None:
        return _has_unknown_shape(data)
    if event.type in _FAILING_TYPES or _is_filled(event.error):
        raise _refused(data)
    return event.type not in _ANNOUNCING_TYPES


def _has_unknown_shape(data: bytes) -> bool:
    if lenient.is_whole(data):
        return True
    raise UpstreamError(events.MALFORMED)


def _refused(data: bytes) -> RefusedInStream:
    reason = "the upstream's answer begins with an error event"
    return RefusedInStream(reason, objection=objection(data))


def _opens(choice: FirstChoice) -> bool:
    if _is_filled(choice.finish_reason):
        return True
    if choice.text is not UNSET:
        return _is_filled(choice.text)
    if choice.delta is UNSET:
        return True  # it says what it has to say in a way that we do not know
    return choice.delta is not None and any(
        _is_filled(value) for name, value in choice.delta.items() if name not in _ANNOUNCING_MEMBERS
    )


def _is_filled(raw: msgspec.Raw) -> bool:
    return bytes(raw) not in _EMPTY
