import msgspec
import pytest

from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.condition import Condition
from llmrouter.routing.report import Report

TERMS = BreakerTerms(failures=2, rest_s=5.0)


class Told:
    """What a condition said, as it was at that moment."""

    def __init__(self, now_s: float = 100.0) -> None:
        self.now_s = now_s
        self.reports: list[Report] = []
        self.condition = Condition("main/m", TERMS, now_s=now_s, on_change=self._hear)

    def _hear(self, condition: Condition) -> None:
        self.reports.append(condition.report(self.now_s))

    @property
    def states(self) -> list[str]:
        return [report.state.value for report in self.reports]

    def attempt(self, failed: str = "") -> None:
        spell = self.condition.enter(self.now_s)
        if failed:
            self.condition.failed(failed, self.now_s, spell)
        else:
            self.condition.succeeded(self.now_s, spell)
        self.condition.leave()


def opened() -> Told:
    told = Told()
    told.attempt("answered 500")
    told.attempt("answered 503")
    return told


def test_is_usable_while_nothing_speaks_against_it() -> None:
    condition = Told().condition
    assert condition.is_usable(100.0)
    assert condition.passes(100.0)
    assert condition.why_not(100.0) == ""
    assert condition.usable_at(100.0) == 100.0


def test_counts_what_runs() -> None:
    condition = Told().condition
    condition.enter(100.0)
    condition.enter(100.0)
    condition.leave()
    assert condition.inflight == 1


def test_an_open_breaker_says_why_and_until_when() -> None:
    condition = opened().condition
    assert not condition.is_usable(101.0)
    assert not condition.passes(101.0)
    assert condition.why_not(101.0) == "its breaker is open for 4.0 s more: answered 503"
    assert condition.usable_at(101.0) == 105.0
    assert condition.is_usable(105.0)


def test_each_change_of_the_breaker_is_told() -> None:
    told = opened()
    told.now_s = 105.0
    for _ in range(7):
        told.attempt()
    told.attempt("answered 500")

    assert told.states == ["open", "half-open", "closed"]
    assert [report.rest_s for report in told.reports] == [5.0, 0.0, 0.0]
    assert [report.reason for report in told.reports] == ["answered 503", "answered 503", ""]
    assert told.condition.is_usable(105.0)


def test_while_its_probes_run_it_is_not_usable_for_nobody_knows_how_long() -> None:
    told = opened()
    told.condition.enter(105.0)
    assert told.condition.why_not(105.0) == (
        "its breaker is half-open and its probes still run: answered 503"
    )
    assert told.condition.usable_at(105.0) is None


def test_rests_when_it_is_throttled_and_is_usable_again_by_itself() -> None:
    told = Told()
    told.condition.rest_until(103.0, "answered 429", 100.0)

    assert not told.condition.is_usable(102.9)
    assert told.condition.is_resting(102.9)
    assert told.condition.rest_s(101.0) == 2.0
    assert told.condition.why_not(101.0) == "it rests for 2.0 s more: answered 429"
    assert told.condition.usable_at(101.0) == 103.0
    assert told.condition.is_usable(103.0)
    assert told.condition.breaker.state is State.CLOSED


def test_rests_for_an_hour_at_most_and_a_shorter_rest_ends_no_longer_one() -> None:
    condition = Told().condition
    condition.rest_until(1e9, "answered 429", 100.0)
    condition.rest_until(101.0, "answered 429", 100.0)
    assert condition.usable_at(100.0) == 3700.0


def test_a_burst_of_429_is_told_once() -> None:
    told = Told()
    for at in range(100):
        told.condition.rest_until(110.0 + at / 200, "answered 429", 100.0)
    assert len(told.reports) == 1
    told.condition.rest_until(120.0, "answered 429", 100.0)
    assert [report.throttled_s for report in told.reports] == [10.0, 20.0]
    assert told.reports[0].reason == "answered 429"


def test_a_rest_that_goes_on_growing_a_little_is_told_now_and_then() -> None:
    told = Told()
    for at in range(100):
        told.condition.rest_until(110.0 + at / 10, "answered 429", 100.0)
    assert 5 <= len(told.reports) <= 11


def test_a_rest_and_an_open_breaker_do_not_end_each_other() -> None:
    told = opened()
    told.condition.rest_until(120.0, "answered 429", 101.0)
    assert not told.condition.is_usable(106.0)
    assert told.condition.usable_at(106.0) == 120.0
    told.now_s = 120.0
    for _ in range(7):
        assert told.condition.is_usable(120.0)
        told.attempt()
    assert told.condition.breaker.state is State.CLOSED


def test_unsound_is_not_usable_but_passes_where_nothing_else_is_left() -> None:
    condition = Told().condition
    condition.sound = False
    assert not condition.is_usable(100.0)
    assert condition.passes(100.0)
    assert condition.why_not(100.0) == "its health checks fail"
    assert condition.usable_at(100.0) is None
    condition.sound = True
    assert condition.is_usable(100.0)


def test_learns_how_soon_answers_begin() -> None:
    condition = Told().condition
    condition.first_token(0.4, 100.0)
    assert condition.latency.now(100.0) == pytest.approx(0.4)


def test_what_another_process_says_holds_and_is_not_told_on() -> None:
    one, other = opened(), Told()
    other.condition.adopt(one.condition.report(100.2), 100.2)

    assert other.condition.why_not(101.0) == "its breaker is open for 4.0 s more: answered 503"
    assert other.reports == []

    one.now_s = 105.0
    for _ in range(7):
        one.attempt()
    other.condition.adopt(one.condition.report(105.0), 105.1)
    assert other.condition.is_usable(105.1)
    assert other.reports == []


def test_a_breaker_that_another_process_closed_early_rests_no_longer() -> None:
    told = opened()
    report = told.condition.report(100.0)
    told.condition.adopt(
        msgspec.structs.replace(report, state=State.CLOSED, changed_s=101.0), 101.0
    )
    told.condition.rest_until(102.0, "answered 429", 101.0)
    assert told.condition.usable_at(101.0) == 102.0
    assert told.condition.report(101.0).rest_s == 0.0


def test_a_rest_that_another_process_says_holds_and_is_not_told_on() -> None:
    one, other = Told(), Told()
    one.condition.rest_until(130.0, "answered 429", 100.0)
    other.condition.adopt(one.condition.report(100.0), 100.0)
    other.condition.rest_until(130.5, "answered 429", 100.5)

    assert other.condition.usable_at(101.0) == 130.5
    assert other.reports == []


def test_news_of_the_breaker_alone_end_no_rest() -> None:
    one, other = opened(), Told()
    other.condition.rest_until(130.0, "answered 429", 100.0)
    other.condition.adopt(one.condition.report(100.0), 100.0)
    one.now_s = 105.0
    for _ in range(7):
        one.attempt()
    other.condition.adopt(one.condition.report(105.0), 105.0)

    assert other.condition.why_not(105.0) == "it rests for 25.0 s more: answered 429"


def test_a_report_travels_as_it_is() -> None:
    report = opened().condition.report(101.0)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    fresh = Told().condition.report(100.0)
    assert msgspec.json.decode(msgspec.json.encode(fresh), type=Report) == fresh


def test_repr_shows_the_state() -> None:
    assert repr(opened().condition) == "<Condition main/m open inflight=0>"
