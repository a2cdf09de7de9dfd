"""Workers on the table: real leases and reservations; messages, the journal and time by hand.

What a worker says and hears lies in two queues until somebody delivers it; what it journals is
written when somebody flushes it. A call goes the way of admission, spending and meter.
"""

from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from llmrouter.contracts.rule import Rule
from llmrouter.quota.leases import Account, Amounts, Lease, Leases, Refusal
from llmrouter.quota.ledger import Charge
from llmrouter.quota.messages import Force, FromLedger, GiveBack, ToLedger
from llmrouter.quota.reservation import Reservation
from llmrouter.quota.rulebook import Rulebook

ORG = "acme"
ONE_CALL: Amounts = (1, 0, 0, 1, 0)


class Who(msgspec.Struct, frozen=True):
    """On whose behalf a call is made, and to which model."""

    key_id: str = "k"
    team: str | None = None
    user: str | None = None
    model: str = "m"


class NewRules(msgspec.Struct, frozen=True):
    """The supervisor tells its workers which rules a key has."""

    generation: int
    key_id: str
    rules: tuple[Rule, ...]


class Record(msgspec.Struct, frozen=True):
    """What a journal says: a call began, holds more, or ended."""

    seq: int
    kind: str
    charge: Charge
    hold: tuple[int, int] = (0, 0)
    buckets: tuple[str, ...] = ()
    """Where the call has reserved."""


class Call:
    """One call: asks, holds, begins, and is over."""

    def __init__(self, worker: "Worker", who: Who, account: Account, amounts: Amounts) -> None:
        self.worker = worker
        self.who = who
        self.account = account
        self.amounts = amounts
        self.state = "asking"
        self.refusal: Refusal | None = None
        self.cut: Refusal | None = None
        """Why its stream was to be cut."""
        self._reservation: Reservation | None = None
        self._ask_id = 0
        self._seq = 0

    def __repr__(self) -> str:
        return f"<Call {self.state} {self.amounts} {self._reservation!r}>"

    @property
    def reservation(self) -> Reservation:
        assert self._reservation is not None
        return self._reservation

    @property
    def leases(self) -> tuple[Lease, ...]:
        return (*self.account.gating, *self.account.counted)

    @property
    def has_begun(self) -> bool:
        return self._seq > 0

    def start(self) -> None:
        leases, now_ms = self.worker.leases, self.worker.clock()
        refusal = leases.refusal(self.account, self.amounts, now_ms)
        if refusal is not None or leases.reserve(self.account, self.amounts, now_ms):
            self._answered(refusal)
        else:
            self._ask_id = leases.ask(self.account, self.amounts, self._answered, now_ms)

    def _answered(self, refusal: Refusal | None) -> None:
        assert self.state == "asking", "answered once, and not after it was cancelled"
        self.refusal = refusal
        self.state = "held" if refusal is None else "refused"
        if refusal is None:
            self._reservation = Reservation(self.worker.leases, self.account, self.amounts)

    def cancel(self) -> None:
        self.state = "gone"
        self.worker.leases.cancel(self._ask_id)

    def begin(self) -> None:
        """Journaled before anything is sent upstream."""
        self.state = "begun"
        self._seq = self.worker.next_seq()
        self._write("begin", requests=1)
        self.worker.flush()

    def extend(self, tokens: int, nano_usd: int) -> None:
        def cut(refusal: Refusal) -> None:
            self.cut = refusal

        self.reservation.extend(tokens, nano_usd, cut, self.worker.clock())
        self._write("hold")

    def settle(self, tokens: int, nano_usd: int) -> None:
        self.state = "over"
        self.reservation.settle(tokens, nano_usd)
        self._write("end", tokens=tokens, nano_usd=nano_usd)

    def release(self) -> None:
        """Nothing was sent."""
        self.state = "over"
        self.reservation.release()

    def _write(self, kind: str, *, requests: int = 0, tokens: int = 0, nano_usd: int = 0) -> None:
        worker, who, reservation = self.worker, self.who, self.reservation
        charge = Charge(
            holder=worker.boot,
            org=ORG,
            team=who.team,
            user=who.user,
            key_id=who.key_id,
            model=who.model,
            at_ms=worker.clock(),
            rules=reservation.rules,
            requests=requests,
            tokens=tokens,
            nano_usd=nano_usd,
        )
        hold = reservation.tokens, reservation.nano_usd
        buckets = tuple(lease.name for lease in self.leases)
        worker.unflushed.append(Record(self._seq, kind, charge, hold, buckets))

    def holds(self) -> Iterator[tuple[str, int]]:
        """What it holds of each bucket, beside what its journal says was spent."""
        if self.state not in ("held", "begun"):
            return
        reservation = self.reservation
        requests, tokens, usd, slots, worst = reservation._amounts
        cutting = reservation._cutting or ()
        for lease in self.leases:
            of_money = reservation._cutting_nano_usd if lease in cutting else usd
            left = requests if self.state == "held" else 0
            yield lease.name, (left, tokens, of_money, slots, worst)[lease.unit]


