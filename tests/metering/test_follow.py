"""One boot, read while it is written: whole lines, in order, each once."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from llmrouter.metering.facts import Began, Counts, Ended, Folded, Interrupted, Position
from llmrouter.metering.follow import LINE_BYTES, READ_BYTES, Following, read_header
from llmrouter.metering.records import FORMAT, Header, Record
from llmrouter.metering.replay import Damaged, UnknownFormat
from llmrouter.processor import STRIDE
from tests.metering.test_records import HEADER, a_begin, a_hold, an_end
from tests.metering.test_replay import BAD_LINES, lines, write

NAME = "0-1.jsonl"


class Play:
    """One boot whose files are written by hand."""

    def __init__(self, directory: Path, position: Position | None = None) -> None:
        self.directory = directory
        self.counts = Counts()
        self.following = Following("b00t", position or Position(), str(directory), self.counts)
        self.following.worker = "0"

    def put(self, *content: bytes | Record, name: str = NAME) -> None:
        with (self.directory / name).open("ab") as file:
            for part in content:
                file.write(part if isinstance(part, bytes) else lines(part))

    def has(self, *numbers: int) -> None:
        for number in numbers:
            self.following.add(number, f"0-{number}.jsonl")

    def follow(self, records_max: int = 1_000) -> list[Folded]:
        return [fact for _, facts in self.following.follow(records_max) for fact in facts]

    def finish(self) -> list[Folded]:
        return [fact for _, facts in self.following.finish() for fact in facts]

    def resumed(self, names: set[str]) -> "Play":
        """Another of the same boot, from the encoded position of this one."""
        position = msgspec.msgpack.decode(
            msgspec.msgpack.encode(self.following.position()), type=Position
        )
        self.following.close()
        play = Play(self.directory, position)
        play.following.resume(position, names)
        return play


def began(seq: int) -> Began:
    return Began("b00t", "0", a_begin(seq))


def ended(seq: int, hold: tuple[int, int] = (0, 0)) -> Ended:
    return Ended("b00t", a_begin(seq), hold, an_end(seq))


def test_facts_come_once_and_in_order(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.put(HEADER, a_begin(1), a_begin(2), an_end(1))
    play.has(1)

    assert play.follow() == [began(1), began(2), ended(1)]
    assert play.follow() == []
    play.put(an_end(2))
    assert play.follow() == [ended(2)]
    play.following.close()


def test_a_record_counts_with_its_newline_and_no_byte_before(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.put(HEADER)
    play.has(1)
    facts = []
    for byte in lines(a_begin(1), an_end(1)):
        play.put(bytes([byte]))
        facts.append(play.follow())

    begin_end = len(lines(a_begin(1))) - 1
    assert facts[begin_end] == [began(1)]
    assert facts[-1] == [ended(1)]
    assert sum(map(len, facts)) == 2
    play.following.close()


def test_no_more_records_are_read_at_once_than_were_asked_for(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.put(HEADER, a_begin(1), a_begin(2), an_end(1), an_end(2))
    play.has(1)

    assert [play.follow(2) for _ in range(4)] == [
        [began(1)],  # and the header
        [began(2), ended(1)],
        [ended(2)],
        [],
    ]
    play.following.close()


def test_what_is_held_is_that_of_the_begin_until_it_is_raised(tmp_path: Path) -> None:
    begin = msgspec.structs.replace(a_begin(1), hold_tokens=200, hold_nano_usd=9)
    play = Play(tmp_path)
    play.put(HEADER, begin, a_begin(2), a_hold(2, 300, 10), a_hold(2, 400, 11))
    play.put(an_end(1), an_end(2))
    play.has(1)

    facts = play.follow()

    assert [fact.hold for fact in facts if isinstance(fact, Ended)] == [(200, 9), (400, 11)]
    play.following.close()


def test_second_records_of_a_call_and_ends_of_none_are_only_counted(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.put(HEADER, a_begin(1), a_begin(1), a_begin(2), an_end(1), an_end(1), a_begin(1))
    play.put(a_hold(1), an_end(9), a_hold(9), an_end(2))
    play.has(1)

    assert play.follow() == [began(1), began(2), ended(1), ended(2)]
    assert play.counts == Counts(duplicates=4, orphans=2)
    play.following.close()


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_damaged_line_is_handed_out_in_its_place_and_the_rest_is_read(
    tmp_path: Path, bad: bytes
) -> None:
    before = lines(HEADER, a_begin(1))
    play = Play(tmp_path)
    play.put(before, bad)
    play.has(1)
    assert play.follow() == [began(1)]
    play.put(b"\n", an_end(1))

    damaged = Damaged(tmp_path / NAME, len(before), len(bad) + 1)
    assert play.follow() == [damaged, ended(1)]
    play.following.close()


def test_what_is_not_asked_for_yet_is_not_read_either(tmp_path: Path) -> None:
    """So whoever counts what was decoded finds it in the processor's caches."""
    play = Play(tmp_path)
    play.put(HEADER, *map(a_begin, range(1, 10 * STRIDE)))
    play.has(1)
    lots = play.following.follow(1_000)

    _, first = next(lots)

    assert 0 < len(first) <= STRIDE
    assert play.following.in_flight == len(first)
    assert sum(len(facts) for _, facts in lots) == 10 * STRIDE - 1 - len(first)


