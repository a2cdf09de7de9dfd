"""What is decoded of answers and events: what was used, and what tells where they begin and end.

Compatible servers differ in what they count and call it, so nothing in it is demanded.
"""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

NULL = msgspec.Raw(b"null")
COUNT_MAX = 10**8
"""Tokens that a call can have used: more than any body and any answer of it holds. Whoever claims
more has not counted; taken at its word, a limit a minute would be used up for years."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
_Usd = Annotated[float, msgspec.Meta(ge=0)]


class PromptDetails(msgspec.Struct):
    """What is told apart of the prompt."""

    cached_tokens: _Count | None = None


class OutputDetails(msgspec.Struct):
    """What is told apart of the output."""

    reasoning_tokens: _Count | None = None


class Costs(msgspec.Struct):
    """A cost that is an object."""

    total_cost: _Usd | None = None


class Counts(msgspec.Struct):
    """The `usage` object, as chat, completions and embeddings name it, and as responses do."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: PromptDetails | None = None
    output_tokens_details: OutputDetails | None = None
    total_tokens: _Count | None = None
    # where some compatible servers tell what came from their cache
    cached_tokens: _Count | None = None
    num_cached_tokens: _Count | None = None
    prompt_cache_hit_tokens: _Count | None = None
    cost: _Usd | Costs | None = None


class Answer(msgspec.Struct):
    """A plain answer: what of it is looked at."""

    usage: Counts | None = None
    error: msgspec.Raw = NULL
    object: msgspec.Raw = NULL
    choices: msgspec.Raw = NULL


class Chunk(msgspec.Struct):
    """An event of a stream of completions, or the response in one of responses."""

    usage: msgspec.Raw = NULL
    choices: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class PlainChunk(msgspec.Struct):
    """A chunk that only passes; with the option on, all but one say that their usage is null."""

    usage: None = None


class ResponseEvent(msgspec.Struct):
    """An event of a stream of responses."""

    type: msgspec.Raw = NULL
    response: Chunk | None = None


class PlainResponseEvent(msgspec.Struct):
    """An event that ends nothing."""

    response: UnsetType = UNSET


class FirstChoice(msgspec.Struct):
    """What of a choice tells whether it has begun."""

    delta: dict[str, msgspec.Raw] | UnsetType | None = UNSET
    text: msgspec.Raw | UnsetType = UNSET
    finish_reason: msgspec.Raw = NULL


class FirstChunk(msgspec.Struct):
    """A chunk before the answer has begun."""

    choices: list[FirstChoice] | None = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class FirstResponseEvent(msgspec.Struct):
    """An event of a stream of responses before the answer has begun."""

    type: str = ""
    error: msgspec.Raw = NULL
