"""The state directory: keys, journals and books of one node, for one process at a time.

    llmrouter-state   the marker: this directory is ours, in this format
    lock              held by the process that has the state open; names it for people
    digest.key        the secret under which digests of keys are made
    store/            the embedded store: keys, buckets, events
    journal/          the workers' records of calls
    books.db          the books that they are folded into
    control.sock      the supervisor's control socket

Making it is safe against a kill at any moment: everything is made under the marker's temporary
name, and renaming that to `llmrouter-state` is the last step. Up to then no key can have been
issued, so the next start makes the parts again; from then on every part must be there and sound,
and a state that is foreign, damaged, newer or readable by others is refused and left as it is.

An older one becomes one of this format once all of its parts are known to be sound, by the renaming
of a new marker; the old one is kept beside it.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import shlex
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from llmrouter.access.key import DIGEST_KEY_BYTES
from llmrouter.contracts.store import Store, StoreError
from llmrouter.daemon.errors import DaemonError
from llmrouter.files import sync_directory
from llmrouter.stores.diskcache import DiskcacheStore

FORMAT = 2
"""What an older llmrouter must not run on raises it. 1: keys, and journals that stay. 2: what was
spent of limits and booked of journals is kept, and journals go; who knows nothing of that would
serve without limits, and record calls without their cost."""

_log = logging.getLogger(__name__)

_MARKER = "llmrouter-state"
_UNFINISHED = "llmrouter-state.new"
_LOCK = "lock"
_DIGEST_KEY = "digest.key"
_STORE = "store"
_JOURNAL = "journal"
_BOOKS = "books.db"
_LOCK_POLL_S = 0.02
_LOCK_NOTE_BYTES_MAX = 64
_SMALL_FILE_BYTES_MAX = 4096  # no file that is read whole here is longer, unless it is not ours
_RESTORE = "restore it from a backup, or move the directory away to start anew"


class StateError(DaemonError):
    """The state directory cannot be used; the message says where, why and what to do."""


class StateBusy(StateError):
    """Another process has the state open."""


class Marker(msgspec.Struct, frozen=True):
    """What `llmrouter-state` holds. A newer format may have more members."""

    format: int


class State:
    """An open state directory; its lock is held until `open_state` ends."""

    __slots__ = ("books_path", "control_path", "digest_key", "journal_dir", "path", "store")

    def __init__(self, path: Path, store: Store, digest_key: bytes) -> None:
        self.path = path
        self.store = store
        self.digest_key = digest_key
        self.journal_dir = journal_path(path)
        self.books_path = path / _BOOKS
        self.control_path = control_path(path)

    def __repr__(self) -> str:
        return f"<State {self.path}>"


def control_path(path: Path) -> Path:
    """Where the control socket of the state in `path` is, whether or not a daemon runs."""
    return path / "control.sock"


def journal_path(path: Path) -> Path:
    """Where the journals of the state in `path` are, if there is one."""
    return path / _JOURNAL


@contextlib.contextmanager
def open_state(path: Path, *, wait_s: float = 0.0) -> Iterator[State]:
    """Open the state in `path` for this process alone, making it if there is none.

    Raises StateBusy if another process still has it after `wait_s`, and StateError if it must not
    or cannot be used. Blocks: for start-up and the CLI only.
    """
    with contextlib.ExitStack() as stack:
        try:
            state = _open(path.absolute(), wait_s, stack)
        except StoreError as error:
            raise StateError(str(error)) from error
        except OSError as error:
            raise StateError(
                f"the state directory {path} cannot be used: {error.strerror}"
                f" ({error.filename or path}); mend that, or give another `state` in router.toml"
            ) from error
        yield state


def _open(path: Path, wait_s: float, stack: contextlib.ExitStack) -> State:
    _make_directory(path)
    _is_made(path)  # before the lock, so that not even that is left in a foreign directory
    _refuse_open_to_others(path)  # only now: nobody is told to chmod a directory that is not ours
    lock = stack.enter_context(_locked(path, wait_s))
    if not _is_made(path):
        _make(path)
    for part in (_STORE, _DIGEST_KEY):
        _refuse_missing(path / part)
        _refuse_open_to_others(path / part)
    digest_key = _read_digest_key(path / _DIGEST_KEY)
    store = stack.enter_context(contextlib.closing(DiskcacheStore.open(path / _STORE)))
    journal_path(path).mkdir(mode=0o700, exist_ok=True)
    _migrate(path)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return State(path, store, digest_key)


def _make_directory(path: Path) -> None:
    if not path.exists():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(path.parent)
    if not path.is_dir():
        raise StateError(f"the state {path} is not a directory; give another in router.toml")
    _refuse_other_owner(path)


def _refuse_other_owner(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise StateError(
            f"{path} belongs to the user id {found.st_uid}, and this process runs as"
            f" {os.geteuid()}; run it as the owner, or give the whole state to this user"
        )


def _refuse_open_to_others(path: Path) -> None:
    _refuse_other_owner(path)
    found, quoted = path.stat(), shlex.quote(str(path))
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StateError(
            f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o});"
            f" run `chmod -R go-rwx {quoted}` and make sure that nobody copied its secrets"
        )


def _is_made(path: Path) -> bool:
    """Tell a state from one still to be made or completed; refuse what is neither."""
    if (path / _MARKER).exists():
        _check_marker(path / _MARKER)
        return True
    names = {entry.name for entry in path.iterdir()}
    unfinished = (path / _UNFINISHED).exists()
    if not names or unfinished or _holds_only_a_lock(path, names):
        return False
    if (path / _MARKER).exists():  # another process has finished making it since the first look
        return _is_made(path)
    raise StateError(
        f"{path} is not empty and has no {_MARKER} file, so it is not a state of ours; give an"
        " empty or new directory as `state` in router.toml; nothing was changed"
    )


def _holds_only_a_lock(path: Path, names: set[str]) -> bool:
    return names == {_LOCK} and (path / _LOCK).stat().st_size == 0


def _check_marker(marker: Path) -> int:
    """The format that it says, which is one that we know."""
    try:
        found = msgspec.json.decode(_read_small(marker), type=Marker)
    except msgspec.DecodeError as error:
        raise StateError(f"{marker} is damaged ({error}); {_RESTORE}") from error
    if found.format > FORMAT:
        raise StateError(
            f"{marker.parent} was made by a newer llmrouter (format {found.format}, this one reads"
            f" {FORMAT}); upgrade llmrouter, or give another `state` in router.toml"
        )
    if found.format < 1:
        raise StateError(f"{marker} has the unknown format {found.format}; {_RESTORE}")
    return found.format


def _migrate(path: Path) -> None:
    """Bring a sound state of an older format to ours; a kill leaves it in one of the two."""
    marker = path / _MARKER
    found = _check_marker(marker)
    if found == FORMAT:
        return
    # No part has another shape than in format 1; what is new is made by those who use it.
    backup = path / f"{_MARKER}.format-{found}"
    _write_durably(backup, _read_small(marker))
    _write_durably(path / _UNFINISHED, msgspec.json.encode(Marker(FORMAT)) + b"\n")
    os.rename(path / _UNFINISHED, path / _MARKER)
    sync_directory(path)
    _log.info("state=%s migrated from format %d to %d; backup=%s", path, found, FORMAT, backup)


@contextlib.contextmanager
def _locked(path: Path, wait_s: float) -> Iterator[int]:
    lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        ends_at_s = time.monotonic() + wait_s
        while not _try_lock(lock):
            if time.monotonic() >= ends_at_s:
                raise StateBusy(_busy(path, lock))
            time.sleep(_LOCK_POLL_S)
        yield lock
    finally:
        # Closing only: to unlock would also end the lock of a parent that forked this process.
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(path: Path, lock: int) -> str:
    note = os.pread(lock, _LOCK_NOTE_BYTES_MAX, 0).strip()
    holder = f"process {int(note)}" if note.isdigit() else "another process"
    return f"the state {path} is in use by {holder}; stop that, or give another in router.toml"


def _make(path: Path) -> None:
    _write_durably(path / _UNFINISHED, msgspec.json.encode(Marker(FORMAT)) + b"\n")
    _write_durably(path / _DIGEST_KEY, secrets.token_bytes(DIGEST_KEY_BYTES))
    if (path / _STORE).exists():  # the last start was killed while it made this
        shutil.rmtree(path / _STORE)
    DiskcacheStore.create(path / _STORE).close()
    sync_directory(path / _STORE)
    os.rename(path / _UNFINISHED, path / _MARKER)
    sync_directory(path)


def _read_digest_key(file: Path) -> bytes:
    digest_key = _read_small(file)
    if len(digest_key) != DIGEST_KEY_BYTES:
        raise StateError(
            f"{file} has not the {DIGEST_KEY_BYTES} bytes that it was made with, and without them"
            f" no issued key can be checked; {_RESTORE}"
        )
    return digest_key


def _refuse_missing(part: Path) -> None:
    if not part.exists():
        raise StateError(f"{part} is missing, and issued keys are lost without it; {_RESTORE}")


def _read_small(file: Path) -> bytes:
    with file.open("rb") as reader:
        return reader.read(_SMALL_FILE_BYTES_MAX)


def _write_durably(file: Path, content: bytes) -> None:
    with open(os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as writer:
        writer.write(content)
        writer.flush()
        os.fsync(writer.fileno())
    sync_directory(file.parent)
