"""What an independent upstream can be told to do wrong, and what it tells of what it did.

Plain values, shared by the process (`faultyserver`) and by the tests that lead it (`faulty`). They
travel as one JSON object a line: an `Order` in, `Counts` out.
"""

import enum

import msgspec

WORDS = 12
"""Of an answer, where the call asks for no other number by `max_tokens`; a word is a token."""


class Kind(enum.StrEnum):
    """What goes wrong with an answer."""

    SOUND = "sound"
    STATUS = "status"
    """A refusal with this status, and this code in its body."""
    RESET = "reset"
    """The connection is reset before any answer."""
    SILENT = "silent"
    """No byte ever comes."""
    SLOW = "slow"
    """The first token comes after so many seconds: a stream has its head and its role before."""
    CUT = "cut"
    """The connection is closed after so many words; a plain answer has half of its body by then."""
    STALL = "stall"
    """The same, but the connection stays."""
    MALFORMED = "malformed"
    """An event is broken JSON after so many words; a plain answer lacks half of its body."""
    UNENDED = "unended"
    """The end marker is missing, or the last brackets of a plain answer; its framing is whole."""
    DRIP = "drip"
    """One byte each so many seconds, from the first of the head on."""
    FILTERED = "filtered"
    """It ends after so many words, and says that a content filter cut it."""
    NO_PREFILL = "no_prefill"
    """400 where the last message is the assistant's, as providers that take no prefill answer."""


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """What goes wrong with the answers to one model."""

    kind: Kind = Kind.SOUND
    status: int = 500
    code: str | None = None
    retry_after_s: int | None = None
    seconds: float = 0.0
    words: int = 3
    """How many come before it goes wrong."""
    every: int = 1
    """Only each so many-th call meets it."""
    times: int = 0
    """Only the first so many calls of those meet it; 0 means all of them."""


class Port(enum.StrEnum):
    """What the port does."""

    OPEN = "open"
    REFUSED = "refused"
    DEAD = "dead"
    """Its backlog is full: a SYN is never answered."""


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is to change; what is left out stays as it is."""

    faults: dict[str, Fault] = {}
    """By model; one that is in no order is sound."""
    port: Port | None = None
    first_s: tuple[float, float] | None = None
    """The first token of any answer takes between so long and so long, at random."""
    flap_s: float | None = None
    """The port is open and refused in turn, for so long each; 0 ends that, and opens it."""


class Seen(msgspec.Struct):
    """What calls of one tag, or all calls, came to here."""

    begun: int = 0
    whole: int = 0
    """Answered to the last byte."""
    refused: int = 0
    """Answered with a refusal."""
    broken: int = 0
    """Ended early, by our own fault."""
    left: int = 0
    """Ended early by the other side."""
    prompt: int = 0
    """Tokens, as they were told."""
    output: int = 0
    """The same."""
    sent: int = 0
    """Words that left in answers whose tokens were not told."""

    @property
    def ended(self) -> int:
        """How many are over."""
        return self.whole + self.refused + self.broken + self.left


class Counts(msgspec.Struct):
    """Everything that was seen."""

    all: Seen = msgspec.field(default_factory=Seen)
    by_tag: dict[str, Seen] = {}
    """By the first word of the prompt."""
    by_model: dict[str, int] = {}
    """Calls begun."""
    open: int = 0
    """Calls under way."""
    most: int = 0
    """The most that ever were."""
    connections: int = 0
    """Ever accepted."""


def text(name: str, words: int = WORDS) -> str:
    """The whole answer of the upstream `name`: so many words, each its own token."""
    return "".join(f"{word} " for word in [name, *map(str, range(1, words))])
