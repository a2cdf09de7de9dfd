"""Limits and budgets of a node, as the supervisor keeps them.

    teller         what the journals say was spent, in the ledger
    desk          answers the workers out of that ledger
    write-behind  has the store follow, and the denials with it

What workers were granted is in memory alone: it ends with them. What was spent is in their journals
before it is here, so nothing is lost with this process; a restart counts on from what was stored.

A worker that is silent may still be at work, so its claims stand. When it is dead and its journal
counted to the end, they vanish; where that cannot be read, not before it can.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import assert_never

from llmrouter.contracts.store import Store
from llmrouter.daemon.eventbook import EventBook
from llmrouter.daemon.teller import Teller
from llmrouter.daemon.writebehind import WriteBehind
from llmrouter.quota.denials import Denial
from llmrouter.quota.desk import Desk, DeskTerms
from llmrouter.quota.ledger import Standing
from llmrouter.quota.messages import (
    Amount,
    Cancel,
    Force,
    FromLedger,
    GiveBack,
    Recalled,
    Take,
    ToLedger,
)
from llmrouter.quota.rulebook import Bucketed, Rulebook

_log = logging.getLogger(__name__)

COUNT_EVERY_S = 0.05
"""What was spent under a rate flows off only once it is counted."""
IDLE_EVERY_S = 0.25
"""The same after a round that found nothing, unless somebody asks: an idle node should cost little.
"""
WAITING_EVERY_S = 0.01
"""How late a call that waits may be served, or told that it waits in vain."""
LOOK_EVERY_S = 0.5
"""Looks whether boots of an earlier supervisor are still alive, and for journals that somebody has
deleted."""


class Treasury:
    """What the supervisor does for limits and budgets."""

    def __init__(
        self,
        store: Store,
        journal_dir: Path,
        rulebook: Rulebook,
        *,
        now_ms: Callable[[], int],
        send: Callable[[str, FromLedger], None],
        terms: DeskTerms,
    ) -> None:
        """Raises StoreError or JournalError where what was saved cannot be read."""
        self._now_ms = now_ms
        self.events = EventBook(store)
        """The denials."""
        self._teller = Teller(store, journal_dir, rulebook, now_ms)
        self._desk = Desk(self._teller.ledger, send=send, fold=self._teller.fold, terms=terms)
        self._writing = WriteBehind(store, self._teller.changes, self.events)
        self._live: set[str] = set()
        """Boots of our own workers."""
        self._ending: set[str] = set()
        """Those that are dead, and whose journal could not be read to the end."""
        self._was_asked = asyncio.Event()
        """A worker has asked since the last round, or a little before."""
        self.asked = 0
        """How often workers have asked for parts of buckets."""

    def __repr__(self) -> str:
        return f"<Treasury live={len(self._live)} {self._desk!r} {self._writing!r}>"

    # ---- start and end ----------------------------------------------------------------------

    def recover(self) -> None:
        """Count what was journaled and not counted when everything died, before anybody serves.

        Raises JournalError where some of it cannot be read.
        """
        for boot in self._teller.recover():
            _log.warning("worker=%s pid=%d of an earlier start lives", boot.worker, boot.pid)
        self._writing.flush()

    async def run(self) -> None:
        """Keep counting and writing, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_counting(), name="count")
            tasks.create_task(self._writing.run(), name="write behind")

    async def _keep_counting(self) -> None:
        loop = asyncio.get_running_loop()
        looked_at_s = loop.time()
        while True:
            await self._rest()
            self._teller.fold()
            self._free_of_orphans()
            self._desk.tick(self._now_ms())
            if loop.time() >= looked_at_s + LOOK_EVERY_S:
                self._look_for_the_dead()
                looked_at_s = loop.time()

    async def _rest(self) -> None:
        """Let the time to the next round pass."""
        if self._desk.waiting:
            await asyncio.sleep(WAITING_EVERY_S)
        elif self._teller.found or self._was_asked.is_set():
            self._was_asked.clear()
            await asyncio.sleep(COUNT_EVERY_S)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_EVERY_S):
                    await self._was_asked.wait()

    def close(self) -> None:
        """All workers are dead: count what is left, and write it."""
        self._teller.fold_all()
        for boot in list(self._live):
            self.worker_dead(boot)
        self._writing.close()
        self._teller.close()

    # ---- workers ----------------------------------------------------------------------------

    def worker_started(self, boot: str) -> None:
        """A worker will ask under this name."""
        self._live.add(boot)
        self._teller.started(boot)
        self._desk.joined(boot)

    def worker_silent(self, boot: str) -> None:
        """It says nothing more."""
        self._desk.left(boot, self._now_ms())

    def worker_dead(self, boot: str) -> None:
        """Its process has ended: what it wrote is all that there will be."""
        if boot in self._live:
            self._live.discard(boot)
            self._end(boot)

    def hear(self, boot: str, message: ToLedger) -> None:
        """A worker speaks."""
        desk, now_ms = self._desk, self._now_ms()
        match message:
            case Take():
                self.asked += 1
                self._was_asked.set()
                desk.take(boot, message, now_ms)
            case GiveBack(amounts=amounts):
                desk.give_back(boot, amounts, now_ms)
            case Force(amounts=amounts):
                desk.force(boot, amounts, now_ms)
            case Recalled(serial=serial):
                desk.recalled(boot, serial, now_ms)
            case Cancel(id=take_id):
                desk.cancel(boot, take_id, now_ms)
            case _:
                assert_never(message)

    def denied(self, denials: Iterable[Denial]) -> None:
        """Workers have refused calls, or had them served by other models."""
        self.events.add(denials, self._now_ms())

    def rules_changed(self) -> None:
        """Rules in the rulebook have changed, and the workers know."""
        self._desk.rules_changed(self._now_ms())

    def standing(self, found: Iterable[Bucketed]) -> list[Standing]:
        """How buckets stand now."""
        return self._teller.standing(found)

    # ---- the dead ---------------------------------------------------------------------------

    def _end(self, boot: str) -> None:
        """Free what a dead worker claimed, once it is known what it spent of that."""
        if self._teller.finish(boot):
            self._ending.discard(boot)
            self._desk.ended(boot, self._now_ms())
        else:
            self._ending.add(boot)

    def _free_of_orphans(self) -> None:
        """Who was refused for want of what calls of an earlier start held shall hear of it."""
        for boot, names in self._teller.freed().items():
            self._desk.give_back(boot, [Amount(name, 0) for name in names], self._now_ms())

    def _look_for_the_dead(self) -> None:
        for boot in {*self._ending, *self._teller.departed()}:
            self._end(boot)
        self._teller.forget()
