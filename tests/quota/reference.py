"""Buckets once more, in another way: exact fractions and calendar dates, slow and plain."""

import datetime
import math
from fractions import Fraction

from llmrouter.contracts.rule import RATE_PERIODS_MS, Kind, Rule
from llmrouter.quota.bucket import Saved

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class LeakyBucket:
    """A level that drains, and since when it was empty; it is looked at in no order of time."""

    def __init__(self, rule: Rule, saved: Saved | None, now_ms: int) -> None:
        self._follow(rule)
        self._level = Fraction(0 if saved is None else saved.used)
        self._at_ms = Fraction(now_ms if saved is None else min(saved.at_ms, now_ms))
        self._empty_since = self._at_ms if saved is not None else Fraction(0)
        self._drain(now_ms)

    def _follow(self, rule: Rule) -> None:
        self._per_ms = Fraction(rule.amount, RATE_PERIODS_MS[rule.per])

    def _drain(self, now_ms: int) -> None:
        if now_ms <= self._at_ms:
            return  # no time has passed, or the clock was set back
        emptied_at = self._at_ms + self._level / self._per_ms
        if self._level and emptied_at <= now_ms:
            self._empty_since = emptied_at
        self._level = max(Fraction(0), self._level - (now_ms - self._at_ms) * self._per_ms)
        self._at_ms = Fraction(now_ms)

    def used(self, now_ms: int) -> int:
        self._drain(now_ms)
        return math.ceil(self._level)

    def spend(self, amount: int, at_ms: int, now_ms: int) -> None:
        self._drain(now_ms)
        if self._level:
            self._level += amount
            return
        # It could drain since then, as nothing else did.
        since = max(self._empty_since, self._at_ms - max(0, now_ms - at_ms))
        drained = (self._at_ms - since) * self._per_ms
        self._level = max(Fraction(0), amount - drained)
        if not self._level:
            self._empty_since = since + amount / self._per_ms

    def change(self, rule: Rule, now_ms: int) -> None:
        self._drain(now_ms)
        self._follow(rule)
        if not self._level:
            self._empty_since = self._at_ms  # at which pace anything drained before is nobody's


class Account:
    """What was spent since a window of the calendar began; a window that is over stays so."""

    def __init__(self, rule: Rule, saved: Saved | None, now_ms: int) -> None:
        self._per = rule.per
        self._begun = window_start(rule.per, now_ms)
        self._used = 0
        if saved is not None and saved.at_ms >= self._begun:
            self._begun, self._used = saved.at_ms, saved.used

    def _turn(self, now_ms: int) -> None:
        begun = window_start(self._per, now_ms)
        if begun > self._begun:
            self._begun, self._used = begun, 0

    def used(self, now_ms: int) -> int:
        self._turn(now_ms)
        return self._used

    def spend(self, amount: int, at_ms: int, now_ms: int) -> None:
        self._turn(now_ms)
        was_set_back = now_ms < self._begun
        if at_ms >= self._begun or was_set_back:
            self._used += amount

    def change(self, rule: Rule, now_ms: int) -> None:
        self._turn(now_ms)


class Nothing:
    """Calls at once are not spent."""

    def __init__(self, rule: Rule, saved: Saved | None, now_ms: int) -> None:
        pass

    def used(self, now_ms: int) -> int:
        return 0

    def spend(self, amount: int, at_ms: int, now_ms: int) -> None:
        raise AssertionError

    def change(self, rule: Rule, now_ms: int) -> None:
        pass


Reference = LeakyBucket | Account | Nothing


def reference_of(rule: Rule, saved: Saved | None, now_ms: int) -> Reference:
    kinds: dict[Kind, type[LeakyBucket | Account | Nothing]] = {
        Kind.REQUESTS: LeakyBucket,
        Kind.TOKENS: LeakyBucket,
        Kind.USD: Account,
        Kind.CONCURRENT: Nothing,
    }
    return kinds[rule.kind](rule, saved, now_ms)


def window_start(window: str, now_ms: int) -> int:
    """When the window began, by way of the calendar."""
    now = _EPOCH + datetime.timedelta(milliseconds=now_ms)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    start = {
        "hour": now.replace(minute=0, second=0, microsecond=0),
        "day": midnight,
        "week": midnight - datetime.timedelta(days=now.weekday()),
        "month": midnight.replace(day=1),
        "total": _EPOCH,
    }[window]
    return round((start - _EPOCH) / datetime.timedelta(milliseconds=1))
