"""What a worker knows of one bucket: the part of it that it has, and what the ledger said of it.

A refusal by the ledger is remembered for a moment, with what was left then: what surely does not
fit is refused here, and told the time at which it will, which is never too early. What may fit is
asked for. Pure; time comes in.
"""

from dataclasses import dataclass
from typing import Final

from llmrouter.contracts.rule import RATE_PERIODS_MS, Kind, Rule
from llmrouter.quota.messages import Reason, Refused
from llmrouter.quota.rulebook import Bucketed

REQUESTS: Final = 0
TOKENS: Final = 1
USD: Final = 2
CONCURRENT: Final = 3
STRICT_USD: Final = 4
"""Where the amount for a lease stands in the amounts of a call."""
Amounts = tuple[int, int, int, int, int]
BUSY_MS: Final = 100
"""Who asks again so soon asks for twice as much; who asks later than four times that, for half."""
WANTED_MAX: Final = 1 << 50
CLOSED_MS: Final = 1_000
"""A refusal is remembered for so long at most, so that a lost word costs a second, not a day."""

FULL_MS: Final = 50
"""A refusal for want of a place to wait: so that a flood of such calls does not ask for each."""

_UNITS: Final = {
    Kind.REQUESTS: REQUESTS,
    Kind.TOKENS: TOKENS,
    Kind.USD: USD,
    Kind.CONCURRENT: CONCURRENT,
}


def unit_of(rule: Rule) -> int:
    """Which of the amounts of a call its bucket takes."""
    return STRICT_USD if rule.strict else _UNITS[rule.kind]


def amount_of(amounts: Amounts, unit: int) -> int:
    """The one among the amounts of a call that a lease of this unit takes.

    Compiled, `amounts[unit]` would first make objects of all five: 3 % of a call's instructions.
    """
    requests, tokens, usd, concurrent, strict_usd = amounts
    if unit == REQUESTS:
        return requests
    if unit == TOKENS:
        return tokens
    if unit == USD:
        return usd
    return concurrent if unit == CONCURRENT else strict_usd


