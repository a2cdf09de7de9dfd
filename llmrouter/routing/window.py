"""How many of the latest attempts failed: a count over a window of time, in two halves.

A half takes what comes for half of the window; then it is kept for as long, and a new one begins.
So what is counted reaches back for at least half of the window and at most all of it, at the cost
of four numbers, however many attempts there are.
"""


class Window:
    """Counts attempts and failures."""

    __slots__ = ("_began_s", "_half_s", "_kept", "_kept_failures", "count", "failures")

    def __init__(self, length_s: float) -> None:
        self._half_s = length_s / 2
        self._began_s = float("-inf")
        """When the half that takes what comes did."""
        self.count = 0
        """Attempts in both halves."""
        self.failures = 0
        self._kept = 0
        """Of `count`, those in the half that is only kept."""
        self._kept_failures = 0

    def succeeded(self, now_s: float) -> None:
        """An attempt did."""
        if now_s - self._began_s >= self._half_s:
            self._turn(now_s)
        self.count += 1

    def failed(self, now_s: float) -> None:
        """An attempt did."""
        self.succeeded(now_s)  # counts the attempt
        self.failures += 1

    def _turn(self, now_s: float) -> None:
        elapsed_s = now_s - self._began_s
        if elapsed_s < 2 * self._half_s:
            self._began_s += self._half_s
            self._kept, self._kept_failures = (
                self.count - self._kept,
                self.failures - self._kept_failures,
            )
        else:
            self._began_s = now_s
            self._kept = self._kept_failures = 0
        self.count, self.failures = self._kept, self._kept_failures
