"""Which of many calls a fault strikes: told by counting and by the clock, never by chance.

So a test knows exactly how many calls it will strike, in whatever order they come.
"""

PERCENT = 100


class Turns:
    """What all calls that ask for faults by turns have in common."""

    __slots__ = ("_failing", "_flapping", "_stalling")

    def __init__(self) -> None:
        self._flapping = 0
        self._stalling = 0
        self._failing = 0

    def flaps(self, period: int) -> bool:
        """Strike every call of those that ask for it, but for every `period`th."""
        self._flapping += 1
        return self._flapping % period != 0

    def stalls(self, percent: int) -> bool:
        """Strike `percent` of each hundred calls that ask for it, evenly spread."""
        self._stalling += 1
        return _is_struck(self._stalling, percent)

    def fails(self, percent: int) -> bool:
        """Strike as `stalls` does; counted apart."""
        self._failing += 1
        return _is_struck(self._failing, percent)


def blinks(period_s: float, now_s: float) -> bool:
    """Strike for one period, spare for the next, and so on."""
    return int(now_s / period_s) % 2 == 0


def _is_struck(number: int, percent: int) -> bool:
    return number * percent // PERCENT > (number - 1) * percent // PERCENT
