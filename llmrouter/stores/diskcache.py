"""The embedded store: one diskcache database (SQLite) in a directory of its own.

diskcache is a cache, so what makes it one is turned off: nothing is evicted, culled or expires,
no value becomes a file, and nothing is ever pickled or unpickled. A database is checked before
diskcache opens it, because diskcache would add its tables to any file that SQLite can read.

Each thread has a connection of its own, so that a read waits for no write; they are closed when
the store is, or when another is opened after their thread has ended. One process at a time, which
the state's lock sees to; never share a store across `fork`.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import diskcache

from llmrouter.contracts.store import Store, StoreError

_FILE = "cache.db"
_HEAD = b"SQLite format 3\0"
_TABLES = frozenset({"Settings", "Cache"})
_RESTORE = "restore it from a backup or move the state directory away; nothing was changed"
_LOCK_TIMEOUT_S = 2.0  # our process is alone; only a backup tool can hold a lock, and briefly
_PAGE_ROWS = 200  # read at a time by a scan, so that one holds little and blocks nobody
_SCAN = "SELECT key, raw, mode, filename, value FROM Cache WHERE key {} ? ORDER BY key LIMIT ?"
# diskcache's own `set` takes five statements a row; what it notes beside the value, nothing reads.
_UPSERT = (
    "INSERT INTO Cache (key, raw, size, mode, filename, value) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (key, raw) DO UPDATE SET (size, mode, filename, value, expire_time)"
    " = (excluded.size, excluded.mode, excluded.filename, excluded.value, NULL)"
)
# A commit that changes nothing would not sync the write-ahead log; nobody counts hits.
_TOUCH = "UPDATE Settings SET value = value + 1 WHERE key = 'hits'"
_DELETE = "DELETE FROM Cache WHERE key = ? AND raw = ?"

_SETTINGS = {
    "eviction_policy": "none",
    "cull_limit": 0,  # diskcache's default deletes rows above 1 GB, whatever the policy
    "statistics": 0,
    "sqlite_journal_mode": "wal",
    "sqlite_synchronous": 2,  # FULL: what is stored survives a power cut, too, but for `write`
    "sqlite_mmap_size": 0,  # a failing disk is then an error, not a SIGBUS
    "sqlite_cache_size": 1024,  # pages: 4 MB instead of 32
}


class _RawDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Text names and bytes values as they are; a row of any other kind is refused, unread."""

    def put(self, key: str) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"a name is text, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        if not isinstance(key, str) or not raw:
            raise StoreError(f"{self._directory} has a name that is not ours; {_RESTORE}")
        return key

    def store(
        self, value: bytes, read: bool, key: object = None
    ) -> tuple[int, int, str | None, bytes]:
        if type(value) is not bytes or read:
            raise TypeError(f"a value is bytes, not {type(value).__name__}")
        return 0, diskcache.core.MODE_RAW, None, value

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> bytes:
        if mode != diskcache.core.MODE_RAW or filename is not None or not isinstance(value, bytes):
            raise StoreError(f"{self._directory} has a value that is not ours; {_RESTORE}")
        return value


