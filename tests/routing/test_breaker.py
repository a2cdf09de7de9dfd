from collections.abc import Callable
from itertools import permutations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmrouter.routing.breaker import Breaker, BreakerTerms, State

TERMS = BreakerTerms(failures=3, error_rate=0.5, window_s=30.0, rest_s=5.0, rest_max_s=20.0)
PATIENT = BreakerTerms(failures=1000, error_rate=0.5, window_s=30.0)


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker(TERMS)
    for _ in range(3):
        breaker.failed(at_s, breaker.enter(at_s))
    assert breaker.state is State.OPEN
    return breaker


def half_open(at_s: float = 5.0) -> tuple[Breaker, int]:
    breaker = opened(at_s - 5.0)
    return breaker, breaker.enter(at_s)


def prove(breaker: Breaker, now_s: float) -> None:
    while breaker.state is not State.CLOSED:
        breaker.succeeded(now_s, breaker.enter(now_s))


def test_opens_at_the_configured_number_of_failures_in_a_row() -> None:
    breaker, states = Breaker(TERMS), list[str]()
    for verdict in ["no", "no", "ok", "no", "no", "no"]:
        told = breaker.succeeded if verdict == "ok" else breaker.failed
        told(0.0, breaker.enter(0.0))
        states.append(breaker.state.value)

    assert states == ["closed"] * 5 + ["open"]


@pytest.mark.parametrize(
    ("went", "state"),
    [
        ("ok no " * 10, State.OPEN),  # ten of twenty
        ("ok no " * 9, State.CLOSED),  # too few to say
        ("ok ok no " * 40, State.CLOSED),
        ("ok " * 20 + "no ok " * 20, State.CLOSED),  # twenty of sixty
        ("no " * 9 + "ok " * 11 + "no " * 2, State.OPEN),  # eleven of twenty-two
        ("no " * 10 + "ok " * 10, State.CLOSED),  # what succeeds opens nothing
    ],
)
def test_opens_at_an_error_rate_over_twenty_attempts(went: str, state: State) -> None:
    breaker = Breaker(PATIENT)
    for verdict in went.split():
        told = breaker.succeeded if verdict == "ok" else breaker.failed
        told(1.0, breaker.enter(1.0))

    assert breaker.state is state


def test_failures_of_an_earlier_window_do_not_count() -> None:
    breaker = Breaker(PATIENT)
    for now_s in range(0, 1000, 40):
        breaker.failed(float(now_s), breaker.enter(float(now_s)))
    assert breaker.state is State.CLOSED


def test_lets_nothing_pass_until_it_has_rested() -> None:
    breaker = opened(at_s=100.0)
    assert not breaker.allows(100.0)
    assert not breaker.allows(104.99)
    assert breaker.allows(105.0)
    assert breaker.state is State.OPEN  # asking changes nothing


def test_probes_one_then_two_then_four_at_a_time_and_closes_when_all_succeeded() -> None:
    breaker, first = half_open()
    running, most = [first], [1]
    for _ in range(7):
        while breaker.state is State.HALF_OPEN and breaker.allows(6.0):
            running.append(breaker.enter(6.0))
        most.append(len(running))
        breaker.succeeded(6.0, running.pop())

    assert most == [1, 1, 2, 2, 4, 4, 4, 4]
    assert breaker.state is State.CLOSED
    assert breaker.allows(6.0)


def test_one_failed_probe_opens_it_for_twice_as_long_up_to_the_most() -> None:
    breaker, now_s, rests = opened(), 0.0, list[float]()
    for _ in range(4):
        rests.append(breaker.rests_until_s - now_s)
        now_s = breaker.rests_until_s
        breaker.failed(now_s, breaker.enter(now_s))
    assert rests == [5.0, 10.0, 20.0, 20.0]

    now_s = breaker.rests_until_s
    prove(breaker, now_s)
    for _ in range(3):
        breaker.failed(now_s, breaker.enter(now_s))
    assert breaker.rests_until_s - now_s == 5.0  # back to the first


def test_counts_anew_once_closed() -> None:
    breaker, spell = half_open()
    breaker.succeeded(5.0, spell)
    prove(breaker, 5.0)
    for _ in range(2):
        breaker.failed(5.0, breaker.enter(5.0))
    assert breaker.state is State.CLOSED


