"""One boot of a worker, read while it is written: its file, the files behind it, its open calls.

- A line counts once its newline is there: the writer never takes a whole line back.
- The files come in the order of their numbers. The next one is there, with its header, before the
  writer leaves this one; so this one is left at its end, once the next was seen *before* that end.
- The first `End` of a call counts. Begins stand in the order of `seq`, so one that is not above all
  before it is a duplicate, and no memory of the calls that are over is needed.

Facts are handed out some at a time, and not read on before they were taken: what was just decoded
is still in the processor's caches then. To decode thousands first costs whoever counts them half as
much again.

In memory: the begins of the calls in flight, and one piece of a file.
"""

import bisect
import contextlib
import fcntl
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final, assert_never

import msgspec

from llmrouter.metering.facts import Began, Counts, Ended, Folded, Found, Interrupted, Position
from llmrouter.metering.journal import name_parts
from llmrouter.metering.records import Begin, End, Header, Hold, Record
from llmrouter.metering.replay import LINE_BYTES_MAX, UNREADABLE, Damaged, check_format
from llmrouter.processor import STRIDE, give_way

READ_BYTES: Final = 65_536  # at a time; longer lines, up to LINE_BYTES_MAX, are read by themselves
LINE_BYTES: Final = 4_096  # what is read where one line is wanted; records are below 1 kB
FINISH_RECORDS: Final = 100_000  # a step of reading to the end; any number would do

_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_decode: Final = _decoder.decode


class _Open:
    """A call in flight, and where its begin stands."""

    __slots__ = ("begin", "hold", "name", "offset")

    def __init__(self, begin: Begin, name: str, offset: int, hold: tuple[int, int]) -> None:
        self.begin = begin
        self.name = name
        self.offset = offset
        self.hold = hold


