"""Writing journals: one write a turn, bytes before calls, and what a failing disk may do."""

import errno
import fcntl
import itertools
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.metering.journal import (
    ENDS_MAX,
    GATHER_S,
    RETRY_S,
    SYNC_EVERY_S,
    Journal,
    JournalFiles,
    journal_paths,
)
from llmrouter.metering.records import Header
from llmrouter.metering.replay import Damaged, pair, read_journal
from tests.metering.test_records import HEADER, a_begin, a_hold, an_end

ROOT = Path(__file__).parents[2]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Loop:
    """An event loop that turns when it is told to."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((delay_s, callback))

    def turn(self) -> None:
        callbacks, self.soon = self.soon, []
        for callback in callbacks:
            callback()

    def fire(self) -> list[float]:
        """Run the timers that are set, and say what their delays were."""
        timers, self.timers = self.timers, []
        for _, callback in timers:
            callback()
        return [delay_s for delay_s, _ in timers]


class Disk:
    """`os.write`, counted; `room` bytes fit before it fails, and `piece` bytes go at a time."""

    def __init__(
        self, room: int | None = None, piece: int | None = None, instead: int | None = None
    ) -> None:
        self.room = room
        self.piece = piece
        self.instead = instead
        self.writes = 0

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self.writes += 1
        if self.room == 0:
            raise FULL
        sizes = [size for size in (len(data), self.piece, self.room) if size is not None]
        written = os.write(self.instead or fd, data[: min(sizes)])
        if self.room is not None:
            self.room -= written
        return written


class Play:
    """A journal on a loop and a disk of its own, and what became of the calls that began."""

    def __init__(
        self,
        directory: Path,
        disk: Disk | None = None,
        *,
        rotate_bytes: int = 1 << 20,
        sync: Callable[[int], None] | None = None,
    ) -> None:
        self.directory = directory
        self.disk = disk or Disk()
        self.loop = Loop()
        files = JournalFiles(
            directory, HEADER, sync=sync, rotate_bytes=rotate_bytes, write=self.disk.write
        )
        self.journal = Journal(
            files,
            call_soon=lambda callback: self.loop.soon.append(callback),
            call_later=self.loop.call_later,
        )
        self.events: list[str] = []

    def begin(self, *seqs: int) -> None:
        for seq in seqs:
            self.journal.begin(a_begin(seq), partial(self._went_on, seq), partial(self._not, seq))

    def end(self, *seqs: int) -> None:
        for seq in seqs:
            self.journal.end(an_end(seq))

    def hold(self, *seqs: int, tokens: int = 1) -> None:
        for seq in seqs:
            self.journal.hold(a_hold(seq, tokens))

    def lines(self) -> list[str]:
        """Every record in the files, as kind and number; damage stands out as `damaged`."""
        items = (item for path in journal_paths(self.directory) for item in read_journal(path))
        return [
            "damaged" if isinstance(item, Damaged)
            else "header" if isinstance(item, Header)
            else f"{type(item).__name__.lower()} {item.seq}"
            for item in items
        ]  # fmt: skip

    def _went_on(self, seq: int) -> None:
        in_file = f"begin {seq}" in self.lines()
        self.events.append(f"{seq} went on, {'in file' if in_file else 'NOT IN FILE'}")

    def _not(self, seq: int, error: OSError) -> None:
        self.events.append(f"{seq} failed, {errno.errorcode[error.errno or 0]}")


def test_calls_that_begin_in_one_turn_share_one_write_and_then_go_on_in_order(
    tmp_path: Path,
) -> None:
    play = Play(tmp_path)

    play.begin(1, 2, 3)
    assert (play.disk.writes, play.events, len(play.loop.soon)) == (0, [], 1)
    play.loop.turn()

    assert play.disk.writes == 1
    assert play.events == [f"{seq} went on, in file" for seq in (1, 2, 3)]
    assert play.lines() == ["header", "begin 1", "begin 2", "begin 3"]


def test_a_call_that_begins_while_others_go_on_is_written_in_the_next_turn(tmp_path: Path) -> None:
    play = Play(tmp_path)

    play.journal.begin(a_begin(1), partial(play.begin, 2), unexpected)
    play.loop.turn()
    assert play.lines() == ["header", "begin 1"]
    play.loop.turn()

    assert play.events == ["2 went on, in file"]


def test_ends_are_gathered_and_written_together(tmp_path: Path) -> None:
    play = Play(tmp_path)

    play.end(1, 2, 3)
    assert play.disk.writes == 0

    assert play.loop.fire() == [GATHER_S]
    assert play.disk.writes == 1
    assert play.lines() == ["header", "end 1", "end 2", "end 3"]


def test_ends_ride_along_with_the_next_begin_and_leave_their_timer_nothing(tmp_path: Path) -> None:
    play = Play(tmp_path)

    play.end(1)
    play.begin(2)
    play.end(2)
    play.loop.turn()
    play.loop.fire()

    assert play.disk.writes == 1
    assert play.lines() == ["header", "begin 2", "end 1", "end 2"]


def test_a_call_that_fails_to_go_on_does_not_stop_the_others(tmp_path: Path) -> None:
    play = Play(tmp_path)

    play.begin(1)
    play.journal.begin(a_begin(2), lambda: [][0], unexpected)
    play.begin(3)
    with pytest.raises(IndexError):
        play.loop.turn()
    play.loop.turn()

    assert play.events == ["1 went on, in file", "3 went on, in file"]
    assert play.disk.writes == 1


def test_holds_are_gathered_as_ends_are_and_stand_behind_their_begin(tmp_path: Path) -> None:
    play = Play(tmp_path)

    play.begin(1)
    play.hold(1)
    assert play.disk.writes == 0
    assert play.loop.fire() == [GATHER_S]

    assert play.disk.writes == 1
    assert play.lines() == ["header", "begin 1", "hold 1"]


def test_a_hold_that_the_next_or_the_end_overtakes_is_not_written(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.begin(1, 2)
    play.loop.turn()

    play.hold(1, tokens=100)
    play.hold(2, tokens=100)
    play.hold(1, tokens=200)
    play.end(2)
    play.loop.fire()

    assert play.lines() == ["header", "begin 1", "begin 2", "hold 1", "end 2"]
    assert pair(journal_paths(tmp_path)).calls[0].hold == (200, a_hold(1).nano_usd)


def test_holds_that_cannot_be_written_are_tried_again_until_they_can(tmp_path: Path) -> None:
    play = Play(tmp_path, Disk(room=0))

    play.hold(1, 2)
    assert play.loop.fire() == [GATHER_S]
    play.hold(1, tokens=200)
    play.end(2)
    assert play.loop.fire() == [RETRY_S]
    play.disk.room = None
    assert play.loop.fire() == [RETRY_S]

    assert play.lines() == ["header", "hold 1", "end 2"]
    assert play.loop.timers == []


def test_of_holds_and_ends_those_that_a_filling_disk_took_are_not_written_again(
    tmp_path: Path,
) -> None:
    lines = [msgspec.json.encode(record) + b"\n" for record in (a_hold(1, 1), a_hold(2, 1))]
    ends = [msgspec.json.encode(an_end(seq)) + b"\n" for seq in (3, 4)]
    batch = len(b"".join([*lines, *ends]))

    for room in range(batch):
        play = Play(tmp_path / str(room))
        play.begin(0)
        play.loop.turn()
        play.disk.room = room
        play.hold(1, 2)
        play.end(3, 4)
        play.loop.fire()
        play.disk.room = None
        play.loop.fire()
        assert play.lines() == ["header", "begin 0", "hold 1", "hold 2", "end 3", "end 4"]


def test_flushing_writes_what_is_gathered_at_once_and_leaves_the_rest_nothing(
    tmp_path: Path,
) -> None:
    play = Play(tmp_path)
    play.begin(1)
    play.hold(2)
    play.end(3)

    play.journal.flush()
    assert play.lines() == ["header", "begin 1", "hold 2", "end 3"]
    assert play.events == ["1 went on, in file"]
    play.loop.turn()
    play.loop.fire()

    assert play.disk.writes == 1


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_a_write_that_takes_a_piece_at_a_time_is_carried_on(tmp_path: Path, piece: int) -> None:
    play = Play(tmp_path, Disk(piece=piece))

    play.begin(1, 2)
    play.loop.turn()

    assert play.events == ["1 went on, in file", "2 went on, in file"]
    assert play.lines() == ["header", "begin 1", "begin 2"]


def test_a_disk_that_fills_up_at_any_byte_takes_whole_lines_and_refuses_the_other_calls(
    tmp_path: Path,
) -> None:
    """What a reader may have seen stays: it may have been counted already."""
    first = len(msgspec.json.encode(a_begin(1))) + 1
    both = 2 * first
    batch = both + len(msgspec.json.encode(an_end(3))) + 1

    for room in range(batch):
        play = Play(tmp_path / str(room))
        play.begin(0)
        play.loop.turn()
        play.disk.room = room
        play.begin(1, 2)
        play.end(3)
        play.loop.turn()
        taken = (room >= first) + (room >= both)
        in_file = ["begin 1", "begin 2"][:taken]
        assert play.events[1:] == [
            *["1 went on, in file", "2 went on, in file"][:taken],
            *["1 failed, ENOSPC", "2 failed, ENOSPC"][taken:],
        ]
        assert play.lines() == ["header", "begin 0", *in_file]
        assert (play.journal.healthy, play.journal.error) == (False, FULL)

        play.disk.room = None
        play.begin(4)
        play.loop.turn()
        assert play.lines() == ["header", "begin 0", *in_file, "begin 4", "end 3"]
        assert (play.journal.healthy, play.journal.error) == (True, None)


class FlakyDisk(Disk):
    """Takes a few bytes at a time, and now and then none; `seen` is what a reader saw meanwhile."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.seen: list[bytes] = []
        self.random = random.Random(7)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self.piece = self.random.randrange(1, 300)
        self.room = 0 if self.random.random() < 0.2 else None
        try:
            return super().write(fd, data)
        finally:
            content = self.path.read_bytes()
            self.seen.append(content[: content.rfind(b"\n") + 1])


