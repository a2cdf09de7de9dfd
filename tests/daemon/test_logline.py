"""The beginning of a line: its time, whatever the time is."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.daemon.logline import LineStart

YEAR_9999_MS = 253_370_764_800_000


@pytest.mark.parametrize(
    ("wall_s", "stamp"),
    [
        (-0.5, "1969-12-31T23:59:59.500Z"),
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.5, "2023-11-14T22:13:20.500Z"),
        (1_700_000_000.0079, "2023-11-14T22:13:20.007Z"),
        (1_709_164_799.9999, "2024-02-28T23:59:59.999Z"),
    ],
)
def test_says_when_how_grave_and_whose(wall_s: float, stamp: str) -> None:
    start = LineStart("worker-1", lambda: wall_s)
    assert start("info") == f"time={stamp} level=info process=worker-1"


@given(walls_ms=st.lists(st.integers(0, YEAR_9999_MS), min_size=1))
def test_the_clock_may_go_wherever_it_likes(walls_ms: list[int]) -> None:
    walls = iter(walls_ms)
    start = LineStart("supervisor", lambda: (next(walls) + 0.5) / 1_000)
    for wall_ms in walls_ms:
        seconds, ms = divmod(wall_ms, 1_000)
        shown = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        assert start("error") == f"time={shown}.{ms:03d}Z level=error process=supervisor"


def test_lines_of_one_second_differ_in_their_milliseconds_alone() -> None:
    walls = iter(range(5_000, 6_000))
    start = LineStart("worker-0", lambda: (next(walls) + 0.5) / 1_000)
    lines = [start("info") for _ in range(1_000)]
    assert all(one < other for one, other in pairwise(lines))
    assert {line[: len("time=1970-01-01T00:00:05.")] for line in lines} == {
        "time=1970-01-01T00:00:05."
    }
