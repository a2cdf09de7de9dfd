"""What callers are told about limits and budgets: refusals in words, and headers with figures."""

import functools
from collections.abc import Iterable
from typing import Final, NamedTuple

from llmrouter.access.issued import iso_utc
from llmrouter.contracts.rule import Kind, Rule
from llmrouter.errors import (
    ConcurrencyLimitExceeded,
    InsufficientQuota,
    InvalidRequest,
    LimitReached,
    LimitState,
    QueueTimeout,
    QuotaHeld,
    QuotaRefused,
    RateLimitExceeded,
    RouterError,
)
from llmrouter.quota.leases import REQUESTS, TOKENS, Lease, Refusal
from llmrouter.quota.messages import Reason
from llmrouter.quota.rulebook import Bucketed
from llmrouter.units import MS_PER_S, NANO_PER_USD

MINUTE_MS: Final = 60 * MS_PER_S
SOON_S: Final = 1
"""Retry-After where only other calls can make room, and nobody knows when."""


class _Met(NamedTuple):
    """A limit or budget without room for a call, and all that a caller is told of it."""

    found: Bucketed
    capacity: int
    left: int
    wanted: int
    resets_at_s: int | None


class _Told(NamedTuple):
    """A refusal in words, and the limit that was met as it stands."""

    error: type[RouterError]
    message: str
    limit: LimitState


def refused(refusal: Refusal, now_ms: int) -> RouterError:
    """The error that a call ends with for which there is no room."""
    why = refusal.refused
    retry_s = _retry_s(why.retry_at_ms, now_ms) or SOON_S
    told = _told(why.reason, _met(refusal, now_ms), retry_s)
    error = told.error
    if issubclass(error, LimitReached):
        retry_after_s = retry_s if error in _TIMED else SOON_S
        return error(told.message, limit=told.limit, retry_after_s=retry_after_s)
    if issubclass(error, QuotaRefused):
        return error(told.message, limit=told.limit)
    return error(told.message)


def ended(refusal: Refusal, now_ms: int) -> InsufficientQuota:
    """The error that a running stream ends with for which a budget has no more.

    What is held of the budget is as good as spent then: most of it by this very stream.
    """
    met = _met(refusal, now_ms)
    left, whose = _usd(max(0, met.left)), _whose(met)
    said = f"this answer was cut: {left} of {_amount(met.found.rule)} of {whose} are left"
    return InsufficientQuota(f"{said}; {_more(met)}", limit=_state(met))


# ---- in words -------------------------------------------------------------------------------

_TIMED: Final = (QueueTimeout, RateLimitExceeded)
"""Where it is known when there will be room."""


