"""Nearest names: what a caller who asked for a name that is none has probably meant.

Names are compared by the letters and the pairs of letters in them, each a bit of a number, so that
a comparison is one `and` and one count: 256 names take about 50 us, whatever was asked for. Two
pairs may share a bit; that makes a name look a little nearer than it is, and no more.
"""

from collections.abc import Iterable
from heapq import nsmallest
from itertools import islice, pairwise

NAMES_MAX = 256
"""So many names are compared; a caller with more may look at the list of them."""
NEAREST_MAX = 3
_READ_CHARS_MAX = 64  # of what was asked for: callers choose it
_NEAR = 0.4  # of all bits of both names, twice the share that they have in common
_PAIR_BITS = 251
_LETTER_BITS = 256


class NearestNames:
    """Names that may be called, ready to be compared."""

    __slots__ = ("_known",)

    def __init__(self, names: Iterable[str]) -> None:
        self._known = [
            (bits, bits.bit_count(), name)
            for name in islice(names, NAMES_MAX)
            if (bits := _bits(name))
        ]

    def __repr__(self) -> str:
        return f"<NearestNames of {len(self._known)}>"

    def to(self, asked: str) -> list[str]:
        """The nearest to `asked`, nearest first; none where none is near."""
        wanted = _bits(asked)
        size = wanted.bit_count()
        near = []
        for bits, others, name in self._known:
            likeness = 2 * (wanted & bits).bit_count() / (size + others)
            if likeness >= _NEAR:
                near.append((-likeness, name))
        return [name for _, name in nsmallest(NEAREST_MAX, near)]


def _bits(name: str) -> int:
    letters = name[:_READ_CHARS_MAX].lower().encode(errors="replace")
    bits = 0
    for letter in letters:
        bits |= 1 << letter
    for one, next_one in pairwise(b" %b " % letters):
        bits |= 1 << _LETTER_BITS + (one * 31 + next_one) % _PAIR_BITS
    return bits
