"""The ledger: the one authority on all buckets of a node. Pure; time comes in.

    balance = capacity - used - sum of claims

What is *used* comes from the journals alone: the tail of each worker's journal is folded in here.
A *claim* is what a worker was granted and has neither given back nor spent by its journal: its
leases, what its calls hold, and what they spent that has not been folded yet. Folding turns claim
into use and changes no balance, so it does not matter how late it happens. When a worker is dead
and its journal folded to the end, its claims vanish: what they held and did not spend is free.

A rule that is taken away leaves its entry, without a limit: what was granted under it still comes
back, and is to be free if the rule comes back, too.

Invariant: nothing is granted beyond a balance. Only `force` may make one negative (calls that took
more than was held for them), and a rule that is lowered.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

import msgspec

from llmrouter.contracts.rule import Kind, Rule
from llmrouter.quota.bucket import Bucket, Saved, bucket_of
from llmrouter.quota.messages import Ask
from llmrouter.quota.rulebook import Bucketed, Rulebook

EXTRA_PART = 8
"""Of what is left, one part in so many may be lent beyond what a call needs."""
UNLIMITED = 1 << 50
"""What a bucket has left whose rule was taken away."""
APPLYING_MAX = 4_096
"""Pairs of key and model that are remembered; callers choose the names."""
ROW_PREFIX = "bucket/"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Saved).decode


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What the journal says was spent, and for whom."""

    holder: str
    """The boot of the worker that wrote it."""
    org: str
    team: str | None
    user: str | None
    key_id: str
    model: str
    at_ms: int
    rules: int = 0
    """The generation of the rules that the call was admitted under."""
    requests: int = 0
    tokens: int = 0
    nano_usd: int = 0
    instead_of: tuple[str, ...] = ()
    """The models that the requests were for before: a rule that covers one counted them then."""

    def counted_by(self, rule: Rule) -> int:
        """What a rule that covers the model counts of it."""
        match rule.kind:
            case Kind.REQUESTS:
                return 0 if any(map(rule.covers, self.instead_of)) else self.requests
            case Kind.TOKENS:
                return self.tokens
            case Kind.USD:
                return self.nano_usd
            case Kind.CONCURRENT:
                return 0
            case _:
                assert_never(rule.kind)


