import contextlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.access.keyring import Keyring
from llmrouter.daemon.state import StateBusy, StateError, control_path, journal_path, open_state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def made(path: Path) -> Path:
    """A state that was opened once and holds something."""
    with open_state(path) as state:
        state.store.put("key/a", b"1")
    return path


def tree(path: Path) -> dict[str, bytes | None]:
    return {
        str(entry.relative_to(path)): None if entry.is_dir() else entry.read_bytes()
        for entry in sorted(path.rglob("*"))
    }


def refusal(path: Path) -> str:
    with pytest.raises(StateError) as caught, open_state(path):
        pass
    return str(caught.value)


def test_a_new_state_has_all_its_parts(path: Path) -> None:
    with open_state(path / "nested" / "state") as state:
        assert state.path == path / "nested" / "state"
        assert state.control_path == control_path(state.path) == state.path / "control.sock"
        assert state.journal_dir == journal_path(state.path)
        assert state.journal_dir.is_dir()
        assert state.books_path == state.path / "books.db"
        assert len(state.digest_key) == 32
        assert list(state.store.items("")) == []
        assert repr(state) == f"<State {state.path}>"


def test_a_state_keeps_what_it_holds(made: Path) -> None:
    key = (made / "digest.key").read_bytes()

    with open_state(made) as state:
        assert state.store.get("key/a") == b"1"
        assert state.digest_key == key


def test_two_states_have_two_digest_keys(tmp_path: Path) -> None:
    with open_state(tmp_path / "a") as one, open_state(tmp_path / "b") as other:
        assert one.digest_key != other.digest_key


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with open_state(Path("state")) as state:
        assert state.path == tmp_path / "state"


def test_nothing_is_open_to_others_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with open_state(path) as state:
            state.store.put("key/a", b"1")
            found = {entry.name: entry.stat().st_mode for entry in (path, *path.rglob("*"))}
    finally:
        os.umask(before)

    files = {"llmrouter-state", "lock", "digest.key", "cache.db", "cache.db-wal", "cache.db-shm"}
    assert {name: stat.S_IMODE(mode) for name, mode in found.items()} == (
        dict.fromkeys(("state", "store", "journal"), 0o700) | dict.fromkeys(files, 0o600)
    )


def test_an_empty_directory_becomes_a_state(path: Path) -> None:
    path.mkdir(mode=0o700)

    with open_state(path) as state:
        assert state.store.get("key/a") is None


# --- Refused, and left as they are


def foreign(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "thesis.txt").write_text("ten years of work")


def foreign_with_our_names(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "lock").write_text("theirs")


def foreign_and_open_to_others(path: Path) -> None:
    """As /usr is: to close it would break the machine."""
    foreign(path)
    path.chmod(0o755)


def a_file(path: Path) -> None:
    path.write_text("not a directory")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (foreign, "is not empty and has no llmrouter-state file, so it is not a state of ours"),
        (foreign_and_open_to_others, "is not empty and has no llmrouter-state file"),
        (foreign_with_our_names, "is not empty and has no llmrouter-state file"),
        (a_file, "is not a directory"),
    ],
)
def test_what_is_not_ours_is_refused_and_left_as_it_is(
    path: Path, make: Callable[[Path], None], words: str
) -> None:
    make(path)
    before = tree(path.parent)

    message = refusal(path)

    assert words in message
    assert "chmod" not in message
    assert tree(path.parent) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"format":3,"more":1}', "made by a newer llmrouter (format 3, this one reads 2)"),
        (b'{"format":0}', "unknown format 0"),
        (b"", "is damaged"),
        (b'{"form', "is damaged"),
        (b'{"format":"1"}', "is damaged"),
        (b"\xff" * 10_000, "is damaged"),
    ],
)
def test_a_marker_that_is_not_ours_to_read_is_refused(
    made: Path, content: bytes, words: str
) -> None:
    (made / "llmrouter-state").write_bytes(content)
    before = tree(made)

    assert words in refusal(made)
    assert tree(made) == before