class Lease:
    """The part of one bucket that this worker has."""

    __slots__ = (
        "asked_at_ms",
        "capacity",
        "closed",
        "closed_least",
        "found",
        "free",
        "leading",
        "led_at_ms",
        "left",
        "left_at_ms",
        "lent",
        "low",
        "name",
        "owed",
        "period_ms",
        "seen_free",
        "unit",
        "wanted",
    )

    def __init__(self, found: Bucketed) -> None:
        self.name = found.bucket
        self.free = 0
        self.owed = 0
        self.wanted = 0
        self.low = 0
        """Below this the next part is asked for ahead."""
        self.asked_at_ms = 0
        self.leading = 0
        """The ask for more than its call needs that is to be answered, and since when; 0: none."""
        self.led_at_ms = 0
        self.closed: Refused | None = None
        self.closed_least = 0
        """What was asked for when the ledger refused."""
        self.left = 0
        """What the ledger last said was left in the bucket, and when."""
        self.left_at_ms = 0
        self.lent = False
        """Something of it may lie idle: a sweep has to look."""
        self.seen_free = -1
        """What was free at the last sweep."""
        self.follow(found)

    def __repr__(self) -> str:
        return f"<Lease {self.name} free={self.free} owed={self.owed}>"

    def follow(self, found: Bucketed) -> None:
        """The rule has this amount from now on."""
        rule = found.rule
        self.found = found
        self.capacity = rule.burst or rule.amount
        self.unit = unit_of(rule)
        self.period_ms = RATE_PERIODS_MS[rule.per] if self.unit <= TOKENS else 0
        """Of a rate; 0 for what does not flow back."""

    def remaining(self, now_ms: int) -> int:
        """What the bucket still admits, as far as this worker knows."""
        left = self.left + self.free
        if left < self.capacity:
            left += self.refill(self.left_at_ms, now_ms)
        if left >= self.capacity:
            return self.capacity
        return left if left > 0 else 0

    def refill(self, since_ms: int, now_ms: int) -> int:
        """What time has given back meanwhile, at most."""
        if not self.period_ms:
            return 0
        return max(0, now_ms - since_ms) * self.found.rule.amount // self.period_ms

    def pace(self, ask_id: int, amount: int, now_ms: int) -> int:
        """How much to ask for where `amount` is needed, going by how soon it is needed again.

        One ask leads, and asks for more. Those who come before its answer ask for what they need;
        the next time they all count as one that needs their sum.
        """
        since_ms = now_ms - self.asked_at_ms
        self.asked_at_ms = now_ms
        if self.is_led(now_ms):
            self.wanted = min(WANTED_MAX, self.wanted + amount)
            asked = amount
        else:
            self.leading, self.led_at_ms = ask_id, now_ms
            if since_ms < BUSY_MS:
                self.wanted = min(WANTED_MAX, max(self.wanted, amount) * 2)
            elif since_ms > 4 * BUSY_MS:
                self.wanted = max(amount, self.wanted // 2)
            asked = max(amount, self.wanted)
        self.low = self.wanted // 4 if self.wanted > 4 * amount else 0
        return asked

    def is_led(self, now_ms: int) -> bool:
        """More is asked for already; but a call that waits its turn at the ledger holds up none."""
        return self.leading != 0 and now_ms - self.led_at_ms < BUSY_MS

    def answered(self, ask_id: int) -> None:
        """The ledger has answered that ask."""
        if self.leading == ask_id:
            self.leading = 0

    def refuses(self, amount: int, now_ms: int) -> Refused | None:
        """What the ledger would surely answer, if it has said enough for that."""
        if amount > self.capacity:
            return self._refused(Reason.TOO_LARGE, self.left, now_ms, None)
        closed = self.closed
        if closed is None:
            return None
        resets_at_ms = closed.resets_at_ms
        is_over = resets_at_ms is not None and now_ms >= resets_at_ms
        for_ms = FULL_MS if closed.full else CLOSED_MS
        if is_over or not 0 <= now_ms - closed.at_ms < for_ms:
            self.closed = None
            return None
        retry_at_ms = self._retry_at_ms(closed, amount)
        if self._may_fit(closed, amount, retry_at_ms, now_ms):
            return None
        left = closed.left + self.refill(closed.at_ms, now_ms)
        return self._refused(closed.reason, left, now_ms, retry_at_ms)

    def _may_fit(self, closed: Refused, amount: int, retry_at_ms: int | None, now_ms: int) -> bool:
        if self.period_ms and retry_at_ms is not None:
            return now_ms >= retry_at_ms
        return amount <= closed.left + self.free

    def _retry_at_ms(self, closed: Refused, amount: int) -> int | None:
        """When `amount` would be granted, going by when that is for what was asked."""
        if closed.reason is not Reason.SPENT:
            return None
        if not self.period_ms:
            return closed.resets_at_ms
        if closed.retry_at_ms is None:
            return None
        more = amount - self.free - self.closed_least
        return closed.retry_at_ms - (-more * self.period_ms // self.found.rule.amount)

    def _refused(self, reason: Reason, left: int, now_ms: int, retry_at_ms: int | None) -> Refused:
        resets_at_ms = self.closed.resets_at_ms if self.closed is not None else None
        return Refused(
            id=0,
            bucket=self.name,
            reason=reason,
            left=left,
            at_ms=now_ms,
            retry_at_ms=retry_at_ms,
            resets_at_ms=resets_at_ms,
        )


@dataclass(frozen=True)
class Account:
    """The leases that apply to the calls of one key to one model."""

    gating: tuple[Lease, ...]
    """Those that a call must fit into."""
    counted: tuple[Lease, ...] = ()
    """Those that it counts in, but need not fit into: it is served in place of another."""
    rules: int = 0
    """The generation of the rules that these are of: its calls are journaled with that."""

    def without(self, name: str) -> "Account":
        """The same, but the bucket `name` does not refuse."""
        return Account(
            tuple(lease for lease in self.gating if lease.name != name),
            (*self.counted, *(lease for lease in self.gating if lease.name == name)),
            self.rules,
        )

    def without_requests_of(self, models: tuple[str, ...]) -> "Account":
        """The same without the limits on requests that count calls to one of `models`."""

        def counts(lease: Lease) -> bool:
            return lease.unit == REQUESTS and any(map(lease.found.rule.covers, models))

        return Account(
            tuple(lease for lease in self.gating if not counts(lease)),
            tuple(lease for lease in self.counted if not counts(lease)),
            self.rules,
        )

    @property
    def has_budget(self) -> bool:
        """Whether money is counted."""
        return any(lease.found.rule.kind is Kind.USD for lease in (*self.gating, *self.counted))

    def smallest(self, kind: Kind) -> int:
        """The most that fits into every bucket of a kind."""
        fits = (lease.capacity for lease in self.gating if lease.found.rule.kind is kind)
        return min(fits, default=WANTED_MAX)

    @property
    def is_strict(self) -> bool:
        """Whether the worst case has to be held."""
        return any(lease.unit == STRICT_USD for lease in self.gating)


class Refusal(Exception):
    """There is no room for a call; `refused` says where and why."""

    def __init__(self, lease: Lease, refused: Refused, wanted: int) -> None:
        super().__init__(refused.bucket)
        self.lease = lease
        self.refused = refused
        self.wanted = wanted
        """What the call needed there."""