def test_what_a_reader_may_have_seen_of_a_failing_write_is_never_taken_back(tmp_path: Path) -> None:
    disk = FlakyDisk(tmp_path / "0-1.jsonl")
    play = Play(tmp_path, disk)

    for seq in range(1, 200):
        play.begin(seq)
        play.end(seq)
        play.loop.turn()

    assert any("failed" in event for event in play.events)
    assert all(after.startswith(before) for before, after in itertools.pairwise(disk.seen))


def test_files_that_somebody_removed_are_not_written_on(tmp_path: Path) -> None:
    """A file without a name takes every byte, and no reader ever finds them."""
    play = Play(tmp_path)
    play.begin(1)
    play.loop.turn()
    for path in journal_paths(tmp_path):
        path.unlink()

    play.begin(2)
    play.end(1)
    play.loop.turn()
    play.end(2)
    play.loop.fire()

    assert play.events == ["1 went on, in file", "2 went on, in file"]
    assert play.lines() == ["header", "begin 2", "end 1", "end 2"]
    assert len(journal_paths(tmp_path)) == 1


STEPS = st.sampled_from(["begin", "end", "turn", "fire"]) | st.none() | st.integers(0, 900)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=40), st.integers(1, 1_000), st.integers(50, 500))
def test_whatever_a_disk_does_and_when_the_files_hold_what_callers_were_told(
    steps: list[str | int | None], rotate_bytes: int, piece: int
) -> None:
    """A number is the room that the disk has left from then on; None is all it may want."""
    with tempfile.TemporaryDirectory() as directory:
        play = Play(Path(directory), Disk(piece=piece), rotate_bytes=rotate_bytes)
        ends = itertools.count(1)
        actions = {
            "begin": lambda: play.begin(play.journal.next_seq()),
            "end": lambda: play.end(next(ends)),
            "turn": play.loop.turn,
            "fire": play.loop.fire,
        }
        for step in [*steps, None]:
            if isinstance(step, str):
                actions[step]()
            else:
                play.disk.room = step
        play.journal.close()
        lines = play.lines()

    went_on = [event.split()[0] for event in play.events if "went on, in file" in event]
    failed = [event for event in play.events if "failed" in event]
    assert len(went_on) + len(failed) == play.journal.next_seq() - 1
    assert [line for line in lines if line.startswith("begin")] == [
        f"begin {seq}" for seq in went_on
    ]
    ended = [line for line in lines if line.startswith("end")]
    assert ended == [f"end {seq}" for seq in range(1, next(ends))]
    assert "damaged" not in lines


