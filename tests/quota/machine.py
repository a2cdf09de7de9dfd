"""The whole of quotas as one machine: real parts, and everything that can happen between them.

Messages arrive in any interleaving (in order each way), journals are written and counted late, the
clock goes on and back, rules come and go, workers die with what they had not said or written, and
the node with all but its store. After every step the sums are right to the unit; at rest nothing is
claimed, nobody waits, and what is used is what was charged.
"""

from collections import defaultdict
from collections.abc import Iterable

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from llmrouter.contracts.rule import RATE_PERIODS_MS, Kind, Rule
from llmrouter.quota.bucket import Saved
from llmrouter.quota.lease import CONCURRENT
from llmrouter.quota.ledger import Entry, read_rows
from tests.quota.node import Node, spent
from tests.quota.reference import Reference, reference_of
from tests.quota.rules import KEY_RULES, MONEY, PICK, RULES, TOKENS, WHOS
from tests.quota.workers import Call, Who, Worker

WORKERS_MAX = 3
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class QuotaMachine(RuleBasedStateMachine):
    """What can happen on a node."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(RULES)
        self.references: dict[str, Reference] = {}
        self.saved: dict[str, Saved] = {}
        """What they begin with."""
        self.followed: dict[str, Rule] = {}
        """What the references follow."""
        self.pace_ms = 0
        """Time that has passed, never back."""
        self.admitted: dict[str, dict[Call, int]] = defaultdict(dict)
        """Calls by bucket, and when."""
        self.noted: set[Call] = set()
        self.loose: set[str] = set()
        """Buckets that were overdrawn on purpose, or whose rule was another once."""

    # ---- what workers do --------------------------------------------------------------------

    @initialize(workers=st.integers(1, WORKERS_MAX))
    def start(self, workers: int) -> None:
        for _ in range(workers):
            self.node.worker()

    @precondition(lambda self: len(self.node.workers) < WORKERS_MAX)
    @rule()
    def start_worker(self) -> None:
        self.node.worker()

    @precondition(lambda self: self.node.workers)
    @rule(pick=PICK, who=WHOS, tokens=TOKENS, money=MONEY, more=MONEY)
    def call(self, pick: int, who: Who, tokens: int, money: int, more: int) -> None:
        self._noting(self._worker(pick).call((1, tokens, money, 1, money + more), who))

    @precondition(lambda self: self.node.workers)
    @rule(pick=PICK, who=WHOS, many=st.integers(2, 12))
    def burst(self, pick: int, who: Who, many: int) -> None:
        """So that leases grow beyond what is needed now."""
        for _ in range(many):
            self._noting(self._worker(pick).call((1, 3, 2, 1, 4), who))

    @precondition(lambda self: self._calls("refused"))
    @rule(pick=PICK)
    def degrade(self, pick: int) -> None:
        """The limit that was met lets the call be served all the same."""
        refused = self._call("refused", pick)
        refused.state = "gone"
        assert refused.refusal is not None
        name = refused.refusal.lease.name
        account = refused.account.without(name)
        self.loose.add(name)
        amounts = refused.amounts
        self._noting(refused.worker.try_call(Call(refused.worker, refused.who, account, amounts)))

    @precondition(lambda self: self._calls("asking"))
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        call = self._call("asking", pick)
        call.cancel()
        call.worker.speak()

    @precondition(lambda self: self._calls("held"))
    @rule(pick=PICK)
    def begin(self, pick: int) -> None:
        self._call("held", pick).begin()

    @precondition(lambda self: self._calls("held"))
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        call = self._call("held", pick)
        call.release()
        call.worker.speak()
        self._forget([call])

    @precondition(lambda self: self._calls("begun"))
    @rule(pick=PICK, tokens=TOKENS, share=st.integers(0, 120))
    def settle(self, pick: int, tokens: int, share: int) -> None:
        """A call has used less than it held, or more; never more than its worst case."""
        call = self._call("begun", pick)
        _, _, _, _, worst = call.amounts
        call.settle(tokens, min(worst, call.reservation.nano_usd * share // 100))
        call.worker.speak()

    @precondition(lambda self: self._calls("begun"))
    @rule(pick=PICK, tokens=TOKENS, money=MONEY)
    def extend(self, pick: int, tokens: int, money: int) -> None:
        call = self._call("begun", pick)
        call.extend(tokens, money)
        call.worker.speak()

    @precondition(lambda self: self.node.workers)
    @rule(pick=PICK)
    def sweep(self, pick: int) -> None:
        self._worker(pick).sweep()

    @precondition(lambda self: self.node.workers)
    @rule(pick=PICK)
    def flush(self, pick: int) -> None:
        self._worker(pick).flush()

    # ---- messages, time, rules --------------------------------------------------------------

    @precondition(lambda self: any(one.said for one in self.node.workers.values()))
    @rule(pick=PICK, many=st.integers(1, 4))
    def desk_hears(self, pick: int, many: int) -> None:
        speaking = [one for one in self.node.workers.values() if one.said]
        worker = speaking[pick % len(speaking)]
        for _ in range(min(many, len(worker.said))):
            self.node.hear(worker)

    @precondition(lambda self: any(one.told for one in self.node.workers.values()))
    @rule(pick=PICK, many=st.integers(1, 4))
    def worker_hears(self, pick: int, many: int) -> None:
        told = [one for one in self.node.workers.values() if one.told]
        worker = told[pick % len(told)]
        for _ in range(min(many, len(worker.told))):
            worker.hear()
        self._note_admitted()

    @rule()
    def fold(self) -> None:
        self.node.fold()

    @rule(after_ms=st.integers(0, 120) | st.sampled_from([1_000, 5_000, 60_000, HOUR_MS, DAY_MS]))
    def time_passes(self, after_ms: int) -> None:
        self.pace_ms += after_ms
        self.node.tick(after_ms)

    @rule(back_ms=st.sampled_from([1, 50, 3_000, HOUR_MS]))
    def clock_is_set_back(self, back_ms: int) -> None:
        self.node.now_ms -= back_ms

    @rule(
        key_id=st.sampled_from(["k", "l"]), rules=st.lists(st.sampled_from(KEY_RULES), max_size=4)
    )
    def change_key(self, key_id: str, rules: list[Rule]) -> None:
        by_name = {one.name: one for one in rules}
        self._loosen_keys()
        self.node.set_key(key_id, tuple(by_name.values()))

    @rule()
    def rules_are_confirmed(self) -> None:
        self.node.rules_changed()

    # ---- death ------------------------------------------------------------------------------

    @precondition(lambda self: self.node.workers)
    @rule(pick=PICK, arriving=st.integers(0, 3))
    def worker_dies(self, pick: int, arriving: int) -> None:
        worker = self._worker(pick)
        self._forget(worker.calls)
        self.node.kill(worker, arriving)

    @precondition(lambda self: self.node.dead)
    @rule()
    def worker_is_buried(self) -> None:
        self.node.bury(next(iter(self.node.dead.values())))

    @rule()
    def save(self) -> None:
        self.node.save()

    @rule()
    def node_crashes(self) -> None:
        """What was counted and not saved is counted again, by the new ledger alone."""
        self._loosen_keys()  # calls may have begun before the rules that they are counted by
        for worker in self.node.workers.values():
            self._forget(worker.calls)
        self.references.clear()
        self.saved = read_rows(self.node.saved[0].items())
        self.node.crash()
        self.node.worker()

    # ---- at rest ----------------------------------------------------------------------------

    @rule()
    def all_is_delivered(self) -> None:
        """Nobody is forgotten: who came first waits for what nobody has to spare."""
        node = self.node
        node.deliver()
        node.rules_changed()
        node.tick()
        node.deliver()
        self._note_admitted()
        pending = sorted(node.desk._pending.values(), key=lambda one: one.number)
        if pending:
            assert any(
                self._spare(node.entry(ask.bucket)) < ask.least for ask in pending[0].take.asks
            ), pending
        assert len(pending) == len(self._calls("asking"))
        for worker in node.workers.values():
            for lease in worker.leases.accounts.leases.values():
                if lease.closed is not None and lease.unit == CONCURRENT:
                    balance = node.balance(lease.name)
                    assert balance <= max(0, lease.closed.left), "there is room, and nobody said so"

    def teardown(self) -> None:
        node = self.node
        for worker in node.workers.values():
            for call in worker.calls:
                if call.state == "asking":
                    call.cancel()
                elif call.state == "held":
                    call.release()
                elif call.state == "begun":
                    call.settle(1, 1)
            worker.speak()
        for dead in list(node.dead.values()):
            node.bury(dead)
        node.deliver()
        node.rules_changed()
        self.sums_are_right()
        node.rest(HOUR_MS)
        self.sums_are_right()
        assert node.desk.waiting == 0
        assert not node.desk._recalls
        assert not node.desk._queues.buckets()
        for entry in node.ledger._entries.values():
            assert not any(entry.claims.values()), f"{entry} at rest"
        for worker in node.workers.values():
            assert not worker.leases._asked
            assert not worker.leases._ahead
            assert not worker.leases._lent

    @invariant()
    def sums_are_right(self) -> None:
        self.node.ledger.entry("", self.node.now_ms)  # whoever asks has the rules followed
        self._follow_references()
        claims = self.node.claims()
        for name, entry in self.node.ledger._entries.items():
            now_ms = self.node.now_ms
            used = entry.bucket.used(now_ms)
            assert used == self.references[name].used(now_ms), f"{entry} is not what was charged"
            if entry.in_force:
                positive = sum(claim for claim in entry.claims.values() if claim > 0)
                assert entry.balance(now_ms) == entry.bucket.capacity - used - positive
            for boot in self.node.workers:
                found = entry.claims.get(boot, 0)
                assert found == claims[boot, name], f"{boot} has {claims[boot, name]} of {entry}"
        self._check_strict()

    @invariant()
    def nothing_is_negative(self) -> None:
        for worker in self.node.workers.values():
            for lease in worker.leases.accounts.leases.values():
                assert lease.free >= 0
                assert lease.owed >= 0

    @invariant()
    def no_more_requests_than_one_worker_would_admit(self) -> None:
        for name, admitted in self.admitted.items():
            entry = self.node.ledger._entries.get(name)
            if entry is None:
                continue
            level, at = 0.0, 0
            per_ms = entry.rule.amount / RATE_PERIODS_MS[entry.rule.per]
            for pace_ms in admitted.values():
                level = max(0, level - (pace_ms - at) * per_ms) + 1
                at = pace_ms
            assert level <= entry.bucket.capacity + 1e-6, f"{level} requests at {entry}"

    # ---- looking on -------------------------------------------------------------------------

    def _noting(self, call: Call) -> None:
        for lease in call.account.counted:
            self.loose.add(lease.name)
        self._note_admitted()

    def _note_admitted(self) -> None:
        for call in self._calls("held"):
            if call not in self.noted:
                self.noted.add(call)
                for lease in call.account.gating:
                    if lease.found.rule.kind is Kind.REQUESTS:
                        self.admitted[lease.name][call] = self.pace_ms
        for name in self.loose:
            self.admitted.pop(name, None)

    def _forget(self, calls: Iterable[Call]) -> None:
        """These have not begun, or died before that: they have used nothing."""
        for call in calls:
            if call.state == "held" or (call.state == "over" and not call.has_begun):
                for admitted in self.admitted.values():
                    admitted.pop(call, None)

    def _loosen_keys(self) -> None:
        rulebook = self.node.rulebook
        for scope in rulebook.scopes():
            if scope.kind == "key":
                self.loose |= {found.bucket for found in rulebook.of_scope(scope)}

    def _check_strict(self) -> None:
        for name, entry in self.node.ledger._entries.items():
            if entry.rule.strict and name not in self.loose:
                assert entry.bucket.used(self.node.now_ms) <= entry.bucket.capacity

    def _follow_references(self) -> None:
        now_ms = self.node.now_ms
        for name in self.node.ledger._entries:
            known = self.node.rulebook.latest(name)
            assert known is not None
            if name not in self.references:
                saved = self.saved.pop(name, None)
                self.references[name] = reference_of(known.rule, saved, now_ms)
            elif known.rule != self.followed[name]:
                self.references[name].change(known.rule, now_ms)
            self.followed[name] = known.rule
        for name, charge in self.node.charged:
            amount = spent(self.followed[name], charge)
            if amount:
                self.references[name].spend(amount, charge.at_ms, now_ms)
        self.node.charged.clear()

    def _spare(self, entry: Entry) -> int:
        free = sum(worker.free(entry.name) for worker in self.node.workers.values())
        return entry.balance(self.node.now_ms) + free

    def _worker(self, pick: int) -> Worker:
        workers = list(self.node.workers.values())
        return workers[pick % len(workers)]

    def _calls(self, state: str) -> list[Call]:
        every = (call for worker in self.node.workers.values() for call in worker.calls)
        return [call for call in every if call.state == state]

    def _call(self, state: str, pick: int) -> Call:
        found = self._calls(state)
        return found[pick % len(found)]
