"""What workers and the ledger say to each other; amounts are in the unit of each bucket's rule.

Invariant: messages arrive in the order in which they were sent, or the sender is dead.
"""

import enum

import msgspec


class Reason(enum.StrEnum):
    """Why a call is refused."""

    SPENT = "spent"
    """What was spent leaves no room until time or an admin gives some."""
    HELD = "held"
    """It would fit, but for what calls in flight hold; and they held it for too long."""
    OCCUPIED = "occupied"
    """As many calls are in flight as may be."""
    TOO_LARGE = "too_large"
    """It needs more than the bucket holds when nothing is used: it never fits."""
    WAITED = "waited"
    """It waited in the queue for as long as its rule says."""


class Ask(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is wanted of one bucket."""

    bucket: str
    least: int
    """Less than that is of no use."""
    wanted: int
    """What would save asking again soon; never less than `least`."""


class Amount(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """So much of one bucket."""

    bucket: str
    amount: int


class Take(msgspec.Struct, frozen=True, tag_field="t", tag="take"):
    """A worker asks for parts of buckets: for all of `asks`, or none."""

    id: int
    asks: tuple[Ask, ...]
    at_once: bool = False
    """A running stream needs it: refuse it rather than let it wait."""
    ahead: bool = False
    """No call stands behind it: grant what there is, refuse nothing, and let nobody wait."""


class GiveBack(msgspec.Struct, frozen=True, tag_field="t", tag="give_back"):
    """A worker gives back what it has not spent."""

    amounts: tuple[Amount, ...]


class Force(msgspec.Struct, frozen=True, tag_field="t", tag="force"):
    """A worker has spent more than was granted: calls took more than was held for them."""

    amounts: tuple[Amount, ...]


class Cancel(msgspec.Struct, frozen=True, tag_field="t", tag="cancel"):
    """The call behind a Take has gone; if it still waits, it is granted nothing.

    So each Take has one answer; one that was on its way already goes back as what lies idle does.
    """

    id: int


class Recalled(msgspec.Struct, frozen=True, tag_field="t", tag="recalled"):
    """All that a Recall asked for was given back, and what was spent stands in the journal."""

    serial: int


class Granted(msgspec.Struct, frozen=True, tag_field="t", tag="granted"):
    """The answer to a Take, in the order of its asks."""

    id: int
    amounts: tuple[int, ...]
    left: tuple[int, ...]
    """What each bucket has left."""
    at_ms: int
    needed: tuple[int, ...] = ()
    """What those who wait need of each bucket: it is owed from now on, no more and no less."""


class Refused(msgspec.Struct, frozen=True, tag_field="t", tag="refused"):
    """The answer to a Take for which one bucket has no room."""

    id: int
    bucket: str
    reason: Reason
    left: int
    """What the bucket had left; less than nothing where it was overshot."""
    at_ms: int
    retry_at_ms: int | None = None
    """When the same would be granted, if nobody else takes it; None if that is not known."""
    resets_at_ms: int | None = None
    full: bool = False
    """It was not let wait, as too many do."""


class Recall(msgspec.Struct, frozen=True, tag_field="t", tag="recall"):
    """The ledger wants back what is unused of some buckets.

    Each `amount` is what all who wait there need: what becomes unused later is owed up to that.
    """

    serial: int
    amounts: tuple[Amount, ...]


class Reopened(msgspec.Struct, frozen=True, tag_field="t", tag="reopened"):
    """Buckets that refused have room again, or another rule."""

    buckets: tuple[str, ...]


ToLedger = Take | GiveBack | Force | Cancel | Recalled
FromLedger = Granted | Refused | Recall | Reopened