def test_a_first_write_that_fails_leaves_the_header_to_the_next(tmp_path: Path) -> None:
    play = Play(tmp_path, Disk(room=10))
    play.begin(1)
    play.loop.turn()

    play.disk.room = None
    play.begin(2)
    play.loop.turn()

    assert play.lines() == ["header", "begin 2"]


@pytest.mark.parametrize("room", [5, 200])
def test_where_a_torn_write_cannot_be_cut_off_the_next_starts_on_a_new_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    play = Play(tmp_path)
    play.begin(1)
    play.loop.turn()

    with monkeypatch.context() as append_only:
        append_only.setattr(os, "ftruncate", refuse)
        play.disk.room = room
        play.begin(2, 3)
        play.loop.turn()
        play.disk.room = None
        play.begin(4)
        play.loop.turn()
    play.begin(5)
    play.loop.turn()
    play.disk.room = 5
    play.begin(6)
    play.loop.turn()

    whole = room == 200  # the line of call 2 is in the file, so that call went on
    in_file = ["begin 2"] if whole else []
    assert play.lines() == ["header", "begin 1", *in_file, "damaged", "begin 4", "begin 5"]
    assert play.events[1] == ("2 went on, in file" if whole else "2 failed, ENOSPC")
    assert play.events[2] == "3 failed, ENOSPC"


