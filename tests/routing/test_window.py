from hypothesis import given
from hypothesis import strategies as st

from llmrouter.routing.window import Window

attempts = st.lists(st.tuples(st.floats(0.0, 20.0), st.booleans()), max_size=80)


def test_counts_attempts_and_failures() -> None:
    window = Window(30.0)
    window.failed(1.0)
    window.succeeded(2.0)
    window.succeeded(29.0)

    assert (window.count, window.failures) == (3, 1)


def test_forgets_what_is_older_than_the_window() -> None:
    window = Window(30.0)
    window.failed(100.0)
    window.succeeded(115.0)
    window.succeeded(130.0)
    assert (window.count, window.failures) == (2, 0)

    window.failed(500.0)
    assert (window.count, window.failures) == (1, 1)


@given(attempts)
def test_reaches_back_for_half_to_all_of_the_window(gaps: list[tuple[float, bool]]) -> None:
    window, seen, now_s = Window(30.0), list[tuple[float, bool]](), 1000.0
    for gap_s, fails in gaps:
        now_s += gap_s
        seen.append((now_s, fails))
        (window.failed if fails else window.succeeded)(now_s)

        since_half = [failed for at_s, failed in seen if at_s > now_s - 14.99]
        since_all = [failed for at_s, failed in seen if at_s >= now_s - 30.01]
        assert len(since_half) <= window.count <= len(since_all)
        assert sum(since_half) <= window.failures <= sum(since_all)
