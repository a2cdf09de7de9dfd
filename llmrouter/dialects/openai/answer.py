"""Answers: usage out of plain ones, and taps that follow streamed ones.

A stream of chat or plain completions ends with the event `[DONE]`; one of responses with
`response.completed`, `.incomplete`, `.failed` or `error`. A stream without that end was cut.
"""

from typing import Annotated

import msgspec

from llmrouter.contracts.call import Call, Usage
from llmrouter.errors import UpstreamError
from llmrouter.http1 import sse

_NANO_USD = 1_000_000_000
_DONE = b"[DONE]"
_DONE_TAIL_BYTES = 24
"""How near the end of a block the end of its stream is looked for: `data: [DONE]` and line ends."""
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _PromptDetails(msgspec.Struct):
    cached_tokens: _Count | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    """Usage as chat, completions and embeddings name it, and as responses do."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: _PromptDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    cost: Annotated[float, msgspec.Meta(ge=0)] | None = None


class _Plain(msgspec.Struct):
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    type: str = ""
    usage: _Usage | None = None
    choices: list[msgspec.Raw] | None = None
    response: _Plain | None = None


_plain = msgspec.json.Decoder(_Plain)
_event = msgspec.json.Decoder(_Event)


def read_usage(body: bytes) -> Usage | None:
    """Check that a plain answer is whole JSON, and read its usage, if it has any that can be read.

    Raises UpstreamError where the bytes are not one JSON value.
    """
    try:
        return _usage(_plain.decode(body).usage)
    except msgspec.ValidationError:
        return None  # whole JSON, but not of the shape that we know
    except (msgspec.DecodeError, RecursionError) as error:
        raise UpstreamError("the upstream's answer is not whole JSON") from error


def read_usage_tail(tail: bytes) -> Usage | None:
    """Read the usage from the last bytes of an answer, where it is the last member."""
    start = tail.rfind(b'"usage"')
    if start < 0:
        return None
    try:
        return _usage(_plain.decode(b"{" + tail[start:]).usage)
    except msgspec.DecodeError:
        return None  # other members follow it, or it began before the tail


def _usage(found: _Usage | None) -> Usage | None:
    if found is None:
        return None
    prompt = found.prompt_tokens if found.input_tokens is None else found.input_tokens
    output = found.completion_tokens if found.output_tokens is None else found.output_tokens
    prompt_details = found.prompt_tokens_details or found.input_tokens_details
    output_details = found.completion_tokens_details or found.output_tokens_details
    return Usage(
        prompt_tokens=prompt or 0,
        cached_tokens=(prompt_details.cached_tokens or 0) if prompt_details else 0,
        output_tokens=output or 0,
        reasoning_tokens=(output_details.reasoning_tokens or 0) if output_details else 0,
        cost_nano_usd=None if found.cost is None else round(found.cost * _NANO_USD),
    )


def _decode_event(event: bytes) -> _Event | None:
    data = sse.data_of(event)
    if data is None:
        return None
    try:
        return _event.decode(data)
    except msgspec.ValidationError:
        return None
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
        if _DONE in block[-_DONE_TAIL_BYTES:]:
            self.complete = any(sse.data_of(event) == _DONE for event in sse.events(block))
        if b'"usage"' in block and _has_usage(block):
            return b"".join(event for event in sse.events(block) if self._passes(event))
        return block

    def _passes(self, event: bytes) -> bool:
        """Note the usage that an event carries; False if we alone asked for the event."""
        if not _has_usage(event):
            return True
        decoded = _decode_event(event)
        if decoded is None or decoded.usage is None:
            return True
        self.usage = _usage(decoded.usage)
        return bool(decoded.choices) or not self._take_out_usage


def _has_usage(block: bytes) -> bool:
    """Some event has usage that is not null: with the option on, every other says `null`."""
    return block.count(b'"usage"') > block.count(b'"usage":null') + block.count(b'"usage": null')


class ResponseTap:
    """Follows a stream of the responses API: its end carries the usage."""

    __slots__ = ("complete", "usage")

    def __init__(self, call: Call) -> None:
        del call  # every stream of this API tells its usage, and nothing is taken out
        self.usage: Usage | None = None
        self.complete = False

    def feed(self, block: bytes) -> bytes:
        """Look closely only where a response object (which has a `usage`) or an error passes."""
        if b'"usage"' in block or b'"error"' in block:
            for event in sse.events(block):
                self._note(event)
        return block

    def _note(self, event: bytes) -> None:
        decoded = _decode_event(event)
        if decoded is None or decoded.type not in _TERMINAL:
            return
        self.complete = True
        if decoded.response is not None:
            self.usage = _usage(decoded.response.usage) or self.usage
