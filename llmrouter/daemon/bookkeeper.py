"""Keeps the books while the daemon runs: in a thread of its own, off the supervisor's loop.

It folds what is new; once in a while it deletes single calls that are kept no longer, and journal
files that nobody needs. What the disk refuses is tried again until it is there: that stops no call,
and the journals keep what is not in the books. It tells when that begins, and when it is over.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from llmrouter.contracts.store import StoreError
from llmrouter.daemon import clearing
from llmrouter.daemon.bookkeeping import Bookkeeping
from llmrouter.daemon.state import State
from llmrouter.daemon.teller import saved_positions
from llmrouter.metering.bookfile import BooksError
from llmrouter.metering.books import DAY_MS
from llmrouter.metering.tail import Position

_log = logging.getLogger(__name__)

FOLD_EVERY_S = 0.25
"""What ended a second ago is in the books."""
RETRY_S = 2.0
TIDY_EVERY_MS = 300_000
"""A journal file that is full at 64 MiB stays for no longer, once it is folded."""
BEHIND_MS = 10_000
"""For longer than that, only a load that is too much, or a long standstill, leaves books behind."""
CLOSE_S = 5.0
"""A stop waits no longer for what the next start can do as well."""


class Bookkeeper:
    """Folds, and tidies up, round after round."""

    def __init__(
        self, keeping: Bookkeeping, state: State, *, keep_days: int, now_ms: Callable[[], int]
    ) -> None:
        self._keeping = keeping
        self._state = state
        self._keep_ms = keep_days * DAY_MS
        self._now_ms = now_ms
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "books")
        self._tidy_at_ms = now_ms() + TIDY_EVERY_MS
        self._more_since_ms: int | None = None
        self.behind = False
        """There has been more to fold than one round takes for long."""
        self.failing = False
        """What was folded last could not be stored."""

    def __repr__(self) -> str:
        return f"<Bookkeeper {self._keeping!r} behind={self.behind} failing={self.failing}>"

    async def run(self) -> None:
        """Keep at it, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            pause_s = await loop.run_in_executor(self._thread, self.round)
            await asyncio.sleep(pause_s)

    def close(self) -> None:
        """All workers are dead: fold what is left, if that does not take too long; blocks."""
        self._thread.shutdown()  # after the round that is under way
        with contextlib.closing(self._keeping):
            try:
                if self._keeping.fold_all(time.monotonic, time.monotonic() + CLOSE_S):
                    _log.warning("the books are behind; the next start goes on from the journals")
            except BooksError as error:
                self._tell_failing(error)

    def round(self) -> float:
        """Fold once, and tidy up if that is due; in how many seconds to go on. Blocks."""
        try:
            more = self._keeping.fold()
            self._note_more(more)
            more = self._tidy() or more
        except BooksError as error:
            self._tell_failing(error)
            return RETRY_S
        if self.failing:
            _log.info("books written again")
            self.failing = False
        return 0.0 if more else FOLD_EVERY_S

    def _tell_failing(self, error: BooksError) -> None:
        if not self.failing:
            _log.error("books_not_written=%r; it is tried again and again", str(error))
        self.failing = True

    def _note_more(self, more: bool) -> None:
        now_ms = self._now_ms()
        if not more:
            self._more_since_ms = None
            if self.behind:
                _log.info("the books are up to date again")
            self.behind = False
            return
        if self._more_since_ms is None:
            self._more_since_ms = now_ms
        if not self.behind and now_ms - self._more_since_ms >= BEHIND_MS:
            _log.warning("the books are behind the journals; calls are not held up by that")
            self.behind = True

    def _tidy(self) -> bool:
        """Delete what is kept no longer; whether there is more of that."""
        now_ms = self._now_ms()
        if now_ms < self._tidy_at_ms:
            return False
        self._tidy_at_ms = now_ms + TIDY_EVERY_MS  # also where the disk refuses it
        if self._keeping.prune(now_ms - self._keep_ms):
            self._tidy_at_ms = now_ms  # go on in the next round, with folding in between
            return True
        self._clear()
        return False

    def _durable(self) -> Mapping[str, Position]:
        """Have ledger and books survive a power cut, as the journals that they need no more go."""
        self._state.store.sync()
        return self._keeping.durable()

    def _clear(self) -> None:
        state, keeping = self._state, self._keeping
        try:
            deleted = clearing.clear(
                state.journal_dir,
                ledger=lambda: saved_positions(state.store),
                books=keeping.positions,
                durable=self._durable,
            )
        except (OSError, StoreError) as error:
            _log.warning("journals_not_deleted=%r; it is tried again later", str(error))
            return
        if deleted:
            _log.info("journals_deleted=%d", deleted)
