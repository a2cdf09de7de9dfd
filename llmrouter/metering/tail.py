"""Follows the journals of a directory while they are written; every fact is handed out once.

`Tail.poll` gives what is new since the last one, some facts of one boot at a time: a call began, a
call ended (with its begin and what was held for it at last), a line cannot be read. `Tail.finish`
closes the boot of a dead writer (one life of one worker): its calls without an end come out as
interrupted. Whoever counts stores what was counted together with `Tail.position` of each boot, in
one transaction; a `Tail` that resumes from these positions goes on behind the last fact counted,
whatever was killed in between.

How the files of one boot are read says `follow`. A file is known by its boot and its name together,
as names come back where files were deleted. A file is needed no more once its boot is closed, or is
at a later file and has no call in flight that began in this one. The position of a closed boot has
to be kept until its files are gone (`boots` then stops naming it), or they would be read anew.

Deliberately absent: a clock (whoever polls has one), and any change of a file.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmrouter.metering.facts import (
    Began,
    Boot,
    Counts,
    Ended,
    Folded,
    Found,
    Interrupted,
    Position,
)
from llmrouter.metering.follow import Following, read_header
from llmrouter.metering.journal import name_parts
from llmrouter.metering.records import Begin, Header
from llmrouter.metering.replay import Damaged

__all__ = [
    "Began", "Boot", "Counts", "Damaged", "Ended", "Folded", "Found", "Interrupted", "Position",
    "Tail",
]  # fmt: skip

POLL_RECORDS: Final = (
    5_000  # a few milliseconds of decoding, for which the caller's loop stands still
)
LISTING_POLLS: Final = (
    20  # two files made within one tick of the clock leave one mtime: list at times
)


@dataclass
class _File:
    """A file of the directory."""

    name: str
    worker: str
    number: int
    inode: int
    boot: str = ""
    """Empty until its header is there."""
    failed: bool = False
    """Its header could not be read at first."""


class Tail:
    """The journals of one directory, followed.

    Making one raises OSError where the directory, or a file that a position names, is there and
    cannot be read: to go on without it would lose calls. A file that is gone is counted.
    """

    def __init__(self, directory: Path, positions: Mapping[str, Position] | None = None) -> None:
        self.counts = Counts()
        self.more = False
        """The last poll stopped before it had read everything: there is more already."""
        self.error: OSError | None = None
        """What the last poll or finish could not read; it is tried again by the next."""
        self._directory = str(directory)
        self._mtime_ns = -1
        self._polls_to_listing = 0
        self._files: dict[str, _File] = {}
        self._boots = {
            boot: Following(boot, position, self._directory, self.counts)
            for boot, position in (positions or {}).items()
        }
        with contextlib.suppress(FileNotFoundError):  # Nobody has written yet.
            self._look(list_now=True)
        for boot, position in (positions or {}).items():
            if not position.closed:
                names = {file.name for file in self._files.values() if file.boot == boot}
                self._boots[boot].resume(position, names)

    def __repr__(self) -> str:
        return f"<Tail {self._directory} boots={len(self._boots)} error={self.error}>"

    def poll(self, records_max: int = POLL_RECORDS, *, only: str = "") -> Iterator[Found]:
        """What is new, some at a time; reads about `records_max` records at most.

        Of all boots, or `only` of one: then no other is opened. What was handed out is behind
        `position`, and read on it is when the next are asked for. Raises UnknownFormat, with
        nothing read, while there is a file that only another version can read.
        """
        self.error = None
        self.more = True
        with self._noting():
            self._look()
        left = records_max
        wanted = (each for each in self._boots.values() if only in ("", each.boot))
        for following in [each for each in wanted if not each.closed]:
            with self._noting():
                left = yield from following.follow(left)
            if not left:  # The others come first next time.
                self._boots[following.boot] = self._boots.pop(following.boot)
                break
        self.more = not left

    def finish(self, boot: str) -> Iterator[Found]:
        """The writer of `boot` is dead: what is left of its facts, then its calls in flight.

        All of it, so poll until there is no `more` before. Where a file cannot be read (`error`)
        the boot stays open, and nothing is interrupted yet.
        """
        self.error = None
        with self._noting():
            self._look(list_now=True)
            following = self._boots.get(boot)
            if following is not None and not following.closed:
                yield from following.finish()

    def position(self, boot: str) -> Position:
        """Up to where the facts of `boot` were handed out."""
        return self._boots[boot].position()

    def boots(self) -> list[Boot]:
        """The boots that have a file here, or calls in flight."""
        return [
            Boot(each.boot, each.worker, each.pid, each.in_flight, each.closed)
            for each in self._boots.values()
        ]

    def __contains__(self, boot: str) -> bool:
        """Whether anything is known of `boot`, such as its position."""
        return boot in self._boots

    def held(self, boot: str) -> list[tuple[Begin, tuple[int, int]]]:
        """The calls of `boot` that have not ended, as far as it was read.

        Each with the tokens and nano-USD that were held for it at last.
        """
        following = self._boots.get(boot)
        return [] if following is None else following.held()

    def is_written(self, boot: str) -> bool:
        """Whether a living process has a file of `boot` open for writing, or may have."""
        following = self._boots.get(boot)
        probed = ""
        while following is not None and following.newest() != probed:
            try:
                if following.newest_is_locked():
                    return True
            except OSError as error:  # Nobody knows, and the living must not be taken for dead.
                self.error = error
                return True
            probed = following.newest()
            with self._noting():  # Before it left this file, it locked the next.
                self._look(list_now=True)
        return False

    def close(self) -> None:
        """Let go of every file; nothing can be polled afterwards."""
        for following in self._boots.values():
            following.close()
        self._boots.clear()

    def _look(self, *, list_now: bool = False) -> None:
        """Find new files and whose they are, and forget those that are gone."""
        mtime_ns = os.stat(self._directory).st_mtime_ns
        self._polls_to_listing -= 1
        listing = list_now or mtime_ns != self._mtime_ns or self._polls_to_listing <= 0
        if listing:
            self._list()
            self._mtime_ns, self._polls_to_listing = mtime_ns, LISTING_POLLS
        self._attribute()
        if listing:
            self._forget_boots()

    def _list(self) -> None:
        with os.scandir(self._directory) as entries:
            inodes = {entry.name: entry.inode() for entry in entries}
        for file in list(self._files.values()):
            if inodes.get(file.name) != file.inode:
                del self._files[file.name]
                if file.boot:
                    self._boots[file.boot].drop(file.number, file.name)
        for name, inode in inodes.items():
            if name not in self._files and (parts := name_parts(name)):
                self._files[name] = _File(name, *parts, inode)

    def _attribute(self) -> None:
        """Give files to their boots, once they have a header.

        The newest are read first: what was before one with a header then has its own for sure.
        """
        unread = [file for file in self._files.values() if not file.boot]
        unread.sort(key=lambda file: file.number, reverse=True)
        headers: list[Header | None] = []
        failed: OSError | None = None
        for file in unread:
            try:
                headers.append(read_header(Path(self._directory, file.name), file.worker))
            except OSError as error:  # One that cannot be read must not keep the others from it.
                headers.append(None)
                file.failed = True
                failed = error
        for file, header in zip(reversed(unread), reversed(headers), strict=True):
            if header is not None:
                self._add(file, header)
        if failed is not None:
            raise failed

    def _add(self, file: _File, header: Header) -> None:
        boot = file.boot = header.boot
        if boot not in self._boots:
            self._boots[boot] = Following(boot, Position(), self._directory, self.counts)
        following = self._boots[boot]
        following.worker, following.pid = header.worker, header.pid
        if not following.add(file.number, file.name) and file.failed:
            self.counts.files_vanished += 1  # it would have been read, had it been there in time

    def _forget_boots(self) -> None:
        present = {file.boot for file in self._files.values()}
        for boot in [each.boot for each in self._boots.values() if each.closed]:
            if boot not in present:
                del self._boots[boot]

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Keep what an operating system refuses as `error`, for the next poll to try again."""
        try:
            yield
        except OSError as error:
            self.error = error