def _met(refusal: Refusal, now_ms: int) -> _Met:
    why, lease = refusal.refused, refusal.lease
    resets_at_ms = why.resets_at_ms
    resets_at_s = None if resets_at_ms is None else -(-max(resets_at_ms, now_ms) // MS_PER_S)
    return _Met(lease.found, lease.capacity, why.left, refusal.wanted, resets_at_s)


@functools.lru_cache(maxsize=1024)
def _told(reason: Reason, met: _Met, retry_s: int) -> _Told:
    """Remembered, as who meets a limit meets it many times a second: saves 4 us a call."""
    rule, whose = met.found.rule, _whose(met)
    is_money = rule.kind is Kind.USD
    error: type[RouterError]
    match reason:
        case Reason.OCCUPIED:
            error = ConcurrencyLimitExceeded
            said = f"{whose} has {_count(rule.amount, 'call')} in flight, as many as may be"
            said += "; try again when one has ended"
        case Reason.HELD:
            error = QuotaHeld
            said = f"calls in flight hold what is left of {_amount(rule)} of {whose}"
            said += "; try again when they have ended"
        case Reason.WAITED:
            error = QueueTimeout
            wait_s = rule.wait_ms / MS_PER_S
            said = f"no turn came within {wait_s:g} s at {_amount(rule)} of {whose}"
            said += "; try again later"
        case Reason.SPENT:
            error = InsufficientQuota if is_money else RateLimitExceeded
            said = _spent(met, whose) if is_money else _used_up(met, whose, retry_s)
        case _:  # TOO_LARGE
            error = InsufficientQuota if is_money else InvalidRequest
            said = _too_large(met, whose)
    return _Told(error, said, _state(met))


def _used_up(met: _Met, whose: str, retry_s: int) -> str:
    rule = met.found.rule
    amount, again = _amount(rule), f"try again in {retry_s} s"
    if rule.burst is not None:
        amount += f" ({rule.burst:,} at once)"
    if met.left <= 0:
        return f"{whose} has used {amount}; {again}"
    needs = f"the call needs about {met.wanted:,}"
    return f"{whose} has {met.left:,} left of {amount}, and {needs}; {again}"


def _spent(met: _Met, whose: str) -> str:
    left, needed = _usd(max(0, met.left)), _usd(met.wanted)
    said = f"{_amount(met.found.rule)} of {whose} are spent: {left} left, {needed} needed"
    return f"{said}; {_more(met)}"


def _more(met: _Met) -> str:
    ask = "ask your admin for more"
    if met.resets_at_s is None:
        return ask
    return f"it starts anew at {iso_utc(met.resets_at_s)}, or {ask}"


def _too_large(met: _Met, whose: str) -> str:
    rule, wanted = met.found.rule, met.wanted
    if rule.kind is Kind.USD:
        said = f"the call may cost {_usd(wanted)}, more than {_amount(rule)} of {whose} in all"
    else:
        fits = f"{met.capacity:,} at once fit into {_amount(rule)} of {whose}"
        said = f"the call needs about {_count(wanted, 'token')}, and {fits}"
    return f"{said}; shorten it, send a smaller max_tokens, or ask your admin for more"


def _whose(met: _Met) -> str:
    scope, rule = met.found.scope, met.found.rule
    name = scope.name.rpartition("/")[2]
    model = f" for {rule.model}" if rule.model is not None else ""
    return f"the {scope.kind} {name}{model}"


def _amount(rule: Rule) -> str:
    per = f" per {rule.per}" if rule.per not in ("", "total") else ""
    if rule.kind is Kind.USD:
        return f"the {_usd(rule.amount)}{per}"
    noun = "call" if rule.kind is Kind.CONCURRENT else rule.kind.value.removesuffix("s")
    return f"the {_count(rule.amount, noun)}{per or ' at once'}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _usd(nano_usd: int) -> str:
    whole, part = divmod(nano_usd, NANO_PER_USD)
    return f"{whole:,}.{part:09}".rstrip("0").rstrip(".") + " USD"


def _retry_s(retry_at_ms: int | None, now_ms: int) -> int | None:
    """Whole seconds: never shorter than the truth, less than one second longer."""
    return None if retry_at_ms is None else max(1, -(-(retry_at_ms - now_ms) // MS_PER_S))


def _state(met: _Met) -> LimitState:
    rule, scope = met.found.rule, met.found.scope
    used = max(0, met.capacity - met.left)
    is_money = rule.kind is Kind.USD
    return LimitState(
        scope=scope.kind,
        name=scope.name.rpartition("/")[2],
        kind=rule.kind.value,
        limit=rule.amount / NANO_PER_USD if is_money else rule.amount,
        per=rule.per or None,
        model=rule.model,
        used=used / NANO_PER_USD if is_money else used,
        resets_at=None if met.resets_at_s is None else iso_utc(met.resets_at_s),
    )


def iso(at_ms: int) -> str:
    """A moment in ISO 8601 and UTC, rounded up to the second."""
    return iso_utc(-(-at_ms // MS_PER_S))


# ---- headers --------------------------------------------------------------------------------

_RATES: Final = {REQUESTS: b"requests", TOKENS: b"tokens"}


class _Shown(NamedTuple):
    """A limit, and its headers but for the two figures that change."""

    lease: Lease
    lines: bytes
    full: bytes
    """With the figures of a limit of which nothing is used."""


class LimitHeaders:
    """`x-ratelimit-…` for the calls of one account: of the tightest limit of each kind.

    Made anew when the rules change: what they say stands in it.
    """

    __slots__ = ("_kinds",)

    def __init__(self, leases: Iterable[Lease]) -> None:
        shown: dict[int, list[_Shown]] = {}
        for lease in leases:
            if lease.unit in _RATES:
                shown.setdefault(lease.unit, []).append(_shown(lease))
        self._kinds = tuple(tuple(of_kind) for of_kind in shown.values())

    def at(self, now_ms: int) -> bytes:
        """The lines as things stand; none without limits on requests or tokens."""
        lines = b""
        for of_kind in self._kinds:
            tightest = of_kind[0]
            remaining = tightest.lease.remaining(now_ms)
            for shown in of_kind[1:]:
                left = shown.lease.remaining(now_ms)
                if left < remaining:
                    tightest, remaining = shown, left
            lease, form, full = tightest
            if remaining == lease.capacity:
                lines += full
                continue
            used_up = (lease.capacity - remaining) * lease.period_ms
            # How long until all of it remains, if nobody calls.
            lines += form % (remaining, duration(-(-used_up // lease.found.rule.amount)))
        return lines


def _shown(lease: Lease) -> _Shown:
    kind = _RATES[lease.unit]
    lines = (
        b"x-ratelimit-limit-%b: %d\r\n"
        b"x-ratelimit-remaining-%b: %%d\r\n"
        b"x-ratelimit-reset-%b: %%b\r\n"
    ) % (kind, lease.capacity, kind, kind)
    return _Shown(lease, lines, lines % (lease.capacity, duration(0)))


def duration(ms: int) -> bytes:
    """A duration as these headers have it, which is Go's way: `20ms`, `1.5s`, `6m0s`, `1h2m3s`."""
    if ms < MINUTE_MS:
        return b"%dms" % ms if 0 < ms < MS_PER_S else b"%gs" % (ms / MS_PER_S)
    minutes, ms = divmod(ms, MINUTE_MS)
    hours, minutes = divmod(minutes, 60)
    shown = b"%dm%gs" % (minutes, ms / MS_PER_S)
    return b"%dh%b" % (hours, shown) if hours else shown
