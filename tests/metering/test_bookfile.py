"""The file of the books: made, migrated, refused; whatever it holds, the message is clear."""

import contextlib
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrouter.metering.bookfile import BooksError, open_to_read, open_to_write, transaction
from llmrouter.metering.bookformats import STEPS

NEXT = (
    "ALTER TABLE notes ADD COLUMN author TEXT NOT NULL DEFAULT 'nobody'",
    "CREATE TABLE remarks (text TEXT NOT NULL)",
)
"""How a step is added: statements behind those that stand."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.db"


def in_sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        return db.execute(statement).fetchall()


def make(path: Path, remark: int = 7) -> None:
    with contextlib.closing(open_to_write(path)) as db:
        db.execute("UPDATE notes SET value = ? WHERE name = 'syncs'", (remark,))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not do everything; root becomes nobody for so long."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_books_are_made_for_their_owner_alone(path: Path) -> None:
    with contextlib.closing(open_to_write(path)) as db:
        assert db.execute("PRAGMA user_version").fetchall() == [(len(STEPS),)]
        assert db.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == {0o600}


def test_an_empty_file_is_format_0_and_no_backup_is_made_of_it(path: Path) -> None:
    path.touch()

    make(path)

    assert in_sql(path, "SELECT value FROM notes WHERE name = 'syncs'") == [(7,)]
    assert [file.name for file in path.parent.iterdir()] == ["books.db"]


def test_older_books_are_migrated_and_a_backup_stays(path: Path) -> None:
    make(path)

    open_to_write(path, (*STEPS, NEXT)).close()

    assert in_sql(path, "PRAGMA user_version") == [(len(STEPS) + 1,)]
    select = "SELECT value, author FROM notes WHERE name = 'syncs'"
    assert in_sql(path, select) == [(7, "nobody")]
    backup = path.with_name(f"books.db.format-{len(STEPS)}")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert {file.name for file in path.parent.iterdir()} == {path.name, backup.name}
    with contextlib.closing(open_to_write(backup)) as db:
        assert db.execute("SELECT value FROM notes WHERE name = 'syncs'").fetchall() == [(7,)]


def test_a_migration_that_fails_changes_nothing_and_is_done_the_next_time(path: Path) -> None:
    make(path)

    with pytest.raises(BooksError, match="no such table: absent"):
        open_to_write(path, (*STEPS, (*NEXT, "DELETE FROM absent")))

    assert in_sql(path, "SELECT name FROM sqlite_master WHERE name = 'remarks'") == []
    with contextlib.closing(open_to_write(path)) as db:
        assert db.execute("SELECT value FROM notes WHERE name = 'syncs'").fetchall() == [(7,)]
    open_to_write(path, (*STEPS, NEXT)).close()
    assert in_sql(path, "SELECT * FROM remarks") == []


def test_what_a_killed_backup_left_is_no_hindrance(path: Path) -> None:
    make(path)
    unfinished = path.with_name(f"books.db.format-{len(STEPS)}.new")
    unfinished.write_bytes(b"half")

    open_to_write(path, (*STEPS, NEXT)).close()

    assert not unfinished.exists()
    assert in_sql(path, "SELECT * FROM remarks") == []


@pytest.mark.parametrize("opened", [open_to_write, open_to_read])
def test_newer_books_are_refused_and_left_as_they_are(path: Path, opened: type) -> None:
    make(path)
    in_sql(path, f"PRAGMA user_version = {len(STEPS) + 1}")
    before = path.read_bytes()

    with pytest.raises(
        BooksError, match=rf"by a newer llmrouter \(books format {len(STEPS) + 1}, .*grade"
    ):
        opened(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize("opened", [open_to_write, open_to_read])
@pytest.mark.parametrize("content", [b"x", b"hello", b"x" * 511, b"x" * 9_000], ids=len)
def test_what_is_no_database_is_refused_and_left_as_it_is(
    path: Path, opened: type, content: bytes
) -> None:
    path.write_bytes(content)

    with pytest.raises(BooksError, match=r"books\.db is damaged or is not a database.*restore it"):
        opened(path)

    assert path.read_bytes() == content


@pytest.mark.parametrize("opened", [open_to_write, open_to_read])
def test_the_database_of_another_program_is_refused_and_left_as_it_is(
    path: Path, opened: type
) -> None:
    in_sql(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()

    with pytest.raises(BooksError, match=r"is a database, but not ours; .*nothing was changed"):
        opened(path)

    assert path.read_bytes() == before


def test_a_truncated_file_is_refused(path: Path) -> None:
    make(path)
    os.truncate(path, 5_000)

    with pytest.raises(BooksError, match="is damaged"):
        open_to_write(path)


def test_who_reads_learns_that_there_are_no_books_yet(path: Path) -> None:
    with pytest.raises(BooksError, match=r"there are no books at .* yet; `llmrouter serve` makes"):
        open_to_read(path)
    assert not path.exists()

    path.touch()
    with pytest.raises(BooksError, match="are being made; try again"):
        open_to_read(path)


def test_who_reads_does_not_migrate(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(path)
    monkeypatch.setattr("llmrouter.metering.bookfile.STEPS", (*STEPS, NEXT))

    with pytest.raises(
        BooksError, match=rf"has the older format {len(STEPS)}, .*`llmrouter serve` migrates it"
    ):
        open_to_read(path)


def test_who_reads_cannot_write(path: Path) -> None:
    make(path)

    with (
        contextlib.closing(open_to_read(path)) as db,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        db.execute("DELETE FROM notes")


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory with books that all may read, and nobody but root may change."""
    with tempfile.TemporaryDirectory() as name:  # one that others can reach, unlike `tmp_path`
        directory = Path(name)
        make(directory / "books.db")
        (directory / "books.db").chmod(0o444)
        directory.chmod(0o555)
        yield directory