def test_a_line_longer_than_a_piece_is_read_like_any_other(tmp_path: Path) -> None:
    play = Play(tmp_path)
    long = msgspec.structs.replace(a_begin(2), model="m" * 3 * READ_BYTES)
    play.put(HEADER, a_begin(1), long, a_begin(3), an_end(2))
    play.has(1)

    assert play.follow() == [
        began(1),
        Began("b00t", "0", long),
        began(3),
        Ended("b00t", long, (0, 0), an_end(2)),
    ]
    assert play.counts == Counts()


def test_a_file_of_many_pieces_is_read_through(tmp_path: Path) -> None:
    play = Play(tmp_path)
    count = 2 * READ_BYTES // len(lines(a_begin(1)))
    play.put(HEADER, *(a_begin(seq) for seq in range(1, count + 1)))
    play.has(1)

    assert play.follow(count + 1) == [began(seq) for seq in range(1, count + 1)]
    play.following.close()


def test_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    play = Play(tmp_path)
    for number in (2, 10, 11):
        play.put(HEADER, a_begin(number), name=f"0-{number}.jsonl")
    play.has(10, 2, 11)

    assert play.follow() == [began(2), began(10), began(11)]
    play.following.close()


def test_what_was_written_before_the_next_file_was_seen_is_read_before_it(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.put(HEADER, a_begin(1))
    play.has(1)
    play.follow()
    play.put(a_begin(2), b'{"t":')
    play.put(HEADER, a_begin(3), name="0-2.jsonl")
    play.has(2)

    assert play.follow() == [began(2), began(3)]
    assert play.counts == Counts(torn=1)
    play.following.close()


def test_finishing_reads_to_the_end_and_interrupts_what_is_in_flight(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.put(HEADER, *map(a_begin, range(1, 5)), an_end(2), a_hold(3, 300, 10))
    play.put(HEADER, an_end(1), b'{"t":"end","seq":3', name="0-2.jsonl")
    play.has(1, 2)

    facts = play.finish()

    assert facts[4:] == [
        ended(2),
        ended(1),
        Interrupted("b00t", a_begin(3), (300, 10)),
        Interrupted("b00t", a_begin(4), (0, 0)),
    ]
    assert play.counts == Counts(torn=1)
    assert (play.following.closed, play.following.in_flight) == (True, 0)
    assert play.following.position().closed


def test_a_position_holds_a_few_bytes_a_call_and_grows_with_calls_in_flight_only(
    tmp_path: Path,
) -> None:
    play = Play(tmp_path)
    play.put(HEADER, *map(a_begin, range(1, 1_001)), *map(an_end, range(1, 901)))
    play.has(1)
    play.follow(10_000)

    encoded = msgspec.msgpack.encode(play.following.position())

    assert len(encoded) < 100 * 10
    play.following.close()


def test_from_its_position_it_goes_on_with_the_calls_in_flight(tmp_path: Path) -> None:
    begin = msgspec.structs.replace(a_begin(2), hold_tokens=200, hold_nano_usd=9)
    play = Play(tmp_path)
    play.put(HEADER, a_begin(1), begin, an_end(1))
    play.put(HEADER, a_begin(3), a_hold(3, 300, 10), b'{"t":', name="0-2.jsonl")
    play.has(1, 2)
    play.follow()

    again = play.resumed({NAME, "0-2.jsonl"})
    again.has(1, 2)

    assert again.following.position() == play.following.position()
    assert again.following.held() == [(begin, (200, 9)), (a_begin(3), (300, 10))]
    assert again.follow() == []
    assert again.finish() == [
        Interrupted("b00t", begin, (200, 9)),
        Interrupted("b00t", a_begin(3), (300, 10)),
    ]


def test_a_long_begin_is_resumed_too(tmp_path: Path) -> None:
    begin = msgspec.structs.replace(a_begin(1), model="m" * 2 * LINE_BYTES)
    play = Play(tmp_path)
    play.put(HEADER, begin)
    play.has(1)
    play.follow()

    again = play.resumed({NAME})
    again.has(1)

    assert again.finish() == [Interrupted("b00t", begin, (0, 0))]


def test_files_that_are_gone_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.put(HEADER, a_begin(1))
    play.put(HEADER, a_begin(2), name="0-2.jsonl")
    play.has(1, 2)
    play.follow()
    play.put(HEADER, an_end(1), an_end(2), a_begin(3), name="0-4.jsonl")

    again = play.resumed({"0-4.jsonl"})
    again.has(3, 4)

    assert again.follow() == [began(3)]
    assert again.counts == Counts(duplicates=2, files_vanished=2, calls_vanished=2)
    again.following.close()


def test_a_file_that_is_removed_while_it_is_read_is_read_on(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.put(HEADER)
    play.has(1)
    play.follow()

    with (tmp_path / NAME).open("ab") as file:
        (tmp_path / NAME).unlink()
        file.write(lines(a_begin(1)))

    assert play.follow() == [began(1)]
    play.following.close()


@pytest.mark.parametrize(
    ("content", "boot"),
    [
        (b"", None),
        (lines(HEADER)[:-1], None),
        (lines(HEADER), "b00t"),
        (lines(HEADER, a_begin(1), a_begin(2)), "b00t"),
        (b"?", None),
        (b"?\n", None),
        (b"?\n" + lines(HEADER), "b00t"),
        (b"?\n" + lines(a_begin(1)), NAME),
        (lines(a_begin(1)), None),
        (lines(a_begin(1), an_end(1)), NAME),
        (b"x" * LINE_BYTES, NAME),
    ],
)
def test_a_file_is_of_the_boot_in_its_header_or_else_of_its_own(
    tmp_path: Path, content: bytes, boot: str | None
) -> None:
    header = read_header(write(tmp_path / NAME, content), "0")

    assert (header.boot if header else None) == boot
    assert header is None or header.worker == "0"


def test_a_file_that_is_gone_has_no_header(tmp_path: Path) -> None:
    assert read_header(tmp_path / NAME, "0") is None


def test_a_format_that_it_does_not_know_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, lines(Header(format=FORMAT + 1, worker="0", boot="b", pid=1)))

    words = rf"0-1\.jsonl has journal format {FORMAT + 1}, .* reads up to {FORMAT};"
    with pytest.raises(UnknownFormat, match=words):
        read_header(path, "0")


@pytest.mark.parametrize("finished", [True, False])
def test_a_file_that_cannot_be_left_costs_nothing_and_is_left_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    play = Play(tmp_path)
    play.put(HEADER, a_begin(1))
    play.put(HEADER, a_begin(2), name="0-2.jsonl")
    play.has(1)
    assert play.follow() == [began(1)]
    if not finished:
        play.has(2)

    with monkeypatch.context() as failing:
        failing.setattr(os, "fstat", unreadable)
        with pytest.raises(OSError, match="Stale file handle"):
            play.finish() if finished else play.follow()
    if not finished:
        assert play.follow() == [began(2)]

    left = [Interrupted("b00t", a_begin(seq), (0, 0)) for seq in ((1,) if finished else (1, 2))]
    assert play.finish() == left
    assert len(os.listdir("/proc/self/fd")) == before


def unreadable(*_: object) -> NoReturn:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def test_a_begin_that_cannot_be_read_again_is_told_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(tmp_path)
    play.put(HEADER, a_begin(1))
    play.has(1)
    play.follow()
    position = play.following.position()
    play.following.close()
    before = len(os.listdir("/proc/self/fd"))

    monkeypatch.setattr(os, "pread", unreadable)
    with pytest.raises(OSError, match="Stale file handle") as failed:
        Play(tmp_path, position).following.resume(position, {NAME})

    assert failed.value.filename == str(tmp_path / NAME)
    assert len(os.listdir("/proc/self/fd")) == before


def test_every_descriptor_is_closed_again(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    play = Play(tmp_path)
    play.put(HEADER, a_begin(1))
    play.put(HEADER, name="0-2.jsonl")
    play.has(1, 2)
    play.follow()
    play.following.newest_is_locked()

    again = play.resumed({NAME, "0-2.jsonl"})
    again.has(2)
    again.following.newest_is_locked()
    again.finish()

    assert len(os.listdir("/proc/self/fd")) == before
