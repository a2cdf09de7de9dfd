"""The desk: where workers ask the ledger, and wait their turn. Pure; time and messages come in.

A Take that fits is granted at once. One that does not is never refused before what other workers
hold unused was *recalled* and the journals were folded: then what is left unpaid is spent, or held
by calls in flight, and nothing else. What happens then is the rule's to say (`verdict`).

Who waits stands in a queue at each bucket that has no room (`queues`), and is served in order; who
comes later does not overtake, here or at a worker: what becomes unused there is owed to those who
wait. Nothing is held while waiting, so nobody waits in a circle. Each Take has exactly one answer.

A worker that was refused refuses by itself from then on, without asking, until time alone makes
room (it knows when) or `Reopened` tells it.
"""

from collections.abc import Callable, Iterable

import msgspec

from llmrouter.quota.ledger import Entry, Ledger
from llmrouter.quota.messages import (
    Amount,
    Ask,
    FromLedger,
    Granted,
    Reason,
    Recall,
    Refused,
    Reopened,
    Take,
)
from llmrouter.quota.queues import Pending, Queues
from llmrouter.quota.verdict import Verdict, Waiter, verdict

Send = Callable[[str, FromLedger], None]
"""To a worker, known by its boot."""
RECALL_MS = 1_000
"""A worker answers a recall within milliseconds; who stands still for so long is not waited for."""


class DeskTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How long, and how many."""

    hold_wait_ms: int
    """How long a call waits for what calls in flight hold."""
    waiting_max: int
    """So many may wait at any moment; who comes then is refused at once."""


class Desk:
    """Answers the workers of one node."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        send: Send,
        fold: Callable[[], None],
        terms: DeskTerms,
    ) -> None:
        self._ledger = ledger
        self._send = send
        self._fold = fold
        self._terms = terms
        self._workers: set[str] = set()
        self._pending: dict[tuple[str, int], Pending] = {}
        """In the order of their arrival."""
        self._queues = Queues()
        self._recalls: dict[int, Pending] = {}
        self._serial = 0
        self._arrivals = 0

    def __repr__(self) -> str:
        return f"<Desk workers={len(self._workers)} pending={len(self._pending)}>"

    @property
    def waiting(self) -> int:
        """How many are waiting; while there are any, `tick` has to be called."""
        return len(self._pending)

    # ---- what workers say -------------------------------------------------------------------

    def joined(self, worker: str) -> None:
        """A worker has started."""
        self._workers.add(worker)

    def left(self, worker: str, now_ms: int) -> None:
        """A worker says nothing any more; its claims stand until `ended`."""
        self._workers.discard(worker)
        freed: list[str] = []
        for pending in [p for p in self._pending.values() if p.holder == worker]:
            freed += pending.queues
            self._drop(pending)
        self._advance(freed, now_ms)
        for pending in list(self._pending.values()):
            answers = {one for one in pending.awaited if one[1] == worker}
            if answers:
                self._hear(pending, answers, now_ms)

    def ended(self, worker: str, now_ms: int) -> None:
        """It is dead, and its journal folded: what it claimed is free."""
        self._opened(self._ledger.ended(worker), now_ms)

    def take(self, worker: str, take: Take, now_ms: int) -> None:
        """A worker asks."""
        if take.ahead:
            queued = any(ask.bucket in self._queues for ask in take.asks)
            asks = [Ask(ask.bucket, 0, 0) for ask in take.asks] if queued else take.asks
            amounts = self._ledger.take_ahead(worker, asks, now_ms)
            self._send(worker, self._granted(take, amounts, now_ms))
            return
        self._arrivals += 1
        pending = Pending(worker, take, self._arrivals, now_ms)
        short = self._short(pending, now_ms)
        if not short:
            self._grant(pending, now_ms)
            return
        self._pending[worker, take.id] = pending
        self._queues.enter(pending, short)
        self._recall(pending, short, now_ms)

    def cancel(self, worker: str, take_id: int, now_ms: int) -> None:
        """The call behind a Take has gone."""
        pending = self._pending.get((worker, take_id))
        if pending is not None:
            queues = list(pending.queues)
            self._drop(pending)
            nothing = tuple(0 for _ in pending.take.asks)
            self._send(worker, self._granted(pending.take, nothing, now_ms))
            self._advance(queues, now_ms)

    def give_back(self, worker: str, amounts: Iterable[Amount], now_ms: int) -> None:
        """A worker gives back what it has not spent."""
        entries = [
            self._ledger.give_back(worker, part.bucket, part.amount, now_ms) for part in amounts
        ]
        self._opened([entry for entry in entries if entry is not None], now_ms)

    def force(self, worker: str, amounts: Iterable[Amount], now_ms: int) -> None:
        """A worker has spent more than it was granted."""
        for part in amounts:
            self._ledger.force(worker, part.bucket, part.amount, now_ms)
            if part.bucket in self._queues:
                self._tell_owed(part.bucket, now_ms)

    def recalled(self, worker: str, serial: int, now_ms: int) -> None:
        """A worker has given back all that was recalled."""
        pending = self._recalls.get(serial)
        if pending is not None:
            self._hear(pending, {(serial, worker)}, now_ms)

    # ---- what time and admins do ------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Serve whom time made room for, and refuse who has waited long enough."""
        self._advance(self._queues.buckets(), now_ms)
        for pending in list(self._pending.values()):
            if not pending.queues:
                continue  # served in the place of one that was refused just now
            if pending.deadline_ms is None:
                if now_ms - pending.recalled_ms >= RECALL_MS:
                    self._hear(pending, set(pending.awaited), now_ms)
            elif pending.deadline_ms <= now_ms:
                self._refuse(pending, self._verdict(pending, now_ms).late())
        for name in self._queues.buckets():
            self._turn_away(name, now_ms)

    def rules_changed(self, now_ms: int) -> None:
        """Limits were raised, lowered or taken away: in force for whoever asks next."""
        changed = self._ledger.rules_changed(now_ms)
        for entry in changed:
            self._tell_owed(entry.name, now_ms)
        self._opened(changed, now_ms)
        for pending in list(self._pending.values()):
            if pending.deadline_ms is not None:
                self._conclude(pending, now_ms)

    # ---- granting ---------------------------------------------------------------------------

    def _short(self, pending: Pending, now_ms: int) -> list[str]:
        """The buckets that have no room for it, or others that wait for theirs first."""
        return [
            ask.bucket
            for ask in pending.take.asks
            if ask.least
            and (entry := self._ledger.entry(ask.bucket, now_ms)) is not None
            and (entry.balance(now_ms) < ask.least or self._queues.is_behind(pending, ask.bucket))
        ]

    def _grant(self, pending: Pending, now_ms: int) -> None:
        take = pending.take
        # Nothing beyond what is needed, where others need it too.
        asks = [
            Ask(ask.bucket, ask.least, ask.least) if ask.bucket in self._queues else ask
            for ask in take.asks
        ]
        amounts = self._ledger.take(pending.holder, asks, now_ms)
        assert amounts is not None, "what is not short fits"
        self._send(pending.holder, self._granted(take, amounts, now_ms))

    def _granted(self, take: Take, amounts: tuple[int, ...], now_ms: int) -> Granted:
        entries = (self._ledger.entry(ask.bucket, now_ms) for ask in take.asks)
        left = tuple(0 if entry is None else entry.balance(now_ms) for entry in entries)
        needed = tuple(self._owed(ask.bucket, now_ms) for ask in take.asks)
        return Granted(take.id, amounts, left, now_ms, needed)

    def _opened(self, entries: list[Entry], now_ms: int) -> None:
        """Buckets may have more room: serve who waits there, then tell who was refused."""
        self._advance([entry.name for entry in entries], now_ms)
        told: dict[str, list[str]] = {}
        for entry in entries:
            if not entry.closed_to:
                continue
            balance = entry.balance(now_ms)
            for worker in [one for one, left in entry.closed_to.items() if balance > max(0, left)]:
                del entry.closed_to[worker]
                if worker in self._workers:
                    told.setdefault(worker, []).append(entry.name)
        for worker, names in told.items():
            self._send(worker, Reopened(tuple(names)))

    def _advance(self, buckets: Iterable[str], now_ms: int) -> None:
        """Grant whoever stands first at these buckets and fits, as long as somebody does."""
        waiting = list(buckets)
        moved: list[tuple[Pending, list[str]]] = []
        while waiting:
            first = self._queues.first(waiting[-1])
            short = [] if first is None else self._short(first, now_ms)
            if first is None or waiting[-1] in short:
                waiting.pop()
                continue
            freed = [name for name in first.queues if name not in short]
            if short:  # there is room here, but not elsewhere: let others pass
                entered = [name for name in short if name not in first.queues]
                self._queues.enter(first, entered)
                self._queues.leave(first, freed)
                moved.append((first, entered))
            else:
                self._drop(first)
                self._grant(first, now_ms)
            waiting.extend(name for name in freed if name not in waiting)
        for pending, entered in moved:
            still = [name for name in entered if name in pending.queues]
            if still:
                self._recall(pending, still, now_ms)

    # ---- waiting ----------------------------------------------------------------------------

    def _drop(self, pending: Pending) -> None:
        """It is answered, or nobody is there to be answered."""
        self._queues.leave(pending, pending.queues)
        for serial, _ in pending.awaited:
            self._recalls.pop(serial, None)
        del self._pending[pending.holder, pending.take.id]

    def _recall(self, pending: Pending, buckets: list[str], now_ms: int) -> None:
        """Ask all workers that may hold something unused; conclude when all have answered."""
        wanted: dict[str, list[Amount]] = {}
        for name in buckets:
            entry = self._ledger.entry(name, now_ms)
            assert entry is not None, "a bucket that no rule ever made has no queue"
            for worker in self._workers:
                if entry.claims.get(worker, 0) > 0:
                    amount = Amount(name, self._owed(name, now_ms))
                    wanted.setdefault(worker, []).append(amount)
        self._serial += 1
        serial = self._serial
        pending.deadline_ms, pending.recalled_ms = None, now_ms
        pending.awaited |= {(serial, worker) for worker in wanted}
        if not pending.awaited:
            self._conclude(pending, now_ms)
            return
        for worker, amounts in wanted.items():
            self._recalls[serial] = pending
            self._send(worker, Recall(serial, tuple(amounts)))

    def _tell_owed(self, bucket: str, now_ms: int) -> None:
        """Recall what lies idle, and say what is owed; nobody waits for the answers."""
        entry = self._ledger.entry(bucket, now_ms)
        assert entry is not None, "it has claims, or a queue"
        amounts = (Amount(bucket, self._owed(bucket, now_ms)),)
        for worker in self._workers & entry.claims.keys():
            self._serial += 1
            self._send(worker, Recall(self._serial, amounts))

    def _owed(self, bucket: str, now_ms: int) -> int:
        """What has to come back for all who wait there; more than they need, if it is overdrawn."""
        needed = self._queues.needed(bucket)
        entry = self._ledger.entry(bucket, now_ms)
        if not needed or entry is None:
            return 0
        return needed + max(0, -entry.balance(now_ms))

    def _hear(self, pending: Pending, answers: set[tuple[int, str]], now_ms: int) -> None:
        """What was recalled for it has come back; conclude when nothing is missing."""
        if not answers & pending.awaited:
            return
        pending.awaited -= answers
        for serial in {serial for serial, _ in answers}:
            if all(serial != other for other, _ in pending.awaited):
                self._recalls.pop(serial, None)
        if not pending.awaited:
            self._conclude(pending, now_ms)

    def _conclude(self, pending: Pending, now_ms: int) -> None:
        """Everything is known now: grant it, have it wait, or refuse it."""
        self._fold()
        self._advance(list(pending.queues), now_ms)
        if not pending.queues or pending.awaited:
            return  # granted; or it has to wait elsewhere, where others are asked first
        found = self._verdict(pending, now_ms)
        full = len(self._pending) > self._terms.waiting_max
        deadline_ms = pending.arrived_ms + found.wait_ms
        if full or pending.take.at_once or deadline_ms <= now_ms:
            self._refuse(pending, msgspec.structs.replace(found.refused, full=full))
        else:
            pending.deadline_ms = deadline_ms

    def _turn_away(self, bucket: str, now_ms: int) -> None:
        """Refuse who stands first there and waits in vain: what others held is spent by now."""
        while (first := self._queues.first(bucket)) and first.deadline_ms is not None:
            found = self._verdict(first, now_ms)
            if first.arrived_ms + found.wait_ms > now_ms:
                return
            self._refuse(first, found.refused)

    def _verdict(self, pending: Pending, now_ms: int) -> Verdict:
        """Which bucket stands most in the way."""
        waiter = Waiter(pending.take.id, pending.arrived_ms, self._terms.hold_wait_ms)
        found = []
        for ask in pending.take.asks:
            entry = self._ledger.entry(ask.bucket, now_ms)
            if ask.bucket in pending.queues and entry is not None:
                found.append(verdict(waiter, entry, ask, now_ms))
        return min(found, key=lambda each: each.wait_ms)

    def _refuse(self, pending: Pending, refused: Refused) -> None:
        queues = list(pending.queues)
        self._drop(pending)
        if refused.reason in (Reason.SPENT, Reason.OCCUPIED):
            entry = self._ledger.entry(refused.bucket, refused.at_ms)
            assert entry is not None, "it stood at that bucket"
            entry.closed_to[pending.holder] = refused.left
        self._send(pending.holder, refused)
        self._advance(queues, refused.at_ms)
