"""The windows of budgets: where they begin and end, over the ends of months and years."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.rule import BUDGET_WINDOWS
from llmrouter.quota import window
from tests.quota.reference import window_start

YEAR_2200_MS = 7_258_118_400_000


def ms(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text + "+00:00").timestamp() * 1000)


@pytest.mark.parametrize(
    ("per", "now", "start", "end"),
    [
        ("hour", "2026-03-01T10:59:59.999", "2026-03-01T10:00", "2026-03-01T11:00"),
        ("hour", "2026-12-31T23:30", "2026-12-31T23:00", "2027-01-01T00:00"),
        ("day", "2026-02-28T23:59:59.999", "2026-02-28", "2026-03-01"),
        ("day", "2028-02-28T12:00", "2028-02-28", "2028-02-29"),
        ("day", "2026-12-31T00:00", "2026-12-31", "2027-01-01"),
        # 2026-01-05 is a Monday.
        ("week", "2026-01-04T23:59:59.999", "2025-12-29", "2026-01-05"),
        ("week", "2026-01-05T00:00", "2026-01-05", "2026-01-12"),
        ("week", "2028-02-29T12:00", "2028-02-28", "2028-03-06"),
        ("week", "1970-01-05T00:00", "1970-01-05", "1970-01-12"),
        ("month", "2026-01-31T23:59:59.999", "2026-01-01", "2026-02-01"),
        ("month", "2026-02-28T23:59:59.999", "2026-02-01", "2026-03-01"),
        ("month", "2028-02-29T23:59:59.999", "2028-02-01", "2028-03-01"),
        ("month", "2100-02-28T23:59:59.999", "2100-02-01", "2100-03-01"),
        ("month", "2026-12-31T23:59:59.999", "2026-12-01", "2027-01-01"),
        ("month", "2027-01-01T00:00", "2027-01-01", "2027-02-01"),
    ],
)
def test_begins_and_ends_with_the_calendar(per: str, now: str, start: str, end: str) -> None:
    assert window.start_ms(per, ms(now)) == ms(start)
    assert window.end_ms(per, ms(now)) == ms(end)


def test_all_time_has_no_end() -> None:
    assert window.start_ms("total", ms("2026-07-01")) == 0
    assert window.end_ms("total", ms("2026-07-01")) is None


@pytest.mark.parametrize("read", [window.start_ms, window.end_ms])
def test_another_word_is_a_bug(read: object) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match="'minute' is no window of a budget"):
        read("minute", 0)


@given(per=st.sampled_from(BUDGET_WINDOWS), now_ms=st.integers(0, YEAR_2200_MS))
def test_every_moment_lies_in_one_window_and_the_next_begins_where_it_ends(
    per: str, now_ms: int
) -> None:
    # The first days of Unix time belong to a week that began before it.
    if per != "week" or now_ms >= 4 * window.DAY_MS:
        assert window.start_ms(per, now_ms) == window_start(per, now_ms)
    start_ms, end_ms = window.start_ms(per, now_ms), window.end_ms(per, now_ms)
    assert start_ms <= now_ms
    assert window.start_ms(per, start_ms) == start_ms
    if end_ms is not None:
        assert now_ms < end_ms
        assert window.start_ms(per, end_ms) == end_ms
        assert window.start_ms(per, end_ms - 1) == start_ms
