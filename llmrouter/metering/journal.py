"""The writer of a worker's journal: a call's `begin` is in the file before the call goes on.

Two parts. `JournalFiles` puts lines into files, each of them whole or not at all. `Journal` gathers
records into those lines, with one write for all calls that begin in one turn of the event loop:

    begin(…) begin(…) begin(…)  |  one os.write  |  then() then() then(), or failed() for each
    hold(…) … end(…) … end(…)   |  ride along, or are written GATHER_S after the first of them

What a reader may have seen is never taken back: where a write fails half way, the lines that are in
whole stay and count (their calls go on), and only the torn one behind them is cut off again. Where
even that fails, it is tried again before the next write; if it still fails, that write starts on a
new line, and a reader meets one damaged line. So a call is in the file if, and only if, it went on.

A file is held under an exclusive `flock` while it is open, so that a reader can tell a living
writer from a dead one, whoever else has died. A duplicate of the descriptor (a sync that still
runs) shares the lock and keeps it until it is closed, too; the kernel closes all of a dead process.
The next file is locked and has its header before this one is left, so one with a header always is.

In a file means: handed to the operating system, which survives the death of the process, not that
of the machine. With `sync` the machine may die as well and lose SYNC_EVERY_S and one sync's time.

Invariant: nothing here waits, but for the operating system to take the bytes.
"""

import errno
import fcntl
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from llmrouter.metering.records import Begin, End, Header, Hold

Callback = Callable[[], None]
Write = Callable[[int, bytes | memoryview], int]

ROTATE_BYTES: Final = (
    64 * 1024 * 1024
)  # about 150,000 calls: seconds to replay, small enough to delete
ENDS_MAX: Final = (
    8_192  # unwritable ends kept: no call begins meanwhile, so at most what was in flight
)
GATHER_S: Final = 0.005  # what a crash may turn from ended into interrupted
RETRY_S = 0.1
SYNC_EVERY_S = 0.2

_CREATE: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_FILE_NAME: Final = re.compile(r"(?P<worker>.+)-(?P<number>[0-9]+)\.jsonl")
_encode: Final = msgspec.json.Encoder().encode


def journal_paths(directory: Path) -> list[Path]:
    """The journal files in `directory`: by worker, each worker's in the order of their writing."""
    return [path for _, _, path in sorted(_named(directory))]


def _named(directory: Path) -> Iterator[tuple[str, int, Path]]:
    for path in directory.iterdir():
        if parts := name_parts(path.name):
            yield *parts, path


def name_parts(name: str) -> tuple[str, int] | None:
    """The worker and the number that the name of a journal file gives; None for other names."""
    match = _FILE_NAME.fullmatch(name)
    return (match["worker"], int(match["number"])) if match else None


