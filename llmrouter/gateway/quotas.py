"""What callers are told about limits and budgets: refusals in words, and headers with figures."""

from collections.abc import Iterable
from typing import NamedTuple

from llmrouter.access.issued import iso_utc
from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.errors import (
    ConcurrencyLimitExceeded,
    InsufficientQuota,
    InvalidRequest,
    LimitState,
    QueueTimeout,
    QuotaHeld,
    RateLimitExceeded,
    RouterError,
)
from llmrouter.quota.leases import REQUESTS, TOKENS, Lease, Refusal
from llmrouter.quota.messages import Reason
from llmrouter.units import MS_PER_S, NANO_PER_USD

MINUTE_MS = 60 * MS_PER_S
SOON_S = 1
"""Retry-After where only other calls can make room, and nobody knows when."""


def refused(refusal: Refusal, now_ms: int) -> RouterError:
    """The error that a call ends with for which there is no room."""
    why, rule = refusal.refused, refusal.lease.found.rule
    whose = _whose(refusal.lease.found.scope, rule)
    retry_s = _retry_s(why.retry_at_ms, now_ms) or SOON_S
    state = _state(refusal, now_ms)
    match why.reason:
        case Reason.OCCUPIED:
            said = f"{whose} has {_count(rule.amount, 'call')} in flight, as many as may be"
            return ConcurrencyLimitExceeded(
                f"{said}; try again when one has ended", limit=state, retry_after_s=SOON_S
            )
        case Reason.HELD:
            said = f"calls in flight hold what is left of {_amount(rule)} of {whose}"
            return QuotaHeld(
                f"{said}; try again when they have ended", limit=state, retry_after_s=SOON_S
            )
        case Reason.WAITED:
            said = (
                f"no turn came within {rule.wait_ms / MS_PER_S:g} s at {_amount(rule)} of {whose}"
            )
            return QueueTimeout(f"{said}; try again later", limit=state, retry_after_s=retry_s)
        case Reason.SPENT if rule.kind is not Kind.USD:
            said = f"{_used_up(refusal, whose)}; try again in {retry_s} s"
            return RateLimitExceeded(said, limit=state, retry_after_s=retry_s)
        case Reason.TOO_LARGE if rule.kind is not Kind.USD:
            return InvalidRequest(_too_large(refusal, whose))
        case Reason.SPENT | Reason.TOO_LARGE:
            said = (_spent if why.reason is Reason.SPENT else _too_large)(refusal, whose)
            return InsufficientQuota(said, limit=state)


def ended(refusal: Refusal, now_ms: int) -> InsufficientQuota:
    """The error that a running stream ends with for which a budget has no more.

    What is held of the budget is as good as spent then: most of it by this very stream.
    """
    rule, scope = refusal.lease.found.rule, refusal.lease.found.scope
    left = _usd(max(0, refusal.refused.left))
    said = f"this answer was cut: {left} of {_amount(rule)} of {_whose(scope, rule)} are left"
    return InsufficientQuota(f"{said}; {_more(refusal)}", limit=_state(refusal, now_ms))


def _used_up(refusal: Refusal, whose: str) -> str:
    rule = refusal.lease.found.rule
    left, amount = refusal.refused.left, _amount(rule)
    if rule.burst is not None:
        amount += f" ({rule.burst:,} at once)"
    if left <= 0:
        return f"{whose} has used {amount}"
    return f"{whose} has {left:,} left of {amount}, and the call needs about {refusal.wanted:,}"


def _spent(refusal: Refusal, whose: str) -> str:
    why, amount = refusal.refused, _amount(refusal.lease.found.rule)
    left, needed = _usd(max(0, why.left)), _usd(refusal.wanted)
    return f"{amount} of {whose} are spent: {left} left, {needed} needed; {_more(refusal)}"


def _more(refusal: Refusal) -> str:
    resets_at_ms, ask = refusal.refused.resets_at_ms, "ask your admin for more"
    return ask if resets_at_ms is None else f"it starts anew at {iso(resets_at_ms)}, or {ask}"


def _too_large(refusal: Refusal, whose: str) -> str:
    rule, wanted = refusal.lease.found.rule, refusal.wanted
    if rule.kind is Kind.USD:
        said = f"the call may cost {_usd(wanted)}, more than {_amount(rule)} of {whose} in all"
    else:
        fits = f"{refusal.lease.capacity:,} at once fit into {_amount(rule)} of {whose}"
        said = f"the call needs about {_count(wanted, 'token')}, and {fits}"
    return f"{said}; shorten it, send a smaller max_tokens, or ask your admin for more"


def _whose(scope: Scope, rule: Rule) -> str:
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


def _state(refusal: Refusal, now_ms: int) -> LimitState:
    lease, why = refusal.lease, refusal.refused
    rule, scope = lease.found.rule, lease.found.scope
    used = max(0, lease.capacity - why.left)
    resets_at_ms = why.resets_at_ms
    is_usd = rule.kind is Kind.USD
    return LimitState(
        scope=scope.kind,
        name=scope.name.rpartition("/")[2],
        kind=rule.kind.value,
        limit=rule.amount / NANO_PER_USD if is_usd else rule.amount,
        per=rule.per or None,
        model=rule.model,
        used=used / NANO_PER_USD if is_usd else used,
        resets_at=None if resets_at_ms is None else iso(max(resets_at_ms, now_ms)),
    )


def iso(at_ms: int) -> str:
    """A moment in ISO 8601 and UTC, rounded up to the second."""
    return iso_utc(-(-at_ms // MS_PER_S))


# ---- headers --------------------------------------------------------------------------------

_RATES = {REQUESTS: b"requests", TOKENS: b"tokens"}


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
