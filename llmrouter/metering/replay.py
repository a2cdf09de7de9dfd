"""The reader of journals: what every worker wrote, also of one that was killed while writing.

A line counts once its newline is there. Two kinds of line do not count:

- *torn*: the last line of a file, where it is incomplete or cannot be read. A killed writer leaves
  one; its `then` never ran, so no call stands behind it. The reader keeps it aside as `torn`.
- *damaged*: any other line that cannot be read. That is the disk's doing (or a failed write that
  could not be cut off again). It is handed out as `Damaged`, in its place, and reading goes on:
  one bad line must not cost the thousands of good ones behind it.

Invariant: reading a file takes memory for one line, of LINE_BYTES_MAX at most.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, assert_never

import msgspec

from llmrouter.metering.records import FORMAT, Begin, End, Header, Hold, Record

LINE_BYTES_MAX = (
    1024 * 1024
)  # a record is below 1 kB; names that callers choose are bounded on entry

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a damaged line may raise."""

_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class UnknownFormat(ValueError):
    """The file was written in a format that this version does not read."""


def check_format(header: Header, path: Path) -> None:
    """Raise UnknownFormat unless this version reads the file at `path`, which `header` heads."""
    if not 1 <= header.format <= FORMAT:
        raise UnknownFormat(
            f"{path} has journal format {header.format}, this version reads up to {FORMAT}; "
            "read it with the version that wrote it"
        )


class Damaged(msgspec.Struct, frozen=True, gc=False):
    """A piece of a file that cannot be read as a record: `length` bytes from `offset`."""

    path: Path
    offset: int
    length: int


class JournalReader:
    """The records of one file in order, and `Damaged` where a line cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.torn: Damaged | None = None
        """The end of the file that does not count; known once the file has been read through."""

    def __iter__(self) -> Iterator[Record | Damaged]:
        last: Damaged | None = None
        with self._path.open("rb") as file:
            for item in self._items(file):
                if last is not None:  # Something follows it, so it is not torn but damaged.
                    yield last
                last = item if isinstance(item, Damaged) else None
                if last is None:
                    yield item
        self.torn = last

    def _items(self, file: BinaryIO) -> Iterator[Record | Damaged]:
        offset = 0
        while line := file.readline(LINE_BYTES_MAX):
            length = len(line)
            while not line.endswith(b"\n") and (more := file.readline(LINE_BYTES_MAX)):
                length += len(more)
                line = more
            yield self._read(line, offset, length)
            offset += length

    def _read(self, line: bytes, offset: int, length: int) -> Record | Damaged:
        damaged = Damaged(self._path, offset, length)
        if length > len(line) or not line.endswith(b"\n"):
            return damaged
        try:
            record = _decoder.decode(line)
        except UNREADABLE:
            return damaged
        if isinstance(record, Header):
            check_format(record, self._path)
        return record


def read_journal(path: Path) -> JournalReader:
    """The records of the file at `path`, to be iterated; then its `torn` end, if it has one."""
    return JournalReader(path)


class JournaledCall(msgspec.Struct, frozen=True):
    """What the journals know of one call."""

    boot: str
    """The boot of the worker that served it; with `begin.seq` the call's identity."""
    begin: Begin
    end: End | None
    """None where the call was interrupted, or is still in flight."""
    raised: Hold | None = None
    """The last raise of what was held for it."""

    @property
    def interrupted(self) -> bool:
        return self.end is None

    @property
    def hold(self) -> tuple[int, int]:
        """The tokens and nano-USD that were held for it at last."""
        if self.raised is None:
            return self.begin.hold_tokens, self.begin.hold_nano_usd
        return self.raised.tokens, self.raised.nano_usd


class Pairing(msgspec.Struct, frozen=True):
    """The calls in a set of journal files, and everything in there that is not one."""

    calls: list[JournaledCall]
    """In the order of their begins."""
    duplicates: list[Begin | End]
    """Second records of the same call and kind; the first one counts."""
    orphans: list[End | Hold]
    """Ends, and last holds, whose begin is in none of the files."""
    damaged: list[Damaged]
    torn: list[Damaged]


def pair(paths: Iterable[Path]) -> Pairing:
    """Bring together the records of each call in `paths`, given in the order of their writing.

    Holds every call in memory. A file whose header cannot be read counts as a boot of its own.
    """
    begins: dict[tuple[str, int], Begin] = {}
    holds: dict[tuple[str, int], Hold] = {}
    ends: dict[tuple[str, int], End] = {}
    found = Pairing(calls=[], duplicates=[], orphans=[], damaged=[], torn=[])
    for boot, item in _records(paths, found):
        match item:
            case Begin():
                if begins.setdefault((boot, item.seq), item) is not item:
                    found.duplicates.append(item)
            case Hold():
                holds[boot, item.seq] = item
            case End():
                if ends.setdefault((boot, item.seq), item) is not item:
                    found.duplicates.append(item)
            case _:
                assert_never(item)
    found.calls.extend(
        JournaledCall(boot, begin, ends.pop((boot, seq), None), holds.pop((boot, seq), None))
        for (boot, seq), begin in begins.items()
    )
    found.orphans.extend([*ends.values(), *holds.values()])
    return found


def _records(paths: Iterable[Path], found: Pairing) -> Iterator[tuple[str, Begin | Hold | End]]:
    """The records of calls, each with its boot; what cannot be read goes to `found`."""
    for path in paths:
        boot = path.name
        journal = read_journal(path)
        for item in journal:
            if isinstance(item, Header):
                boot = item.boot
            elif isinstance(item, Damaged):
                found.damaged.append(item)
            else:
                yield boot, item
        if journal.torn is not None:
            found.torn.append(journal.torn)
