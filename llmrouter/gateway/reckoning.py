"""What an explanation says of limits and budgets, and how a call ends that is refused."""

from collections.abc import Iterator

import msgspec

from llmrouter.access.issued import iso_utc
from llmrouter.access.ruletext import show
from llmrouter.contracts.rule import Kind
from llmrouter.errors import RouterError
from llmrouter.gateway import quotas
from llmrouter.gateway.explanation import Hold, LimitSaid, Outcome
from llmrouter.gateway.need import Case
from llmrouter.gateway.needs import Need
from llmrouter.quota.lease import Amounts, Lease, Refusal, amount_of
from llmrouter.quota.messages import Reason
from llmrouter.quota.rehearsal import Rehearsal
from llmrouter.units import MS_PER_S, NANO_PER_USD

_ENDED = "when calls in flight have ended"
_NEVER = "not before the call, the key or router.toml is another"


def hold(case: Case, need: Need, amounts: Amounts) -> Hold:
    """What would be held for the call at first."""
    requests, _, nano_usd, _, worst = amounts
    return Hold(
        requests=requests,
        prompt_tokens=need.prompt_tokens,
        output_tokens=need.output_tokens,
        usd=nano_usd / NANO_PER_USD,
        has_price=case.price is not None,
        worst_usd=worst / NANO_PER_USD if case.is_strict else None,
    )


def limits(case: Case, amounts: Amounts, rehearsal: Rehearsal) -> Iterator[LimitSaid]:
    """Every limit and budget that counts the call: those that may refuse it first."""
    for lease in case.account.gating:
        yield _limit(lease, amounts, rehearsal, gates=True)
    for lease in case.account.counted:
        yield _limit(lease, amounts, rehearsal, gates=False)


def _limit(lease: Lease, amounts: Amounts, rehearsal: Rehearsal, *, gates: bool) -> LimitSaid:
    standing, rule, scope = rehearsal.standing(lease), lease.found.rule, lease.found.scope
    unit = NANO_PER_USD if rule.kind is Kind.USD else 1
    resets_at_ms = standing.resets_at_ms
    return LimitSaid(
        bucket=lease.name,
        scope=scope.kind,
        name=scope.name,
        rule=show(rule),
        kind=rule.kind.value,
        limit=_amount(standing.capacity, unit),
        used=_amount(standing.used, unit),
        claimed=_amount(standing.claimed, unit),
        left=_amount(standing.capacity - standing.used - standing.claimed, unit),
        resets_at=None if resets_at_ms is None else quotas.iso(resets_at_ms),
        needed=_amount(amount_of(amounts, lease.unit), unit),
        gates=gates,
    )


def _amount(amount: int, unit: int) -> int | float:
    return amount if unit == 1 else amount / unit


def no_room(refusal: Refusal, wait_ms: int, at_ms: int) -> Outcome:
    """The end of a call for which a limit or budget has no room, perhaps after a wait."""
    error, why = quotas.refused(refusal, at_ms), refusal.refused
    outcome = refusal_of(error, at_ms)
    at, when = None, _ENDED
    if why.reason is Reason.TOO_LARGE or (why.reason is Reason.SPENT and why.retry_at_ms is None):
        when = _NEVER
    elif why.retry_at_ms is not None:
        at = quotas.iso(why.retry_at_ms)
        when = f"at {at}"
    return msgspec.structs.replace(outcome, waits=wait_ms / MS_PER_S, at=at, when=when)


def refusal_of(error: RouterError, at_ms: int) -> Outcome:
    """The end of a call that is refused, as its caller would be told."""
    at = None
    if error.retry_after_s is not None:
        at = iso_utc(-(-at_ms // MS_PER_S) + error.retry_after_s)
    return Outcome(
        admitted=False,
        status=error.status,
        code=error.code,
        message=error.message,
        at=at,
        when=_NEVER if at is None else f"at {at}",
    )
