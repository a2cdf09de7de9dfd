"""Buckets: what was spent under one rule, and what time gives back. Pure; integers; time comes in.

    rate         drains: `amount` flows off in every `per`, continuously, until nothing is left
    budget       starts again at nothing when a window of the calendar begins
    concurrency  spends nothing: what is taken comes back, and only claims on it count

Invariant: what a bucket says was used never exceeds what was spent, and never falls faster than the
rule gives back. A clock that is set back gives nothing back, and takes nothing away.
"""

from typing import Protocol

import msgspec

from llmrouter.contracts.rule import RATE_PERIODS_MS, Kind, Rule
from llmrouter.quota import window


class Saved(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a bucket as a store keeps it."""

    used: int = 0
    """In the rule's own unit, rounded up."""
    at_ms: int = 0
    """When that was so; of a budget, when its window began."""


class Bucket(Protocol):
    """The running state of one rule in one scope."""

    @property
    def capacity(self) -> int:
        """What it holds when nothing was spent."""

    def used(self, now_ms: int) -> int:
        """What is spent, rounded up; more than the capacity where it was overshot."""

    def spend(self, amount: int, at_ms: int, now_ms: int) -> None:
        """`amount` was spent at `at_ms`, which may lie some way back."""

    def falls_at_ms(self, amount: int, now_ms: int) -> int | None:
        """When what is used now will have fallen by `amount`; None if time does not do that.

        Of a rate also when more must drain than is spent yet: what is claimed will be spent.
        """

    def resets_at_ms(self, now_ms: int) -> int | None:
        """When nothing will be used any more, unless more is spent; None if never."""

    def change(self, rule: Rule, now_ms: int) -> None:
        """The rule has another amount from now on; what was used stays used."""

    def save(self, now_ms: int) -> Saved:
        """The state to be stored."""


class Rate:
    """A leaky bucket, as the time at which it will have drained (the GCRA of ITU-T I.371).

    That time is kept in units of 1/amount milliseconds, in which one unit of the rule takes exactly
    `per` to drain: all arithmetic is in whole numbers, and late spending needs no history.
    """

    __slots__ = ("_amount", "_empty_at", "_period_ms", "_seen_ms", "capacity")

    def __init__(self, rule: Rule, saved: Saved | None, now_ms: int) -> None:
        self._amount = rule.amount
        self._period_ms = RATE_PERIODS_MS[rule.per]
        self.capacity = rule.burst or rule.amount
        self._seen_ms = now_ms
        self._empty_at = 0
        if saved is not None:
            # Set back since it was saved: nothing has drained meanwhile.
            at_ms = min(saved.at_ms, now_ms)
            self._empty_at = at_ms * self._amount + saved.used * self._period_ms

    def used(self, now_ms: int) -> int:
        return -(-self._left(now_ms) // self._period_ms)

    def _left(self, now_ms: int) -> int:
        """What is still to drain, in 1/amount milliseconds.

        Who asks with a time that was noted before what was spent last is told of no earlier one:
        the clock of a node is not set back while it runs, and nothing drains by looking.
        """
        self._seen_ms = now_ms = max(now_ms, self._seen_ms)
        return max(0, self._empty_at - now_ms * self._amount)

    def spend(self, amount: int, at_ms: int, now_ms: int) -> None:
        self._left(now_ms)
        # So long ago by the clock it was said by, which may have been set back since we looked.
        start_ms = self._seen_ms - max(0, now_ms - at_ms)
        self._empty_at = max(self._empty_at, start_ms * self._amount) + amount * self._period_ms

    def falls_at_ms(self, amount: int, now_ms: int) -> int | None:
        target = (self.used(now_ms) - amount) * self._period_ms
        empty_at = max(self._empty_at, self._seen_ms * self._amount)
        return max(now_ms, -(-(empty_at - target) // self._amount))

    def resets_at_ms(self, now_ms: int) -> int | None:
        drains_ms = -(-self._left(now_ms) // self._amount)
        return self._seen_ms + drains_ms

    def change(self, rule: Rule, now_ms: int) -> None:
        left = self._left(now_ms)
        self._amount = rule.amount
        self.capacity = rule.burst or rule.amount
        self._empty_at = self._seen_ms * self._amount + left

    def save(self, now_ms: int) -> Saved:
        used = self.used(now_ms)
        return Saved(used=used, at_ms=self._seen_ms)


class Budget:
    """Money over a window of the calendar."""

    __slots__ = ("_start_ms", "_used", "_window", "capacity")

    def __init__(self, rule: Rule, saved: Saved | None, now_ms: int) -> None:
        self._window = rule.per
        self.capacity = rule.amount
        self._start_ms = saved.at_ms if saved is not None else window.start_ms(rule.per, now_ms)
        self._used = saved.used if saved is not None else 0

    def _roll(self, now_ms: int) -> None:
        start_ms = window.start_ms(self._window, now_ms)
        if start_ms > self._start_ms:
            self._start_ms, self._used = start_ms, 0

    def used(self, now_ms: int) -> int:
        self._roll(now_ms)
        return self._used

    def spend(self, amount: int, at_ms: int, now_ms: int) -> None:
        self._roll(now_ms)
        # Of a past window, unless the clock was set back since this one began.
        if not at_ms < self._start_ms <= now_ms:
            self._used += amount

    def falls_at_ms(self, amount: int, now_ms: int) -> int | None:
        return self.resets_at_ms(now_ms) if amount <= self.used(now_ms) else None

    def resets_at_ms(self, now_ms: int) -> int | None:
        self._roll(now_ms)
        return window.end_ms(self._window, max(now_ms, self._start_ms))

    def change(self, rule: Rule, now_ms: int) -> None:
        self.capacity = rule.amount

    def save(self, now_ms: int) -> Saved:
        self._roll(now_ms)
        return Saved(used=self._used, at_ms=self._start_ms)


class Slots:
    """Calls at once."""

    __slots__ = ("capacity",)

    def __init__(self, rule: Rule) -> None:
        self.capacity = rule.amount

    def used(self, now_ms: int) -> int:
        return 0

    def spend(self, amount: int, at_ms: int, now_ms: int) -> None:
        raise AssertionError("calls at once are claimed, not spent")

    def falls_at_ms(self, amount: int, now_ms: int) -> int | None:
        return None

    def resets_at_ms(self, now_ms: int) -> int | None:
        return None

    def change(self, rule: Rule, now_ms: int) -> None:
        self.capacity = rule.amount

    def save(self, now_ms: int) -> Saved:
        return Saved()


def bucket_of(rule: Rule, saved: Saved | None, now_ms: int) -> Bucket:
    """The bucket of `rule`, as it was saved or new."""
    match rule.kind:
        case Kind.REQUESTS | Kind.TOKENS:
            return Rate(rule, saved, now_ms)
        case Kind.USD:
            return Budget(rule, saved, now_ms)
        case Kind.CONCURRENT:
            return Slots(rule)


_: tuple[type[Bucket], ...] = (Rate, Budget, Slots)
