"""Taps: they follow streamed answers, event by event.

A stream of chat or plain completions ends with the event `[DONE]`; one of responses with
`response.completed`, `.incomplete` or `.failed`. A stream without that end was cut, also where an
error event is its last: the caller sees that event, and then that the answer is not whole.
"""

from typing import Final

import msgspec

from llmrouter.contracts.call import Call, Usage
from llmrouter.contracts.dialect import MalformedEvent
from llmrouter.dialects.openai import events, lenient
from llmrouter.dialects.openai.answer import read_usage
from llmrouter.dialects.openai.counts import (
    Chunk,
    Counts,
    PlainChunk,
    PlainResponseEvent,
    ResponseEvent,
)
from llmrouter.dialects.openai.likeness import Likeness
from llmrouter.dialects.openai.usage import usage_of
from llmrouter.http1 import sse

_TERMINAL: Final = frozenset(
    {b'"response.completed"', b'"response.incomplete"', b'"response.failed"'}
)
_chunk: Final = msgspec.json.Decoder(Chunk)
_plain_chunk: Final = msgspec.json.Decoder(PlainChunk).decode
_response_event: Final = msgspec.json.Decoder(ResponseEvent)
_plain_response_event: Final = msgspec.json.Decoder(PlainResponseEvent).decode
_counts: Final = msgspec.json.Decoder(Counts | None)


class CompletionTap:
    """Follows a stream of chat or plain completions."""

    __slots__ = ("_likeness", "_take_out_usage", "complete", "events", "usage")

    def __init__(self, call: Call) -> None:
        self._likeness = Likeness()
        self._take_out_usage = not call.wants_usage
        self.usage: Usage | None = None
        self.complete = False
        self.events = 0

    def feed(self, block: bytes) -> bytes:
        """Nothing but a comparison for nearly every block, or one walk over it."""
        if self._likeness.knows(block):
            self.events += 1
            return block
        plain = events.NOT_PLAIN if _may_end_it(block) else events.plain_count(_plain_chunk, block)
        if plain >= 0:
            self.events += plain
            self._likeness.learn(block)
            return block
        passed: list[bytes] = []
        for event in sse.events(block):
            data = sse.data_of(event) or b""
            if not self.complete and events.is_malformed(data):
                raise MalformedEvent(events.MALFORMED, sound=b"".join(passed))
            if self._passes(data):
                self.events += 1 if data else 0
                passed.append(event)
        return b"".join(passed)

    def _passes(self, data: bytes) -> bool:
        """Note the end, or the usage; False if we alone asked for the event."""
        if self.complete or events.is_end(data):
            self.complete = True
            return True
        chunk = lenient.decode(_chunk, data) if data else None
        if chunk is None or bytes(chunk.usage) == b"null":
            return True
        self.usage = _usage_in(chunk.usage) or self.usage
        is_usage_only = _is_empty_list(chunk.choices) and bytes(chunk.error) == b"null"
        return not (is_usage_only and self._take_out_usage)


def _may_end_it(block: bytes) -> bool:
    """Whether it has what stands at the end of a stream: there a walk would fail, which is slow."""
    return block.find(b"[DONE]") >= 0 or block.find(b'"usage":{') >= 0


def _usage_in(raw: msgspec.Raw) -> Usage | None:
    try:
        return usage_of(_counts.decode(raw))
    except msgspec.DecodeError:
        return read_usage(b'{"usage":%b}' % bytes(raw))


def _is_empty_list(raw: msgspec.Raw) -> bool:
    text = bytes(raw)
    return text.startswith(b"[") and not text[1:-1].strip()


class ResponseTap:
    """Follows a stream of the responses API: its end carries the usage."""

    __slots__ = ("complete", "events", "usage")

    def __init__(self, call: Call) -> None:
        del call  # every stream of this API tells its usage, and nothing is taken out
        self.usage: Usage | None = None
        self.complete = False
        self.events = 0

    def feed(self, block: bytes) -> bytes:
        """Look closely only where a response object passes, as it does at the end."""
        plain = events.plain_count(_plain_response_event, block)
        if plain >= 0:
            self.events += plain
            return block
        at = 0
        for event in sse.events(block):
            data = sse.data_of(event) or b""
            if not self.complete and events.is_malformed(data):
                raise MalformedEvent(events.MALFORMED, sound=block[:at])
            self._note(data)
            self.events += 1 if data else 0
            at += len(event)
        return block

    def _note(self, data: bytes) -> None:
        event = lenient.decode(_response_event, data) if data else None
        if event is None or bytes(event.type) not in _TERMINAL:
            return
        self.complete = True
        if event.response is not None:
            self.usage = _usage_in(event.response.usage) or self.usage
