"""How many attempts at a model may be repeats: retries, failovers and fallbacks together.

Each call's first attempt earns a share of a repeat, and each repeat costs a whole one. So what is
sent upstream is bounded whatever fails: in any history, repeats <= FLOOR + share * first attempts.
What is earned and not used is kept for a while only, so that a long calm does not pay for a storm:
from whatever moment, repeats <= what is kept at most + share * first attempts since.
"""

from typing import Final

FLOOR: Final = 10
"""Repeats that need not be earned: few calls must be able to fail over, too."""
_KEPT_FIRSTS: Final = 1000
"""Calls whose share is kept: all that run when an upstream goes away may need to be repeated."""
_PARTS: Final = 1_000_000
"""Of a repeat: whole numbers, so that no sum of shares is ever a little too much."""


class Repeats:
    """The attempt budget of one model."""

    __slots__ = ("_earned", "_kept_max", "_left")

    def __init__(self, share: float) -> None:
        self._earned = int(share * _PARTS)
        """By a first attempt."""
        self._left = FLOOR * _PARTS if self._earned else 0
        self._kept_max = max(self._left, _KEPT_FIRSTS * self._earned)

    def __repr__(self) -> str:
        return f"<Repeats left={self._left / _PARTS:.2f}>"

    @property
    def left(self) -> int:
        """How many attempts may be repeated now."""
        return self._left // _PARTS

    def first(self) -> None:
        """A call makes its first attempt."""
        if self._left < self._kept_max:
            self._left += self._earned

    def take(self) -> bool:
        """Whether an attempt may be repeated; if so, it is counted."""
        if self._left < _PARTS:
            return False
        self._left -= _PARTS
        return True

    def put_back(self) -> None:
        """What was taken was not used."""
        self._left = min(self._left + _PARTS, self._kept_max)
