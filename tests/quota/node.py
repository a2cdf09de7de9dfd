"""A node on the table: the real ledger and desk, and workers; all that happens, by hand.

Each message is delivered, and each journal read, when somebody says so. Workers die with what they
have not said or written; the node dies with all but its store.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.quota.desk import Desk, DeskTerms
from llmrouter.quota.ledger import Charge, Entry, Ledger, read_rows
from llmrouter.quota.messages import (
    Cancel,
    Force,
    FromLedger,
    GiveBack,
    Granted,
    Recalled,
    Take,
)
from llmrouter.quota.rulebook import Rulebook
from tests.quota.workers import NewRules, Record, Worker

START_MS = 1_767_225_600_000 + 12 * 3_600_000  # noon of 2026-01-01, a Thursday
Rules = Mapping[Scope, tuple[Rule, ...]]


class _Position(msgspec.Struct):
    """How far a journal was folded, and the calls in flight there."""

    at: int = 0
    open: dict[int, Record] = {}
    closed: bool = False
    """Its writer is dead, and it was read to the end."""

    def copy(self) -> "_Position":
        return _Position(self.at, dict(self.open), self.closed)


class Node:
    """The supervisor's half, and all workers."""

    def __init__(
        self, rules: Rules, *, hold_wait_ms: int = 2_000, waiting_max: int = 1_000
    ) -> None:
        self.now_ms = START_MS
        self._rules = rules
        self._key_rules: dict[str, tuple[Rule, ...]] = {}
        self._terms = DeskTerms(hold_wait_ms=hold_wait_ms, waiting_max=waiting_max)
        self.workers: dict[str, Worker] = {}
        """Those that live."""
        self.dead: dict[str, Worker] = {}
        """Those whose claims still stand."""
        self._older: set[str] = set()
        """Those of an earlier supervisor."""
        self._journals: dict[str, list[Record]] = {}
        """What is on the disk, by boot."""
        self._boots = 0
        self.saved: tuple[dict[str, bytes], dict[str, _Position]] = ({}, {})
        """What is in the store: rows, and positions."""
        self.charged: list[tuple[str, Charge]] = []
        """What was counted, and where, since anybody looked."""
        self.answers: list[tuple[str, FromLedger]] = []
        """All that the desk has said."""
        self._takes: dict[tuple[str, int], Take] = {}
        self._start()

    def _start(self) -> None:
        self.generation = 0
        self.rulebook = self.new_rulebook()
        rows, positions = self.saved
        self.ledger = Ledger(self.rulebook, read_rows(rows.items()))
        self.desk = Desk(self.ledger, send=self._send, fold=self.fold, terms=self._terms)
        self._positions = {boot: found.copy() for boot, found in positions.items()}

    def new_rulebook(self) -> Rulebook:
        rulebook = Rulebook(self._rules)
        rulebook.generation = self.generation
        for key_id, rules in self._key_rules.items():
            rulebook.set_key(key_id, rules)
        return rulebook

    # ---- messages ---------------------------------------------------------------------------

    def worker(self) -> Worker:
        self._boots += 1
        worker = Worker(f"boot-{self._boots}", self.new_rulebook(), lambda: self.now_ms)
        self.workers[worker.boot] = worker
        self._journals[worker.boot] = worker.journal
        self.desk.joined(worker.boot)
        return worker

    def _send(self, boot: str, message: FromLedger) -> None:
        self.answers.append((boot, message))
        if isinstance(message, Granted):
            self._check_granted(boot, message)
        self.workers[boot].told.append(message)

    def _check_granted(self, boot: str, message: Granted) -> None:
        for bucket, amount in self.asked(boot, message):
            entry = self.ledger.entry(bucket, self.now_ms)
            assert amount >= 0
            assert not amount or entry is None or entry.balance(self.now_ms) >= 0, "beyond"

    def asked(self, boot: str, message: Granted) -> Iterator[tuple[str, int]]:
        """The amounts of an answer with their buckets."""
        asks = self._takes[boot, message.id].asks
        return zip((ask.bucket for ask in asks), message.amounts, strict=True)

    def hear(self, worker: Worker) -> None:
        """One message of a worker arrives."""
        message, boot, now_ms = worker.said.popleft(), worker.boot, self.now_ms
        match message:
            case Take():
                self._takes[boot, message.id] = message
                self.desk.take(boot, message, now_ms)
            case GiveBack(amounts=amounts):
                self.desk.give_back(boot, amounts, now_ms)
            case Force(amounts=amounts):
                self.desk.force(boot, amounts, now_ms)
            case Recalled(serial=serial):
                self.desk.recalled(boot, serial, now_ms)
            case Cancel(id=take_id):
                self.desk.cancel(boot, take_id, now_ms)

    def deliver(self) -> None:
        """All messages arrive, until nobody has more to say."""
        while any(worker.said or worker.told for worker in self.workers.values()):
            for worker in list(self.workers.values()):
                if worker.said:
                    self.hear(worker)
                if worker.told:
                    worker.hear()

    # ---- time and rules ---------------------------------------------------------------------

    def tick(self, after_ms: int = 0) -> None:
        """Time passes, in one step; then those who wait are looked at."""
        self.now_ms += after_ms
        self.fold()
        self.desk.tick(self.now_ms)

    def rest(self, after_ms: int = 0) -> None:
        """Everything arrives, is written and counted; what lies idle goes back."""
        self.tick(after_ms)
        for _ in range(3):
            self.deliver()
            for worker in self.workers.values():
                worker.flush()
                worker.sweep()
        self.deliver()
        self.fold()

    def set_key(self, key_id: str, rules: tuple[Rule, ...]) -> None:
        """A key's rules are changed: here at once, at the workers once they hear of it."""
        self.generation += 1
        self._key_rules[key_id] = rules
        self.rulebook.generation = self.generation
        self.rulebook.set_key(key_id, rules)
        for worker in self.workers.values():
            worker.told.append(NewRules(self.generation, key_id, rules))

    def rules_changed(self) -> None:
        """All workers have heard of it, or too much time has passed."""
        self.desk.rules_changed(self.now_ms)

    # ---- journals ---------------------------------------------------------------------------

    def fold(self) -> None:
        """Count what is in the journals."""
        for boot in self._journals:
            self._fold(boot)

    def _fold(self, boot: str) -> _Position:
        position = self._positions.setdefault(boot, _Position())
        journal = self._journals[boot]
        for record in journal[position.at :]:
            if record.kind == "begin":
                self._charge(record, record.charge)
                position.open[record.seq] = record
            elif record.kind == "hold":
                begun = position.open[record.seq]
                position.open[record.seq] = msgspec.structs.replace(begun, hold=record.hold)
            else:
                del position.open[record.seq]
                self._charge(record, record.charge)
        position.at = len(journal)
        return position

    def _finish(self, boot: str) -> None:
        position = self._fold(boot)
        for record in position.open.values():
            tokens, nano_usd = record.hold
            charge = msgspec.structs.replace(
                record.charge, requests=0, tokens=tokens, nano_usd=nano_usd
            )
            self._charge(record, charge)
        position.open.clear()
        position.closed = True

    def _charge(self, record: Record, charge: Charge) -> None:
        is_live = charge.holder not in self._older
        buckets = record.buckets
        if not is_live:
            applying = self.rulebook.applying(
                org=charge.org,
                team=charge.team,
                user=charge.user,
                key_id=charge.key_id,
                model=charge.model,
            )
            buckets = tuple(found.bucket for found in applying)
        self.ledger.charge(charge, self.now_ms, is_live=is_live)
        self.charged += [(bucket, charge) for bucket in buckets]

    def unfolded(self) -> Iterator[tuple[str, Record]]:
        """What workers have spent, and nobody has counted yet."""
        for worker in self.workers.values():
            position = self._positions.get(worker.boot, _Position())
            for record in (*worker.journal[position.at :], *worker.unflushed):
                yield worker.boot, record

    # ---- death ------------------------------------------------------------------------------

    def kill(self, worker: Worker, arriving: int = 0) -> None:
        """It dies; so many of its last messages still arrive, and nothing unwritten is left."""
        for _ in range(min(arriving, len(worker.said))):
            self.hear(worker)
        del self.workers[worker.boot]
        self.dead[worker.boot] = worker
        worker.unflushed.clear()
        self.desk.left(worker.boot, self.now_ms)

    def bury(self, worker: Worker) -> None:
        """It is known to be dead, and its journal is read to the end."""
        del self.dead[worker.boot]
        self._finish(worker.boot)
        self.desk.ended(worker.boot, self.now_ms)

    def save(self) -> None:
        """Write buckets and positions, in one transaction."""
        rows, _ = self.saved
        positions = {boot: found.copy() for boot, found in self._positions.items()}
        self.saved = {**rows, **self.ledger.changes(self.now_ms)}, positions

    def crash(self) -> None:
        """Everything dies; then a supervisor counts what was written and not yet counted."""
        for worker in self.workers.values():
            worker.unflushed.clear()
        self._older = set(self._journals)
        self.workers, self.dead = {}, {}
        self._start()
        for boot in self._journals:
            if not self._positions.get(boot, _Position()).closed:
                self._finish(boot)
        self.save()

    # ---- for those who look on --------------------------------------------------------------

    def entry(self, bucket: str) -> Entry:
        entry = self.ledger.entry(bucket, self.now_ms)
        assert entry is not None
        return entry

    def used(self, bucket: str) -> int:
        return self.entry(bucket).bucket.used(self.now_ms)

    def balance(self, bucket: str) -> int:
        return self.entry(bucket).balance(self.now_ms)

    def claimed(self, bucket: str) -> int:
        return self.entry(bucket).claimed()

    def claims(self) -> Counter[tuple[str, str]]:
        """What each worker should have a claim on, going by all that it holds and has sent."""
        found: Counter[tuple[str, str]] = Counter()
        for boot, worker in self.workers.items():
            for name, amount in (*worker.claims(), *self._on_the_way(worker)):
                found[boot, name] += amount
        for boot, record in self.unfolded():
            for name in record.buckets:
                known = self.rulebook.latest(name)
                assert known is not None
                found[boot, name] += spent(known.rule, record.charge)
        return found

    def _on_the_way(self, worker: Worker) -> Iterator[tuple[str, int]]:
        for told in worker.told:
            if isinstance(told, Granted):
                yield from self.asked(worker.boot, told)


def spent(rule: Rule, charge: Charge) -> int:
    """What a charge takes of a bucket of that rule."""
    match rule.kind:
        case Kind.REQUESTS:
            return charge.requests
        case Kind.TOKENS:
            return charge.tokens
        case Kind.USD:
            return charge.nano_usd
        case Kind.CONCURRENT:
            return 0
