"""Journals followed while they are written: every fact once, whatever stops and restarts."""

import errno
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.metering.journal import Journal, JournalFiles, journal_paths
from llmrouter.metering.records import FORMAT, Header
from llmrouter.metering.replay import UnknownFormat, pair
from llmrouter.metering.tail import (
    LISTING_POLLS,
    Began,
    Boot,
    Counts,
    Damaged,
    Ended,
    Folded,
    Found,
    Interrupted,
    Position,
    Tail,
)
from llmrouter.processor import STRIDE
from tests.metering.test_journal import ROOT, WORKER
from tests.metering.test_records import HEADER, a_begin, a_hold, an_end
from tests.metering.test_replay import lines, write

OTHER = Header(worker="0", boot="0ther", pid=43)


@pytest.fixture
def following(tmp_path: Path) -> Iterator[Callable[..., Tail]]:
    """Makes tails of `tmp_path`, from the encoded positions of another."""
    tails: list[Tail] = []

    def follow(before: Tail | None = None) -> Tail:
        tails.append(Tail(tmp_path, stored(before) if before else None))
        return tails[-1]

    yield follow
    for tail in tails:
        tail.close()


def stored(tail: Tail) -> dict[str, Position]:
    positions = {boot.boot: tail.position(boot.boot) for boot in tail.boots()}
    return msgspec.msgpack.decode(msgspec.msgpack.encode(positions), type=dict[str, Position])


def found(read: Iterable[Found]) -> list[Folded]:
    """All facts, each of the boot that it is said to be of."""
    facts = []
    for boot, some in read:
        assert some
        assert {fact.boot for fact in some if not isinstance(fact, Damaged)} <= {boot}
        facts += some
    return facts


def began(seq: int, boot: str = "b00t") -> Began:
    return Began(boot, "0", a_begin(seq))


def ended(seq: int, boot: str = "b00t") -> Ended:
    return Ended(boot, a_begin(seq), (0, 0), an_end(seq))


def interrupted(seq: int, boot: str = "b00t") -> Interrupted:
    return Interrupted(boot, a_begin(seq), (0, 0))


def test_new_files_are_found_and_each_boot_has_its_own_calls(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    tail = following()
    assert found(tail.poll()) == []

    write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    assert found(tail.poll()) == [began(1)]
    write(tmp_path / "0-2.jsonl", lines(OTHER, a_begin(1), an_end(1)))
    write(tmp_path / "notes", lines(a_begin(7)))

    assert found(tail.poll()) == [began(1, "0ther"), ended(1, "0ther")]
    assert tail.boots() == [
        Boot("b00t", "0", 42, in_flight=1, closed=False),
        Boot("0ther", "0", 43, in_flight=0, closed=False),
    ]


def test_long_reading_gives_way_to_who_waits_for_the_processor(
    tmp_path: Path, following: Callable[..., Tail], monkeypatch: pytest.MonkeyPatch
) -> None:
    gave: list[bool] = []
    monkeypatch.setattr(os, "sched_yield", lambda: gave.append(True))
    write(tmp_path / "0-1.jsonl", lines(HEADER, *map(a_begin, range(1, 10 * STRIDE))))

    assert len(found(following().poll())) == 10 * STRIDE - 1
    assert len(gave) >= 10


def test_a_directory_that_is_made_later_is_followed(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "journal")
    assert found(tail.poll()) == []
    assert repr(tail.error).startswith("FileNotFoundError(2,")

    (tmp_path / "journal").mkdir()
    write(tmp_path / "journal" / "0-1.jsonl", lines(HEADER, a_begin(1)))

    assert found(tail.poll()) == [began(1)]
    assert tail.error is None
    tail.close()


def test_a_file_waits_for_its_header(tmp_path: Path, following: Callable[..., Tail]) -> None:
    tail = following()
    path = write(tmp_path / "0-1.jsonl", b"")
    assert (found(tail.poll()), tail.boots()) == ([], [])

    write(path, lines(HEADER, a_begin(1)))

    assert found(tail.poll()) == [began(1)]


def test_a_file_that_leaves_no_trace_in_the_mtime_of_the_directory_is_found_soon(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    tail = following()
    found(tail.poll())
    before = tmp_path.stat()
    write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))

    facts = [found(tail.poll()) for _ in range(LISTING_POLLS)]

    assert list(itertools.chain(*facts)) == [began(1)]


