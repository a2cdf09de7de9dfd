"""What journals say, fact by fact, and up to where they were read: what a `Tail` hands out."""

import msgspec

from llmrouter.metering.records import Begin, End
from llmrouter.metering.replay import Damaged


class Began(msgspec.Struct, frozen=True, gc=False):
    """A call may have reached its upstream."""

    boot: str
    worker: str
    begin: Begin


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A call is over."""

    boot: str
    begin: Begin
    hold: tuple[int, int]
    """The tokens and nano-USD that were held for it at last."""
    end: End


class Interrupted(msgspec.Struct, frozen=True, gc=False):
    """The writer died before the call's end; what was held is the best that is known."""

    boot: str
    begin: Begin
    hold: tuple[int, int]
    """The tokens and nano-USD that were held for it at last."""


Folded = Began | Ended | Interrupted | Damaged
Found = tuple[str, list[Folded]]
"""A boot, and some of its facts, in order."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Up to where a boot's facts were handed out; encodes in a few bytes."""

    name: str = ""
    """The file to go on in; empty before the first."""
    offset: int = 0
    """Where in it."""
    seq: int = 0
    """The highest that began."""
    open: dict[str, list[tuple[int, int, int]]] = {}
    """Calls in flight, by the file of their begin: its offset, the tokens and nano-USD held."""
    closed: bool = False
    """The writer is dead and nothing is left to read."""


class Counts(msgspec.Struct):
    """What was met that is no fact, since this `Tail` was made."""

    duplicates: int = 0
    """Second records of a call."""
    orphans: int = 0
    """Ends and holds of calls that never began."""
    torn: int = 0
    """Incomplete last lines of files that were left."""
    files_vanished: int = 0
    """Files that somebody removed before they were read to their end."""
    calls_vanished: int = 0
    """Calls in flight that cannot be resumed, as the file of their begin was removed."""


class Boot(msgspec.Struct, frozen=True):
    """What is known of one life of a worker."""

    boot: str
    worker: str
    pid: int
    """0 where no header could be read."""
    in_flight: int
    closed: bool
