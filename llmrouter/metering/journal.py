"""The writer of a worker's journal: a call's `begin` is in the file before the call goes on.

Two parts. `JournalFiles` puts bytes into files: all of them or none. `Journal` gathers records into
those bytes, with one write for all calls that begin in one turn of the event loop:

    begin(…) begin(…) begin(…)  |  one os.write  |  then() then() then(), or failed() for each
    end(…) … end(…)             |  ride along, or are written GATHER_S after the first of them

What a failed write leaves behind is cut off again, so that a refused call is not found in the file.
Where even that fails, it is tried again before the next write; if it still fails, that write starts
on a new line. A reader then meets one damaged line, and perhaps records of refused calls (they read
as interrupted) or of ends that were written once more (duplicates).

In a file means: handed to the operating system, which survives the death of the process, not that
of the machine. With `sync` the machine may die as well and lose SYNC_EVERY_S and one sync's time.

Invariant: nothing here waits, but for the operating system to take the bytes.
"""

import errno
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from llmrouter.metering.records import Begin, End, Header

Callback = Callable[[], None]
Write = Callable[[int, bytes | memoryview], int]

ROTATE_BYTES = 64 * 1024 * 1024  # about 150,000 calls: seconds to replay, small enough to delete
ENDS_MAX = 8_192  # unwritable ends kept: no call begins meanwhile, so at most what was in flight
GATHER_S = 0.005  # what a crash may turn from ended into interrupted
RETRY_S = 0.1
SYNC_EVERY_S = 0.2

_CREATE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_FILE_NAME = re.compile(r"(?P<worker>.+)-(?P<number>[0-9]+)\.jsonl")
_encode = msgspec.json.Encoder().encode


def journal_paths(directory: Path) -> list[Path]:
    """The journal files in `directory`: by worker, each worker's in the order of their writing."""
    return [path for _, _, path in sorted(_named(directory))]


def _named(directory: Path) -> Iterator[tuple[str, int, Path]]:
    for path in directory.iterdir():
        if match := _FILE_NAME.fullmatch(path.name):
            yield match["worker"], int(match["number"]), path


class JournalFiles:
    """The files of one worker, written one after the other; each append is in whole, or not at all.

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
        self._size = 0  # of its whole appends: where a torn one is cut off
        self._torn = False  # bytes of a failed append follow
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

    def append(self, data: bytes) -> None:
        """Write all of `data`, or raise OSError and leave none of it."""
        if self.closed:
            raise OSError(errno.EBADF, "the journal is closed")
        if self._torn:
            self._cut_back()
        removed = not os.fstat(self._fd).st_nlink  # somebody cleaned up: no reader would find it
        error = self._rotate() if removed or self._size >= self._rotate_bytes else None
        if self._torn or not self._size:
            data = (b"\n" if self._torn else b"") + (b"" if self._size else self._header) + data
        try:
            self._write_all(data)
        except OSError as failure:
            self.error = failure
            self._cut_back()
            raise
        self._size = os.fstat(self._fd).st_size if self._torn else self._size + len(data)
        self._torn = False
        self._dirty = True
        self.error = error

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

    def _write_all(self, data: bytes) -> None:
        written = self._write(self._fd, data)
        while written < len(data):
            self._torn = True
            more = self._write(self._fd, memoryview(data)[written:])
            if not more:
                raise OSError(errno.EIO, "the file takes no more bytes and gives no reason")
            written += more

    def _cut_back(self) -> None:
        """Remove what a failed write left behind its last whole append."""
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
        self.close()
        self._path, self._number, self._fd = path, number, fd
        self._size = 0
        self._torn = self._dirty = False
        if self._sync is not None:  # A name that is not on disk loses the file, synced or not.
            self._sync(os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY))


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
        self._ends: list[bytes] = []
        self._end_timer = False
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
            self._call_soon(self._flush)
        self._begins.append(line)
        self._waiting.append((then, failed))

    def end(self, record: End) -> None:
        """Write `record` soon: with the next begin, or within GATHER_S."""
        self._ends.append(_encode(record))
        if not self._end_timer:
            self._end_timer = True
            self._call_later(GATHER_S, self._ends_due)

    def close(self) -> None:
        """Write what is buffered, then close the file; nothing can be written afterwards."""
        try:
            self._flush()
        finally:
            self._files.close()
            self._keep(self._ends)

    def _ends_due(self) -> None:
        self._end_timer = False
        self._flush()

    def _flush(self) -> None:
        begins, waiting, ends = self._begins, self._waiting, self._ends
        if not begins and not ends:
            return
        self._begins, self._waiting, self._ends = [], [], []
        try:
            self._files.append(b"\n".join([*begins, *ends, b""]))
        except OSError as error:
            self._keep(ends)
            self._run(partial(failed, error) for _, failed in waiting)
        else:
            self._sync_later()
            self._run(then for then, _ in waiting)

    def _keep(self, ends: list[bytes]) -> None:
        """Have unwritten ends tried again, as far as there is room and a file to try."""
        self._ends = [] if self._files.closed else ends[:ENDS_MAX]
        self.ends_lost += len(ends) - len(self._ends)
        if self._ends and not self._end_timer:
            self._end_timer = True
            self._call_later(RETRY_S, self._ends_due)

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
