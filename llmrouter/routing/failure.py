"""What became of an attempt that did not answer, and what may be tried after it.

`RULES` is the whole of it: by kind, whether the same deployment may be tried again, another one of
the model, another model, and whether it counts against the deployment that it happened at. Kinds
are told apart by what happened and who says so, never by words in a message.
"""

import enum
from collections.abc import Mapping

import msgspec


class FailureKind(enum.Enum):
    """What happened; nothing of an answer has gone to the caller yet."""

    UNREACHABLE = enum.auto()
    """No connection was made: the upstream knows nothing of the call."""
    LOST = enum.auto()
    """The connection broke off before there was an answer."""
    SILENT = enum.auto()
    """No answer began in time; the upstream may still work on one, and bill it."""
    BROKEN = enum.auto()
    """An answer came that is none: 5xx, or one that is not whole."""
    THROTTLED = enum.auto()
    """429: it has no room now."""
    SATURATED = enum.auto()
    """It holds as many of our calls as it may; nothing was sent."""
    DISOWNED = enum.auto()
    """401, 402: it refuses our credential, or our account has no money."""
    ABSENT = enum.auto()
    """403, 404: it does not serve this model, or not to us; or the call itself is at fault, which
    shows where no other deployment answers it either."""
    TOO_LONG = enum.auto()
    """The prompt is longer than the model's context."""
    FILTERED = enum.auto()
    """Its content filter refuses the call."""
    UNFIT = enum.auto()
    """It refuses the call for what it is: so would every other."""


class Rule(msgspec.Struct, frozen=True):
    """What may follow."""

    same: bool
    """The same deployment, after a pause."""
    other: bool
    """Another deployment of the model, at once."""
    fallback: bool
    """Another model, where the route names one for such a failure."""
    counts: bool
    """It speaks against the deployment."""


RULES: Mapping[FailureKind, Rule] = {
    #                              same   other  fallback counts
    FailureKind.UNREACHABLE: Rule(True, True, True, True),
    FailureKind.LOST: Rule(True, True, True, True),
    FailureKind.SILENT: Rule(False, True, True, True),
    FailureKind.BROKEN: Rule(True, True, True, True),
    FailureKind.THROTTLED: Rule(True, True, True, False),
    FailureKind.SATURATED: Rule(False, True, True, False),
    FailureKind.DISOWNED: Rule(False, True, True, True),
    FailureKind.ABSENT: Rule(False, True, True, False),
    FailureKind.TOO_LONG: Rule(False, False, True, False),
    FailureKind.FILTERED: Rule(False, False, True, False),
    FailureKind.UNFIT: Rule(False, False, False, False),
}


class FallbackOn(enum.StrEnum):
    """The failures for which a route names other models; the value is the word in router.toml."""

    UNAVAILABLE = "unavailable"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"


def fallback_on(kind: FailureKind) -> FallbackOn:
    """By which word in router.toml a failure of this kind leads to another model."""
    if kind is FailureKind.TOO_LONG:
        return FallbackOn.CONTEXT_LENGTH
    if kind is FailureKind.FILTERED:
        return FallbackOn.CONTENT_FILTER
    return FallbackOn.UNAVAILABLE
