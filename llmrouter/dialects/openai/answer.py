"""Answers: usage out of plain ones, and taps that follow streamed ones.

A stream of chat or plain completions ends with the event `[DONE]`; one of responses with
`response.completed`, `.incomplete` or `.failed`. A stream without that end was cut, also where an
error event is its last: the caller sees that event, and then that the answer is not whole.
"""

from json import JSONDecoder
from typing import TypeVar

import msgspec

from llmrouter.contracts.call import Call, Usage
from llmrouter.dialects.openai.usage import Counts, odd_usage, usage_of
from llmrouter.errors import UpstreamError
from llmrouter.http1 import sse

Event = TypeVar("Event")

_DONE = b"[DONE]"
_TERMINAL = frozenset({b'"response.completed"', b'"response.incomplete"', b'"response.failed"'})
_NULL = msgspec.Raw(b"null")


class _Plain(msgspec.Struct):
    usage: Counts | None = None


class _Chunk(msgspec.Struct):
    usage: msgspec.Raw = _NULL
    choices: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


class _ResponseEvent(msgspec.Struct):
    type: msgspec.Raw = _NULL
    response: _Chunk | None = None


_plain = msgspec.json.Decoder(_Plain)
_chunk = msgspec.json.Decoder(_Chunk)
_response_event = msgspec.json.Decoder(_ResponseEvent)
_counts = msgspec.json.Decoder(Counts | None)
_lenient = JSONDecoder()
"""Reads what is not quite JSON, but is read by SDKs: `NaN`, half surrogate pairs."""


def read_usage(body: bytes) -> Usage | None:
    """Check that a plain answer is whole JSON, and read its usage, if it has any that can be read.

    Raises UpstreamError where the bytes are not one JSON value.
    """
    try:
        return usage_of(_plain.decode(body).usage)
    except (msgspec.DecodeError, RecursionError):
        return _read_odd_usage(body)


def _read_odd_usage(body: bytes) -> Usage | None:
    """The same for a body that is cut, or not quite what we expect: slower, and more lenient."""
    try:
        answer = _lenient.decode(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        raise UpstreamError("the upstream's answer is not whole JSON") from error
    return odd_usage(answer.get("usage")) if isinstance(answer, dict) else None


def read_usage_tail(tail: bytes) -> Usage | None:
    """Read the usage from the last bytes of an answer, where it is near the end."""
    end = len(tail)
    while (start := tail.rfind(b'"usage"', 0, end)) >= 0:
        try:
            return read_usage(b"{" + tail[start:])
        except UpstreamError:
            end = start  # not a member of the answer itself
    return None


def _usage_in(raw: msgspec.Raw) -> Usage | None:
    try:
        return usage_of(_counts.decode(raw))
    except msgspec.DecodeError:
        return read_usage(b'{"usage":%b}' % bytes(raw))


def _decode(decoder: msgspec.json.Decoder[Event], event: bytes) -> Event | None:
    data = sse.data_of(event)
    if data is None:
        return None
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        return None  # of no shape that we look for
    except (msgspec.DecodeError, RecursionError) as error:
        raise UpstreamError("the upstream sent an event that is not whole JSON") from error


class CompletionTap:
    """Follows a stream of chat or plain completions."""

    __slots__ = ("_take_out_usage", "complete", "usage")

    def __init__(self, call: Call) -> None:
        self._take_out_usage = not call.wants_usage
        self.usage: Usage | None = None
        self.complete = False

    def feed(self, block: bytes) -> bytes:
        """Nothing but two searches for nearly every block."""
        if _DONE in block:
            self.complete = self.complete or any(map(_is_end, sse.events(block)))
        if b'"usage"' in block and _has_usage(block):
            return b"".join(event for event in sse.events(block) if self._passes(event))
        return block

    def _passes(self, event: bytes) -> bool:
        """Note the usage that an event carries; False if we alone asked for the event."""
        chunk = _decode(_chunk, event) if _has_usage(event) else None
        if chunk is None or bytes(chunk.usage) == b"null":
            return True
        self.usage = _usage_in(chunk.usage) or self.usage
        is_usage_only = _is_empty_list(chunk.choices) and bytes(chunk.error) == b"null"
        return not (is_usage_only and self._take_out_usage)


def _is_end(event: bytes) -> bool:
    """As SDKs see it: whatever follows the marker in the event."""
    return (sse.data_of(event) or b"").startswith(_DONE)


def _has_usage(block: bytes) -> bool:
    """Some event has usage that is not null: with the option on, every other says `null`."""
    return block.count(b'"usage"') > block.count(b'"usage":null') + block.count(b'"usage": null')


def _is_empty_list(raw: msgspec.Raw) -> bool:
    text = bytes(raw)
    return text.startswith(b"[") and not text[1:-1].strip()


class ResponseTap:
    """Follows a stream of the responses API: its end carries the usage."""

    __slots__ = ("complete", "usage")

    def __init__(self, call: Call) -> None:
        del call  # every stream of this API tells its usage, and nothing is taken out
        self.usage: Usage | None = None
        self.complete = False

    def feed(self, block: bytes) -> bytes:
        """Look closely only where a response object passes, as it does at the end."""
        if b'"response"' in block:
            for event in sse.events(block):
                if b'"response"' in event:
                    self._note(event)
        return block

    def _note(self, event: bytes) -> None:
        decoded = _decode(_response_event, event)
        if decoded is None or bytes(decoded.type) not in _TERMINAL:
            return
        self.complete = True
        if decoded.response is not None:
            self.usage = _usage_in(decoded.response.usage) or self.usage