def test_an_idle_poll_opens_and_lists_nothing(
    tmp_path: Path, following: Callable[..., Tail], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    tail = following()
    found(tail.poll())

    monkeypatch.setattr(os, "open", None)
    monkeypatch.setattr(os, "scandir", None)

    assert found(tail.poll()) == []


def test_a_poll_that_stops_early_says_so_and_no_boot_waits_for_all_of_another(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    write(tmp_path / "0-1.jsonl", lines(HEADER, *map(a_begin, range(1, 10))))
    write(tmp_path / "0-2.jsonl", lines(OTHER, *map(a_begin, range(1, 10))))
    tail = following()

    polls: list[set[str]] = []
    while not polls or tail.more:
        facts = found(tail.poll(5))
        assert len(facts) <= 5
        polls.append({fact.boot for fact in facts if isinstance(fact, Began)})

    assert polls == [{"b00t"}, {"0ther"}, {"b00t"}, {"0ther"}, set()]
    assert sum(boot.in_flight for boot in tail.boots()) == 18


def test_a_damaged_line_is_a_fact_of_its_own(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    path = write(tmp_path / "0-1.jsonl", lines(HEADER) + b"?\n" + lines(a_begin(1)))

    assert found(following().poll()) == [Damaged(path, len(lines(HEADER)), 2), began(1)]


def test_an_unknown_format_is_refused_before_anything_is_read(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    path = write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    tail = following()
    newer = Header(format=FORMAT + 1, worker="1", boot="n3w", pid=1)
    write(tmp_path / "1-1.jsonl", lines(newer, a_begin(1)))

    for _ in range(2):
        with pytest.raises(UnknownFormat, match=rf"1-1\.jsonl has journal format {FORMAT + 1}"):
            found(tail.poll())
    (tmp_path / "1-1.jsonl").unlink()

    assert found(tail.poll()) == [began(1)]
    assert path.is_file()


def test_finishing_hands_out_what_was_not_polled_then_the_interrupted_once(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    path = write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    tail = following()
    found(tail.poll())
    write(path, lines(HEADER, a_begin(1), a_begin(2)))
    write(tmp_path / "0-2.jsonl", lines(HEADER, an_end(2), a_begin(3)) + b'{"t":"end"')

    assert found(tail.finish("b00t")) == [
        began(2), ended(2), began(3), interrupted(1), interrupted(3),
    ]  # fmt: skip
    assert found(tail.finish("b00t")) == found(tail.poll()) == found(tail.finish("nobody")) == []
    assert tail.boots() == [Boot("b00t", "0", 42, in_flight=0, closed=True)]
    assert tail.counts == Counts(torn=1)


def test_a_boot_that_was_finished_stays_so_and_is_forgotten_with_its_files(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    path = write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    tail = following()
    found(tail.finish("b00t"))

    again = following(tail)
    assert found(again.poll()) == found(again.finish("b00t")) == []
    assert again.boots() == [Boot("b00t", "0", 42, in_flight=0, closed=True)]
    path.unlink()
    found(again.poll())

    assert again.boots() == []


def test_a_name_that_comes_back_in_another_boot_is_read_from_its_beginning(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    path = write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1), a_begin(2)))
    tail = following()
    found(tail.poll())
    write(tmp_path / "new", lines(OTHER, a_begin(1))).replace(path)

    assert found(tail.poll()) == [began(1, "0ther")]
    again = following(tail)
    assert found(again.poll()) == []
    assert again.counts == Counts(files_vanished=1, calls_vanished=2)
    assert found(again.finish("b00t")) == []
    assert found(again.finish("0ther")) == [interrupted(1, "0ther")]


def test_files_that_are_removed_unread_are_counted_and_raise_nothing(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    for number in (1, 2, 3):
        write(tmp_path / f"0-{number}.jsonl", lines(HEADER, a_begin(number)))
    tail = following()
    (tmp_path / "0-2.jsonl").unlink()

    assert found(tail.poll()) == [began(1), began(3)]
    assert tail.counts == Counts(files_vanished=1)


def test_what_cannot_be_opened_is_told_and_tried_again(
    tmp_path: Path, following: Callable[..., Tail], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    tail = following()
    too_many = OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as exhausted:
        exhausted.setattr(os, "open", partial(refuse, too_many))
        assert found(tail.poll()) == []
        assert tail.error is too_many
        assert found(tail.finish("b00t")) == []
        assert tail.error is too_many

    assert found(tail.finish("b00t")) == [began(1), interrupted(1)]
    assert tail.error is None


def test_a_file_that_is_readable_only_when_later_ones_were_read_is_counted_as_lost(
    tmp_path: Path, following: Callable[..., Tail], monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = following()
    first = str(write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1))))
    write(tmp_path / "0-2.jsonl", lines(HEADER, a_begin(2)))
    stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    opened = os.open

    with monkeypatch.context() as failing:
        failing.setattr(
            os, "open", lambda path, *how: refuse(stale) if path == first else opened(path, *how)
        )
        assert found(tail.poll()) == [began(2)]
        assert tail.error is stale

    assert found(tail.poll()) == []
    assert tail.counts == Counts(files_vanished=1)
    assert tail.error is None


def test_a_boot_whose_newest_file_cannot_be_opened_may_be_alive(
    tmp_path: Path, following: Callable[..., Tail], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where too many files are open: it is told, and tried again."""
    write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    tail = following()
    too_many = OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as exhausted:
        exhausted.setattr(os, "open", partial(refuse, too_many))
        assert tail.is_written("b00t")
        assert tail.error is too_many

    assert not tail.is_written("b00t")


def test_a_file_that_cannot_be_read_keeps_no_other_from_being_read_but_from_being_closed(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    """It may hold the ends of calls that would be taken for interrupted."""
    tail = following()
    write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    (tmp_path / "0-2.jsonl").mkdir()

    assert found(tail.poll()) == [began(1)]
    assert isinstance(tail.error, IsADirectoryError)
    assert found(tail.finish("b00t")) == []

    (tmp_path / "0-2.jsonl").rmdir()
    assert found(tail.finish("b00t")) == [interrupted(1)]
    assert tail.error is None


def test_a_tail_that_cannot_read_what_a_position_names_is_not_made(
    tmp_path: Path, following: Callable[..., Tail], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    tail = following()
    found(tail.poll())

    monkeypatch.setattr(os, "open", partial(refuse, PermissionError()))

    with pytest.raises(PermissionError):
        following(tail)


def test_a_boot_is_written_while_its_writer_lives_whichever_file_it_is_at(
    tmp_path: Path, following: Callable[..., Tail]
) -> None:
    writer = Writer(tmp_path, "b00t", rotate_bytes=1)
    writer.begin()
    writer.journal.flush()
    tail = following()
    assert tail.is_written("b00t")

    for _ in range(3):
        writer.begin()
        writer.journal.flush()
        assert tail.is_written("b00t")
        found(tail.poll())
        assert tail.is_written("b00t")
    writer.die()
    Writer(tmp_path, "0ther", rotate_bytes=1)  # holds a file without a header, and is not b00t

    assert not tail.is_written("b00t")
    assert not tail.is_written("nobody")


@pytest.mark.parametrize("told", [1, 300, 1_500])
def test_a_worker_that_is_killed_while_it_is_followed_is_found_dead_and_counted_whole(
    tmp_path: Path, following: Callable[..., Tail], told: int
) -> None:
    records = [msgspec.json.encode(a_begin()), msgspec.json.encode(an_end())]
    tail = following()
    facts: list[Folded] = []

    with subprocess.Popen(
        [sys.executable, "-c", WORKER, tmp_path, *records], cwd=ROOT, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        for _ in range(told):
            worker.stdout.readline()
            facts += found(tail.poll())
        assert tail.is_written("b")
        worker.kill()
        worker.communicate()
    assert not tail.is_written("b")
    facts += found(tail.finish("b"))

    calls = pair(journal_paths(tmp_path)).calls
    assert [fact.begin for fact in facts if isinstance(fact, Began)] == [
        call.begin for call in calls
    ]
    assert [fact.begin for fact in facts if isinstance(fact, Interrupted)] == [
        call.begin for call in calls if call.interrupted
    ]
    assert len(facts) == 2 * len(calls) >= 2 * told


def test_repr_shows_the_state(tmp_path: Path, following: Callable[..., Tail]) -> None:
    assert repr(following()) == f"<Tail {tmp_path} boots=0 error=None>"


class Writer:
    """A worker's real journal; `interrupt` runs between the pieces in which it reaches the disk."""

    def __init__(
        self,
        directory: Path,
        boot: str,
        *,
        rotate_bytes: int,
        piece: int = 1 << 20,
        interrupt: Callable[[], object] = lambda: None,
    ) -> None:
        self.directory = directory
        self.boot = boot
        self.piece = piece
        self.room: int | None = None
        self.interrupt = interrupt
        self.soon: list[Callable[[], None]] = []
        self.running: list[int] = []
        self.went_on: list[tuple[str, int]] = []
        header = Header(worker="0", boot=boot, pid=1)
        self.files = JournalFiles(directory, header, rotate_bytes=rotate_bytes, write=self._write)
        self.journal = Journal(
            self.files, call_soon=self.soon.append, call_later=lambda delay_s, callback: None
        )

    def begin(self) -> None:
        seq = self.journal.next_seq()
        begin = msgspec.structs.replace(a_begin(seq), hold_tokens=seq)
        self.journal.begin(begin, partial(self._went_on, seq), lambda error: None)

    def hold(self, which: int) -> None:
        if self.running:
            seq = self.running[which % len(self.running)]
            self.journal.hold(a_hold(seq, tokens=1_000 + which))

    def end(self, which: int) -> None:
        if self.running:
            self.journal.end(an_end(self.running.pop(which % len(self.running))))

    def die(self, torn: int = 0) -> None:
        """As by SIGKILL, `torn` bytes into a write, and short of its newline."""
        with journal_paths(self.directory)[-1].open("ab") as file:
            file.write(lines(an_end(1))[:-1][:torn])
        self.files.close()

    def _went_on(self, seq: int) -> None:
        self.running.append(seq)
        self.went_on.append((self.boot, seq))

    def _write(self, fd: int, data: bytes | memoryview) -> int:
        self.interrupt()
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sizes = [size for size in (len(data), self.piece, self.room) if size is not None]
        written = os.write(fd, data[: min(sizes)])
        if self.room is not None:
            self.room -= written
        return written


class World:
    """Workers that write and die, and a supervisor that follows them, stores, dies and resumes."""

    def __init__(self, directory: Path, *, rotate_bytes: int, piece: int) -> None:
        self.directory = directory
        self.rotate_bytes = rotate_bytes
        self.piece = piece
        self.boots = map(str, itertools.count(1))
        meanwhile: list[Callable[[int], None]] = [self.poll, self.store, self.poll, self.restart]
        self.meanwhile = itertools.cycle(meanwhile)
        self.writer = self._start()
        self.dead: set[str] = set()
        self.went_on: list[tuple[str, int]] = []
        self.tail = Tail(directory)
        self.positions: dict[str, Position] = {}
        self.counted: list[Folded] = []
        self.not_stored: list[Folded] = []

    def begin(self, which: int) -> None:
        for _ in range(1 + which % 3):
            self.writer.begin()

    def hold(self, which: int) -> None:
        self.writer.hold(which)

    def end(self, which: int) -> None:
        self.writer.end(which)

    def flush(self, which: int) -> None:
        self.writer.journal.flush()

    def disk(self, room: int) -> None:
        """There is room for so many bytes from now on; none means as many as may be wanted."""
        self.writer.room = room or None

    def kill(self, torn: int) -> None:
        self.writer.die(torn)
        self.dead.add(self.writer.boot)
        self.went_on += self.writer.went_on
        self.writer = self._start()

    def poll(self, records_max: int) -> None:
        self.not_stored += found(self.tail.poll(records_max + 1))

    def store(self, which: int = 0) -> None:
        self.counted += self.not_stored
        self.not_stored = []
        self.positions.update(stored(self.tail))

    def restart(self, which: int = 0) -> None:
        self.not_stored = []
        self.tail.close()
        self.tail = Tail(self.directory, self.positions)

    def finish(self, which: int = 0) -> None:
        for boot in self.tail.boots():
            if boot.closed:
                continue
            written = self.tail.is_written(boot.boot)
            assert written == (boot.boot not in self.dead)
            if not written:
                self.not_stored += found(self.tail.finish(boot.boot))

    def _start(self) -> Writer:
        return Writer(
            self.directory,
            next(self.boots),
            rotate_bytes=self.rotate_bytes,
            piece=self.piece,
            interrupt=lambda: next(self.meanwhile)(3),
        )


ACTIONS: dict[str, Callable[[World, int], None]] = {
    "begin": World.begin,
    "hold": World.hold,
    "end": World.end,
    "flush": World.flush,
    "disk": World.disk,
    "kill": World.kill,
    "poll": World.poll,
    "store": World.store,
    "restart": World.restart,
    "finish": World.finish,
}
OFTEN = ["begin", "end", "flush", "flush", "disk", *ACTIONS]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(OFTEN), st.integers(0, 400)), min_size=10, max_size=80),
    st.integers(1, 1_500),
    st.integers(20, 500),
)
def test_whatever_dies_and_when_each_fact_in_the_files_is_counted_exactly_once(
    steps: list[tuple[str, int]], rotate_bytes: int, piece: int
) -> None:
    """Replaying the whole files afterwards says what had to be counted."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), rotate_bytes=rotate_bytes, piece=piece)
        for action, number in steps:
            ACTIONS[action](world, number)
        world.kill(torn=9)
        world.restart()
        world.finish()
        world.store()
        world.restart()
        world.finish()
        assert world.not_stored == []
        world.writer.die()
        found = pair(journal_paths(world.directory))
        assert world.tail.counts.duplicates == world.tail.counts.orphans == 0
        world.tail.close()

    assert [(call.boot, call.begin.seq) for call in found.calls] == world.went_on
    for boot in {call.boot for call in found.calls}:
        calls = [call for call in found.calls if call.boot == boot]
        facts = [fact for fact in world.counted if getattr(fact, "boot", None) == boot]
        assert [fact for fact in facts if isinstance(fact, Began)] == [
            Began(boot, "0", call.begin) for call in calls
        ]
        ends = [fact for fact in facts if isinstance(fact, Ended)]
        assert sorted(ends, key=lambda fact: fact.begin.seq) == [
            Ended(boot, call.begin, call.hold, call.end) for call in calls if call.end is not None
        ]
        assert [fact for fact in facts if isinstance(fact, Interrupted)] == [
            Interrupted(boot, call.begin, call.hold) for call in calls if call.interrupted
        ]
    assert len(world.counted) == 2 * len(found.calls)
    assert (found.duplicates, found.orphans, found.damaged) == ([], [], [])


def refuse(error: OSError, *_: object) -> None:
    raise error