@pytest.mark.parametrize("part", ["digest.key", "store", "store/cache.db"])
def test_a_lost_part_is_not_made_anew(made: Path, part: str) -> None:
    """Without it issued keys are lost, which must not pass for a fresh start."""
    lost = made / part
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    before = tree(made)

    message = refusal(made)
    assert str(lost) in message
    assert "restore it from a backup" in message
    assert tree(made) == before


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"x" * 10_000])
def test_a_digest_key_of_another_length_is_refused(made: Path, content: bytes) -> None:
    (made / "digest.key").write_bytes(content)

    assert "digest.key has not the 32 bytes that it was made with" in refusal(made)
    assert (made / "digest.key").read_bytes() == content


def test_a_damaged_store_is_refused(made: Path) -> None:
    (made / "store" / "cache.db").write_bytes(b"\xa5" * 20_000)
    before = tree(made)

    assert "cache.db is damaged or is not a database" in refusal(made)
    assert tree(made) == before


@pytest.mark.parametrize("part", [".", "digest.key", "store"])
@pytest.mark.parametrize("mode", [0o710, 0o704, 0o755, 0o777])
def test_what_others_may_read_is_refused_with_the_command_that_mends_it(
    made: Path, part: str, mode: int
) -> None:
    (made / part).chmod(mode)

    message = refusal(made)

    assert f"is open to other users (mode {mode:04o})" in message
    command = message.split("`")[1]
    subprocess.run(["/bin/sh", "-c", command], check=True)
    with open_state(made) as state:
        assert state.store.get("key/a") == b"1"


def test_the_state_of_another_user_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = made.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)

    assert f"belongs to the user id {owner}, and this process runs as {owner + 1}" in refusal(made)


def test_a_part_of_the_wrong_kind_is_named(made: Path) -> None:
    (made / "digest.key").unlink()
    (made / "digest.key").mkdir(mode=0o700)

    assert "digest.key); mend that, or give another `state`" in refusal(made)


# --- Of an older format


@pytest.fixture
def older(made: Path) -> Path:
    """As the first version left it."""
    (made / "llmrouter-state").write_bytes(b'{"format":1}\n')
    return made