class Following:
    """One boot: the file being read, those behind it, and the calls in flight."""

    __slots__ = (
        "_counts", "_directory", "_fd", "_name", "_number", "_offset", "_open", "_queue", "_seq",
        "boot", "closed", "pid", "worker",
    )  # fmt: skip

    def __init__(self, boot: str, position: Position, directory: str, counts: Counts) -> None:
        # For the life of the boot:
        self.boot = boot
        self.worker = ""
        self.pid = 0
        self.closed = position.closed
        self._directory = directory
        self._counts = counts
        self._seq = position.seq
        self._open: dict[int, _Open] = {}
        self._queue: list[tuple[int, str]] = []  # the files to be opened
        # For the life of a file:
        self._fd = -1
        self._name = position.name
        self._number = (name_parts(position.name) or ("", 0))[1]
        self._offset = position.offset

    @property
    def in_flight(self) -> int:
        """How many calls began and did not end."""
        return len(self._open)

    def held(self) -> list[tuple[Begin, tuple[int, int]]]:
        """The calls in flight, and the tokens and nano-USD that were held for each at last."""
        return [(call.begin, call.hold) for call in self._open.values()]

    def position(self) -> Position:
        """Up to where its facts were handed out."""
        begins: dict[str, list[tuple[int, int, int]]] = {}
        for call in self._open.values():
            begins.setdefault(call.name, []).append((call.offset, *call.hold))
        return Position(self._name, self._offset, self._seq, begins, self.closed)

    def add(self, number: int, name: str) -> bool:
        """There is a file of this boot; False: it is behind what was read, and is not read."""
        if self.closed or number < self._number:
            return False
        bisect.insort(self._queue, (number, name))
        return True

    def drop(self, number: int, name: str) -> None:
        """A file was removed; what is open is read on, as long as it is open."""
        if (number, name) in self._queue:
            self._queue.remove((number, name))
            self._counts.files_vanished += 1

    def resume(self, position: Position, names: set[str]) -> None:
        """Read the begins of the calls in flight again; the boot's files are `names`."""
        if self._name and self._name not in names:
            self._counts.files_vanished += 1
        for name, calls in position.open.items():
            fd = _open(f"{self._directory}/{name}") if name in names else None
            try:
                for offset, tokens, nano_usd in calls:
                    with _named(f"{self._directory}/{name}"):
                        begin = None if fd is None else _begin_at(fd, offset)
                    if begin is None:
                        self._counts.calls_vanished += 1
                    else:
                        self._open[begin.seq] = _Open(begin, name, offset, (tokens, nano_usd))
            finally:
                if fd is not None:
                    os.close(fd)

    def follow(self, records_max: int) -> Generator[Found, None, int]:
        """What is new, some at a time; returns how many records more might have been read."""
        left = records_max
        while True:
            if self._fd >= 0:
                with _named(f"{self._directory}/{self._name}"):
                    left = yield from self._read(left)
            if not left or not self._queue:
                return left
            self._move_on()

    def finish(self) -> Iterator[Found]:
        """Read to the very end, and interrupt what is in flight then."""
        while not (yield from self.follow(FINISH_RECORDS)):
            pass
        self._leave()
        open_calls = list(self._open.values())
        self._open.clear()
        self.closed = True
        if open_calls:
            yield self.boot, [Interrupted(self.boot, one.begin, one.hold) for one in open_calls]

    def close(self) -> None:
        """Let go of the file being read."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def newest(self) -> str:
        """The name of its last file; empty where it has none."""
        return self._queue[-1][1] if self._queue else self._name

    def newest_is_locked(self) -> bool:
        """Whether a living process has its last file open for writing."""
        if not self._queue:
            return self._fd >= 0 and _is_locked(self._fd)
        fd = _open(f"{self._directory}/{self.newest()}")
        if fd is None:
            return False
        try:
            return _is_locked(fd)
        finally:
            os.close(fd)

    def _move_on(self) -> None:
        number, name = self._queue[0]
        fd = _open(f"{self._directory}/{name}")
        if fd is None:
            self._counts.files_vanished += 1
            del self._queue[0]
            return
        try:
            self._leave()
        except OSError:
            os.close(fd)
            raise
        del self._queue[0]
        if name != self._name:  # It is, where a position was resumed.
            self._offset = 0
        self._fd, self._number, self._name = fd, number, name

    def _leave(self) -> None:
        if self._fd >= 0:
            self._counts.torn += os.fstat(self._fd).st_size > self._offset
            self.close()

    def _read(self, left: int) -> Generator[Found, None, int]:
        """Fold the whole lines that are there, `left` of them at most; how many more might be."""
        size = READ_BYTES
        while left:
            piece = os.pread(self._fd, size, self._offset)
            *lines, _ = piece.split(b"\n", left)
            for at in range(0, len(lines), STRIDE):
                give_way()
                facts = self._fold_some(lines[at : at + STRIDE])
                if facts:
                    yield self.boot, facts
            left -= len(lines)
            if len(piece) < size:
                return left
            if lines:
                size = READ_BYTES
            elif size < LINE_BYTES_MAX:
                size = LINE_BYTES_MAX
            elif length := self._length_of_line():
                yield self.boot, [self._damaged(length)]
                size = READ_BYTES
            else:
                return left
        return 0

    def _fold_some(self, lines: list[bytes]) -> list[Folded]:
        facts: list[Folded] = []
        for line in lines:
            fact = self._fold(line)
            if fact is not None:
                facts.append(fact)
        return facts

    def _length_of_line(self) -> int:
        """How long a line is that is no record; 0 while it has no end."""
        at = self._offset + LINE_BYTES_MAX
        while piece := os.pread(self._fd, READ_BYTES, at):
            if (end := piece.find(b"\n")) >= 0:
                return at + end + 1 - self._offset
            at += len(piece)
        return 0

    def _fold(self, line: bytes) -> Folded | None:
        record = _record(line)
        if record is None:
            return self._damaged(len(line) + 1)
        offset = self._offset
        self._offset += len(line) + 1
        match record:
            case Begin():
                return self._begin(record, offset)
            case End():
                return self._end(record)
            case Hold():
                self._hold(record)
            case Header():
                pass  # It was read before the file was opened.
            case _:
                assert_never(record)
        return None

    def _damaged(self, length: int) -> Damaged:
        damaged = Damaged(Path(self._directory, self._name), self._offset, length)
        self._offset += length
        return damaged

    def _begin(self, begin: Begin, offset: int) -> Began | None:
        if begin.seq <= self._seq:
            self._counts.duplicates += 1
            return None
        self._seq = begin.seq
        hold = (begin.hold_tokens, begin.hold_nano_usd)
        self._open[begin.seq] = _Open(begin, self._name, offset, hold)
        return Began(self.boot, self.worker, begin)

    def _end(self, end: End) -> Ended | None:
        call = self._open.pop(end.seq, None)
        if call is None:
            self._miss(end.seq)
            return None
        return Ended(self.boot, call.begin, call.hold, end)

    def _hold(self, hold: Hold) -> None:
        call = self._open.get(hold.seq)
        if call is None:
            self._miss(hold.seq)
        else:
            call.hold = (hold.tokens, hold.nano_usd)

    def _miss(self, seq: int) -> None:
        if seq <= self._seq:
            self._counts.duplicates += 1
        else:
            self._counts.orphans += 1


def read_header(path: Path, worker: str) -> Header | None:
    """Who wrote the file; None while that is not in it.

    A torn header may stand before the whole one. A file without any counts as a boot of its own.
    """
    fd = _open(str(path))
    if fd is None:
        return None
    try:
        with _named(str(path)):
            piece = os.pread(fd, LINE_BYTES, 0)
    finally:
        os.close(fd)
    *lines, _ = piece.split(b"\n", 2)
    for line in lines:
        record = _record(line)
        if isinstance(record, Header):
            check_format(record, path)
            return record
    whole = len(lines) == 2 or len(piece) == LINE_BYTES
    return Header(worker=worker, boot=path.name, pid=0) if whole else None


def _open(path: str) -> int | None:
    """A descriptor to read the file; None where it is gone."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Have what an operating system refuses name the file, which it does for paths alone."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


def _begin_at(fd: int, offset: int) -> Begin | None:
    line, end, _ = os.pread(fd, LINE_BYTES, offset).partition(b"\n")
    if not end:
        line = os.pread(fd, LINE_BYTES_MAX, offset).partition(b"\n")[0]
    record = _record(line)
    return record if isinstance(record, Begin) else None


def _record(line: bytes) -> Record | None:
    """The record of one line; None where it cannot be read."""
    try:
        return _decode(line)
    except UNREADABLE:
        return None


def _is_locked(fd: int) -> bool:
    """Whether a writer holds the file; a file with a header was locked before it had one."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
