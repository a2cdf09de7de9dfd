"""A node's limits and budgets in the loop of the test: real leases before a real desk and ledger.

Messages go both ways through the loop, each in a turn of its own, as over a channel; what was spent
is read from the journal that the test's gateway writes. While calls wait, time passes for them.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmrouter.contracts.rule import RATE_PERIODS_MS, Kind, Rule, Scope
from llmrouter.daemon.clock import SteadyClock
from llmrouter.metering.journal import Journal
from llmrouter.metering.prices import Price
from llmrouter.metering.records import End
from llmrouter.metering.replay import JournaledCall
from llmrouter.metering.tail import Began, Ended, Tail
from llmrouter.quota.denials import Denials
from llmrouter.quota.desk import Desk, DeskTerms
from llmrouter.quota.leases import Leases
from llmrouter.quota.ledger import Charge, Ledger, Standing
from llmrouter.quota.messages import (
    Cancel,
    Force,
    FromLedger,
    GiveBack,
    Recalled,
    Take,
    ToLedger,
)
from llmrouter.quota.rulebook import Bucketed, Rulebook

ACME = Scope(kind="org", name="acme")
BOOT = "boot"
TOKEN_NANO = 1_000
"""What a token costs at `FLAT`, in nano-USD."""
FLAT = Price.of_usd(1, 1, 1)
TICK_S = 0.005
"""How often those who wait are looked at."""


def requests(amount: int, *, per: str = "day", **more: Any) -> Rule:
    """A limit on requests."""
    return Rule(kind=Kind.REQUESTS, amount=amount, per=per, **more)


def tokens(amount: int, *, per: str = "day", **more: Any) -> Rule:
    """A limit on tokens."""
    return Rule(kind=Kind.TOKENS, amount=amount, per=per, **more)


def at_once(amount: int, **more: Any) -> Rule:
    """A limit on calls at once."""
    return Rule(kind=Kind.CONCURRENT, amount=amount, **more)


def money(for_tokens: int, *, per: str = "total", **more: Any) -> Rule:
    """A budget of what so many tokens cost at `FLAT`."""
    return Rule(kind=Kind.USD, amount=for_tokens * TOKEN_NANO, per=per, **more)


class Node:
    """One worker's leases, and the ledger that they come from."""

    def __init__(
        self,
        rules: Mapping[Scope, tuple[Rule, ...]],
        journal: Journal,
        journal_dir: Path,
        terms: DeskTerms,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ticking: asyncio.TimerHandle | None = None
        self.now_ms = SteadyClock().now_ms
        self.started_ms = self.now_ms()
        self.rulebook = Rulebook(rules)
        scopes = self.rulebook.scopes()
        every = [found for scope in scopes for found in self.rulebook.of_scope(scope)]
        self._strict = [found.bucket for found in every if found.rule.strict]
        self.ledger = Ledger(self.rulebook, {})
        self.tail = Tail(journal_dir)
        self.desk = Desk(self.ledger, send=self._to_worker, fold=self.fold, terms=terms)
        self.leases = Leases(self.rulebook, wake=self._wake, flush_journal=journal.flush)
        self.denials = Denials()
        self.heard: list[ToLedger] = []
        """What the ledger was told, in order."""
        self.is_deaf = False
        """The ledger is there, but hears nothing."""
        self.overdrawn: list[tuple[str, int]] = []
        """Strict budgets of which more was spent and held than there is, at whatever moment."""
        self.desk.joined(BOOT)

    def fold(self) -> None:
        """Count what is in the journal."""
        for _, facts in self.tail.poll():
            for fact in facts:
                if isinstance(fact, Began | Ended):
                    self.ledger.charge(_charge(fact), self.now_ms(), is_live=True)

    def tick(self) -> None:
        """Let time pass for those who wait."""
        self.fold()
        self.desk.tick(self.now_ms())

    def standing(self) -> dict[str, Standing]:
        """How every bucket of a rule stands."""
        self.fold()
        found = [one for scope in self.rulebook.scopes() for one in self.rulebook.of_scope(scope)]
        now_ms = self.now_ms()
        return {one.bucket: self.ledger.standing(one, now_ms) for one in found}

    def settle(self) -> None:
        """Give back all that lies idle, as two sweeps do."""
        self.leases.sweep()
        self.leases.sweep()
        self._speak()

    def check(self, calls: Iterable[JournaledCall]) -> None:
        """Nobody waits, nothing is held, and what is used is what these calls have spent."""
        assert self.desk.waiting == 0, self.desk
        assert self.overdrawn == []
        self.settle()
        standing = self.standing()
        claimed = {name: found.claimed for name, found in standing.items()}
        assert {name: claim for name, claim in claimed.items() if claim} == {}, "not given back"
        spent: Counter[str] = Counter()
        for call in calls:
            for one in self._applying(call):
                spent[one.bucket] += _spent(one.rule, call)
        for name, found in standing.items():
            least = max(0, spent[name] - self._drained(name))
            assert least <= found.used <= spent[name], f"{name} is not what the journal says"

    def is_quiet(self) -> bool:
        """Nobody waits for the ledger, and nothing is left to tell it."""
        return not self.desk.waiting and not self.leases.outbox

    def rest(self) -> None:
        """Time passes no more."""
        if self._ticking is not None:
            self._ticking.cancel()

    def _applying(self, call: JournaledCall) -> tuple[Bucketed, ...]:
        begin = call.begin
        return tuple(
            self.rulebook.applying(
                org=begin.org,
                team=begin.team,
                user=begin.user,
                key_id=begin.key_id,
                model=begin.model,
            )
        )

    def _drained(self, bucket: str) -> int:
        """What has flown off at most since the start."""
        found = self.rulebook.rule(bucket)
        assert found is not None
        period_ms = RATE_PERIODS_MS.get(found.rule.per, 0)
        if found.rule.kind is Kind.USD or not period_ms:
            return 0
        return (self.now_ms() - self.started_ms) * found.rule.amount // period_ms + 1

    def _wake(self) -> None:
        self._loop.call_soon(self._speak)

    def revive(self) -> None:
        """Let the leases speak again after `ledger_gone`, so that they can be seen to be free."""
        self.desk.left(BOOT, self.now_ms())
        self.desk.joined(BOOT)
        self.leases.alone = False

    def listen(self) -> None:
        """Hear, and hear first what was said while it was deaf."""
        self.is_deaf = False
        self._speak()

    def _speak(self) -> None:
        if self.is_deaf:
            return
        said, self.leases.outbox[:] = list(self.leases.outbox), []
        for message in said:
            self.heard.append(message)
            self._to_ledger(message)

    def _to_ledger(self, message: ToLedger) -> None:
        now_ms = self.now_ms()
        match message:
            case Take():
                self.desk.take(BOOT, message, now_ms)
            case GiveBack(amounts=amounts):
                self.desk.give_back(BOOT, amounts, now_ms)
            case Force(amounts=amounts):
                self.desk.force(BOOT, amounts, now_ms)
            case Recalled(serial=serial):
                self.desk.recalled(BOOT, serial, now_ms)
            case Cancel(id=take_id):
                self.desk.cancel(BOOT, take_id, now_ms)
        self._look_at_strict(now_ms)
        self._tick_later()

    def _look_at_strict(self, now_ms: int) -> None:
        for name in self._strict:
            entry = self.ledger.entry(name, now_ms)
            if entry is not None and (balance := entry.balance(now_ms)) < 0:
                self.overdrawn.append((name, balance))

    def _tick_later(self) -> None:
        if self._ticking is None and self.desk.waiting:
            self._ticking = self._loop.call_later(TICK_S, self._ticked)

    def _ticked(self) -> None:
        self._ticking = None
        self.tick()
        self._tick_later()

    def _to_worker(self, worker: str, message: FromLedger) -> None:
        self._loop.call_soon(lambda: self.leases.hear(message, self.now_ms()))


def _charge(fact: Began | Ended) -> Charge:
    begin = fact.begin
    tokens = nano_usd = 0
    at_ms = begin.at_ms
    if isinstance(fact, Ended):
        tokens, nano_usd = tokens_of(fact.end), cost_of(fact.end)
        at_ms = fact.end.at_ms
    return Charge(
        holder=fact.boot,
        org=begin.org,
        team=begin.team,
        user=begin.user,
        key_id=begin.key_id,
        model=begin.model,
        at_ms=at_ms,
        rules=begin.rules,
        requests=int(isinstance(fact, Began)),
        tokens=tokens,
        nano_usd=nano_usd,
        instead_of=begin.instead_of,
    )


def tokens_of(end: End) -> int:
    """What all attempts of a call have used."""
    usages = (end.usage, *(other.usage for other in end.others))
    return sum(usage.prompt_tokens + usage.output_tokens for usage in usages)


def cost_of(end: End) -> int:
    """What that costs, in nano-USD."""
    return sum(cost or 0 for cost in (end.cost_nano_usd, *(o.cost_nano_usd for o in end.others)))


def _spent(rule: Rule, call: JournaledCall) -> int:
    """What a call has spent under a rule, as its end says."""
    begin, end = call.begin, call.end
    match rule.kind:
        case Kind.REQUESTS:
            return int(not any(map(rule.covers, begin.instead_of)))
        case Kind.TOKENS:
            return 0 if end is None else tokens_of(end)
        case Kind.USD:
            return 0 if end is None else cost_of(end)
        case Kind.CONCURRENT:
            return 0
