"""How every line of the log begins: when it was, how grave it is, and whose it is."""

import time
from collections.abc import Callable
from typing import Final

_MS: Final = 1_000
_NO_SECOND: Final = -(1 << 60)


class LineStart:
    """Makes the beginnings of one process's lines, for any of its threads."""

    __slots__ = ("_process", "_stamped", "_wall")

    def __init__(self, process: str, wall: Callable[[], float]) -> None:
        self._process = process
        self._wall = wall
        self._stamped: tuple[int, str] = (_NO_SECOND, "")
        """The last second, and how it is written: most lines come in a second with others."""

    def __call__(self, level: str) -> str:
        """The beginning of a line written now; in UTC, to the millisecond."""
        wall_ms = int(self._wall() * _MS)
        second, ms = wall_ms // _MS, wall_ms % _MS
        stamped_at, stamp = self._stamped
        if stamped_at != second:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._stamped = (second, stamp)
        three = str(_MS + ms)[1:]  # a format with leading zeros costs 3,000 instructions
        return f"time={stamp}.{three}Z level={level} process={self._process}"
