"""Folds the journals of a node into its books, round by round.

The tail is not the ledger's, and its positions stand in the books themselves: so books that fall
behind, or cannot be written for a while, stop no call and lose none. What was read and could not be
stored is read again, from the positions that the books have.

Whose writer is dead, the lock of its newest file tells: those are read to their end, one after the
other, and their calls in flight closed as interrupted. Nobody has to say who lives.

Invariant: what is in here changes no journal, and knows nothing of what the ledger has counted.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from llmrouter.config.schema import Config
from llmrouter.daemon.state import StateBusy, journal_path, open_state
from llmrouter.metering.bookfile import BooksError
from llmrouter.metering.books import PRUNE_ROWS, Books, Folding
from llmrouter.metering.journal import journal_paths
from llmrouter.metering.replay import UnknownFormat
from llmrouter.metering.tail import Found, Position, Tail

_log = logging.getLogger(__name__)

ROUND_RECORDS = 2_000  # in a transaction; some 20 ms of work
SLICE_S = 1.0
"""For which `catch_up` has the state at a time: a daemon that starts meanwhile waits for longer."""
PAUSE_S = 0.1
"""In which such a daemon gets it."""


class Bookkeeping:
    """The books, and how far the journals are folded into them; for one thread at a time.

    Making one raises BooksError where the books, or the journals that they name, cannot be read.
    """

    def __init__(self, books_path: Path, journal_dir: Path) -> None:
        with contextlib.ExitStack() as failing:
            self._books = Books(books_path)
            failing.callback(self._books.close)
            self._path = books_path
            self._file = _file_at(books_path)
            """The books are in it as long as it is what stands at the path."""
            self._journal_dir = journal_dir
            self._saved: set[str] = set()
            """Boots with a position in the books."""
            self._tail: Tail | None = self._follow()
            """None after a failure: then it is ahead of the books."""
            failing.pop_all()
        self._more = False
        """The last round left something to read."""
        self._error: Exception | None = None
        self._said = ""

    def __repr__(self) -> str:
        return f"<Bookkeeping {self._books!r} more={self._more}>"

    def fold(self) -> bool:
        """Fold what is new, as far as one round goes; whether there is more already.

        Raises BooksError where it cannot be stored: the next call tries the same again.
        """
        if _file_at(self._path) != self._file:  # else journals go, and their calls with that file
            raise BooksError(
                f"the books {self._path} were moved away or replaced while they are in use; restart"
                " to go on with what stands there now, or with new ones"
            )
        tail = self._tail or self._follow()
        self._tail = None
        try:
            self._fold(tail)
        except BaseException:
            tail.close()
            raise
        self._tail = tail
        return self._more

    def fold_all(self, clock: Callable[[], float], ends_at_s: float) -> bool:
        """Fold all that is there now, until that time at most; whether there is more."""
        for _ in range(2):  # The second closes boots that were found dead in the first.
            while self.fold():
                if clock() >= ends_at_s:
                    return True
        return False

    def prune(self, keep_from_ms: int) -> bool:
        """Delete some of the single calls from before then; whether there may be more."""
        return self._books.prune(keep_from_ms, PRUNE_ROWS) == PRUNE_ROWS

    def positions(self) -> dict[str, Position]:
        """Up to where each boot is in the books."""
        return self._books.positions()

    def durable(self) -> dict[str, Position]:
        """Up to where each boot is in the books for sure, though the machine should die."""
        return self._books.durable()

    def close(self) -> None:
        """Let go of everything; what was not stored is still in the journals."""
        if self._tail is not None:
            self._tail.close()
        self._books.close()

    def _follow(self) -> Tail:
        """The journals, from where the books are on."""
        positions = self._books.positions()
        try:
            tail = Tail(self._journal_dir, positions)
        except (OSError, UnknownFormat) as error:
            raise BooksError(f"the journals cannot be read for the books: {error}") from error
        self._saved = set(positions)
        return tail

    def _fold(self, tail: Tail) -> None:
        """Read and store one round: what is read is not kept in between."""
        read: set[str] = set()
        with self._books.folding() as folding:
            for boot, facts in self._read(tail, folding):
                folding.store(facts)
                read.add(boot)
            known = {each.boot for each in tail.boots()}
            moved = {boot: tail.position(boot) for boot in read & known}
            gone = self._saved - known  # dead, and their files deleted
            folding.move({**moved, **dict.fromkeys(gone)})
        self._saved = self._saved - gone | moved.keys()

    def _read(self, tail: Tail, folding: Folding) -> Iterator[Found]:
        self._error, self._more = None, False
        try:
            yield from self._read_the_dead(tail, folding)
            if not self._more:
                yield from self._read_on(tail)
        except UnknownFormat as error:  # Nothing was read by what raises this.
            self._error, self._more = error, False
        self._tell_of_error()

    def _read_the_dead(self, tail: Tail, folding: Folding) -> Iterator[Found]:
        """Read boots without a writer to their end, as far as one round goes.

        Each by itself, for there may be more of them than files that can be open at once.
        """
        for boot in [each.boot for each in tail.boots() if not each.closed]:
            if tail.is_written(boot):
                continue
            yield from self._read_on(tail, only=boot)
            if self._more:
                return
            yield from tail.finish(boot)
            self._error = self._error or tail.error
            yield boot, []  # to close it moves its position, though nothing may be in flight
            if folding.rows >= ROUND_RECORDS:
                self._more = True
                return

    def _read_on(self, tail: Tail, only: str = "") -> Iterator[Found]:
        yield from tail.poll(ROUND_RECORDS, only=only)
        self._more = tail.more
        self._error = self._error or tail.error

    def _tell_of_error(self) -> None:
        said = "" if self._error is None else str(self._error)
        if said and said != self._said:
            _log.error("journal_not_booked=%r; it is tried again and again", said)
        self._said = said


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file stands there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def catch_up(config: Config) -> None:
    """Fold what stands in the journals alone, unless a daemon has the state: it does that itself.

    For the command line. Raises BooksError and StateError where that cannot be done.
    """
    path = Path(config.state)
    while _has_journals(path) and _fold_a_slice(path):
        time.sleep(PAUSE_S)


def _has_journals(path: Path) -> bool:
    """Whether there is something to fold; so that to ask for usage makes no state."""
    directory = journal_path(path)
    return directory.is_dir() and bool(journal_paths(directory))


def _fold_a_slice(path: Path) -> bool:
    """Fold for a while; whether there is more."""
    try:
        with (
            open_state(path) as state,
            contextlib.closing(Bookkeeping(state.books_path, state.journal_dir)) as keeping,
        ):
            return keeping.fold_all(time.monotonic, time.monotonic() + SLICE_S)
    except StateBusy:
        return False
