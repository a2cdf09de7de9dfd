"""Deletes the journal files that nobody needs any more.

A file is needed until both have read past it, the books and the ledger, and have stored that for
good: either its boot is closed, or it is at a later file, and no call in flight began in this one.

The newest file of each worker's name stays in any case. So the next one never takes a name that was
there before, and nobody who follows the journals can take it for the file that was deleted.
"""

import contextlib
import fcntl
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from llmrouter.files import sync_directory
from llmrouter.metering.follow import read_header
from llmrouter.metering.journal import journal_paths, name_parts
from llmrouter.metering.replay import UnknownFormat
from llmrouter.metering.tail import Position

Positions = Mapping[str, Position]


def clear(
    journal_dir: Path,
    ledger: Callable[[], Positions],
    books: Callable[[], Positions],
    durable: Callable[[], Positions],
) -> int:
    """Delete what is not needed; how many files that were.

    `ledger` and `books` give what is stored. `durable` makes sure of both, which costs syncs, and
    gives what is stored of the books.
    """
    counted = ledger()
    if not any(unneeded(journal_dir, counted, books())):
        return 0
    deleted = 0
    for path in list(unneeded(journal_dir, counted, durable())):
        deleted += _delete(path)
    # Before positions are forgotten, or what came back would be read anew.
    sync_directory(journal_dir)
    return deleted


def unneeded(journal_dir: Path, *readers: Positions) -> Iterator[Path]:
    """The files that none of those who have read so far needs."""
    for path, following in itertools.pairwise(journal_paths(journal_dir)):
        if _worker(path) != _worker(following):
            continue  # the newest of its worker
        boot = _boot(path)
        if boot is not None and not any(_needs(path, boot, reader) for reader in readers):
            yield path


def _needs(path: Path, boot: str, reader: Positions) -> bool:
    """Whether one who has read so far has to read this file of `boot`, or to read it again."""
    if not boot:
        return False
    position = reader.get(boot)
    if position is None:
        return True
    if position.closed:
        return False
    return _number(position.name) <= _number(path.name) or path.name in position.open


def _boot(path: Path) -> str | None:
    """Who wrote it; empty where nobody has written, and None where that cannot be told."""
    try:
        header = read_header(path, _worker(path))
        if header is None:
            return None if path.stat().st_size else ""
    except (OSError, UnknownFormat):
        return None  # those who follow the journals tell of it
    return header.boot


def _delete(path: Path) -> bool:
    """Delete it, unless a living process has it open for writing."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
        return True
    return False


def _worker(path: Path) -> str:
    return (name_parts(path.name) or ("", 0))[0]


def _number(name: str) -> int:
    return (name_parts(name) or ("", 0))[1]
