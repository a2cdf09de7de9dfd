"""What the four APIs share: stamps, content of messages, events, and what an answer is."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from llmrouter.daemon.demo import tokens
from llmrouter.daemon.demo.directives import Directives

CHOICES_MAX = 128

DONE = b"data: [DONE]\n\n"
PREFILLED = "the demo was asked to refuse a last message that is the assistant's"
FAILURE = "the demo was asked to fail here"
ERROR = {"error": {"message": FAILURE, "type": "server_error", "code": "server_error"}}
_PICTURES = ("image_url", "input_image")
encode = msgspec.json.Encoder().encode


class Stamp(msgspec.Struct, frozen=True):
    """What differs between two answers to the same request."""

    number: int
    created_at_s: int

    def id(self, prefix: str) -> str:
        """Name something of this answer."""
        return f"{prefix}demo{self.number:010d}"


class Answer(msgspec.Struct, frozen=True):
    """A plain answer (`body`), or a streamed one (`events`, then `last`)."""

    body: bytes = b""
    events: Iterator[bytes] | None = None
    last: Callable[[], bytes] = lambda: DONE
    """Makes the event without which a stream is not whole, once all others are made."""
    failure: Callable[[], bytes] = lambda: _FAILED
    """Makes the event that says, in place of another, that there will be no more."""
    announced: int = 0
    """How many events of a stream come before the first of what is said."""


class Asked(Protocol):
    """A request of any of the APIs."""

    @property
    def model(self) -> str:
        """The model's name, which may hold directives."""

    @property
    def stream(self) -> bool | None:
        """Whether a streamed answer is wanted."""

    def answer(self, stamp: Stamp, directives: Directives) -> Answer:
        """Answer it; raises BadRequest."""


class BadRequest(Exception):
    """A request that no answer can be made for; the message says why."""


class Part(msgspec.Struct):
    """One part of a message's content."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None


class StreamOptions(msgspec.Struct):
    """What a stream is to tell besides its text."""

    include_usage: bool | None = None


Content = str | list[Part] | None


def text_of(content: Content) -> str:
    """Read the text of a message."""
    if isinstance(content, list):
        return "\n".join(part.text for part in content if part.text)
    return content or ""


def tokens_of(content: Content) -> int:
    """Count the tokens of a message, pictures included."""
    if isinstance(content, list):
        return sum(
            tokens.PICTURE_TOKENS if part.type in _PICTURES else tokens.count(part.text or "")
            for part in content
        )
    return tokens.count(content or "")


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """Give the stop sequences, however they were written."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def event(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: %b\n\n" % encode(value)


_FAILED: bytes = event(ERROR)


def interleaved(streams: list[Iterator[bytes]]) -> Iterator[bytes]:
    """Take from each stream in turn until all have ended."""
    while streams:
        running = []
        for stream in streams:
            if (item := next(stream, None)) is not None:
                running.append(stream)
                yield item
        streams = running
