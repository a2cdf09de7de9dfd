"""The file of the books: how it is opened, and how older ones are migrated.

`bookformats` says what is in it. `PRAGMA user_version` is the format. An older file is migrated
when it is opened for writing, in one transaction, after a copy of it was put beside it; a newer one
is refused, and so is any other database, before anything in it is changed.

Invariant: only SQLite opens the file. The locks of a process end with the first descriptor of the
file that it closes, so that to read it otherwise would end those of every connection in here.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from llmrouter.files import sync_directory
from llmrouter.metering.bookformats import APPLICATION_ID, STEPS, Steps

LOCK_TIMEOUT_S = 5.0  # another tool may hold a lock, and briefly

_RESTORE = "restore it from a backup, or move it away to start new books"
_DAMAGES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRIMARY_CODE = 0xFF  # of an extended one

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # a commit that a power cut takes goes with its positions
    "PRAGMA mmap_size = 0",  # a failing disk is then an error, not a SIGBUS
    "PRAGMA cache_size = -8000",
    "PRAGMA wal_autocheckpoint = 2000",
    "PRAGMA journal_size_limit = 67108864",  # after a reader that kept its snapshot for long
)


class BooksError(Exception):
    """The books cannot be read or written; the message says where, why and what to do."""


@contextlib.contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Turn what SQLite and the disk raise into BooksError."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a bug of ours
    except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
        raise _named(path, error) from error


def open_to_write(path: Path, steps: Steps = STEPS) -> sqlite3.Connection:
    """Open the books at `path` as they are in the newest format; made if there are none."""
    with failures_named(path):
        with contextlib.suppress(FileExistsError):
            # SQLite gives its -wal and -shm files the mode of the database.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        _refuse_one_byte(path)
        db = _connected(path, "rw")
        with contextlib.ExitStack() as failing:
            failing.callback(db.close)
            found = _format(db, path, len(steps))
            for pragma in _PRAGMAS:
                db.execute(pragma)
            if found < len(steps):
                _migrate(db, path, found, steps)
            failing.pop_all()
        return db


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open the books at `path`, which exist, to read alone; also while they are written."""
    with failures_named(path):
        if not path.exists():
            raise BooksError(f"there are no books at {path} yet; `llmrouter serve` makes them")
        _refuse_one_byte(path)
        db = _connected(path, "ro")
        with contextlib.ExitStack() as failing:
            failing.callback(db.close)
            found = _format(db, path, len(STEPS))
            if found == 0:
                raise BooksError(f"the books at {path} are being made; try again")
            if found < len(STEPS):
                raise BooksError(
                    f"{path} has the older format {found}, this llmrouter reads {len(STEPS)};"
                    " `llmrouter serve` migrates it"
                )
            failing.pop_all()
        return db


@contextlib.contextmanager
def transaction(db: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """All of what is done within is stored, or nothing."""
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # else the failure, such as a full disk, has ended it
            db.execute("ROLLBACK")
        raise


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=LOCK_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,  # one at a time, but not always the same
    )


def _refuse_one_byte(path: Path) -> None:
    """Refuse the one kind of file that SQLite would take for an empty database, and fill."""
    if path.stat().st_size == 1:
        raise BooksError(f"{path} is damaged or is not a database; {_RESTORE}; nothing was changed")


def _format(db: sqlite3.Connection, path: Path, newest: int) -> int:
    """The format of the file; 0 where it is empty. Raises BooksError if it is not for us."""
    with transaction(db, "BEGIN"):
        ((found,),) = db.execute("PRAGMA user_version").fetchall()
        ((owner,),) = db.execute("PRAGMA application_id").fetchall()
        ((tables,),) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
    if (found or tables) and owner != APPLICATION_ID:
        raise BooksError(f"{path} is a database, but not ours; {_RESTORE}; nothing was changed")
    if found > newest:
        raise BooksError(
            f"{path} was written by a newer llmrouter (books format {found}, this one knows"
            f" {newest}); upgrade llmrouter, or move the file away to start new books; nothing was"
            " changed"
        )
    return int(found)


def _migrate(db: sqlite3.Connection, path: Path, found: int, steps: Steps) -> None:
    if found:
        _back_up(db, path.with_name(f"{path.name}.format-{found}"))
    with transaction(db):
        for step in steps[found:]:
            for statement in step:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(steps)}")


def _back_up(db: sqlite3.Connection, backup: Path) -> None:
    """Put a copy at `backup`, whole or not at all, and there for good before this returns."""
    unfinished = backup.with_name(f"{backup.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        db.execute("VACUUM INTO ?", (str(unfinished),))
        os.fsync(descriptor)
        os.rename(unfinished, backup)
    finally:
        os.close(descriptor)
        unfinished.unlink(missing_ok=True)
    sync_directory(backup.parent)


def _named(path: Path, error: Exception) -> BooksError:
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    if code in _DAMAGES or isinstance(error, msgspec.DecodeError):
        return BooksError(f"{path} is damaged or is not a database ({error}); {_RESTORE}")
    if code == sqlite3.SQLITE_FULL:
        return BooksError(
            f"the books {path} can take no more ({error}); make room: what was recorded stays, and"
            " what was not is still in the journals"
        )
    why = error.strerror or error if isinstance(error, OSError) else error
    return BooksError(
        f"the books {path} cannot be used: {why}; check that the disk has room, that this user may"
        " write the file and its directory, and that no other program holds a lock on it"
    )
