"""Where a stream's answer begins: until then, another deployment can give it unseen.

Servers announce an answer before there is one: by a comment, the role, an empty text, a response in
progress. What announces is listed here, and all else opens: an event of a shape that we do not know
is never held back.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from llmrouter.contracts.call import Operation
from llmrouter.contracts.dialect import RefusedInStream
from llmrouter.dialects.openai import events, lenient
from llmrouter.dialects.openai.objection import objection
from llmrouter.errors import UpstreamError
from llmrouter.http1 import sse

_EMPTY = frozenset({b"null", b'""', b"[]", b"{}"})
_NULL = msgspec.Raw(b"null")
_ANNOUNCING_MEMBERS = frozenset({"role", "channel"})
"""Of a delta: they say who will speak, and to whom."""
_ANNOUNCING_TYPES = frozenset(
    {
        *("response.created", "response.queued", "response.in_progress", "keepalive"),
        *("response.output_item.added", "response.content_part.added"),
        "response.reasoning_summary_part.added",
    }
)
_FAILING_TYPES = frozenset({"error", "response.failed"})


class _Event(Protocol):
    def fails(self) -> bool:
        """It says that there will be no answer."""

    def opens(self) -> bool:
        """It is part of the answer."""


class _Choice(msgspec.Struct):
    delta: dict[str, msgspec.Raw] | UnsetType | None = UNSET
    text: msgspec.Raw | UnsetType = UNSET
    finish_reason: msgspec.Raw = _NULL


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL

    def fails(self) -> bool:
        return _is_filled(self.error)

    def opens(self) -> bool:
        """Usage alone is none of the answer, and neither is what has an empty list of choices."""
        if self.choices is None:
            return not _is_filled(self.usage)
        return any(map(_opens, self.choices))


class _ResponseEvent(msgspec.Struct):
    type: str = ""
    error: msgspec.Raw = _NULL

    def fails(self) -> bool:
        return self.type in _FAILING_TYPES or _is_filled(self.error)

    def opens(self) -> bool:
        return self.type not in _ANNOUNCING_TYPES


_chunk = msgspec.json.Decoder(_Chunk)
_EVENTS: Mapping[Operation, msgspec.json.Decoder[Any]] = {
    Operation.CHAT: _chunk,
    Operation.COMPLETION: _chunk,
    Operation.EMBEDDING: _chunk,
    Operation.RESPONSE: msgspec.json.Decoder(_ResponseEvent),
}


def opens(operation: Operation, block: bytes) -> bool:
    """Whether the answer begins in this block; what comes behind its beginning is not looked at.

    Raises UpstreamError, RefusedInStream.
    """
    decoder = _EVENTS[operation]
    for event in sse.events(block):
        data = sse.data_of(event)
        if data and (events.is_end(data) or _event_opens(decoder, data)):
            return True
    return False


def _event_opens(decoder: msgspec.json.Decoder[Any], data: bytes) -> bool:
    event: _Event | None = lenient.decode(decoder, data)
    if event is None:
        if lenient.is_whole(data):
            return True  # of a shape that we do not know
        raise UpstreamError(events.MALFORMED)
    if event.fails():
        reason = "the upstream's answer begins with an error event"
        raise RefusedInStream(reason, objection=objection(data))
    return event.opens()


def _opens(choice: _Choice) -> bool:
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
