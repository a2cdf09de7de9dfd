"""Why there is no room for a Take, and how long it may wait. Pure.

    spent        refused, with the time at which it will fit; or waits, if that is soon enough
    held         waits for the calls in flight to settle, `hold_wait_ms` at most
    occupied     refused; or waits
    too large    refused: it never fits

Where a rule says to wait, it waits; where several buckets are in the way, the one that lets it wait
the shortest decides.
"""

import msgspec

from llmrouter.contracts.rule import QUEUE, Kind
from llmrouter.quota.ledger import Entry
from llmrouter.quota.messages import Ask, Reason, Refused


class Verdict(msgspec.Struct, frozen=True):
    """One bucket that is in the way."""

    refused: Refused
    wait_ms: int
    """How long it may wait there, from its arrival on."""
    is_queued: bool
    """Its rule lets calls wait."""

    def late(self) -> Refused:
        """The refusal of one that has waited in vain; of a queue, that is what it is told."""
        if not self.is_queued:
            return self.refused
        return msgspec.structs.replace(self.refused, reason=Reason.WAITED)


class Waiter(msgspec.Struct, frozen=True):
    """Who is judged."""

    take_id: int
    arrived_ms: int
    hold_wait_ms: int
    """How long a call waits for what calls in flight hold."""


def verdict(waiter: Waiter, entry: Entry, ask: Ask, now_ms: int) -> Verdict:
    """What stands in the way of an ask that does not fit, or is behind others that do not."""
    bucket, rule = entry.bucket, entry.rule
    balance = entry.balance(now_ms)
    queue_ms = rule.wait_ms if rule.at_limit == QUEUE else 0
    retry_at_ms = None
    if ask.least > bucket.capacity:
        reason, wait_ms = Reason.TOO_LARGE, 0
    elif rule.kind is Kind.CONCURRENT:
        reason, wait_ms = Reason.OCCUPIED, queue_ms
    elif bucket.capacity - bucket.used(now_ms) < ask.least:
        reason = Reason.SPENT
        retry_at_ms = bucket.falls_at_ms(ask.least - balance, now_ms)
        soon = retry_at_ms is not None and retry_at_ms <= waiter.arrived_ms + queue_ms
        wait_ms = queue_ms if soon else 0
    else:
        reason, wait_ms = Reason.HELD, max(waiter.hold_wait_ms, queue_ms)
    refused = Refused(
        id=waiter.take_id,
        bucket=ask.bucket,
        reason=reason,
        left=balance,
        at_ms=now_ms,
        retry_at_ms=retry_at_ms,
        resets_at_ms=bucket.resets_at_ms(now_ms),
    )
    return Verdict(refused, wait_ms, rule.at_limit == QUEUE)
