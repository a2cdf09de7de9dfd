import pytest

from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.condition import Condition
from llmrouter.routing.conditions import Conditions
from llmrouter.routing.report import Report

TERMS = {"main": BreakerTerms(failures=1), "spare": BreakerTerms(failures=3)}


def opening(deployment: str, changed_s: float = 1.0) -> Report:
    return Report(
        deployment=deployment,
        state=State.OPEN,
        rest_s=5.0,
        reason="answered 500",
        changed_s=changed_s,
    )


def test_there_is_one_condition_for_each_deployment() -> None:
    conditions = Conditions(TERMS, now_s=0.0)
    assert conditions.of("main/m") is conditions.of("main/m")
    assert conditions.of("main/m") is not conditions.of("main/gpt-*")
    assert [condition.name for condition in conditions] == ["main/m", "main/gpt-*"]


def test_each_has_the_terms_of_its_upstream() -> None:
    conditions = Conditions(TERMS, now_s=0.0)
    main, spare = conditions.of("main/org/m"), conditions.of("spare/m")
    for condition in (main, spare):
        condition.failed("answered 500", 1.0, condition.enter(1.0))
    assert (main.breaker.state, spare.breaker.state) == (State.OPEN, State.CLOSED)


def test_there_is_none_at_an_upstream_that_does_not_exist() -> None:
    with pytest.raises(KeyError):
        Conditions(TERMS, now_s=0.0).of("gone/m")


def test_what_changes_is_told() -> None:
    told: list[Condition] = []
    conditions = Conditions(TERMS, now_s=0.0, on_change=told.append)
    main = conditions.of("main/m")
    main.failed("answered 500", 1.0, main.enter(1.0))
    assert told == [main]


def test_reports_those_that_are_open_or_rest_and_no_other() -> None:
    conditions = Conditions(TERMS, now_s=0.0)
    conditions.of("main/sound")
    conditions.of("main/busy").rest_until(9.0, "answered 429", 1.0)
    conditions.of("main/over").rest_until(2.0, "answered 429", 1.0)
    conditions.adopt([opening("main/down")], 1.0)

    reports = {report.deployment: report for report in conditions.reports(3.0)}
    assert set(reports) == {"main/busy", "main/down"}
    assert reports["main/busy"].throttled_s == 6.0
    assert (reports["main/down"].state, reports["main/down"].rest_s) == (State.OPEN, 3.0)


def test_reports_of_one_process_bring_another_to_the_same() -> None:
    one, other = Conditions(TERMS, now_s=0.0), Conditions(TERMS, now_s=0.0)
    one.adopt([opening("main/down")], 1.0)
    one.of("spare/busy").rest_until(9.0, "answered 429", 1.0)
    other.adopt(one.reports(2.0), 2.0)
    assert other.reports(2.0) == one.reports(2.0)


def test_reports_of_an_upstream_that_is_not_known_here_are_passed_over() -> None:
    conditions = Conditions(TERMS, now_s=0.0)
    conditions.adopt([opening("gone/m"), opening("main/m")], 1.0)
    assert [condition.name for condition in conditions] == ["main/m"]


def test_probes_speak_of_all_deployments_of_an_upstream_also_of_those_made_later() -> None:
    conditions = Conditions(TERMS, now_s=0.0)
    before, spare = conditions.of("main/m"), conditions.of("spare/m")
    conditions.set_sound("main", False)
    later = conditions.of("main/n")
    assert [each.is_usable(1.0) for each in (before, later, spare)] == [False, False, True]

    conditions.set_sound("main", True)
    conditions.set_sound("main", True)
    assert all(each.is_usable(1.0) for each in (before, later, conditions.of("main/o")))


def test_repr_shows_what_is_there() -> None:
    conditions = Conditions(TERMS, now_s=0.0)
    conditions.of("main/m")
    conditions.set_sound("main", False)
    assert repr(conditions) == "<Conditions 1 unsound=['main']>"
