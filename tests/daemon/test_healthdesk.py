"""The supervisor's conditions: plays of workers and probes, in a time of the test's own."""

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from llmrouter.daemon.channel import Conditions, Probed
from llmrouter.daemon.health import How, Plan, Status
from llmrouter.daemon.healthdesk import FRESH_PER_REPORT_S, FRESH_S, HealthDesk
from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.report import Report

PLAN = Plan({"m": ("a/m", "b/m")}, ("a", "b"))
TERMS = {name: BreakerTerms() for name in ("a", "b")}
WALL_S = 1_700_000_000.0


class StoppedLoop:
    """Time, and turns, that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self._soon: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def turn(self) -> None:
        """One turn: what was to be done soon is done."""
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()


class Crew:
    """Three workers that keep what they are told."""

    def __init__(self) -> None:
        self.told: dict[str, list[Conditions | Probed]] = {boot: [] for boot in ("x", "y", "z")}
        self.serving = 3

    def __len__(self) -> int:
        return 3

    def boots(self) -> list[str]:
        return list(self.told)

    def send(self, boot: str, message: Conditions | Probed) -> None:
        self.told[boot].append(message)

    def heard(self) -> dict[str, list[tuple[str, State]]]:
        """Deployments and their states, as each was told since the last look."""
        heard = {
            boot: [
                (report.deployment, report.state)
                for message in messages
                if isinstance(message, Conditions)
                for report in message.reports
            ]
            for boot, messages in self.told.items()
        }
        for messages in self.told.values():
            messages.clear()
        return heard


class Play:
    """A desk, its workers and its time."""

    def __init__(self) -> None:
        self.loop = StoppedLoop()
        self.crew = Crew()
        self.desk = HealthDesk(PLAN, TERMS, self.crew, self.loop, lambda: WALL_S)

    def report(self, deployment: str, state: State = State.OPEN, **facts: Any) -> Report:
        given = {"rest_s": 5.0 if state is State.OPEN else 0.0, "reason": "it answered 500"}
        given |= {"changed_s": self.loop.now_s, "throttled_s": 0.0} | facts
        return msgspec.convert({"deployment": deployment, "state": state, **given}, Report)

    def how(self, deployment: str = "a/m") -> How:
        self.loop.now_s += FRESH_S
        return self.desk.health().models["m"].deployments[deployment].state


@pytest.fixture
def play() -> Play:
    return Play()


def test_what_one_worker_sees_every_other_hears(play: Play) -> None:
    play.desk.hear("x", [play.report("a/m")])
    play.loop.turn()

    assert play.crew.heard() == {"x": [], "y": [("a/m", State.OPEN)], "z": [("a/m", State.OPEN)]}
    assert play.how() is How.OPEN


def test_a_turn_is_one_message_a_worker_of_how_things_are_by_then(play: Play) -> None:
    for at in range(50):
        state = State.OPEN if at % 2 else State.CLOSED
        play.desk.hear("x", [play.report("a/m", state, changed_s=900.0 + at)])
    play.desk.hear("y", [play.report("b/m")])
    assert repr(play.desk) == "<HealthDesk down=[] untold=2>"
    play.loop.turn()

    assert [len(messages) for messages in play.crew.told.values()] == [1, 1, 1]
    assert play.crew.heard() == {
        "x": [("b/m", State.OPEN)],
        "y": [("a/m", State.OPEN)],
        "z": [("a/m", State.OPEN), ("b/m", State.OPEN)],
    }


def test_where_two_saw_different_things_the_later_holds_and_both_hear_it(play: Play) -> None:
    play.desk.hear("x", [play.report("a/m", changed_s=999.0)])
    play.desk.hear("y", [play.report("a/m", State.CLOSED, changed_s=999.5)])
    play.loop.turn()

    assert set(map(tuple, play.crew.heard().values())) == {(("a/m", State.CLOSED),)}


def test_what_is_no_news_is_not_told(play: Play) -> None:
    play.desk.hear("x", [play.report("a/m")])
    play.loop.turn()
    play.crew.heard()

    play.desk.hear("y", [play.report("a/m"), play.report("a/m", State.CLOSED, changed_s=1.0)])
    play.loop.turn()

    assert play.crew.heard() == {"x": [], "y": [], "z": []}


def test_a_rest_is_told_too_and_ends_by_itself(play: Play) -> None:
    play.desk.hear("x", [play.report("a/m", State.CLOSED, changed_s=0.0, throttled_s=30.0)])
    play.loop.turn()

    assert play.crew.heard()["y"] == [("a/m", State.CLOSED)]
    assert play.how() is How.RESTING
    play.loop.now_s += 30.0
    assert play.how() is How.CLOSED


def test_a_worker_begins_with_all_that_is_known(play: Play) -> None:
    assert play.desk.standing() == ([], [])
    play.desk.hear("x", [play.report("a/m"), play.report("b/m", State.CLOSED)])
    play.desk.probed("b", "it answered 500")
    play.loop.now_s += 2.0

    reports, down = play.desk.standing()

    assert [(report.deployment, report.rest_s) for report in reports] == [("a/m", 3.0)]
    assert down == ["b"]


def test_an_upstream_that_is_not_in_the_settings_is_none_of_ours(play: Play) -> None:
    play.desk.hear("x", [play.report("gone/m")])
    play.loop.turn()

    assert play.crew.heard() == {"x": [], "y": [], "z": []}


def test_probes_are_told_to_all_and_taken_into_the_verdict(play: Play) -> None:
    play.desk.probed("a", "it answered 500")

    assert play.how() is How.DOWN
    assert play.desk.health().status is Status.DEGRADED
    assert set(map(tuple, play.crew.told.values())) == {(Probed("a", sound=False),)}
    play.desk.probed("a", None)

    assert play.how() is How.CLOSED
    assert {messages[-1] for messages in play.crew.told.values()} == {Probed("a", sound=True)}


@pytest.mark.parametrize("trial", [False, True], ids=["rested", "half-open"])
def test_a_probe_that_succeeds_again_closes_what_has_rested(play: Play, *, trial: bool) -> None:
    """No call has to prove it first."""
    opened = play.loop.now_s
    play.desk.hear("x", [play.report("a/m"), play.report("b/m")])
    play.desk.probed("a", "it answered 500")
    play.loop.now_s += 5.0
    if trial:
        play.desk.hear("y", [play.report("a/m", State.HALF_OPEN, changed_s=opened)])
    play.loop.turn()
    play.crew.heard()

    play.desk.probed("a", None)
    play.loop.turn()

    assert set(map(tuple, play.crew.heard().values())) == {(("a/m", State.CLOSED),)}
    assert (play.how("a/m"), play.how("b/m")) == (How.CLOSED, How.HALF_OPEN)


def test_what_still_rests_stays_open_whatever_probes_say(play: Play) -> None:
    play.desk.probed("a", "it answered 500")
    play.desk.hear("x", [play.report("a/m", rest_s=60.0)])
    play.loop.turn()

    play.desk.probed("a", None)
    play.loop.turn()

    assert play.how() is How.OPEN


def test_a_verdict_is_worked_out_a_few_times_a_second_however_many_ask(play: Play) -> None:
    first = play.desk.health()
    play.desk.hear("x", [play.report("a/m")])

    assert play.desk.health() is first
    play.loop.now_s += FRESH_S
    assert play.desk.health().status is Status.DEGRADED


def test_the_more_there_is_to_say_the_less_often_it_is_worked_out(play: Play) -> None:
    """Where thousands are out a verdict takes long, and the ledger must not wait for those."""
    count = 5_000
    play.desk.hear("x", [play.report(f"a/{at}", rest_s=60.0) for at in range(count)])
    first = play.desk.health()

    play.loop.now_s += count * FRESH_PER_REPORT_S - 0.01
    assert play.desk.health() is first
    play.loop.now_s += 0.02
    assert play.desk.health() is not first


def test_workers_that_do_not_serve_are_counted(play: Play) -> None:
    play.crew.serving = 0

    assert play.desk.health().can_serve is False


def test_changes_are_logged_and_nothing_else(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    opened = play.loop.now_s
    play.desk.hear("x", [play.report("a/m")])
    play.desk.hear("y", [play.report("a/m")])
    play.desk.hear("x", [play.report("a/m", State.HALF_OPEN, changed_s=opened)])
    play.loop.now_s += 9.0
    play.desk.hear("x", [play.report("a/m", State.CLOSED)])
    play.desk.hear("x", [play.report("a/m", State.CLOSED, throttled_s=2.0)])
    play.desk.probed("b", "no answer within 1 s")
    play.desk.probed("b", None)

    assert caplog.messages == [
        "deployment=a/m state=open rest_s=5.0 reason='it answered 500'",
        "deployment=a/m state=half-open",
        "deployment=a/m state=closed",
        "deployment=a/m state=resting rest_s=2.0",
        "upstream=b probes=failing reason='no answer within 1 s'",
        "upstream=b probes=succeeding",
    ]
