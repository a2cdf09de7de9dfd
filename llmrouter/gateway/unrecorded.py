"""Calls that are served although the journal cannot take their begin, where operators want that."""

import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)

TELL_EVERY_S = 60.0
"""How often the log says that calls go unrecorded, while they do."""


class Unrecorded:
    """Counts them, and tells: at the first, and then now and again how many there were."""

    __slots__ = ("_calls", "_clock", "_tell_at")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls = 0
        self._tell_at = 0.0

    def __repr__(self) -> str:
        return f"<Unrecorded calls={self._calls}>"

    def note(self, error: OSError) -> None:
        """One more, for this reason."""
        self._calls += 1
        now = self._clock()
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY_S
            _log.error("calls_unrecorded=%d reason=%r", self._calls, error.strerror)
