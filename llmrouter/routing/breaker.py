"""The breaker of one deployment: whether it gets calls, as its attempts went.

Closed, it lets everything pass and counts. It opens after so many failures in a row, or when too
large a share of the attempts of a window failed; then it rests. Once rested it is half-open: it
lets one probe pass at a time, then two, then four, and closes when 1 + 2 + 4 have succeeded. A
failure among them opens it again, for twice as long.

An attempt belongs to the spell it began in, which `enter` tells and its verdict brings back. A
spell ends when the breaker opens and when it half-opens: so an attempt from before the opening that
ends late neither closes the breaker, nor opens it again, nor gives back a probe's place.

Workers tell each other of openings and closings (`adopt`). The later one holds, by the clock that
all processes of a machine share, so all come to the same whatever the order in which they hear.
Each proves an open deployment by probes of its own, unless it hears first that another one has.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmrouter.routing.window import Window

_CALLS_MIN: Final = 20
"""An error rate over fewer attempts than these says nothing."""
_PROBES: Final = 1 + 2 + 4
"""That must succeed, one, two and four at a time."""
_UNJUDGED: Final = -1
"""The spell of an attempt that was not allowed: what comes of it proves nothing."""


@dataclass(frozen=True, kw_only=True)
class BreakerTerms:
    """When a breaker opens, and for how long."""

    failures: int = 5
    """In a row."""
    error_rate: float = 0.5
    """The share of the attempts of a window, of which there must be at least 20; 1 is no share."""
    window_s: float = 30.0
    rest_s: float = 5.0
    """How long it stays open; doubled each time that a probe fails..."""
    rest_max_s: float = 60.0
    """... up to this."""


class State(enum.StrEnum):
    """What a breaker lets pass: everything, nothing, or probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Event(enum.Enum):
    """What changes its state."""

    TRIPPED = enum.auto()
    """Too much failed, here or at another worker."""
    RESTED = enum.auto()
    """The first probe begins, here or at another worker."""
    PROVED = enum.auto()
    """All probes succeeded, here or at another worker."""


_NEXT: Final[Mapping[State, Mapping[Event, State]]] = {
    State.CLOSED: {Event.TRIPPED: State.OPEN, Event.PROVED: State.CLOSED},
    State.OPEN: {
        Event.TRIPPED: State.OPEN,
        Event.RESTED: State.HALF_OPEN,
        Event.PROVED: State.CLOSED,
    },
    State.HALF_OPEN: {Event.TRIPPED: State.OPEN, Event.PROVED: State.CLOSED},
}


class Breaker:
    """Counts how attempts went, and says whether the next may begin. Times are monotonic."""

    __slots__ = (
        "_in_a_row",
        "_proved",
        "_rest_s",
        "_terms",
        "_window",
        "changed_s",
        "probes",
        "rests_until_s",
        "spell",
        "state",
    )

    def __init__(self, terms: BreakerTerms) -> None:
        self._terms = terms
        self.state = State.CLOSED
        self.changed_s = 0.0
        """When it last opened or closed, whoever saw the reason; 0 if it never did."""
        self.spell = 0
        """The number of the present spell."""
        # while closed
        self._in_a_row = 0
        self._window = Window(terms.window_s)
        # while open
        self.rests_until_s = 0.0
        self._rest_s = terms.rest_s
        # while half-open
        self.probes = 0
        """That run."""
        self._proved = 0

    def __repr__(self) -> str:
        return f"<Breaker {self.state} in_a_row={self._in_a_row} probes={self.probes}>"

    def allows(self, now_s: float) -> bool:
        """Whether an attempt may begin now."""
        if self.state is State.HALF_OPEN:
            return self.probes < self.probes_max
        return self.state is State.CLOSED or now_s >= self.rests_until_s

    @property
    def probes_max(self) -> int:
        """How many probes may run at a time while it is half-open: 1, 2, 4 as they succeed."""
        return 1 << ((self._proved + 1).bit_length() - 1)

    def enter(self, now_s: float) -> int:
        """An attempt begins; return its spell."""
        if not self.allows(now_s):
            return _UNJUDGED
        if self.state is State.OPEN:
            self._on(Event.RESTED)
        if self.state is State.HALF_OPEN:
            self.probes += 1
        return self.spell

    def succeeded(self, now_s: float, spell: int) -> None:
        """An attempt did."""
        if spell != self.spell:
            return
        if self.state is State.CLOSED:
            self._in_a_row = 0
            self._window.succeeded(now_s)
        else:
            self.probes -= 1
            self._proved += 1
            if self._proved == _PROBES:
                self._close(now_s)

    def failed(self, now_s: float, spell: int) -> None:
        """An attempt did. Only this opens a closed breaker: a success never speaks against it."""
        if spell != self.spell:
            return
        if self.state is State.CLOSED:
            self._in_a_row += 1
            self._window.failed(now_s)
            if self._is_too_much():
                self._open(now_s, self._rest_s, now_s)
        else:
            self._open(now_s, 2 * self._rest_s, now_s)

    def left(self, spell: int) -> None:
        """An attempt ended without a verdict."""
        if spell == self.spell and self.state is State.HALF_OPEN:
            self.probes -= 1

    def adopt(self, state: State, changed_s: float, rest_s: float, now_s: float) -> bool:
        """Another worker's breaker is so; return whether that is later than what ours did.

        `changed_s` is when it opened or closed, `rest_s` what is left of its rest. Of an opening
        and a closing at the same moment the opening holds.
        """
        is_open = state is not State.CLOSED
        is_later = (changed_s, is_open) > (self.changed_s, self.state is not State.CLOSED)
        if is_later and is_open:
            self._open(changed_s, rest_s, now_s)
        elif is_later:
            self._close(changed_s)
        if state is State.HALF_OPEN and self.state is State.OPEN and changed_s == self.changed_s:
            self._on(Event.RESTED)
        return is_later

    def _is_too_much(self) -> bool:
        window = self._window
        rate = self._terms.error_rate
        return self._in_a_row >= self._terms.failures or (
            rate < 1 and window.count >= _CALLS_MIN and window.failures >= rate * window.count
        )

    def _open(self, at_s: float, rest_s: float, now_s: float) -> None:
        self._on(Event.TRIPPED)
        self.changed_s = at_s
        rest_s = min(rest_s, self._terms.rest_max_s)
        self.rests_until_s = now_s + rest_s
        self._rest_s = max(rest_s, self._terms.rest_s)

    def _close(self, at_s: float) -> None:
        self._on(Event.PROVED)
        self.changed_s = self.rests_until_s = at_s
        self._rest_s = self._terms.rest_s

    def _on(self, event: Event) -> None:
        was, self.state = self.state, _NEXT[self.state][event]
        self.probes = self._proved = 0
        if self.state is not State.CLOSED:
            self.spell += 1
        elif was is not State.CLOSED:
            self._in_a_row = 0
            self._window = Window(self._terms.window_s)