def test_what_failed_before_it_closed_is_forgotten() -> None:
    breaker = Breaker(PATIENT)
    for _ in range(20):
        breaker.failed(1.0, breaker.enter(1.0))
    prove(breaker, 6.0)
    breaker.failed(6.0, breaker.enter(6.0))
    assert breaker.state is State.CLOSED


def test_a_probe_whose_caller_left_makes_room_for_another() -> None:
    breaker, spell = half_open()
    assert not breaker.allows(5.0)
    breaker.left(spell)
    assert breaker.allows(5.0)


@pytest.mark.parametrize("verdict", ["succeeded", "failed", "left"])
def test_an_attempt_from_before_the_opening_that_ends_late_changes_nothing(verdict: str) -> None:
    breaker = Breaker(TERMS)
    old = [breaker.enter(0.0) for _ in range(20)]
    for _ in range(3):
        breaker.failed(1.0, breaker.enter(1.0))

    def end_late(now_s: float) -> None:
        for _ in range(5):
            if verdict == "left":
                breaker.left(old.pop())
            else:
                getattr(breaker, verdict)(now_s, old.pop())

    end_late(2.0)
    assert (breaker.state, breaker.rests_until_s) == (State.OPEN, 6.0)
    breaker.enter(6.0)
    end_late(6.5)
    assert (breaker.state, breaker.probes, breaker.allows(6.5)) == (State.HALF_OPEN, 1, False)


def test_an_attempt_that_was_not_allowed_proves_nothing() -> None:
    breaker, _ = half_open()
    forced = breaker.enter(5.0)
    breaker.failed(5.0, forced)
    breaker.succeeded(5.0, forced)
    breaker.left(forced)
    assert (breaker.state, breaker.probes) == (State.HALF_OPEN, 1)


def adopt(breaker: Breaker, other: Breaker, now_s: float) -> bool:
    rest_s = max(other.rests_until_s - now_s, 0.0)
    return breaker.adopt(other.state, other.changed_s, rest_s, now_s)


def test_opens_with_another_worker_s_for_what_is_left_of_its_rest() -> None:
    breaker = Breaker(TERMS)
    assert adopt(breaker, opened(10.0), 10.25)
    assert (breaker.state, breaker.rests_until_s) == (State.OPEN, 15.0)
    assert not adopt(breaker, opened(10.0), 10.5)  # said again


def test_hears_of_half_open_and_probes_for_itself() -> None:
    breaker = Breaker(TERMS)
    other, _ = half_open(15.0)
    adopt(breaker, opened(10.0), 10.0)
    adopt(breaker, other, 15.0)
    assert (breaker.state, breaker.probes) == (State.HALF_OPEN, 0)
    assert breaker.allows(15.0)


def test_closes_with_another_worker_s_whose_probes_succeeded() -> None:
    breaker, other = opened(10.0), opened(10.0)
    prove(other, 15.0)
    adopt(breaker, other, 15.1)
    assert breaker.state is State.CLOSED


def test_stays_open_for_a_reason_of_its_own_that_came_later() -> None:
    other = opened(10.0)
    prove(other, 15.0)
    breaker = opened(15.05)
    adopt(breaker, other, 15.1)
    assert breaker.state is State.OPEN
    adopt(other, breaker, 15.1)
    assert other.state is State.OPEN


def test_a_failing_probe_of_another_worker_ends_its_own_trial() -> None:
    breaker, spell = half_open(5.0)
    other, first = half_open(5.0)
    other.failed(5.5, first)
    adopt(breaker, other, 5.6)
    assert (breaker.state, breaker.rests_until_s) == (State.OPEN, 15.5)

    breaker.succeeded(5.7, spell)
    assert breaker.state is State.OPEN
    breaker.failed(15.5, breaker.enter(15.5))
    assert breaker.rests_until_s == pytest.approx(35.5, abs=0.3)  # doubled with the other's


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_workers_agree_in_whatever_order_they_hear(order: tuple[int, ...]) -> None:
    closed_again = opened(10.0)
    prove(closed_again, 16.0)
    open_again = opened(20.0)
    prove_again = opened(20.0)
    prove_again.adopt(State.CLOSED, 26.0, 0.0, 26.0)
    said = [opened(10.0), closed_again, open_again, prove_again]
    breaker = Breaker(TERMS)
    for which in order:
        adopt(breaker, said[which], 26.1)

    assert (breaker.state, breaker.changed_s) == (State.CLOSED, 26.0)


