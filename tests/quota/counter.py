"""The desk, alone: what workers say is written by hand, and what they are told is read."""

from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.quota.desk import Desk, DeskTerms
from llmrouter.quota.ledger import Charge, Ledger
from llmrouter.quota.messages import (
    Amount,
    Ask,
    FromLedger,
    Granted,
    Recall,
    Refused,
    Reopened,
    Take,
)
from llmrouter.quota.rulebook import Rulebook

NOW = 1_767_225_600_000  # midnight
HOLD_WAIT = 2_000
KEY = Scope(kind="key", name="k")
MONEY = Rule(kind=Kind.USD, amount=100, per="day")
RATE = Rule(kind=Kind.TOKENS, amount=60, per="minute")
SLOTS = Rule(kind=Kind.CONCURRENT, amount=2)
U, T, S = "key/k/usd/day", "key/k/tokens/minute", "key/k/concurrent"


class Counter:
    """The desk with two workers, `one` and `two`, and the rules of one key."""

    def __init__(self, *rules: Rule, waiting_max: int = 100) -> None:
        self.now_ms = NOW
        self.folds: list[Charge] = []
        """What the journals say when they are read next."""
        self.rulebook = Rulebook({})
        self.rulebook.set_key("k", rules)
        self.ledger = Ledger(self.rulebook, {})
        terms = DeskTerms(hold_wait_ms=HOLD_WAIT, waiting_max=waiting_max)
        self.desk = Desk(self.ledger, send=self._send, fold=self._fold, terms=terms)
        self._told: dict[str, list[FromLedger]] = {}
        for worker in ("one", "two"):
            self.desk.joined(worker)

    def _send(self, worker: str, message: FromLedger) -> None:
        self._told.setdefault(worker, []).append(message)

    def _fold(self) -> None:
        folds, self.folds = self.folds, []
        for charge in folds:
            self.ledger.charge(charge, self.now_ms, is_live=True)

    def told(self, worker: str) -> list[FromLedger]:
        """All that it was told since it was last read."""
        return self._told.pop(worker, [])

    def refusals(self, worker: str) -> list[Refused]:
        return [one for one in self.told(worker) if isinstance(one, Refused)]

    def answers(self, worker: str) -> dict[int, str]:
        """The answers to its Takes since it was last read, by id, and why not."""
        told = self.told(worker)
        found = {one.id: "granted" for one in told if isinstance(one, Granted)}
        return found | {one.id: one.reason.value for one in told if isinstance(one, Refused)}

    # ---- what workers say -------------------------------------------------------------------

    def take(
        self,
        worker: str,
        take_id: int,
        *asks: Ask,
        at_once: bool = False,
        ahead: bool = False,
    ) -> None:
        self.desk.take(worker, Take(take_id, asks, at_once=at_once, ahead=ahead), self.now_ms)

    def give_back(self, worker: str, bucket: str, amount: int) -> None:
        self.desk.give_back(worker, (Amount(bucket, amount),), self.now_ms)

    def force(self, worker: str, bucket: str, amount: int) -> None:
        self.desk.force(worker, (Amount(bucket, amount),), self.now_ms)

    def spend(self, worker: str, nano_usd: int = 0, tokens: int = 0) -> None:
        """It journals so much; that is read when the desk has to know."""
        self.folds.append(
            Charge(
                holder=worker,
                org="acme",
                team=None,
                user=None,
                key_id="k",
                model="m",
                at_ms=self.now_ms,
                nano_usd=nano_usd,
                tokens=tokens,
            )
        )

    def recalled(self, *workers: str) -> None:
        """They have given back what they could, to all recalls that they were told of."""
        for worker in workers:
            for message in self.told(worker):
                if isinstance(message, Recall):
                    self.desk.recalled(worker, message.serial, self.now_ms)
                else:
                    self._send(worker, message)

    def tick(self, after_ms: int = 0) -> None:
        self.now_ms += after_ms
        self.desk.tick(self.now_ms)

    def set_rules(self, *rules: Rule) -> None:
        self.rulebook.generation += 1
        self.rulebook.set_key("k", rules)
        self.desk.rules_changed(self.now_ms)

    def balance(self, bucket: str) -> int:
        entry = self.ledger.entry(bucket, self.now_ms)
        assert entry is not None
        return entry.balance(self.now_ms)


def ask(bucket: str, least: int, wanted: int | None = None) -> Ask:
    return Ask(bucket, least, least if wanted is None else wanted)


def reopened(messages: list[FromLedger]) -> list[str]:
    """The buckets that were reopened."""
    return [name for one in messages if isinstance(one, Reopened) for name in one.buckets]


def full(*rules: Rule, waiting_max: int = 100) -> Counter:
    """All of every bucket is lent to the worker `one`."""
    counter = Counter(*rules, waiting_max=waiting_max)
    for rule in rules:
        counter.take("one", 0, ask(f"key/k/{rule.name}", rule.amount))
    counter.told("one")
    return counter
