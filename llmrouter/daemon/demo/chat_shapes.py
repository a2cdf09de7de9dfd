"""The wire form of chat completions: whole ones, and chunks of streamed ones."""

from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType

from llmrouter.daemon.demo.usage import Usage

FINGERPRINT = "fp_demo"
_LOGPROB = -0.25
_OTHER_LOGPROB = -2.5


class TopLogprob(msgspec.Struct):
    """One token that might have stood in a place."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct):
    """The token that stands in a place, and those that might have."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class Logprobs(msgspec.Struct):
    """The probabilities of a choice or of a piece of it."""

    content: list[TokenLogprob]
    refusal: None = None


class CalledFunction(msgspec.Struct):
    """The function of a call; in a chunk, a piece of its arguments."""

    arguments: str
    name: str | UnsetType = UNSET


class Call(msgspec.Struct):
    """A call of a tool; `index` stands in chunks only."""

    function: CalledFunction
    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class Message(msgspec.Struct):
    """What the assistant said."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[Call] | UnsetType = UNSET
    annotations: tuple[()] = ()


class Choice(msgspec.Struct):
    """One of the answers."""

    index: int
    message: Message
    finish_reason: str
    logprobs: Logprobs | None


class Completion(msgspec.Struct, kw_only=True):
    """A whole answer."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | UnsetType
    service_tier: str = "default"
    system_fingerprint: str = FINGERPRINT


class Delta(msgspec.Struct):
    """What a chunk adds to its choice."""

    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: UnsetType | None = UNSET
    tool_calls: list[Call] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    """One choice of a chunk."""

    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct, kw_only=True):
    """One event of a streamed answer."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    service_tier: str = "default"
    system_fingerprint: str = FINGERPRINT
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None


def logprobs_of(pieces: Iterable[str], others: int) -> Logprobs:
    """Give each piece a probability, and `others` alternatives, the first of them itself."""
    return Logprobs([_logprob(piece, others) for piece in pieces])


def _logprob(piece: str, others: int) -> TokenLogprob:
    names = [piece, *(f"{piece}{number}" for number in range(1, others))][:others]
    top = [
        TopLogprob(name, _LOGPROB if name == piece else _OTHER_LOGPROB - at, list(name.encode()))
        for at, name in enumerate(names)
    ]
    return TokenLogprob(piece, _LOGPROB, list(piece.encode()), top)