@pytest.mark.parametrize("opened", [open_to_write, open_to_read])
def test_a_read_only_state_is_named(closed: Path, opened: type) -> None:
    with (
        unprivileged(),
        pytest.raises(BooksError, match="this user may write the file and its directory"),
    ):
        opened(closed / "books.db")


def test_books_that_cannot_be_made_are_named(closed: Path) -> None:
    with unprivileged(), pytest.raises(BooksError, match=r"cannot be used: Permission denied"):
        open_to_write(closed / "others.db")


def test_a_path_that_is_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(BooksError, match=f"the books {tmp_path} cannot be used"):
        open_to_write(tmp_path)


def test_a_path_may_have_any_characters(tmp_path: Path) -> None:
    path = tmp_path / "50% of? #1 ~ books.db"

    make(path)

    with contextlib.closing(open_to_read(path)) as db:
        assert db.execute("SELECT value FROM notes WHERE name = 'syncs'").fetchall() == [(7,)]


def test_a_lock_of_another_program_is_waited_for_and_then_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(path)
    monkeypatch.setattr("llmrouter.metering.bookfile.LOCK_TIMEOUT_S", 0.01)

    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("UPDATE notes SET value = 8")
        with pytest.raises(
            BooksError, match=r"locked; check .* that no other program holds a lock"
        ):
            open_to_write(path)


def test_a_log_beside_the_file_that_a_killed_writer_left_is_read(path: Path) -> None:
    copy = path.with_name("copy.db")
    with contextlib.closing(open_to_write(path)) as db:
        db.execute("UPDATE notes SET value = 7")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")

    with contextlib.closing(open_to_read(copy)) as db:
        assert set(db.execute("SELECT value FROM notes")) == {(7,)}


def _change_and_be_interrupted(db: sqlite3.Connection) -> None:
    db.execute("UPDATE notes SET value = 7")
    raise KeyboardInterrupt


def test_a_transaction_that_is_broken_off_stores_nothing(path: Path) -> None:
    with contextlib.closing(open_to_write(path)) as db:
        with pytest.raises(KeyboardInterrupt), transaction(db):
            _change_and_be_interrupted(db)
        assert set(db.execute("SELECT value FROM notes")) == {(0,)}
        assert not db.in_transaction
