"""How a deployment is now: what every call asks before it goes there, and tells afterwards.

Three things can speak against it: its breaker is open (its attempts failed), it rests (it answered
429, and until when), or it is unsound (the active probes of its upstream fail). Workers and the
supervisor tell each other by `Report`; what one hears that way it does not tell on.

Each attempt is `enter`ed once, gets exactly one verdict (`succeeded`, `failed`, or `left` if it
ended without one), and `leave`s once. Invariant: between `passes` and `enter` nothing awaits.
"""

from collections.abc import Callable
from typing import Final

from llmrouter.routing.breaker import Breaker, BreakerTerms, State
from llmrouter.routing.latency import Latency
from llmrouter.routing.report import Report

_THROTTLED_MAX_S: Final = 3600.0
"""An upstream that asks for more rest than this is asked again after an hour."""
_TOLD_AGAIN_S: Final = 1.0
"""A rest that grows by less is not told again: each 429 of a burst adds a little."""


class Condition:
    """The state of one deployment in this process. Times are monotonic seconds."""

    __slots__ = (
        "_is_clear",
        "_on_change",
        "_reason",
        "_throttled_reason",
        "_throttled_until_s",
        "_told_until_s",
        "breaker",
        "inflight",
        "latency",
        "name",
        "sound",
    )

    def __init__(
        self,
        name: str,
        terms: BreakerTerms,
        *,
        now_s: float,
        on_change: Callable[["Condition"], None] | None = None,
    ) -> None:
        self.name = name
        """Its upstream and model: `main/gpt-4o`."""
        self.inflight = 0
        """Attempts that run."""
        self.breaker = Breaker(terms)
        self.latency = Latency()
        self.sound = True
        """What the active probes of its upstream say."""
        self._on_change = on_change
        self._reason = ""
        """Of the breaker's last change."""
        self._throttled_until_s = self._told_until_s = now_s
        self._throttled_reason = ""
        self._is_clear = True
        """Closed and not throttled: one look instead of several, for every call."""

    def __repr__(self) -> str:
        return f"<Condition {self.name} {self.breaker.state} inflight={self.inflight}>"

    def is_usable(self, now_s: float) -> bool:
        """Whether an attempt may begin now."""
        return self.sound and (self._is_clear or self.passes(now_s))

    def passes(self, now_s: float) -> bool:
        """Whether an attempt may begin now, whatever probes say."""
        return self._is_clear or (not self.is_resting(now_s) and self.breaker.allows(now_s))

    def is_probed(self) -> bool:
        """Whether attempts are probes now, that show whether it can be used again."""
        return self.breaker.state is State.HALF_OPEN

    def is_resting(self, now_s: float) -> bool:
        """Whether it answered 429, and the moment until which has not come."""
        return now_s < self._throttled_until_s

    def rest_s(self, now_s: float) -> float:
        """What is left of that rest."""
        return max(self._throttled_until_s - now_s, 0.0)

    def why_not(self, now_s: float) -> str:
        """Why it is not usable, in words; empty if it is."""
        if self.is_usable(now_s):
            return ""
        if not self.sound:
            return "its health checks fail"
        if self.is_resting(now_s):
            return f"it rests for {self.rest_s(now_s):.1f} s more: {self._throttled_reason}"
        if self.breaker.state is State.OPEN:
            left_s = self.breaker.rests_until_s - now_s
            return f"its breaker is open for {left_s:.1f} s more: {self._reason}"
        return f"its breaker is half-open and its probes still run: {self._reason}"

    def usable_at(self, now_s: float) -> float | None:
        """When it will be usable, `now_s` if it is; None if that is no matter of time."""
        if self.is_usable(now_s):
            return now_s
        at_s = max(self._throttled_until_s, self.breaker.rests_until_s)
        return at_s if self.sound and at_s > now_s else None

    def enter(self, now_s: float) -> int:
        """An attempt begins; return its spell, which its verdict must bring back."""
        self.inflight += 1
        if self._is_clear:
            return self.breaker.spell
        was = self.breaker.state
        spell = self.breaker.enter(now_s)
        self._look_again(was, self._reason, now_s)
        return spell

    def leave(self) -> None:
        """It ended, however."""
        self.inflight -= 1

    def first_token(self, seconds: float, now_s: float) -> None:
        """Its answer began, `seconds` after it was asked for."""
        self.latency.saw(seconds, now_s)

    def succeeded(self, now_s: float, spell: int) -> None:
        """A verdict: the deployment did what it should."""
        was = self.breaker.state
        self.breaker.succeeded(now_s, spell)
        if self.breaker.state is not was:
            self._look_again(was, "its probes succeeded", now_s)

    def failed(self, reason: str, now_s: float, spell: int) -> None:
        """A verdict: it did not, and `reason` says in a few words how."""
        was = self.breaker.state
        self.breaker.failed(now_s, spell)
        if self.breaker.state is not was:
            self._look_again(was, reason, now_s)

    def left(self, spell: int) -> None:
        """No verdict: its caller went away, or it ended by no merit or fault of the deployment."""
        self.breaker.left(spell)

    def rest_until(self, at_s: float, reason: str, now_s: float) -> None:
        """It has no room until `at_s`, of which at most an hour counts; the longest rest holds."""
        self._rest(at_s, reason, now_s)
        if self._throttled_until_s > self._told_until_s + _TOLD_AGAIN_S:
            self._told_until_s = self._throttled_until_s
            self._tell()

    def report(self, now_s: float) -> Report:
        """What other processes should know."""
        state = self.breaker.state
        return Report(
            deployment=self.name,
            state=state,
            rest_s=max(self.breaker.rests_until_s - now_s, 0.0),
            reason=self._reason if state is not State.CLOSED else self._throttled_reason,
            changed_s=self.breaker.changed_s,
            throttled_s=self.rest_s(now_s),
        )

    def adopt(self, report: Report, now_s: float) -> None:
        """Another process says this: the later opening or closing holds, and the longer rest."""
        if self.breaker.adopt(report.state, report.changed_s, report.rest_s, now_s):
            self._reason = report.reason
        if report.throttled_s > 0:
            self._rest(now_s + report.throttled_s, report.reason, now_s)
            self._told_until_s = max(self._told_until_s, self._throttled_until_s)
        self._is_clear = self._has_nothing_against_it(now_s)

    def _rest(self, at_s: float, reason: str, now_s: float) -> None:
        until_s = min(at_s, now_s + _THROTTLED_MAX_S)
        if until_s > max(self._throttled_until_s, now_s):
            self._throttled_until_s = until_s
            self._throttled_reason = reason
            self._is_clear = False

    def _look_again(self, was: State, reason: str, now_s: float) -> None:
        self._is_clear = self._has_nothing_against_it(now_s)
        if self.breaker.state is not was:
            self._reason = reason
            self._tell()

    def _has_nothing_against_it(self, now_s: float) -> bool:
        return self.breaker.state is State.CLOSED and not self.is_resting(now_s)

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change(self)