class _Cache(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """Knows the connections of all threads; diskcache itself can close but the calling one's."""

    def __init__(self, path: Path) -> None:
        self._database = path / _FILE
        self._opened: dict[threading.Thread, sqlite3.Connection] = {}
        self._opening = threading.Lock()
        with contextlib.ExitStack() as failing:
            failing.callback(self.close_all)
            super().__init__(str(path), timeout=_LOCK_TIMEOUT_S, disk=_RawDisk, **_SETTINGS)
            failing.pop_all()

    @property
    def _con(self) -> sqlite3.Connection:
        """The connection of this thread. diskcache asks for it in all that it does."""
        found: sqlite3.Connection | None = getattr(self._local, "con", None)
        if found is not None:
            return found
        opened = self._local.con = sqlite3.connect(
            self._database,
            timeout=self._timeout,
            isolation_level=None,
            check_same_thread=False,  # for closing alone
        )
        with self._opening:
            for thread in [thread for thread in self._opened if not thread.is_alive()]:
                self._opened.pop(thread).close()
            self._opened[threading.current_thread()] = opened
        for name, value in _SETTINGS.items():
            if name.startswith("sqlite_"):
                self.reset(name, value, update=False)
        return opened

    def close_all(self) -> None:
        """Close the connections of all threads, of which none may be at work."""
        with self._opening:
            while self._opened:
                self._opened.popitem()[1].close()


class DiskcacheStore:
    """Keeps named bytes in `path`/cache.db, readable by the owner only.

    `create` makes one where nothing is; `open` refuses what is missing, damaged or not ours.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closed = False
        self._under_way = 0
        self._ended = threading.Condition()
        self._writing = threading.Lock()  # to wait for it is prompter than SQLite's own polling
        with self._failures_named():
            self._cache = _Cache(path)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the store in `path`, which does not exist and whose parent does."""
        _refuse_variables(path)
        try:
            path.mkdir(mode=0o700)
            # SQLite gives its -wal and -shm files the mode of the database.
            os.close(os.open(path / _FILE, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except OSError as error:
            raise StoreError(f"the store {path} cannot be made: {error.strerror}") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the store in `path`, which exists."""
        _refuse_variables(path)
        _refuse_headless(path / _FILE)
        if _tables(path) != _TABLES:
            raise StoreError(f"{path / _FILE} is not a database of ours; {_RESTORE}")
        return cls(path)

    def __repr__(self) -> str:
        return f"<DiskcacheStore {self._path}{' closed' if self._closed else ''}>"

    def get(self, name: str) -> bytes | None:
        with self._failures_named():
            value: bytes | None = self._cache.get(name)
            return value

    def put(self, name: str, value: bytes) -> None:
        with self._failures_named(), self._writing:
            self._cache.set(name, value)

    def put_new(self, name: str, value: bytes) -> bool:
        with self._failures_named(), self._writing:
            return bool(self._cache.add(name, value))

    def write(self, changes: Mapping[str, bytes | None]) -> None:
        disk = self._cache.disk
        with self._failures_named():
            values = [
                (*disk.put(name), *disk.store(value, False))
                for name, value in changes.items()
                if value is not None
            ]
            deleted = [disk.put(name) for name, value in changes.items() if value is None]
            with self._writing, self._unsynced(), self._cache.transact():
                self._cache._con.executemany(_UPSERT, values)
                self._cache._con.executemany(_DELETE, deleted)

    def sync(self) -> None:
        with self._failures_named(), self._writing, self._cache.transact():
            self._cache._con.execute(_TOUCH)

    def items(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        rows = self._page(_SCAN.format(">="), prefix)
        while rows:
            for name, value in rows:
                if not name.startswith(prefix):
                    return
                yield name, value
            rows = self._page(_SCAN.format(">"), rows[-1][0])

    def close(self) -> None:
        with self._ended:
            if self._closed:
                return
            self._closed = True
            while self._under_way:
                self._ended.wait()
        self._cache.close_all()

    def _page(self, select: str, name: str) -> list[tuple[str, bytes]]:
        # diskcache's own iteration walks every name; this reads the index from the prefix on.
        disk = self._cache.disk
        with self._failures_named():
            rows = self._cache._sql(select, (name, _PAGE_ROWS)).fetchall()
            return [(disk.get(row[0], row[1]), disk.fetch(*row[2:], False)) for row in rows]

    @contextlib.contextmanager
    def _unsynced(self) -> Iterator[None]:
        """Leave what this thread commits to the next sync of the write-ahead log, of any thread."""
        try:
            self._cache._con.execute("PRAGMA synchronous = NORMAL")
            yield
        except BaseException:
            self._cache.close()  # a transaction may be open in it; the next connection syncs
            raise
        try:
            self._cache._con.execute("PRAGMA synchronous = FULL")
        except BaseException as error:
            self._cache.close()
            if not isinstance(error, sqlite3.Error):  # else all is well: it is stored
                raise

    @contextlib.contextmanager
    def _failures_named(self) -> Iterator[None]:
        """Turn what SQLite, diskcache and the disk raise into StoreError."""
        with self._kept_open():
            try:
                yield
            except (sqlite3.Error, diskcache.Timeout, OSError) as error:
                if hasattr(self, "_cache"):
                    # SQLite may leave the transaction of a failed COMMIT open; it is this thread's.
                    self._cache.close()
                raise _named(self._path, error) from error

    @contextlib.contextmanager
    def _kept_open(self) -> Iterator[None]:
        """Let `close` wait for an operation of another thread."""
        with self._ended:
            if self._closed:
                raise StoreError(f"the store {self._path} is closed; open it again")
            self._under_way += 1
        try:
            yield
        finally:
            with self._ended:
                self._under_way -= 1
                self._ended.notify_all()


def _refuse_headless(file: Path) -> None:
    """Refuse what SQLite would take for an empty database and fill: a file of a few bytes."""
    try:
        with file.open("rb") as reader:
            head = reader.read(len(_HEAD))
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}; {_RESTORE}") from error
    if head != _HEAD:
        raise StoreError(f"{file} is damaged or is not a database; {_RESTORE}")


def _tables(path: Path) -> set[str]:
    """Check the database without changing it, and name its tables."""
    uri = f"{(path / _FILE).absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT_S)) as reader:
            ((verdict, *_),) = reader.execute("PRAGMA quick_check(1)").fetchall()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict.replace("\n", " "))
            select = "SELECT name FROM sqlite_master WHERE type = 'table'"
            names = [name for (name,) in reader.execute(select)]
    except sqlite3.Error as error:
        raise _named(path, error) from error
    return {name for name in names if not name.startswith("sqlite_")}


def _named(path: Path, error: Exception) -> StoreError:
    database = path / _FILE
    if type(error) is sqlite3.DatabaseError:  # SQLITE_CORRUPT and SQLITE_NOTADB have no subclass
        return StoreError(f"{database} is damaged or is not a database ({error}); {_RESTORE}")
    why = "it cannot be locked for writing" if isinstance(error, diskcache.Timeout) else error
    return StoreError(
        f"the store {database} cannot be used: {why}; check that the disk has room,"
        " that the files are writable, and that no other program holds the database"
    )


def _refuse_variables(path: Path) -> None:
    if os.path.expanduser(os.path.expandvars(path)) != str(path):
        raise StoreError(
            f"the path {path} holds a '~' or '$NAME' that diskcache would replace; give another"
        )


_: type[Store] = DiskcacheStore