def test_a_header_that_was_torn_and_cannot_be_cut_off_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "ftruncate", refuse)
    play = Play(tmp_path, Disk(room=10))
    play.begin(1)
    play.loop.turn()

    play.disk.room = None
    play.begin(2)
    play.loop.turn()

    assert play.lines() == ["damaged", "header", "begin 2"]


def test_a_torn_write_is_cut_off_later_where_that_fails_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(tmp_path, Disk(room=300))
    with monkeypatch.context() as append_only:
        append_only.setattr(os, "ftruncate", refuse)
        play.begin(1, 2)
        play.loop.turn()

    play.disk.room = None
    play.begin(3)
    play.loop.turn()

    assert play.events == ["1 went on, in file", "2 failed, ENOSPC", "3 went on, in file"]
    assert play.lines() == ["header", "begin 1", "begin 3"]


def test_the_kernel_refusing_bytes_is_told_to_the_calls(tmp_path: Path) -> None:
    """/dev/full is a disk that is always full."""
    full = os.open("/dev/full", os.O_WRONLY)
    play = Play(tmp_path, Disk(instead=full))

    play.begin(1, 2)
    play.loop.turn()
    os.close(full)

    assert play.events == ["1 failed, ENOSPC", "2 failed, ENOSPC"]


def test_a_file_that_the_kernel_cuts_short_is_whole_again_and_goes_on(tmp_path: Path) -> None:
    """A file size limit makes the kernel take a part of a write and refuse the rest."""
    play = Play(tmp_path)
    play.begin(1)
    play.loop.turn()
    size = journal_paths(tmp_path)[0].stat().st_size

    with file_size_limit(size + 100):
        play.begin(2)
        play.loop.turn()
    assert play.disk.writes == 3
    assert journal_paths(tmp_path)[0].stat().st_size == size

    play.begin(3)
    play.loop.turn()
    assert play.events == ["1 went on, in file", "2 failed, EFBIG", "3 went on, in file"]
    assert play.lines() == ["header", "begin 1", "begin 3"]