def test_an_older_state_is_migrated_and_what_was_changed_is_kept(
    older: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """FR-014: an older llmrouter must not serve it without the limits that it does not know."""
    caplog.set_level(logging.INFO)
    before = tree(older)

    for _ in range(2):
        with open_state(older) as state:
            assert state.store.get("key/a") == b"1"

    backup = older / "llmrouter-state.format-1"
    # The store's own file notes each opening.
    assert tree(older) == before | {
        "store/cache.db": (older / "store" / "cache.db").read_bytes(),
        "llmrouter-state": b'{"format":2}\n',
        backup.name: b'{"format":1}\n',
    }
    assert [record.getMessage() for record in caplog.records] == [
        f"state={older} migrated from format 1 to 2; backup={backup}"
    ]


def test_an_older_state_that_is_refused_stays_as_it_is(older: Path) -> None:
    (older / "digest.key").write_bytes(b"short")
    before = tree(older)

    refusal(older)

    assert tree(older) == before


def test_who_finds_an_older_state_in_use_leaves_it_as_it_is(made: Path) -> None:
    with open_state(made):
        (made / "llmrouter-state").write_bytes(b'{"format":1}\n')
        before = tree(made)

        assert "is in use" in refusal(made)

        assert tree(made) == before


# --- One process at a time


def test_a_state_in_use_is_refused_and_its_holder_named(made: Path) -> None:
    with open_state(made), pytest.raises(StateBusy) as caught, open_state(made):
        pass

    assert f"is in use by process {os.getpid()}; stop that" in str(caught.value)


def test_a_refused_opening_changes_nothing_for_the_holder(made: Path) -> None:
    with open_state(made) as state:
        assert "is in use" in refusal(made)
        state.store.put("key/b", b"2")

    with open_state(made) as state:
        assert state.store.get("key/b") == b"2"


def test_who_waits_gets_the_state_when_it_is_free(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = contextlib.ExitStack()
    holder.enter_context(open_state(made)).store.put("key/b", b"2")
    monkeypatch.setattr("time.sleep", lambda seconds: holder.close())

    with open_state(made, wait_s=60) as state:
        assert state.store.get("key/b") == b"2"


def test_who_waits_gives_up_at_the_deadline(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: 100.0 + sum(slept))

    with open_state(made), pytest.raises(StateBusy), open_state(made, wait_s=1.0):
        pass

    assert 1.0 <= sum(slept) < 1.1


def test_an_error_inside_gives_the_state_back_and_passes_unchanged(made: Path) -> None:
    with pytest.raises(OSError, match="theirs"), open_state(made):
        raise OSError("theirs")

    with open_state(made) as state, pytest.raises(StateBusy), open_state(made):
        assert state.store.get("key/a") == b"1"


def test_a_refused_state_is_not_left_locked(made: Path) -> None:
    key = (made / "digest.key").read_bytes()
    (made / "digest.key").write_bytes(b"")
    refusal(made)
    (made / "digest.key").write_bytes(key)

    with open_state(made) as state:
        assert state.digest_key == key


# --- Killed

_CREATE_KEY = """
import sys
from pathlib import Path
from llmrouter.access.issued import KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.daemon.state import open_state
with open_state(Path(sys.argv[1])) as state:
    book = KeyBook(state.store, KeyDigest(state.digest_key))
    print(book.create(KeyTerms(org="acme"), 0)[1], flush=True)
    sys.stdin.read()
"""


def test_a_key_that_was_shown_survives_a_kill(path: Path) -> None:
    """FR-001: what the admin copied works, whatever happens next."""
    with subprocess.Popen(
        [sys.executable, "-c", _CREATE_KEY, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        text = child.stdout.readline().strip()
        child.kill()

    with open_state(path) as state:
        digest = KeyDigest(state.digest_key)
        keyring = Keyring(digest)
        keyring.apply(KeyBook(state.store, digest).keys())
    assert keyring.authenticate(text, 0).org == "acme"


def unlocked(path: Path) -> None:
    (path / "lock").write_bytes(b"")


def begun(path: Path) -> None:
    unlocked(path)
    (path / "llmrouter-state.new").write_bytes(b"")


def keyed(path: Path) -> None:
    begun(path)
    (path / "digest.key").write_bytes(b"short")
    (path / "digest.key").chmod(0o600)


def stored(path: Path) -> None:
    keyed(path)
    (path / "store").mkdir(mode=0o700)


def database_begun(path: Path) -> None:
    stored(path)
    (path / "store" / "cache.db").write_bytes(b"")
    (path / "store" / "cache.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" * 64)


def database_half_made(path: Path) -> None:
    stored(path)
    (path / "store" / "cache.db").write_bytes(b"SQLite format 3\0" + bytes(100))


@pytest.mark.parametrize(
    "stage", [unlocked, begun, keyed, stored, database_begun, database_half_made]
)
def test_a_state_that_was_begun_is_completed(path: Path, stage: Callable[[Path], None]) -> None:
    path.mkdir(mode=0o700)
    stage(path)

    with open_state(path) as state:
        state.store.put("key/a", b"1")
        assert len(state.digest_key) == 32
    with open_state(path) as state:
        assert state.store.get("key/a") == b"1"
    assert not (path / "llmrouter-state.new").exists()


_DIE_AT = """
import os, signal, sys
from pathlib import Path
from llmrouter.daemon.state import open_state
left = int(sys.argv[2])
def die(event, arguments):
    global left
    if event in {"open", "os.mkdir", "os.rename", "fcntl.flock", "os.truncate", "sqlite3.connect"}:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
with open_state(Path(sys.argv[1])):
    pass
"""


@pytest.mark.parametrize("is_older", [False, True])
def test_a_kill_at_any_step_of_making_or_migrating_leaves_a_state_that_opens(
    tmp_path: Path, older: Path, is_older: bool
) -> None:
    for step in range(1, 100):
        path = tmp_path / str(step) / "state"
        path.parent.mkdir()
        if is_older:
            shutil.copytree(older, path)
        ended = subprocess.run(
            [sys.executable, "-c", _DIE_AT, str(path), str(step)], check=False, timeout=60
        )
        with open_state(path) as state:
            assert not is_older or state.store.get("key/a") == b"1"
            state.store.put("key/a", b"1")
        assert (path / "llmrouter-state").read_bytes() == b'{"format":2}\n'
        if is_older:
            assert (path / "llmrouter-state.format-1").read_bytes() == b'{"format":1}\n'
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
    else:
        pytest.fail("the making of a state never came to its end")
    assert step > 10
