"""What the ledger would answer to a call: found out on copies of its buckets. Pure.

Nothing is taken, and nobody is asked: the buckets are made anew from how they stood at a moment,
and judged as the desk judges those that do not fit. Two things the desk knows are not known here.
What other workers hold ready and do not need would be recalled: here it counts as held. And calls
that wait at a bucket stand before a new one.
"""

from collections.abc import Iterable

from llmrouter.quota.bucket import Saved, bucket_of
from llmrouter.quota.lease import Account, Amounts, Lease, Refusal, amount_of
from llmrouter.quota.ledger import Entry, Standing
from llmrouter.quota.messages import Ask
from llmrouter.quota.verdict import Verdict, Waiter, verdict

_OTHERS = "others"
"""Who holds in a copy what is held."""


class Rehearsal:
    """Buckets as they stood at a moment."""

    __slots__ = ("_standings", "_waiter", "at_ms")

    def __init__(self, standings: Iterable[Standing], at_ms: int, *, hold_wait_ms: int) -> None:
        """`at_ms` is when they stood so, and the time of the rehearsal."""
        self.at_ms = at_ms
        self._standings = {standing.bucket: standing for standing in standings}
        self._waiter = Waiter(0, at_ms, hold_wait_ms)

    def __repr__(self) -> str:
        return f"<Rehearsal buckets={len(self._standings)} at_ms={self.at_ms}>"

    def standing(self, lease: Lease) -> Standing:
        """How the bucket of a lease stood; as new where that was not told."""
        standing = self._standings.get(lease.name)
        if standing is not None:
            return standing
        bucket = bucket_of(lease.found.rule, None, self.at_ms)
        return Standing(
            bucket=lease.name,
            capacity=bucket.capacity,
            used=0,
            claimed=0,
            resets_at_ms=bucket.resets_at_ms(self.at_ms),
        )

    def refusal(self, account: Account, amounts: Amounts) -> tuple[Refusal, int] | None:
        """Why there is no room for the amounts, and how long the call would wait for it, in ms.

        None if there is room. A call that would wait in vain ends with the refusal.
        """
        short: list[tuple[Lease, int, Verdict]] = []
        for lease in account.gating:
            amount, entry = amount_of(amounts, lease.unit), self._entry(lease)
            if amount and entry.balance(self.at_ms) < amount:
                ask = Ask(lease.name, amount, amount)
                short.append((lease, amount, verdict(self._waiter, entry, ask, self.at_ms)))
        if not short:
            return None
        lease, amount, found = min(short, key=lambda each: each[2].wait_ms)
        refused = found.late() if found.wait_ms else found.refused
        return Refusal(lease, refused, amount), found.wait_ms

    def _entry(self, lease: Lease) -> Entry:
        """A copy of the ledger's; what this worker has ready there is free for its calls."""
        standing = self.standing(lease)
        saved = Saved(used=standing.used, at_ms=self.at_ms)
        entry = Entry(lease.found, bucket_of(lease.found.rule, saved, self.at_ms))
        entry.claims[_OTHERS] = standing.claimed - lease.free
        return entry
