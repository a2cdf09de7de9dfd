"""What the pretended model says to a prompt: a text, or the arguments of a function it calls."""

import enum

import msgspec

from llmrouter.daemon.demo import tokens
from llmrouter.daemon.demo.directives import Directives
from llmrouter.daemon.demo.schemas import fitting

ANY_OBJECT = msgspec.Raw(b'{"type":"object"}')
_any = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode


class Ending(enum.Enum):
    """Why a saying ends."""

    STOP = "stop"
    LENGTH = "length"
    FILTERED = "content_filter"


class Function(msgspec.Struct):
    """A function that the caller lets us call."""

    name: str
    parameters: msgspec.Raw = ANY_OBJECT


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, whatever API it was asked through."""

    said: str
    """The last words of the user."""
    tokens: int
    tokens_max: int | None = None
    """Of the answer, reasoning included."""
    stops: tuple[str, ...] = ()
    function: Function | None = None
    """To be called instead of answering by a text."""
    schema: msgspec.Raw | None = None
    """What the text, as JSON, must fit."""


class Saying(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of an answer."""

    text: str
    """What is said; with `function`, its arguments."""
    ending: Ending
    reasoning_tokens: int
    function: str | None = None

    @property
    def tokens(self) -> int:
        """Of the whole output, as a stream of it has events; a function's name counts nothing."""
        return self.reasoning_tokens + tokens.count(self.text)


def say(prompt: Prompt, directives: Directives, choice: int = 0) -> Saying:
    """Make choice number `choice` of an answer."""
    text, ending = _unbounded(prompt, directives, choice)
    name = prompt.function.name if prompt.function else None
    reasoning = directives.reasoning
    if prompt.tokens_max is not None:
        reasoning = min(reasoning, prompt.tokens_max)
        left = prompt.tokens_max - reasoning
        if tokens.count(text) > left:
            text, ending = text[: left * tokens.TOKEN_CHARS], Ending.LENGTH
    return Saying(text=text, ending=ending, reasoning_tokens=reasoning, function=name)


def _unbounded(prompt: Prompt, directives: Directives, choice: int) -> tuple[str, Ending]:
    if prompt.function is not None:
        return _json(prompt.function.parameters), Ending.STOP
    if prompt.schema is not None:
        return _json(prompt.schema), Ending.STOP
    text = _text(prompt, directives, choice)
    if directives.content_filter:
        return text[: len(text) // 2], Ending.FILTERED
    ends = [at for stop in prompt.stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))], Ending.STOP


def _text(prompt: Prompt, directives: Directives, choice: int) -> str:
    if directives.bytes is not None:
        return tokens.prose_of_length(tokens.OPENING, directives.bytes)
    text = tokens.prose(prompt.said, choice)
    if directives.tokens is not None:
        return tokens.prose_of_length(text, directives.tokens * tokens.TOKEN_CHARS)
    return text


def _json(schema: msgspec.Raw) -> str:
    return _encode(fitting(_any.decode(schema) or _any.decode(ANY_OBJECT))).decode()