class Worker:
    """One life of a worker."""

    def __init__(self, boot: str, rulebook: Rulebook, clock: Callable[[], int]) -> None:
        self.boot = boot
        self.rulebook = rulebook
        self.clock = clock
        self.leases = Leases(self.rulebook, wake=self._wake, flush_journal=self.flush)
        self.said: deque[ToLedger] = deque()
        """What it has sent, and the desk has not heard yet."""
        self.told: deque[FromLedger | NewRules] = deque()
        """The other way."""
        self.calls: list[Call] = []
        self.unflushed: list[Record] = []
        self.journal: list[Record] = []
        self._seq = 0
        self._awake = False

    def __repr__(self) -> str:
        return f"<Worker {self.boot} said={len(self.said)} told={len(self.told)}>"

    def call(self, amounts: Amounts = ONE_CALL, who: Who | None = None) -> Call:
        """Begin to ask, as admission does."""
        who = who or Who()
        return self.try_call(Call(self, who, self.account(who), amounts))

    def account(self, who: Who) -> Account:
        return self.leases.accounts.of(ORG, who.team, who.user, who.key_id, who.model)

    def try_call(self, call: Call) -> Call:
        self.calls.append(call)
        call.start()
        self.speak()
        return call

    def _wake(self) -> None:
        assert not self._awake, "woken once for all that is to be sent"
        self._awake = True

    def speak(self) -> None:
        """What is in the outbox is sent at the end of each turn of the loop."""
        assert self._awake == bool(self.leases.outbox)
        self._awake = False
        self.said.extend(self.leases.outbox)
        self.leases.outbox.clear()

    def sweep(self) -> None:
        self.leases.sweep()
        self.speak()

    def flush(self) -> None:
        self.journal += self.unflushed
        self.unflushed.clear()

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def hear(self) -> None:
        """One message from the supervisor arrives."""
        message = self.told.popleft()
        if isinstance(message, NewRules):
            self.rulebook.generation = message.generation
            self.rulebook.set_key(message.key_id, message.rules)
        else:
            self.leases.hear(message, self.clock())
            self.speak()

    def free(self, bucket: str) -> int:
        lease = self.leases.accounts.leases.get(bucket)
        return 0 if lease is None else lease.free

    def claims(self) -> Iterator[tuple[str, int]]:
        """What it has of each bucket, and what it has sent back."""
        for name, lease in self.leases.accounts.leases.items():
            yield name, lease.free
        for call in self.calls:
            yield from call.holds()
        for said in self.said:
            if isinstance(said, GiveBack | Force):
                sign = 1 if isinstance(said, GiveBack) else -1
                yield from ((part.bucket, sign * part.amount) for part in said.amounts)