class JournalFiles:
    """The files of one worker, written one after the other; each line is in whole, or not at all.

    `sync` is given a file descriptor of its own: it has to make durable what is in there, off the
    loop, and to close it.
    """

    def __init__(
        self,
        directory: Path,
        header: Header,
        *,
        sync: Callable[[int], None] | None = None,
        rotate_bytes: int = ROTATE_BYTES,
        write: Write = os.write,
    ) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        # For the life of the worker:
        self._directory = directory
        self._worker = header.worker
        self._header = _encode(header) + b"\n"
        self._sync = sync
        self._rotate_bytes = rotate_bytes
        self._write = write
        self.error: OSError | None = None
        """What the last append failed with, or the last try to open the next file."""
        # For the life of a file:
        self._path = directory
        self._number = 0
        self._fd = -1
        self._size = 0  # of its whole lines: where a torn one is cut off
        self._torn = False  # bytes of a torn line follow
        self._dirty = False
        self._open_next()

    def __repr__(self) -> str:
        return f"<JournalFiles {self._path} size={self._size} error={self.error}>"

    @property
    def closed(self) -> bool:
        return self._fd < 0

    @property
    def unsynced(self) -> bool:
        """Something was written that `sync` was not asked for yet."""
        return self._dirty and self._sync is not None

    def append(self, lines: Sequence[bytes]) -> int:
        """Write `lines`; how many of them the file took: all, or fewer where `error` says why."""
        if self.closed:
            self.error = OSError(errno.EBADF, "the journal is closed")
            return 0
        if self._torn:
            self._cut_back()
        removed = not os.fstat(self._fd).st_nlink  # somebody cleaned up: no reader would find it
        self.error = self._rotate() if removed or self._size >= self._rotate_bytes else None
        before = (b"\n" if self._torn else b"") + (b"" if self._size else self._header)
        data = before + b"\n".join([*lines, b""])
        start = os.fstat(self._fd).st_size if self._torn else self._size
        written = self._put(self._fd, data)
        whole = len(data) if written == len(data) else data.rfind(b"\n", 0, written) + 1
        if whole and whole >= len(before):
            self._size, self._torn, self._dirty = start + whole, written > whole, True
        elif written:
            self._torn = True
        if written == len(data):
            return len(lines)
        if self._torn:
            self._cut_back()
        return data.count(b"\n", len(before), whole)

    def sync(self) -> None:
        """Ask for what was written to be made durable."""
        if self._sync is not None and self._dirty:
            duplicate = os.dup(self._fd)  # ours may be closed by rotation while the sync runs
            self._dirty = False
            self._sync(duplicate)

    def close(self) -> None:
        """Close the file, or give it to its last sync to close; appending then fails."""
        fd, self._fd = self._fd, -1
        if self._sync is not None and self._dirty:
            self._dirty = False
            self._sync(fd)
        elif fd >= 0:
            os.close(fd)

    def _put(self, fd: int, data: bytes) -> int:
        """Write `data`; how many of its bytes were taken: all, or fewer where `error` says why."""
        written = 0
        try:
            written = self._write(fd, data)
            while written < len(data):
                more = self._write(fd, memoryview(data)[written:])
                if not more:
                    self.error = OSError(errno.EIO, "the file takes no more and gives no reason")
                    break
                written += more
        except OSError as failure:
            self.error = failure
        return written

    def _cut_back(self) -> None:
        """Remove what a failed write left behind the last whole line."""
        with suppress(OSError):  # It is tried again before the next append.
            os.ftruncate(self._fd, self._size)
            self._torn = False

    def _rotate(self) -> OSError | None:
        """Go on in the next file; while none can be opened, go on in this one and try again."""
        try:
            self._open_next()
        except OSError as failure:
            return failure
        return None

    def _open_next(self) -> None:
        taken = [number for worker, number, _ in _named(self._directory) if worker == self._worker]
        number = max([self._number, *taken]) + 1
        path = self._directory / f"{self._worker}-{number}.jsonl"
        fd = os.open(path, _CREATE, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = 0 if self.closed else self._put_header(fd)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self.close()
        self._path, self._number, self._fd = path, number, fd
        self._size = size
        self._torn = self._dirty = False
        if self._sync is not None:  # A name that is not on disk loses the file, synced or not.
            self._sync(os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY))

    def _put_header(self, fd: int) -> int:
        if self._put(fd, self._header) < len(self._header):
            assert self.error is not None
            raise self.error
        return len(self._header)


