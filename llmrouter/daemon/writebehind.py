"""What the supervisor writes to the store soon: gathered, in one transaction, off its loop.

`gather` gives a change away once; from then on it is kept here until a write that held it has
succeeded. So a write that fails, or of which nobody knows how it went, is made again with all that
came after it, and no transaction ever holds a later position without the earlier charges. A `Book`
keeps its changes itself, and may think better of them, so that a full disk does not make it grow.

What was written outlives every process; the machine's end takes that of the last SYNC_EVERY_S.
"""

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from llmrouter.contracts.store import Store, StoreError

_log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.25
"""What is not written yet, a restart reads from the journals again, but for a `Book`'s changes."""
SYNC_EVERY_S = 1.0
"""A sync costs more than a write, and makes durable what the journals can restore for the most."""
RETRY_S = 1.0

Changes = Mapping[str, bytes | None]


class Book(Protocol):
    """Rows that their owner keeps until they are written."""

    def changes(self) -> Changes:
        """What is to be written; the same again until `written` is told."""

    def written(self, changes: Changes) -> None:
        """These are in the store, among those of others."""


class WriteBehind:
    """Writes what `gather` gives, and what `book` has."""

    def __init__(self, store: Store, gather: Callable[[], Changes], book: Book) -> None:
        self._store = store
        self._gather = gather
        self._book = book
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "ledger")
        self._pending: dict[str, bytes | None] = {}
        """What was gathered and is not known to be written."""
        self._unsynced = False
        """Something was written since the last sync."""
        self._failing = False

    def __repr__(self) -> str:
        return f"<WriteBehind pending={len(self._pending)} failing={self._failing}>"

    async def run(self) -> None:
        """Keep writing, until cancelled."""
        loop = asyncio.get_running_loop()
        synced_at_s = loop.time()
        while True:
            await asyncio.sleep(RETRY_S if self._failing else WRITE_EVERY_S)
            changes = self._due()
            sync = loop.time() >= synced_at_s + SYNC_EVERY_S
            if changes or (sync and self._unsynced):
                error = await loop.run_in_executor(self._thread, self._write, changes, sync)
                self._note(changes, error, sync=sync)
                if sync:
                    synced_at_s = loop.time()

    def flush(self) -> None:
        """Write everything now, and have it outlive the machine; blocks."""
        changes = self._due()
        if changes or self._unsynced:
            self._note(changes, self._write(changes, sync=True), sync=True)

    def close(self) -> None:
        """Wait for a write under way, then write everything; nothing is written afterwards."""
        self._thread.shutdown()
        self.flush()

    def _due(self) -> dict[str, bytes | None]:
        self._pending.update(self._gather())
        return {**self._pending, **self._book.changes()}

    def _write(self, changes: Changes, sync: bool) -> StoreError | None:
        try:
            if changes:
                self._store.write(changes)
            if sync:
                self._store.sync()
        except StoreError as error:
            return error
        return None

    def _note(self, changes: Changes, error: StoreError | None, *, sync: bool) -> None:
        """What could not be written is written with what follows; that is said once."""
        self._unsynced = not sync or error is not None
        if error is None:
            for name, value in changes.items():
                if self._pending.get(name, b"") is value:  # else it has changed since
                    del self._pending[name]
            if changes:
                self._book.written(changes)
            if self._failing:
                _log.info("ledger written again")
        elif not self._failing:
            _log.error("ledger_not_written=%r; it is tried again and again", str(error))
        self._failing = error is not None