class Entry:
    """A bucket with the claims on it."""

    __slots__ = ("bucket", "claims", "closed_to", "in_force", "name", "rule")

    def __init__(self, found: Bucketed, bucket: Bucket) -> None:
        self.name = found.bucket
        self.rule = found.rule
        self.bucket = bucket
        self.in_force = found.until is None
        """False once its rule was taken away: it refuses nothing."""
        self.claims: dict[str, int] = {}
        """By worker; negative while a `force` is still on its way."""
        self.closed_to: dict[str, int] = {}
        """The workers that were refused, and refuse by themselves until they hear of more room
        than this, which they were told was left."""

    def __repr__(self) -> str:
        return f"<Entry {self.name} {self.bucket!r} claims={self.claims}>"

    def claimed(self) -> int:
        """What all workers claim."""
        return sum(claim for claim in self.claims.values() if claim > 0)

    def balance(self, now_ms: int) -> int:
        """What can be granted."""
        if not self.in_force:
            return UNLIMITED
        return self.bucket.capacity - self.bucket.used(now_ms) - self.claimed()


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a bucket stands, for people."""

    bucket: str
    capacity: int
    used: int
    """Spent, as the journals say."""
    claimed: int
    """With workers: lent, held by calls in flight, or spent and not folded yet."""
    resets_at_ms: int | None


class Ledger:
    """Grants, takes back, and keeps count."""

    def __init__(self, rulebook: Rulebook, saved: Mapping[str, Saved]) -> None:
        self._rulebook = rulebook
        self._saved = dict(saved)
        """Buckets that nobody has asked for since the start."""
        self._entries: dict[str, Entry] = {}
        self._dirty: set[str] = set()
        self._applying: dict[tuple[object, ...], tuple[tuple[Bucketed, Entry], ...]] = {}
        self._changed: dict[str, Entry] = {}
        """Those whose rule has changed since that was last asked for."""
        self._version = rulebook.version
        """Of the rules that the entries follow."""

    def __repr__(self) -> str:
        return f"<Ledger buckets={len(self._entries)} dirty={len(self._dirty)}>"

    # ---- what workers ask for ---------------------------------------------------------------

    def entry(self, name: str, now_ms: int) -> Entry | None:
        """The bucket of that name; None if no rule has ever made it."""
        if self._version != self._rulebook.version:
            self._follow_rules(now_ms)
        entry = self._entries.get(name)
        if entry is None and (found := self._rulebook.latest(name)) is not None:
            saved = self._saved.pop(name, None)
            entry = self._entries[name] = Entry(found, bucket_of(found.rule, saved, now_ms))
        return entry

    def take(self, holder: str, asks: Sequence[Ask], now_ms: int) -> tuple[int, ...] | None:
        """Grant at least the least of every ask, or nothing of any: then None."""
        entries = [self.entry(ask.bucket, now_ms) for ask in asks]
        balances = [0 if entry is None else entry.balance(now_ms) for entry in entries]
        for entry, ask, balance in zip(entries, asks, balances, strict=True):
            if entry is not None and balance < ask.least and ask.least:
                return None
        granted = []
        for entry, ask, balance in zip(entries, asks, balances, strict=True):
            extra = max(0, min(ask.wanted - ask.least, (balance - ask.least) // EXTRA_PART))
            # Where no rule is left, what is asked for is granted: a worker hears of it soon.
            amount = ask.least + extra if entry is not None and entry.in_force else ask.least
            granted.append(amount)
            if entry is not None:
                entry.claims[holder] = entry.claims.get(holder, 0) + amount
        return tuple(granted)

    def take_ahead(self, holder: str, asks: Sequence[Ask], now_ms: int) -> tuple[int, ...]:
        """Grant of every ask what there is to spare, which may be nothing."""
        spare = [Ask(ask.bucket, 0, ask.wanted) for ask in asks]
        granted = self.take(holder, spare, now_ms)
        assert granted is not None, "there is always room for nothing"
        return granted

    def give_back(self, holder: str, name: str, amount: int, now_ms: int) -> Entry | None:
        """A worker has no more use for `amount`; the bucket that has more room now."""
        entry = self.entry(name, now_ms)
        if entry is not None:
            entry.claims[holder] = entry.claims.get(holder, 0) - amount
        return entry

    def force(self, holder: str, name: str, amount: int, now_ms: int) -> None:
        """A worker has spent `amount` more than it was granted."""
        entry = self.entry(name, now_ms)
        if entry is not None:
            entry.claims[holder] = entry.claims.get(holder, 0) + amount

    # ---- what the journals say --------------------------------------------------------------

    def charge(self, charge: Charge, now_ms: int, *, is_live: bool) -> None:
        """Count what was spent; the claim of a worker of ours that lives falls by as much.

        Of such a worker, each call counts where it has reserved, whatever the rules are by now. So
        a call that another model took over is one request more only where the first did not count.
        """
        for found, entry in self._applying_to(charge, now_ms):
            amount = charge.counted_by(entry.rule)
            counts = found.was_in_force(charge.rules) if is_live else found.until is None
            if not amount or not counts:
                continue
            entry.bucket.spend(amount, charge.at_ms, now_ms)
            if is_live:
                entry.claims[charge.holder] = entry.claims.get(charge.holder, 0) - amount
            self._dirty.add(entry.name)

    def claim(self, hold: Charge, now_ms: int, *, sign: int) -> None:
        """A call that was admitted by an earlier ledger holds so much, or (-1) does no more."""
        amounts = {
            Kind.REQUESTS: 0,  # spent when it began
            Kind.TOKENS: hold.tokens,
            Kind.USD: hold.nano_usd,
            Kind.CONCURRENT: 1,
        }
        for found, entry in self._applying_to(hold, now_ms):
            if found.until is None:
                amount = sign * amounts[entry.rule.kind]
                entry.claims[hold.holder] = entry.claims.get(hold.holder, 0) + amount

    def _applying_to(self, charge: Charge, now_ms: int) -> tuple[tuple[Bucketed, Entry], ...]:
        if self._version != self._rulebook.version:
            self._follow_rules(now_ms)
        if len(self._applying) > APPLYING_MAX:
            self._applying.clear()
        key = charge.org, charge.team, charge.user, charge.key_id, charge.model
        found = self._applying.get(key)
        if found is None:
            applying = self._rulebook.ever_applying(
                org=charge.org,
                team=charge.team,
                user=charge.user,
                key_id=charge.key_id,
                model=charge.model,
            )
            entries = ((bucketed, self.entry(bucketed.bucket, now_ms)) for bucketed in applying)
            found = tuple((bucketed, entry) for bucketed, entry in entries if entry is not None)
            self._applying[key] = found
        return found

    def ended(self, holder: str) -> list[Entry]:
        """A worker is dead and its journal folded: its claims vanish; the buckets they were on."""
        freed = []
        for entry in self._entries.values():
            entry.closed_to.pop(holder, None)
            if entry.claims.pop(holder, 0) > 0:
                freed.append(entry)
        return freed

    # ---- rules, and the store ---------------------------------------------------------------

    def rules_changed(self, now_ms: int) -> list[Entry]:
        """The buckets whose rule is another since the last call; what was used is kept."""
        if self._version != self._rulebook.version:
            self._follow_rules(now_ms)
        changed = list(self._changed.values())
        self._changed.clear()
        return changed

    def _follow_rules(self, now_ms: int) -> None:
        """Take over changed amounts: in force for whoever asks next."""
        self._version = self._rulebook.version
        self._applying.clear()
        for name, entry in self._entries.items():
            found = self._rulebook.rule(name)
            rule, in_force = (entry.rule, False) if found is None else (found.rule, True)
            if rule == entry.rule and in_force == entry.in_force:
                continue
            if rule != entry.rule:
                entry.rule = rule
                entry.bucket.change(rule, now_ms)
                self._dirty.add(name)
            entry.in_force = in_force
            self._changed[name] = entry

    def standing(self, found: Bucketed, now_ms: int) -> Standing:
        """How one bucket stands."""
        entry = self.entry(found.bucket, now_ms)
        assert entry is not None
        return Standing(
            bucket=entry.name,
            capacity=entry.bucket.capacity,
            used=entry.bucket.used(now_ms),
            claimed=entry.claimed(),
            resets_at_ms=entry.bucket.resets_at_ms(now_ms),
        )

    def changes(self, now_ms: int) -> dict[str, bytes]:
        """The rows of all buckets that were spent from since the last call."""
        dirty, self._dirty = self._dirty, set()
        entries = (self._entries[name] for name in dirty)
        return {ROW_PREFIX + entry.name: _encode(entry.bucket.save(now_ms)) for entry in entries}


def read_rows(rows: Iterable[tuple[str, bytes]]) -> dict[str, Saved]:
    """The saved buckets out of a store's rows; raises msgspec.DecodeError for damaged ones."""
    return {name.removeprefix(ROW_PREFIX): _decode(value) for name, value in rows}
