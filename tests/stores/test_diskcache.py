import contextlib
import os
import pickle
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diskcache
import pytest

from llmrouter.contracts.store import StoreError
from llmrouter.stores.diskcache import DiskcacheStore


class Trap:
    """Unpickling it makes a directory."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self._path,)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[DiskcacheStore]:
    with contextlib.closing(DiskcacheStore.create(path)) as made:
        yield made


def in_sql(path: Path, statement: str, *values: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path / "cache.db")) as connection, connection:
        return connection.execute(statement, values).fetchall()


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_what_was_put_is_there_when_opened_again(path: Path, store: DiskcacheStore) -> None:
    store.put("key/a", b"1")
    store.close()

    with contextlib.closing(DiskcacheStore.open(path)) as again:
        assert again.get("key/a") == b"1"


def test_creating_never_touches_what_is_there(path: Path, store: DiskcacheStore) -> None:
    store.put("key/a", b"1")
    store.close()

    with pytest.raises(StoreError, match="cannot be made: File exists"):
        DiskcacheStore.create(path)
    with contextlib.closing(DiskcacheStore.open(path)) as again:
        assert again.get("key/a") == b"1"


_PUT_AND_WAIT = """
import sys
from pathlib import Path
from llmrouter.stores.diskcache import DiskcacheStore
store = DiskcacheStore.create(Path(sys.argv[1]))
for number in range(10):
    store.put(f"key/{number}", b"x" * number)
print("put", flush=True)
sys.stdin.read()
"""


def test_what_was_put_survives_a_kill(path: Path) -> None:
    """FR-001: an issued key is never lost."""
    with subprocess.Popen(
        [sys.executable, "-c", _PUT_AND_WAIT, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"put\n"
        child.send_signal(signal.SIGKILL)

    with contextlib.closing(DiskcacheStore.open(path)) as store:
        assert dict(store.items("key/")) == {f"key/{n}": b"x" * n for n in range(10)}


_WRITE_WITHOUT_END = """
import itertools, sys, threading
from pathlib import Path
from llmrouter.stores.diskcache import DiskcacheStore
store = DiskcacheStore.create(Path(sys.argv[1]))
def write():
    for count in itertools.count(1):
        rows = {f"bucket/{n:03}": b"%d" % count for n in range(500)}
        store.write({**rows, "event/%d" % (count - 1): None, "event/%d" % count: b""})
        print(count, flush=True)
threading.Thread(target=write).start()
"""


@pytest.mark.parametrize("writes", [1, 2, 5, 9])
def test_a_kill_in_the_middle_of_writes_leaves_each_whole_or_not_at_all(
    path: Path, writes: int
) -> None:
    """FR-003: no call is charged twice, and none is lost, whatever is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE_WITHOUT_END, str(path)], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        for _ in range(writes):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        said = [writes, *map(int, child.stdout.read().split())]

    with contextlib.closing(DiskcacheStore.open(path)) as store:
        rows = list(store.items("bucket/"))
        (found,) = {int(value) for _, value in rows}
        assert len(rows) == 500
        assert found in (said[-1], said[-1] + 1)
        assert [name for name, _ in store.items("event/")] == [f"event/{found}"]


def commits(path: Path) -> int:
    """How many transactions the write-ahead log holds: each has one frame with the size after."""
    log = (path / "cache.db-wal").read_bytes()
    page_bytes = int.from_bytes(log[8:12], "big")
    frames = range(32, len(log), 24 + page_bytes)
    return sum(log[at + 4 : at + 8] != bytes(4) for at in frames)


def test_a_thousand_changes_are_one_transaction(path: Path, store: DiskcacheStore) -> None:
    store.write({f"bucket/{number}": b"1" for number in range(500)})
    before = commits(path)

    store.write({f"bucket/{number}": b"2" if number % 2 else None for number in range(1_000)})

    assert commits(path) == before + 1
    assert len(list(store.items("bucket/"))) == 500


