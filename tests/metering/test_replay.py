"""Reading journals back: torn ends, damaged lines, and the two records of a call."""

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.metering.records import FORMAT, Begin, End, Header, Hold, Record
from llmrouter.metering.replay import (
    LINE_BYTES_MAX,
    Damaged,
    JournaledCall,
    UnknownFormat,
    pair,
    read_journal,
)
from tests.metering.test_records import HEADER, a_begin, a_hold, an_end

CALLS: st.SearchStrategy[list[Begin | Hold | End]] = st.lists(
    st.one_of(st.from_type(Begin), st.from_type(Hold), st.from_type(End)), max_size=8
)


def lines(*records: Record) -> bytes:
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def check_cut(path: Path, records: list[Record], cut: int) -> None:
    """Cut after `cut` bytes, `records` read as those whose whole line is left; a rest is torn."""
    left = lines(*records)[:cut]
    whole = left.count(b"\n")
    rest = len(left) - left.rfind(b"\n") - 1
    journal = read_journal(write(path, left))

    assert list(journal) == records[:whole]
    assert journal.torn == (Damaged(path, cut - rest, rest) if rest else None)


def test_a_file_cut_at_any_byte_reads_as_its_whole_lines(tmp_path: Path) -> None:
    records: list[Record] = [HEADER, a_begin(1), a_begin(2), an_end(1)]

    for cut in range(len(lines(*records)) + 1):
        check_cut(tmp_path / "0-1.jsonl", records, cut)


@settings(deadline=None)
@given(CALLS, st.floats(0, 1))
def test_any_records_cut_anywhere_read_as_a_prefix(
    calls: list[Begin | Hold | End], part: float
) -> None:
    records: list[Record] = [HEADER, *calls]

    with tempfile.TemporaryDirectory() as directory:
        check_cut(Path(directory) / "0-1.jsonl", records, int(part * len(lines(*records))))


@settings(deadline=None)
@given(CALLS, st.binary(min_size=1))
def test_no_bytes_at_the_end_cost_a_record_before_them(
    calls: list[Begin | Hold | End], noise: bytes
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = write(Path(directory) / "0-1.jsonl", lines(*calls) + noise)
        journal = read_journal(path)
        items = list(journal)

    assert items[: len(calls)] == calls
    damaged = [item for item in [*items, journal.torn] if isinstance(item, Damaged)]
    assert sum(item.length for item in damaged) == len(noise)


BAD_LINES = {
    "not JSON": b"\x00\x00\x00",
    "half a record": b'{"t":"begin","seq":1,"at_',
    "blank": b"",
    "no record of ours": b'{"t":"other","seq":1}',
    "a member missing": b'{"t":"begin","seq":1}',
    "a member of the wrong type": b'{"t":"journal","format":1,"worker":"0","boot":"b","pid":"x"}',
    "two records": lines(a_begin(1))[:-1] + lines(a_begin(2))[:-1],
    "not UTF-8": b'{"t":"journal","format":1,"worker":"\xff","boot":"b","pid":1}',
    "nested without end": b'{"t":"begin","x":' + b"[" * 100_000,
    "longer than a line may be": b"x" * (3 * LINE_BYTES_MAX),
    "a record behind too long a line": b"x" * LINE_BYTES_MAX + lines(a_begin(3))[:-1],
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_damaged_line_is_handed_out_and_the_rest_is_read(tmp_path: Path, bad: bytes) -> None:
    before, after = lines(HEADER, a_begin(1)), lines(an_end(1))
    path = write(tmp_path / "0-1.jsonl", before + bad + b"\n" + after)
    journal = read_journal(path)

    damaged = Damaged(path, len(before), len(bad) + 1)
    assert list(journal) == [HEADER, a_begin(1), damaged, an_end(1)]
    assert journal.torn is None


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_an_unreadable_last_line_is_torn_with_its_newline_too(tmp_path: Path, bad: bytes) -> None:
    before = lines(HEADER, a_begin(1))
    path = write(tmp_path / "0-1.jsonl", before + bad + b"\n")
    journal = read_journal(path)

    assert list(journal) == [HEADER, a_begin(1)]
    assert journal.torn == Damaged(path, len(before), len(bad) + 1)


def test_a_file_without_a_byte_holds_no_records(tmp_path: Path) -> None:
    journal = read_journal(write(tmp_path / "0-1.jsonl", b""))

    assert list(journal) == []
    assert journal.torn is None


@pytest.mark.parametrize("known", range(1, FORMAT + 1))
def test_older_formats_are_read_too(tmp_path: Path, known: int) -> None:
    header = Header(format=known, worker="0", boot="b", pid=1)
    path = write(tmp_path / "0-1.jsonl", lines(header, a_begin(), an_end()))

    assert list(read_journal(path)) == [header, a_begin(), an_end()]


def test_a_format_that_it_does_not_know_is_refused_with_file_and_number(tmp_path: Path) -> None:
    header = Header(format=FORMAT + 1, worker="0", boot="b", pid=1)
    path = write(tmp_path / "0-1.jsonl", lines(header, a_begin()))

    words = rf"0-1\.jsonl has journal format {FORMAT + 1}, .* reads up to {FORMAT};"
    with pytest.raises(UnknownFormat, match=words):
        list(read_journal(path))


def test_calls_come_in_the_order_of_their_begins_with_their_ends(tmp_path: Path) -> None:
    path = write(
        tmp_path / "0-1.jsonl",
        lines(HEADER, a_begin(1), a_begin(2), a_begin(3), an_end(3), an_end(1)),
    )

    assert pair([path]).calls == [
        JournaledCall("b00t", a_begin(1), an_end(1)),
        JournaledCall("b00t", a_begin(2), None),
        JournaledCall("b00t", a_begin(3), an_end(3)),
    ]
    assert [call.interrupted for call in pair([path]).calls] == [False, True, False]


def test_a_begin_and_its_end_may_stand_in_two_files(tmp_path: Path) -> None:
    first = write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    second = write(tmp_path / "0-2.jsonl", lines(HEADER, an_end(1)))

    assert pair([first, second]).calls == [JournaledCall("b00t", a_begin(1), an_end(1))]


def test_the_same_number_in_two_boots_is_two_calls(tmp_path: Path) -> None:
    reborn = Header(worker="0", boot="an0ther", pid=43)
    first = write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1)))
    second = write(tmp_path / "0-2.jsonl", lines(reborn, a_begin(1), an_end(1)))

    assert pair([first, second]).calls == [
        JournaledCall("b00t", a_begin(1), None),
        JournaledCall("an0ther", a_begin(1), an_end(1)),
    ]


