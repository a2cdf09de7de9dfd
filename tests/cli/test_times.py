"""Times as people write them."""

from datetime import UTC, datetime

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.cli.times import Window, iso, moment_ms, month_ms, now_ms

NOW_MS = 1_795_427_999_250  # 2026-11-23T09:59:59.250Z
TODAY_MS = 1_795_392_000_000


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("today", TODAY_MS), ("1h", NOW_MS - 3_600_000), ("2d", NOW_MS - 172_800_000),
        ("9999w", 0), ("2026-11-23", TODAY_MS), ("2026-11-23T00:00Z", TODAY_MS),
        ("2026-11-23T01:00+01:00", TODAY_MS), ("2026-11-23 00:00:00.250", TODAY_MS + 250),
        ("1969-12-31", 0), ("9999-12-31T23:59:59-23:00", 253_402_383_599_000),
    ],
)  # fmt: skip
def test_a_moment_is_a_time_or_how_long_ago(text: str, at_ms: int) -> None:
    assert moment_ms(text, NOW_MS) == at_ms


@pytest.mark.parametrize("text", ["", "yesterday", "1", "-1h", "0s", "2025-13-01", "10:00"])
def test_what_is_no_moment_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="neither a duration nor a time; write one such as 1h"):
        moment_ms(text, NOW_MS)


@pytest.mark.parametrize(
    ("text", "first", "next_"),
    [
        ("2026-11", "2026-11-01", "2026-12-01"),
        ("2026-12", "2026-12-01", "2027-01-01"),
        ("2024-02", "2024-02-01", "2024-03-01"),
    ],
)
def test_a_month_goes_up_to_the_next(text: str, first: str, next_: str) -> None:
    assert month_ms(text) == (moment_ms(first, 0), moment_ms(next_, 0))


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-1", "2026-00", "9999-12", "0000-01"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a month; write one such as 2026-11"):
        month_ms(text)


@given(st.integers(0, 253_402_300_799_999))
def test_a_moment_that_is_shown_reads_back_as_itself(at_ms: int) -> None:
    assert moment_ms(iso(at_ms), 0) == at_ms


def test_now_is_the_time_of_the_calendar() -> None:
    assert abs(now_ms() - datetime.now(UTC).timestamp() * 1000) < 60_000


@pytest.mark.parametrize(
    ("window", "bounds"),
    [
        (Window(None, None, None), (None, None)),
        (Window("1h", None, None), (NOW_MS - 3_600_000, None)),
        (Window(None, "today", None), (None, TODAY_MS)),
        (Window("2026-11-22", "1h", None), (TODAY_MS - 86_400_000, NOW_MS - 3_600_000)),
        (Window(None, None, "2026-11"), (1_793_491_200_000, 1_796_083_200_000)),
    ],
)
def test_a_window_has_the_bounds_that_are_said(
    window: Window, bounds: tuple[int | None, int | None]
) -> None:
    assert window.bounds(NOW_MS) == bounds


@pytest.mark.parametrize(
    "window",
    [Window("1h", None, "2026-11"), Window(None, "1h", "2026-11"), Window("1h", "2h", None),
     Window("today", "today", None)],
)  # fmt: skip
def test_a_window_that_is_none_is_a_usage_error(window: Window) -> None:
    with pytest.raises(typer.BadParameter):
        window.bounds(NOW_MS)
