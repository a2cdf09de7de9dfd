"""Room in buckets: taken from this worker's leases where they suffice, else asked of the ledger.

What is refused without asking is what the ledger is known to refuse. Invariant: whatever ends the
wait for an answer, nothing stays taken that is not returned.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from llmrouter.contracts.rule import QUEUE
from llmrouter.errors import Draining, Overloaded
from llmrouter.quota.leases import Account, Amounts, Leases, Refusal
from llmrouter.quota.reservation import Reservation
from llmrouter.units import MS_PER_S

RETRY_AFTER_S: Final = 1
LEDGER_PATIENCE_S = 10.0
"""Beyond what a rule lets a call wait: the ledger answers within milliseconds, or is not there."""


class Room:
    """Takes amounts from all leases of an account, or from none."""

    __slots__ = ("_hold_wait_s", "_leases", "_now_ms")

    def __init__(self, leases: Leases, now_ms: Callable[[], int], hold_wait_s: float) -> None:
        self._leases = leases
        self._now_ms = now_ms
        self._hold_wait_s = hold_wait_s
        """How long the ledger lets a call wait for what calls in flight hold."""

    def take_here(self, account: Account, amounts: Amounts) -> Reservation | None:
        """What the leases of this worker have; None if they do not suffice."""
        if not self._leases.reserve(account, amounts, self._now_ms()):
            return None
        return Reservation(self._leases, account, amounts)

    async def take(
        self, account: Account, amounts: Amounts, *, at_once: bool = False, asks: bool = False
    ) -> Reservation | Refusal:
        """Take the amounts, or say why not; raises Draining, Overloaded.

        What is wanted `at_once` is refused where it would have to wait its turn. Who `asks` takes
        his turn although the ledger is known to refuse: it may have refused only who had none.
        """
        leases, now_ms = self._leases, self._now_ms()
        refusal = None if asks else leases.refusal(account, amounts, now_ms)
        if refusal is not None:
            return refusal
        reservation = Reservation(leases, account, amounts)
        if not leases.reserve(account, amounts, now_ms):
            refusal = await self._ask(reservation, amounts, at_once=at_once)
        return reservation if refusal is None else refusal

    async def _ask(
        self, reservation: Reservation, amounts: Amounts, *, at_once: bool
    ) -> Refusal | None:
        """Have the ledger grant what is short; it is reserved in the moment of the answer."""
        leases, account = self._leases, reservation.account
        self._check_ledger()
        answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()

        def answered(refusal: Refusal | None) -> None:
            if not answer.cancelled():
                answer.set_result(refusal)
            elif refusal is None:
                reservation.release()

        ask_id = leases.ask(account, amounts, answered, self._now_ms(), at_once=at_once)
        try:
            refusal = await _waited(answer, _patience_s(account, self._hold_wait_s))
        except BaseException:
            # The answer may have come in the very moment in which the waiting ended.
            if answer.cancel() or answer.cancelled():  # it has not
                leases.cancel(ask_id)
            elif answer.result() is None:
                reservation.release()
            raise
        if refusal is not None:
            self._check_ledger()  # it may have died while this was asked
        return refusal

    def _check_ledger(self) -> None:
        if self._leases.alone:
            reason = "this node is draining; try again on another"
            raise Draining(reason, retry_after_s=RETRY_AFTER_S)


async def _waited(answer: asyncio.Future[Refusal | None], patience_s: float) -> Refusal | None:
    try:
        async with asyncio.timeout(patience_s):
            return await answer
    except TimeoutError:
        reason = "the ledger of this node does not answer; tell your operator"
        raise Overloaded(reason, retry_after_s=RETRY_AFTER_S) from None


def _patience_s(account: Account, hold_wait_s: float) -> float:
    """How long an answer may take: the longest wait there is, and what it takes to ask."""
    rules = (lease.found.rule for lease in account.gating)
    waits = [rule.wait_ms / MS_PER_S for rule in rules if rule.at_limit == QUEUE]
    return LEDGER_PATIENCE_S + max((hold_wait_s, *waits))
