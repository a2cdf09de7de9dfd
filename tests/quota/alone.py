"""One worker's leases, alone: what they say is read, and what they hear is written by hand."""

from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.quota.lease import Account, Amounts, Lease
from llmrouter.quota.leases import Leases, Refusal
from llmrouter.quota.messages import FromLedger, Granted, Reason, Refused, ToLedger
from llmrouter.quota.rulebook import Rulebook

NOW = 1_767_225_600_000
LATER = NOW + 10_000
ORG = Scope(kind="org", name="acme")
RATE = Rule(kind=Kind.REQUESTS, amount=600, per="minute")
TOKENS = Rule(kind=Kind.TOKENS, amount=10_000, per="minute")
MONEY = Rule(kind=Kind.USD, amount=1_000, per="day")
STRICT = Rule(kind=Kind.USD, amount=1_000, per="day", strict=True)
R, T, U = "org/acme/requests/minute", "org/acme/tokens/minute", "key/k/usd/day"
CALL: Amounts = (1, 100, 50, 1, 400)
REQUEST: Amounts = (1, 0, 0, 0, 0)


class Bench:
    """One worker's leases; what they say is read from `said`."""

    def __init__(self, *rules: Rule) -> None:
        self.rulebook = Rulebook({ORG: rules})
        self.wakes = 0
        self.flushes = 0
        self.leases = Leases(self.rulebook, wake=self._wake, flush_journal=self._flush)
        self.answers: list[Refusal | None] = []

    def _wake(self) -> None:
        self.wakes += 1

    def _flush(self) -> None:
        self.flushes += 1

    @property
    def account(self) -> Account:
        return self.leases.accounts.of("acme", None, None, "k", "m")

    def lease(self, name: str) -> Lease:
        return next(one for one in self.account.gating if one.name == name)

    def free(self) -> list[int]:
        return [one.free for one in self.account.gating]

    def said(self) -> list[ToLedger]:
        said = list(self.leases.outbox)
        self.leases.outbox.clear()
        return said

    def reserve(self, amounts: Amounts = CALL, now_ms: int = LATER) -> bool:
        return self.leases.reserve(self.account, amounts, now_ms)

    def ask(self, amounts: Amounts = CALL, now_ms: int = LATER, *, at_once: bool = False) -> int:
        answered = self.answers.append
        return self.leases.ask(self.account, amounts, answered, now_ms, at_once=at_once)

    def hear(self, *messages: FromLedger) -> None:
        for message in messages:
            self.leases.hear(message, LATER)

    def fill(self, *amounts: int) -> None:
        """Have so much of each bucket free."""
        for lease, amount in zip(self.account.gating, amounts, strict=True):
            self.leases.credit((lease,), (amount,) * 5)


def granted(take_id: int, *amounts: int, needed: tuple[int, ...] = ()) -> Granted:
    return Granted(take_id, amounts, tuple(0 for _ in amounts), LATER, needed)


def refused(take_id: int, bucket: str, reason: Reason) -> Refused:
    return Refused(take_id, bucket, reason, 0, LATER)