def test_ends_that_cannot_be_written_are_tried_again_until_they_can(tmp_path: Path) -> None:
    play = Play(tmp_path, Disk(room=0))

    play.end(1)
    assert play.loop.fire() == [GATHER_S]
    play.end(2)
    assert play.loop.fire() == [RETRY_S]
    play.disk.room = None
    assert play.loop.fire() == [RETRY_S]

    assert play.lines() == ["header", "end 1", "end 2"]
    assert (play.loop.timers, play.journal.ends_lost, play.journal.healthy) == ([], 0, True)


def test_ends_beyond_what_can_be_kept_are_lost_and_counted(tmp_path: Path) -> None:
    play = Play(tmp_path, Disk(room=0))

    play.end(*range(ENDS_MAX + 3))
    play.loop.fire()
    assert play.journal.ends_lost == 3
    play.disk.room = None
    play.loop.fire()

    assert play.lines() == ["header", *(f"end {seq}" for seq in range(ENDS_MAX))]


def test_a_full_file_is_followed_by_the_next_and_calls_pair_across_them(tmp_path: Path) -> None:
    play = Play(tmp_path, rotate_bytes=300)

    for seq in range(1, 12):
        play.begin(seq)
        play.loop.turn()
        play.end(seq)
    play.loop.fire()

    paths = journal_paths(tmp_path)
    assert [path.name for path in paths] == [f"0-{n}.jsonl" for n in range(1, len(paths) + 1)]
    assert len(paths) > 3
    assert {oct(path.stat().st_mode) for path in paths} == {"0o100600"}
    assert all(next(iter(read_journal(path))) == HEADER for path in paths)
    assert [call.begin.seq for call in pair(paths).calls] == list(range(1, 12))
    assert not any(call.interrupted for call in pair(paths).calls)


def test_numbers_continue_from_the_highest_file_of_the_same_worker(tmp_path: Path) -> None:
    for name in ("0-2.jsonl", "0-10.jsonl", "1-30.jsonl", "0-99.tmp", "notes"):
        (tmp_path / name).touch()

    JournalFiles(tmp_path, HEADER).close()

    names = [path.name for path in journal_paths(tmp_path)]
    assert names == ["0-2.jsonl", "0-10.jsonl", "0-11.jsonl", "1-30.jsonl"]


def test_where_no_next_file_can_be_opened_the_full_one_is_used_on(tmp_path: Path) -> None:
    directory, away = tmp_path / "journal", tmp_path / "away"
    play = Play(directory, rotate_bytes=1)
    play.begin(1)
    play.loop.turn()

    directory.rename(away)
    play.journal.begin(a_begin(2), lambda: play.events.append("2 went on"), unexpected)
    play.loop.turn()
    assert isinstance(play.journal.error, FileNotFoundError)
    away.rename(directory)
    play.begin(3)
    play.loop.turn()

    assert play.events == ["1 went on, in file", "2 went on", "3 went on, in file"]
    assert play.lines() == ["header", "begin 1", "begin 2", "header", "begin 3"]
    assert play.journal.healthy


def test_a_file_is_locked_while_it_is_open_and_no_longer(tmp_path: Path) -> None:
    play = Play(tmp_path, rotate_bytes=1)
    assert locked(tmp_path) == ["0-1.jsonl"]

    for seq in range(2):
        play.begin(seq)
        play.loop.turn()
    assert locked(tmp_path) == ["0-2.jsonl"]
    play.journal.close()

    assert locked(tmp_path) == []


