"""A worker's leases: the parts of buckets that its calls reserve from, in memory. Pure.

A call reserves from every bucket that applies to it, all or nothing. Where a lease is too small the
ledger is asked, with what is left of that lease given back first; the answer and the reservation
are one step, so nobody can come between. If another lease has run out meanwhile, all of them
are asked for at once; that answer always suffices. Each ask has one answer, also if its call has
gone by then: what is granted lies idle then, and goes back.

    free      granted and not reserved
    owed      others wait for so much at the ledger: goes back as soon as it is free
    closed    the ledger has refused; until time makes room or `Reopened` comes, we refuse too

Messages are put into `outbox`, whose first one calls `wake`; whoever owns the channel sends them.
Invariant: nothing here waits, and `free` is never negative between two calls of a method.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from llmrouter.quota.accounts import Accounts
from llmrouter.quota.lease import (
    CONCURRENT,
    REQUESTS,
    STRICT_USD,
    TOKENS,
    USD,
    Account,
    Amounts,
    Lease,
    Refusal,
    amount_of,
)
from llmrouter.quota.messages import (
    Amount,
    Ask,
    Cancel,
    Force,
    FromLedger,
    GiveBack,
    Granted,
    Reason,
    Recall,
    Recalled,
    Refused,
    Reopened,
    Take,
    ToLedger,
)
from llmrouter.quota.rulebook import Rulebook

__all__ = [
    "CONCURRENT", "REQUESTS", "STRICT_USD", "TOKENS", "USD", "Account", "Amounts", "Lease",
    "Leases", "Refusal",
]  # fmt: skip

EVERYTHING: Final = 1 << 62
"""What a lease owes whose rule counts otherwise now."""

Answered = Callable[[Refusal | None], None]
"""Told once how it went; None means that everything is reserved."""


class _Asked:
    """A call that waits for the ledger."""

    __slots__ = ("account", "amounts", "answered", "at_once", "id", "leases", "whole")

    def __init__(
        self, account: Account, amounts: Amounts, answered: Answered, *, at_once: bool
    ) -> None:
        self.id = 0
        self.at_once = at_once
        self.account = account
        self.amounts = amounts
        self.answered: Answered | None = answered
        """None once the call has gone: its answer is still to come."""
        self.leases: Sequence[Lease] = ()
        """What was asked for, in the order of the asks."""
        self.whole = False
        """Everything was asked for, so the answer suffices."""


class Leases:
    """All leases of one worker."""

    def __init__(
        self,
        rulebook: Rulebook,
        *,
        wake: Callable[[], None],
        flush_journal: Callable[[], None],
    ) -> None:
        self.accounts = Accounts(rulebook, self._retire)
        """Which of them apply to whom."""
        self._leases = self.accounts.leases
        self._wake = wake
        self._flush_journal = flush_journal
        self._lent: list[Lease] = []
        """Those of which something may lie idle."""
        self._asked: dict[int, _Asked] = {}
        self._ahead: dict[int, tuple[Lease, int]] = {}
        """What was asked for before it was needed, and how much of it."""
        self._id = 0
        self.outbox: list[ToLedger] = []
        self.alone = False
        """The ledger is gone: nothing more can be taken."""

    def __repr__(self) -> str:
        return f"<Leases buckets={len(self._leases)} asked={len(self._asked)}>"

    # ---- reserving --------------------------------------------------------------------------

    def reserve(self, account: Account, amounts: Amounts, now_ms: int) -> bool:
        """Take what a call needs from all its leases; False, and nothing taken, if one is short."""
        for lease in account.gating:
            if lease.free < amount_of(amounts, lease.unit):
                return False
        for lease in account.gating:
            lease.free = free = lease.free - amount_of(amounts, lease.unit)
            if free < lease.low and not lease.is_led(now_ms):
                self._ask_ahead(lease, now_ms)
        if account.counted:
            self.debit(account.counted, amounts)
        return True

    def refusal(self, account: Account, amounts: Amounts, now_ms: int) -> Refusal | None:
        """Why a call is refused without asking anybody, if it is."""
        for lease in account.gating:
            amount = amount_of(amounts, lease.unit)
            if lease.free < amount and (refused := lease.refuses(amount, now_ms)) is not None:
                return Refusal(lease, refused, amount)
        return None

    def ask(
        self,
        account: Account,
        amounts: Amounts,
        answered: Answered,
        now_ms: int,
        *,
        at_once: bool = False,
    ) -> int:
        """Ask the ledger for what is short; returns an id for `cancel`.

        `at_once` is for what cannot wait its turn: it is refused instead.
        """
        asked = _Asked(account, amounts, answered, at_once=at_once)
        self._id += 1
        asked.id = self._id
        short = [lease for lease in account.gating if lease.free < amount_of(amounts, lease.unit)]
        self._ask(asked, short, now_ms)
        return asked.id

    def cancel(self, ask_id: int) -> None:
        """Nobody waits for that answer any more; what it grants goes back by and by."""
        asked = self._asked.get(ask_id)
        if asked is not None and asked.answered is not None:
            asked.answered = None
            self._send(Cancel(ask_id))

    def _ask(self, asked: _Asked, leases: Sequence[Lease], now_ms: int) -> None:
        self._give_back_all(leases)
        asks = []
        for lease in leases:
            amount = amount_of(asked.amounts, lease.unit)
            asks.append(Ask(lease.name, amount, lease.pace(asked.id, amount, now_ms)))
        asked.leases = leases
        self._asked[asked.id] = asked
        self._send(Take(asked.id, tuple(asks), at_once=asked.at_once))

    def _ask_ahead(self, lease: Lease, now_ms: int) -> None:
        if self.alone or lease.owed or lease.closed is not None:
            return
        self._id += 1
        wanted = lease.pace(self._id, lease.wanted // 8 + 1, now_ms)
        self._ahead[self._id] = lease, wanted
        self._send(Take(self._id, (Ask(lease.name, 0, wanted),), ahead=True))

    # ---- settling ---------------------------------------------------------------------------

    def credit(self, leases: Iterable[Lease], amounts: Amounts) -> None:
        """Give amounts back to leases; a negative one takes, beyond what is free if need be."""
        forced: list[Amount] = []
        for lease in leases:
            amount = amount_of(amounts, lease.unit)
            if not amount:
                continue
            free = lease.free + amount
            if free < 0:
                forced.append(Amount(lease.name, -free))
                free = 0
            lease.free = free
            if free and (lease.owed or not lease.lent):
                self._keep(lease)
        if forced:
            self._send(Force(tuple(forced)))

    def debit(self, leases: Iterable[Lease], amounts: Amounts) -> None:
        """Take amounts from leases, beyond what is free if need be."""
        requests, tokens, usd, concurrent, strict_usd = amounts
        self.credit(leases, (-requests, -tokens, -usd, -concurrent, -strict_usd))

    def _retire(self, lease: Lease) -> None:
        """The calls that hold parts of it go on in its amounts, and leave nothing to others."""
        self._give_back_all((lease,))
        lease.owed = EVERYTHING

    def _keep(self, lease: Lease) -> None:
        """Something is free: pay what is owed; what is left then may lie idle."""
        amount = min(lease.free, lease.owed)
        if amount:
            lease.free -= amount
            lease.owed -= amount
            self._send(GiveBack((Amount(lease.name, amount),)))
        if lease.free and not lease.lent:
            lease.lent = True
            lease.seen_free = -1
            self._lent.append(lease)

    def sweep(self) -> None:
        """Give back what was not touched since the last sweep."""
        idle, lent = [], []
        for lease in self._lent:
            if lease.free and lease.free != lease.seen_free:
                lease.seen_free = lease.free
                lent.append(lease)
            else:
                lease.lent = False
                idle.append(lease)
        self._lent = lent
        self._give_back_all(idle)

    def _give_back_all(self, leases: Iterable[Lease]) -> None:
        amounts = []
        for lease in leases:
            if lease.free:
                amounts.append(Amount(lease.name, lease.free))
                lease.owed = max(0, lease.owed - lease.free)
                lease.free = 0
        if amounts:
            self._send(GiveBack(tuple(amounts)))

    # ---- what the ledger says ---------------------------------------------------------------

    def hear(self, message: FromLedger, now_ms: int) -> None:
        """The ledger has spoken."""
        match message:
            case Granted():
                self._on_granted(message, now_ms)
            case Refused():
                self._on_refused(message)
            case Recall():
                self._on_recall(message)
            case Reopened(buckets=buckets):
                for name in buckets:
                    if (lease := self._leases.get(name)) is not None:
                        lease.closed = None

    def _on_granted(self, message: Granted, now_ms: int) -> None:
        ahead = self._ahead.pop(message.id, None)
        asked = self._asked.pop(message.id, None)
        if ahead is not None:
            lease, wanted = ahead
            self._fill((lease,), message)
            self._keep(lease)
            if message.amounts[0] < wanted:  # little is left: ask when it is needed
                lease.low = 0
                lease.wanted //= 2
        elif asked is not None:
            self._fill(asked.leases, message)
            self._go_on(asked, now_ms)

    def _fill(self, leases: Sequence[Lease], message: Granted) -> None:
        for lease, amount, left in zip(leases, message.amounts, message.left, strict=True):
            lease.answered(message.id)
            lease.free += amount
            lease.left = left
            lease.left_at_ms = message.at_ms
            lease.seen_free = -1
        for lease, needed in zip(leases, message.needed, strict=False):
            self._owe(lease, needed)

    def _owe(self, lease: Lease, needed: int) -> None:
        if self._leases.get(lease.name) is lease:
            lease.owed = needed

    def _go_on(self, asked: _Asked, now_ms: int) -> None:
        """The answer is there; another lease may have run out meanwhile."""
        granted = asked.leases
        answered = asked.answered
        if answered is not None and not self.reserve(asked.account, asked.amounts, now_ms):
            assert not asked.whole, "what was granted cannot have gone elsewhere"
            asked.whole = True
            gating = asked.account.gating
            self._ask(asked, [one for one in gating if amount_of(asked.amounts, one.unit)], now_ms)
            return
        for lease in granted:
            self._keep(lease)
        if answered is not None:
            answered(None)

    def _on_refused(self, message: Refused) -> None:
        asked = self._asked.pop(message.id)
        for one in asked.leases:
            one.answered(message.id)
        lease = self._leases[message.bucket]
        wanted = amount_of(asked.amounts, lease.unit)
        lease.left, lease.left_at_ms = message.left, message.at_ms
        if message.full or message.reason in (Reason.SPENT, Reason.OCCUPIED):
            lease.closed, lease.closed_least = message, wanted
        if asked.answered is not None:
            asked.answered(Refusal(lease, message, wanted))

    def _on_recall(self, message: Recall) -> None:
        leases = []
        for part in message.amounts:
            lease = self._leases.get(part.bucket)
            if lease is not None:
                self._owe(lease, part.amount)
                leases.append(lease)
        self._give_back_all(leases)
        self._flush_journal()
        self._send(Recalled(message.serial))

    def ledger_gone(self) -> None:
        """No answer will come any more: whoever waits is refused."""
        self.alone = True
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            if waiting.answered is not None:
                lease = waiting.leases[0]
                gone = Refused(0, lease.name, Reason.HELD, lease.left, lease.left_at_ms)
                waiting.answered(Refusal(lease, gone, amount_of(waiting.amounts, lease.unit)))

    def _send(self, message: ToLedger) -> None:
        if self.alone:
            return
        if not self.outbox:
            self._wake()
        self.outbox.append(message)