def test_of_an_opening_and_a_closing_at_once_the_opening_holds() -> None:
    one, other = Breaker(TERMS), Breaker(TERMS)
    one.adopt(State.CLOSED, 7.0, 0.0, 7.0)
    other.adopt(State.OPEN, 7.0, 5.0, 7.0)
    adopt(one, other, 7.0)
    adopt(other, one, 7.0)
    assert one.state is other.state is State.OPEN


class Said(msgspec.Struct, frozen=True):
    state: State
    changed_s: float
    rest_s: float


class Workers(RuleBasedStateMachine):
    """Attempts at three workers' breakers, which tell each other late and in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1.0
        self.breakers = [Breaker(TERMS) for _ in range(3)]
        self.running: list[list[int]] = [[], [], []]
        self.untold: list[tuple[int, Said]] = []

    def tell(self, which: int, change: Callable[[], object]) -> None:
        """Let something happen to a breaker; a change of state is on its way to the others."""
        breaker = self.breakers[which]
        was = breaker.state
        change()
        if breaker.state is not was:
            rest_s = max(breaker.rests_until_s - self.now_s, 0.0)
            said = Said(breaker.state, breaker.changed_s, rest_s)
            self.untold += [(other, said) for other in range(3) if other != which]

    @rule(which=st.integers(0, 2))
    def begin(self, which: int) -> None:
        breaker = self.breakers[which]
        if breaker.allows(self.now_s):
            self.tell(which, lambda: self.running[which].append(breaker.enter(self.now_s)))

    @rule(which=st.integers(0, 2), verdict=st.sampled_from("snl"), oldest=st.booleans())
    def end(self, which: int, verdict: str, oldest: bool) -> None:
        if not self.running[which]:
            return
        breaker, spell = self.breakers[which], self.running[which].pop(0 if oldest else -1)
        if verdict == "s":
            self.tell(which, lambda: breaker.succeeded(self.now_s, spell))
        elif verdict == "n":
            self.tell(which, lambda: breaker.failed(self.now_s, spell))
        else:
            self.tell(which, lambda: breaker.left(spell))

    @rule(which=st.integers(0, 2))
    def fail_until_open(self, which: int) -> None:
        for _ in range(3):
            self.begin(which)
            self.end(which, "n", oldest=False)

    @precondition(lambda self: self.untold)
    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.untold) - 1))
        which, said = self.untold.pop(at)
        self.breakers[which].adopt(said.state, said.changed_s, said.rest_s, self.now_s)

    @rule(seconds=st.sampled_from([0.001, 0.3, 2.0, 6.0, 25.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def no_more_probes_run_than_a_slow_start_allows(self) -> None:
        for breaker, running in zip(self.breakers, self.running, strict=True):
            if breaker.state is State.HALF_OPEN:
                probes = running.count(breaker.spell)
                assert breaker.probes == probes <= breaker.probes_max <= 4

    @invariant()
    def no_place_is_lost(self) -> None:
        for breaker, running in zip(self.breakers, self.running, strict=True):
            if breaker.state is State.HALF_OPEN and breaker.spell not in running:
                assert breaker.allows(self.now_s)
            if breaker.state is State.OPEN:
                assert breaker.rests_until_s - self.now_s <= TERMS.rest_max_s + 1e-6

    def teardown(self) -> None:
        for which, said in self.untold:
            self.breakers[which].adopt(said.state, said.changed_s, said.rest_s, self.now_s)
        assert len({breaker.changed_s for breaker in self.breakers}) == 1
        assert len({breaker.state is State.CLOSED for breaker in self.breakers}) == 1


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=150, stateful_step_count=50)


@given(st.lists(st.booleans(), max_size=60))
def test_a_closed_breaker_lets_everything_pass(went: list[bool]) -> None:
    breaker = Breaker(TERMS)
    for succeeds in went:
        if breaker.state is State.CLOSED:
            assert breaker.allows(0.0)
            (breaker.succeeded if succeeds else breaker.failed)(0.0, breaker.enter(0.0))


def test_repr_shows_the_state() -> None:
    breaker, _ = half_open()
    assert repr(breaker) == "<Breaker half-open in_a_row=3 probes=1>"


def test_an_error_rate_of_one_leaves_it_to_failures_in_a_row() -> None:
    breaker = Breaker(BreakerTerms(failures=1000, error_rate=1.0, window_s=30.0))
    states = []
    for _ in range(1000):
        breaker.failed(1.0, breaker.enter(1.0))
        states.append(breaker.state)
    assert states == [State.CLOSED] * 999 + [State.OPEN]