def test_a_sync_that_still_runs_keeps_the_lock(tmp_path: Path) -> None:
    running: list[int] = []
    play = Play(tmp_path, sync=running.append)
    play.begin(1)
    play.loop.turn()

    play.journal.close()
    assert locked(tmp_path) == ["0-1.jsonl"]
    for fd in running:
        os.close(fd)

    assert locked(tmp_path) == []


def test_the_next_file_has_its_header_and_is_locked_before_the_last_is_left(
    tmp_path: Path,
) -> None:
    """Otherwise a reader could take the writer for dead in between."""
    moments: list[list[str]] = []

    class Watched(Disk):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            moments.append(locked(tmp_path))
            return super().write(fd, data)

    play = Play(tmp_path, Watched(), rotate_bytes=1)
    for seq in range(2):
        play.begin(seq)
        play.loop.turn()

    both = ["0-1.jsonl", "0-2.jsonl"]
    assert moments == [["0-1.jsonl"], both, ["0-2.jsonl"]]


@pytest.mark.parametrize("room", [0, 10])
def test_where_the_next_file_does_not_take_its_header_the_full_one_is_used_on(
    tmp_path: Path, room: int
) -> None:
    before = open_descriptors()
    play = Play(tmp_path, rotate_bytes=1)
    play.begin(1)
    play.loop.turn()
    play.disk.room = room
    play.begin(2)
    play.loop.turn()
    assert [path.name for path in journal_paths(tmp_path)] == ["0-1.jsonl"]
    assert open_descriptors() == before + 1

    play.disk.room = None
    play.begin(3)
    play.loop.turn()

    assert play.events == ["1 went on, in file", "2 failed, ENOSPC", "3 went on, in file"]
    assert [path.name for path in journal_paths(tmp_path)] == ["0-1.jsonl", "0-2.jsonl"]
    assert play.lines() == ["header", "begin 1", "header", "begin 3"]


def test_writing_asks_for_one_sync_after_a_while_and_idling_for_none(tmp_path: Path) -> None:
    synced: list[str] = []
    play = Play(tmp_path, sync=partial(note_and_close, synced))
    assert synced == [tmp_path.name]  # the new file's name

    for seq in range(3):
        play.begin(seq)
        play.loop.turn()
    assert synced == [tmp_path.name]
    assert play.loop.fire() == [SYNC_EVERY_S]

    assert synced == [tmp_path.name, "0-1.jsonl"]
    assert play.loop.timers == []


def test_a_file_without_news_since_its_last_sync_is_closed_without_another(tmp_path: Path) -> None:
    synced: list[str] = []
    play = Play(tmp_path, sync=partial(note_and_close, synced))
    play.begin(1)
    play.loop.turn()
    play.loop.fire()

    play.journal.close()

    assert synced == [tmp_path.name, "0-1.jsonl"]


def test_writing_after_a_sync_asks_for_another(tmp_path: Path) -> None:
    synced: list[str] = []
    play = Play(tmp_path, sync=partial(note_and_close, synced))

    for seq in range(2):
        play.begin(seq)
        play.loop.turn()
        play.loop.fire()

    assert synced == [tmp_path.name, "0-1.jsonl", "0-1.jsonl"]


def test_a_file_is_synced_whole_when_it_is_left(tmp_path: Path) -> None:
    synced: list[str] = []
    play = Play(tmp_path, sync=partial(note_and_close, synced), rotate_bytes=1)

    for seq in range(2):
        play.begin(seq)
        play.loop.turn()
    play.journal.close()
    play.loop.fire()

    assert synced == [tmp_path.name, "0-1.jsonl", tmp_path.name, "0-2.jsonl"]


def test_a_descriptor_in_a_running_sync_outlives_rotation_and_closing(tmp_path: Path) -> None:
    running: list[int] = []
    before = open_descriptors()
    play = Play(tmp_path, sync=running.append, rotate_bytes=1)

    for seq in range(3):
        play.begin(seq)
        play.loop.turn()
        play.loop.fire()
    play.journal.close()

    for fd in running:
        os.fsync(fd)
        os.close(fd)
    assert open_descriptors() == before


