import pytest

from llmrouter.routing.backoff import pause_s


@pytest.mark.parametrize(
    ("repeat", "longest_s"),
    [(1, 0.1), (2, 0.2), (3, 0.4), (5, 1.6), (6, 2.0), (7, 2.0), (10_000, 2.0)],
)
def test_pauses_double_up_to_two_seconds_with_full_jitter(repeat: int, longest_s: float) -> None:
    assert pause_s(repeat, 0.0) == 0.0
    assert pause_s(repeat, 0.5) == pytest.approx(longest_s / 2)
    assert pause_s(repeat, 1.0) == pytest.approx(longest_s)