def descriptors(path: Path) -> int:
    """How many descriptors of this process lead to files of the store."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(path))
    return found


def test_closing_closes_the_connections_of_all_threads(path: Path, store: DiskcacheStore) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(store.write, {"key/a": b"1"}).result(10)
        assert store.get("key/a") == b"1"
        assert descriptors(path) > 0

        store.close()

        assert descriptors(path) == 0
        assert {file.name for file in path.iterdir()} == {"cache.db"}
        with pytest.raises(StoreError, match="is closed; open it again"):
            thread.submit(store.get, "key/a").result(10)


def test_threads_that_have_ended_leave_no_connections(path: Path, store: DiskcacheStore) -> None:
    counts = []
    for number in range(10):
        thread = threading.Thread(target=store.put, args=(f"key/{number}", b"1"))
        thread.start()
        thread.join(10)
        counts.append(descriptors(path))

    assert counts[1:] == counts[1:2] * 9
    assert len(list(store.items("key/"))) == 10


def test_the_failure_of_one_thread_is_none_of_another(path: Path, store: DiskcacheStore) -> None:
    in_sql(
        path,
        "CREATE TRIGGER full BEFORE INSERT ON Cache WHEN NEW.key LIKE 'bucket/%'"
        " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
    )
    with ThreadPoolExecutor(1) as thread:
        for number in range(3):
            failing = thread.submit(store.write, {f"bucket/{number}": b"1"})
            store.put(f"key/{number}", b"1")
            with pytest.raises(StoreError, match="disk is full"):
                failing.result(10)
        thread.submit(store.write, {"key/3": b"1"}).result(10)

    assert [name for name, _ in store.items("")] == ["key/0", "key/1", "key/2", "key/3"]


def test_nothing_is_open_to_others_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        store = DiskcacheStore.create(path)
        store.put("key/a", b"1")
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()}
        store.close()
    finally:
        os.umask(before)

    assert modes == {"cache.db": 0o600, "cache.db-wal": 0o600, "cache.db-shm": 0o600}
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_nothing_is_evicted_and_what_is_put_is_synced(path: Path, store: DiskcacheStore) -> None:
    settings = dict(in_sql(path, "SELECT key, value FROM Settings"))

    assert settings["eviction_policy"] == "none"
    assert settings["cull_limit"] == 0
    assert settings["sqlite_synchronous"] == 2
    assert settings["sqlite_journal_mode"] == "wal"


def test_what_is_written_at_once_waits_for_the_next_sync_and_nothing_else_does(
    store: DiskcacheStore,
) -> None:
    """`PRAGMA synchronous` at each COMMIT: 2 syncs the log, and with it all that is in there."""
    at_commit: list[tuple[str, int]] = []
    connection = store._cache._con
    mode = 2

    def said(statement: str) -> None:
        nonlocal mode
        if statement.startswith("PRAGMA synchronous"):
            mode = {"NORMAL": 1, "FULL": 2}[statement.split()[-1]]
        if statement == "COMMIT":
            at_commit.append((doing, mode))

    connection.set_trace_callback(said)
    doing = "write"
    store.write({"a": b"1"})
    doing = "put"
    store.put("b", b"1")
    doing = "write"
    store.write({"a": b"2"})
    doing = "sync"
    store.sync()

    assert at_commit == [("write", 1), ("put", 2), ("write", 1), ("sync", 2)]
    ((after,),) = connection.execute("PRAGMA synchronous").fetchall()
    assert after == 2


STOPPING = [sqlite3.OperationalError("no"), MemoryError(), KeyboardInterrupt()]


class Failing:
    """A connection whose statement number `at` fails, before it takes effect or after."""

    def __init__(self, connection: sqlite3.Connection, at: int, error: BaseException, when: str):
        self._connection = connection
        self._left = at
        self._error = error
        self._when = when

    def execute(self, *statement: object) -> object:
        return self._do(self._connection.execute, *statement)

    def executemany(self, *statement: object) -> object:
        return self._do(self._connection.executemany, *statement)

    def _do(self, do: Callable[..., object], *statement: object) -> object:
        self._left -= 1
        if self._left == 0 and self._when == "before":
            raise self._error
        done = do(*statement)
        if self._left == 0:
            raise self._error
        return done

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("no"), MemoryError(), KeyboardInterrupt()]
)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 7))
def test_whatever_stops_a_write_what_is_put_next_is_synced(
    path: Path, store: DiskcacheStore, error: BaseException, when: str, at: int
) -> None:
    store.put("a", b"old")
    store._cache._local.con = Failing(store._cache._con, at, error, when)

    with contextlib.suppress(StoreError, MemoryError, KeyboardInterrupt):
        store.write({"a": b"new", "b": b"new"})

    assert store._cache._con.execute("PRAGMA synchronous").fetchone() == (2,)
    assert not store._cache._con.in_transaction
    assert store.get("a") in (b"old", b"new")
    store.put("a", b"newer")
    assert store.get("a") == b"newer"


def test_a_sync_adds_to_the_log_or_it_would_sync_nothing(path: Path, store: DiskcacheStore) -> None:
    before = (path / "cache.db-wal").stat().st_size

    store.sync()

    assert (path / "cache.db-wal").stat().st_size > before


def test_settings_of_an_older_database_do_not_last(path: Path, store: DiskcacheStore) -> None:
    store.close()
    in_sql(path, "UPDATE Settings SET value = 'least-recently-used' WHERE key = 'eviction_policy'")
    in_sql(path, "UPDATE Settings SET value = 10 WHERE key = 'cull_limit'")

    DiskcacheStore.open(path).close()

    settings = dict(in_sql(path, "SELECT key, value FROM Settings"))
    assert (settings["eviction_policy"], settings["cull_limit"]) == ("none", 0)


def test_a_large_value_becomes_no_file(path: Path, store: DiskcacheStore) -> None:
    store.put("key/a", b"m" * 1_000_000)

    assert {file.name.split("-")[0] for file in path.iterdir()} == {"cache.db"}


@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_pickled_value_is_refused_without_unpickling(
    path: Path, store: DiskcacheStore, in_a_file: bool
) -> None:
    trap = path.parent / "trapped"
    payload = pickle.dumps(Trap(trap))
    store.put("key/a", b"1")
    if in_a_file:
        (path / "v.val").write_bytes(payload)
    in_sql(
        path,
        "UPDATE Cache SET mode = ?, filename = ?, value = ?",
        diskcache.core.MODE_PICKLE,
        "v.val" if in_a_file else None,
        None if in_a_file else payload,
    )

    for read in (lambda: store.get("key/a"), lambda: list(store.items("key/"))):
        with pytest.raises(StoreError, match="has a value that is not ours; restore it"):
            read()
    assert not trap.exists()


def test_a_pickled_name_is_refused_without_unpickling(path: Path, store: DiskcacheStore) -> None:
    trap = path.parent / "trapped"
    store.put("key/a", b"1")
    in_sql(path, "UPDATE Cache SET key = ?, raw = 0", pickle.dumps(Trap(trap)))

    with pytest.raises(StoreError, match="has a name that is not ours; restore it"):
        list(store.items(""))
    assert not trap.exists()


@pytest.mark.parametrize("value", ["text", 7, 1.5, None])
def test_values_of_other_kinds_are_refused(
    path: Path, store: DiskcacheStore, value: object
) -> None:
    store.put("key/a", b"1")
    in_sql(path, "UPDATE Cache SET value = ?", value)

    with pytest.raises(StoreError, match="has a value that is not ours"):
        store.get("key/a")


def test_only_text_names_and_bytes_values_are_taken(store: DiskcacheStore) -> None:
    with pytest.raises(TypeError, match="a name is text, not int"):
        store.put(7, b"1")  # type: ignore[arg-type]  # what mypy would have refused
    with pytest.raises(TypeError, match="a value is bytes, not dict"):
        store.put("key/a", {})  # type: ignore[arg-type]  # what mypy would have refused
    with pytest.raises(TypeError, match="a value is bytes, not str"):
        store.write({"key/a": b"1", "key/b": "2"})  # type: ignore[dict-item]  # the same
    with pytest.raises(TypeError, match="a name is text, not int"):
        store.write({"key/a": b"1", 7: None})  # type: ignore[dict-item]  # the same
    assert list(store.items("")) == []


def damaged(content: bytes, how: str) -> bytes:
    match how:
        case "header":
            return b"not a database!!" + content[16:]
        case "middle":
            return content[:4096] + b"\xa5" * 4096 + content[8192:]
        case "cut":
            return content[: len(content) // 2]
        case "text":
            return b"hello\n" * 2000
        case _:
            return b"x"


@pytest.mark.parametrize("how", ["header", "middle", "cut", "text", "one byte"])
def test_a_damaged_database_is_refused_and_left_as_it_is(
    path: Path, store: DiskcacheStore, how: str
) -> None:
    for number in range(500):
        store.put(f"key/{number}", b"v" * 100)
    store.close()
    database = path / "cache.db"
    database.write_bytes(damaged(database.read_bytes(), how))
    before = files(path)

    with pytest.raises(StoreError, match=r"cache\.db is damaged or is not a database.* backup"):
        DiskcacheStore.open(path)
    assert files(path)["cache.db"] == before["cache.db"]


def test_the_database_of_another_program_is_refused_and_left_as_it_is(path: Path) -> None:
    path.mkdir()
    in_sql(path, "CREATE TABLE Bookmarks (url)")
    before = files(path)

    with pytest.raises(StoreError, match=r"cache\.db is not a database of ours; restore"):
        DiskcacheStore.open(path)
    assert files(path) == before


@pytest.mark.parametrize("content", [None, b""])
def test_a_lost_database_is_not_made_anew_by_opening(path: Path, content: bytes | None) -> None:
    path.mkdir()
    if content is not None:
        (path / "cache.db").write_bytes(content)

    with pytest.raises(StoreError, match=r"cache\.db (cannot be read|is damaged).*; restore"):
        DiskcacheStore.open(path)


def test_damage_that_comes_later_is_named(path: Path, store: DiskcacheStore) -> None:
    in_sql(path, "DROP TABLE Cache")

    for operation in (
        lambda: store.get("key/a"),
        lambda: store.put("key/a", b"1"),
        lambda: store.write({"key/a": b"1"}),
        lambda: list(store.items("")),
    ):
        with pytest.raises(StoreError, match=r"cache\.db cannot be used: no such table: Cache"):
            operation()


def test_a_database_that_another_program_holds_is_named(
    path: Path, store: DiskcacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    monkeypatch.setattr("llmrouter.stores.diskcache._LOCK_TIMEOUT_S", 0.0)
    with contextlib.closing(DiskcacheStore.open(path)) as ours:
        with contextlib.closing(sqlite3.connect(path / "cache.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="it cannot be locked for writing; check that"):
                ours.put("key/a", b"1")
            assert ours.get("key/a") is None

        ours.put("key/a", b"2")
        assert ours.get("key/a") == b"2"


def test_a_failed_write_leaves_nothing_and_the_next_one_works(
    path: Path, store: DiskcacheStore
) -> None:
    in_sql(
        path,
        "CREATE TRIGGER full BEFORE INSERT ON Cache WHEN NEW.key = 'key/a'"
        " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
    )

    with pytest.raises(StoreError, match="disk is full; check that the disk has room"):
        store.put("key/a", b"1")
    store.put("key/b", b"2")
    with pytest.raises(StoreError, match="disk is full; check that the disk has room"):
        store.write({"key/0": b"1", "key/b": None, "key/a": b"1", "key/c": b"1"})
    store.write({"key/d": b"3"})

    assert list(store.items("")) == [("key/b", b"2"), ("key/d", b"3")]


def test_after_the_disk_was_full_the_store_goes_on(path: Path, store: DiskcacheStore) -> None:
    """The writes fail in COMMIT: nothing of them is stored, and they block no later one."""
    store.put("key/a", b"1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((path / "cache.db-wal").stat().st_size + 1, hard))
    try:
        with pytest.raises(StoreError, match="check that the disk has room"):
            store.put("key/a", b"m" * 100_000)
        with pytest.raises(StoreError, match="check that the disk has room"):
            store.put_new("key/b", b"m" * 100_000)
        with pytest.raises(StoreError, match="check that the disk has room"):
            store.write({"key/a": None, **{f"key/{n}": b"m" * 1_000 for n in range(100)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(store.items("")) == [("key/a", b"1")]
    assert store.put_new("key/b", b"2")
    assert store.get("key/b") == b"2"


@pytest.mark.parametrize("name", ["$HOME", "${HOME}x"])
def test_a_path_that_diskcache_would_rewrite_is_refused(tmp_path: Path, name: str) -> None:
    for opened in (DiskcacheStore.create, DiskcacheStore.open):
        with pytest.raises(StoreError, match="that diskcache would replace"):
            opened(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be made: No such file or directory"):
        DiskcacheStore.create(tmp_path / "missing" / "store")


def test_repr_shows_the_state(path: Path, store: DiskcacheStore) -> None:
    assert repr(store) == f"<DiskcacheStore {path}>"
    store.close()
    assert repr(store) == f"<DiskcacheStore {path} closed>"