def test_a_record_that_comes_twice_counts_once_and_is_reported(tmp_path: Path) -> None:
    again = msgspec.structs.replace(an_end(1), attempts=2)
    first = write(tmp_path / "0-1.jsonl", lines(HEADER, a_begin(1), an_end(1), again))
    second = write(tmp_path / "0-2.jsonl", lines(HEADER, a_begin(1)))

    found = pair([first, second])

    assert found.calls == [JournaledCall("b00t", a_begin(1), an_end(1))]
    assert found.duplicates == [again, a_begin(1)]


def test_a_call_shows_what_was_held_for_it_at_last(tmp_path: Path) -> None:
    begin = msgspec.structs.replace(a_begin(1), hold_tokens=200, hold_nano_usd=9)
    first = write(tmp_path / "0-1.jsonl", lines(HEADER, begin, a_begin(2), a_begin(3)))
    second = write(
        tmp_path / "0-2.jsonl",
        lines(HEADER, a_hold(2, 300, 10), a_hold(3, 50, 1), an_end(3), a_hold(2, 400, 11)),
    )

    assert [call.hold for call in pair([first]).calls] == [(200, 9), (0, 0), (0, 0)]
    assert [call.hold for call in pair([first, second]).calls] == [(200, 9), (400, 11), (50, 1)]
    assert pair([first, second]).duplicates == []


def test_nothing_that_is_no_call_is_lost(tmp_path: Path) -> None:
    header = lines(HEADER)
    path = write(tmp_path / "0-1.jsonl", header + b"?\n" + lines(an_end(7), a_hold(8)) + b'{"t":')

    found = pair([path])

    assert found.calls == []
    assert found.orphans == [an_end(7), a_hold(8)]
    assert found.damaged == [Damaged(path, len(header), 2)]
    assert found.torn == [Damaged(path, path.stat().st_size - 5, 5)]


def test_calls_of_a_file_whose_header_is_damaged_are_still_found(tmp_path: Path) -> None:
    path = write(tmp_path / "0-1.jsonl", b"?\n" + lines(a_begin(1), an_end(1)))

    assert pair([path]).calls == [JournaledCall("0-1.jsonl", a_begin(1), an_end(1))]