def test_without_sync_no_timer_is_set(tmp_path: Path) -> None:
    play = Play(tmp_path)

    play.begin(1)
    play.loop.turn()

    assert play.loop.timers == []


def test_closing_writes_what_is_buffered(tmp_path: Path) -> None:
    before = open_descriptors()
    play = Play(tmp_path)
    play.begin(1)
    play.end(2)

    play.journal.close()

    assert play.events == ["1 went on, in file"]
    assert play.lines() == ["header", "begin 1", "end 2"]
    assert open_descriptors() == before


def test_after_closing_calls_are_refused_and_ends_are_counted_as_lost(tmp_path: Path) -> None:
    play = Play(tmp_path, Disk(room=0), rotate_bytes=1)
    play.end(1)
    play.journal.close()
    play.journal.close()

    play.begin(2)
    play.end(3)
    play.loop.turn()
    play.loop.fire()
    play.loop.fire()

    assert play.events == ["2 failed, EBADF"]
    assert play.journal.ends_lost == 2
    assert play.loop.timers == []
    assert play.lines() == []


def test_calls_are_numbered_from_one(tmp_path: Path) -> None:
    journal = Play(tmp_path).journal

    assert [journal.next_seq() for _ in range(3)] == [1, 2, 3]


def test_repr_shows_the_state(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.begin(1)
    play.end(2)

    assert repr(play.journal) == (
        f"<Journal <JournalFiles {tmp_path}/0-1.jsonl size=0 error=None> begins=1 ends=1 lost=0>"
    )


WORKER = """
import os, sys
from functools import partial
from pathlib import Path
import msgspec
from llmrouter.metering.journal import Journal, JournalFiles
from llmrouter.metering.records import Begin, End, Header

begin = msgspec.json.decode(sys.argv[2], type=Begin)
end = msgspec.json.decode(sys.argv[3], type=End)
soon = []
files = JournalFiles(Path(sys.argv[1]), Header(worker="0", boot="b", pid=1), rotate_bytes=50_000)
journal = Journal(files, call_soon=soon.append, call_later=lambda delay_s, callback: None)

def went_on(seq):
    os.write(1, b"%d\\n" % seq)
    journal.end(msgspec.structs.replace(end, seq=seq))

while True:
    for _ in range(20):
        seq = journal.next_seq()
        journal.begin(msgspec.structs.replace(begin, seq=seq), partial(went_on, seq), print)
    soon.pop()()
"""


@pytest.mark.parametrize("run", range(20))
def test_whenever_a_worker_is_killed_every_call_that_went_on_is_in_its_journal(
    tmp_path: Path, run: int
) -> None:
    records = [msgspec.json.encode(a_begin()), msgspec.json.encode(an_end())]
    moment = random.Random(run).randrange(1, 2_000)

    with subprocess.Popen(
        [sys.executable, "-c", WORKER, tmp_path, *records], cwd=ROOT, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        told = [worker.stdout.readline() for _ in range(moment)]
        worker.kill()
        told += worker.stdout.readlines()

    went_on = [int(line) for line in told if line.endswith(b"\n")]
    found = pair(journal_paths(tmp_path))
    begun = [call.begin.seq for call in found.calls]
    assert len(went_on) >= moment
    assert begun[: len(went_on)] == went_on
    assert len(begun) - len(went_on) <= 20  # written, and killed before they were told
    assert (found.duplicates, found.orphans, found.damaged) == ([], [], [])


def unexpected(error: OSError) -> None:
    raise error


def locked(directory: Path) -> list[str]:
    """The files that somebody holds, looking from outside."""
    names = []
    for path in journal_paths(directory):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                names.append(path.name)
    return names


def refuse(fd: int, length: int) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def note_and_close(synced: list[str], fd: int) -> None:
    os.fsync(fd)
    synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
    os.close(fd)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