class Journal:
    """Writes the records of one worker, many to a write.

    The loop is given as `call_soon(callback)`, which runs a callback in the loop's next turn, and
    `call_later(delay_s, callback)`.
    """

    def __init__(
        self,
        files: JournalFiles,
        *,
        call_soon: Callable[[Callback], object],
        call_later: Callable[[float, Callback], object],
    ) -> None:
        # For the life of the worker:
        self._files = files
        self._call_soon = call_soon
        self._call_later = call_later
        self.next_seq = itertools.count(1).__next__
        """The `seq` of the next call of this boot."""
        self.ends_lost = 0
        """Ends that no file took, beyond what is kept to be tried again."""
        # For the life of a write:
        self._begins: list[bytes] = []
        self._waiting: list[tuple[Callback, Callable[[OSError], None]]] = []
        self._holds: dict[int, bytes] = {}  # by seq, the last of each call: bounded by the calls
        self._ends: list[bytes] = []
        self._gather_timer = False
        self._sync_timer = False

    def __repr__(self) -> str:
        buffered = f"begins={len(self._begins)} ends={len(self._ends)} lost={self.ends_lost}"
        return f"<Journal {self._files!r} {buffered}>"

    @property
    def error(self) -> OSError | None:
        """Why the journal is not healthy, for the operator; None while it is."""
        return self._files.error

    @property
    def healthy(self) -> bool:
        """The last write went well. Only another write can tell, so calls must keep being tried."""
        return self._files.error is None

    def begin(self, record: Begin, then: Callback, failed: Callable[[OSError], None]) -> None:
        """Write `record`; run `then` once it is in the file, or `failed` if it will never be.

        Exactly one of the two runs, once, and never from within `begin`. The call may not reach an
        upstream before `then`, and has no `end` after `failed`.
        """
        line = _encode(record)
        if not self._begins:
            self._call_soon(self.flush)
        self._begins.append(line)
        self._waiting.append((then, failed))

    def hold(self, record: Hold) -> None:
        """Write `record` soon, as an end is, unless the call's next hold or its end comes first."""
        self._holds[record.seq] = _encode(record)
        self._gather(GATHER_S)

    def end(self, record: End) -> None:
        """Write `record` soon: with the next begin, or within GATHER_S."""
        self._holds.pop(record.seq, None)
        self._ends.append(_encode(record))
        self._gather(GATHER_S)

    def flush(self) -> None:
        """Write what is gathered now; the calls that begin with it go on, or fail, from in here."""
        begins, waiting, holds, ends = self._begins, self._waiting, self._holds, self._ends
        lines = [*begins, *holds.values(), *ends]
        if not lines:
            return
        self._begins, self._waiting, self._holds, self._ends = [], [], {}, []
        taken = self._files.append(lines)
        if taken:
            self._sync_later()
        callbacks = [then for then, _ in waiting[:taken]]
        if taken < len(lines):
            error = self._files.error
            assert error is not None
            callbacks += [partial(failed, error) for _, failed in waiting[taken:]]
            taken = max(taken - len(begins), 0)
            self._keep(list(holds.items())[taken:], ends[max(taken - len(holds), 0) :])
        self._run(callbacks)

    def close(self) -> None:
        """Write what is buffered, then close the file; nothing can be written afterwards."""
        try:
            self.flush()
        finally:
            self._files.close()
            self._keep([], self._ends)

    def _gather(self, delay_s: float) -> None:
        if not self._gather_timer:
            self._gather_timer = True
            self._call_later(delay_s, self._gathered)

    def _gathered(self) -> None:
        self._gather_timer = False
        self.flush()

    def _keep(self, holds: list[tuple[int, bytes]], ends: list[bytes]) -> None:
        """Have what was not written tried again, as far as there is room and a file to try."""
        self._holds = {} if self._files.closed else dict(holds)
        self._ends = [] if self._files.closed else ends[:ENDS_MAX]
        self.ends_lost += len(ends) - len(self._ends)
        if self._holds or self._ends:
            self._gather(RETRY_S)

    def _run(self, callbacks: Iterable[Callback]) -> None:
        """Run all; where one raises, the loop hears of it and runs the rest in its next turn."""
        left = iter(callbacks)
        try:
            for callback in left:
                callback()
        finally:
            if rest := list(left):
                self._call_soon(partial(self._run, rest))

    def _sync_later(self) -> None:
        if self._files.unsynced and not self._sync_timer:
            self._sync_timer = True
            self._call_later(SYNC_EVERY_S, self._sync_due)

    def _sync_due(self) -> None:
        self._sync_timer = False
        self._files.sync()
