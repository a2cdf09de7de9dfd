"""The values of one call: what was asked, and what it used."""

import enum

import msgspec


class Operation(enum.StrEnum):
    """What a path asks for; the value is the operation's name in journals and logs."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RESPONSE = "response"


class Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The model request inside an exchange, read from its body; the body itself stays bytes."""

    operation: Operation
    model: str
    """The name the caller asked for."""
    stream: bool
    wants_usage: bool
    """The caller asked for the usage event of a stream, so it is passed on and not taken out."""
    output_max: int | None = None
    """The most output tokens that the caller lets all choices have together; None where no limit
    is set: then each of the `choices` may be as long as the model makes them."""
    choices: int = 1
    """How many answers are made for it, over all its prompts, also where fewer are given back."""
    body: bytes
    """The request body as it came."""
    members: dict[str, msgspec.Raw]
    """The top-level members of `body`, undecoded, in order; no name occurs twice in `body`."""
    spans: dict[str, tuple[int, int]] | None
    """Where each value stands in `body`; None where `body` is the encoding of `members`, and
    perhaps white space behind it."""

    def without_body(self) -> "Call":
        """The same call for when its body has gone upstream for good: holds no prompt."""
        return msgspec.structs.replace(self, body=b"", members={}, spans=None)


class Objection(enum.Enum):
    """Why the server of a model refuses a call that is well-formed; told by codes, not words."""

    CONTEXT_LENGTH = enum.auto()
    """The prompt is longer than the model takes."""
    CONTENT_FILTER = enum.auto()
    """A content filter does not let it pass."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What an upstream says a call used: tokens, and money where it reports any.

    `prompt_tokens` includes `cached_tokens`; `output_tokens` includes `reasoning_tokens`.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int | None = None
    """The cost the upstream itself reported, where it does."""
