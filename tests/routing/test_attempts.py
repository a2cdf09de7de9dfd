"""What a call tries next: tables of what happened so far and what follows."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.routing.attempts import REST_WAITED_MAX_S, Attempts, Next
from llmrouter.routing.breaker import State
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import NO_FACTS
from llmrouter.routing.failure import RULES, FailureKind, FallbackOn
from llmrouter.routing.repeats import FLOOR
from llmrouter.routing.routes import Policy, Route
from llmrouter.routing.strategy import STRATEGIES, Strategy, StrategyTerms
from tests.support.fleet import fleet

K = FailureKind
PLENTY = Policy(attempts_max=10, repeats_share=1.0)


def ordered(deployments: Sequence[Deployment]) -> Strategy:
    terms = StrategyTerms(cost=lambda *_: None, random=lambda: 0.0)
    return STRATEGIES["ordered"](deployments, terms)


def a_route(name: str = "m", count: int = 2, policy: Policy = PLENTY) -> Route:
    return Route(name, fleet(*[1] * count), ordered, policy=policy)


def attempts_at(route: Route, *, random: float = 0.5, ends_at_s: float = 60.0) -> Attempts:
    route.repeats.first()
    return Attempts(route, NO_FACTS, lambda: random, ends_at_s=ends_at_s)


def chosen(found: Next | None) -> str | None:
    return None if found is None else found.deployment.upstream


@pytest.mark.parametrize("kind", K)
@pytest.mark.parametrize("count", [1, 2])
def test_each_kind_leads_where_its_rule_says(kind: FailureKind, count: int) -> None:
    route = a_route(count=count)
    found = attempts_at(route).next_after(kind, route.deployments[0], 0.0)

    rule = RULES[kind]
    if count == 2 and rule.other:
        assert found == Next(route.deployments[1], 0.0)
    elif rule.same and rule.other:
        assert found == Next(route.deployments[0], 0.05)
    else:
        assert found is None


def test_every_deployment_is_tried_before_one_is_tried_again() -> None:
    route = a_route(count=3)
    attempts = attempts_at(route)
    a, b, c = route.deployments
    tried = [(a, K.LOST), (b, K.BROKEN), (c, K.UNREACHABLE), (a, K.BROKEN)]
    found = [attempts.next_after(kind, at, 0.0) for at, kind in tried]
    assert [chosen(one) for one in found] == ["b", "c", "a", "a"]
    assert [one.pause_s for one in found if one] == [0.0, 0.0, 0.2, 0.4]


def test_what_is_barred_is_not_tried_again() -> None:
    route = a_route(count=3)
    attempts = attempts_at(route)
    a, b, c = route.deployments
    assert chosen(attempts.next_after(K.DISOWNED, a, 0.0)) == "b"
    assert chosen(attempts.next_after(K.SILENT, b, 0.0)) == "c"
    assert chosen(attempts.next_after(K.BROKEN, c, 0.0)) == "c"
    assert attempts.next_after(K.ABSENT, c, 0.0) is None


@pytest.mark.parametrize("most", range(1, 6))
def test_attempts_are_counted_over_models(most: int) -> None:
    policy = Policy(attempts_max=most, repeats_share=1.0, fallbacks=("n",))
    route, other = a_route(policy=policy), a_route("n", 4)
    attempts = attempts_at(route)
    made, deployment = 1, route.deployments[0]
    while (found := attempts.next_after(K.BROKEN, deployment, 0.0)) is not None:
        made, deployment = made + 1, found.deployment
    if attempts.may_fall_back(K.BROKEN, 0.0):
        attempts.move_to(other, NO_FACTS)
        made, deployment = made + 1, other.deployments[0]
        while (found := attempts.next_after(K.BROKEN, deployment, 0.0)) is not None:
            made, deployment = made + 1, found.deployment
    assert made == attempts.count == most
    assert not attempts.may_go_on()
    assert not attempts.may_fall_back(K.BROKEN, 0.0)


def test_the_last_attempt_is_left_to_another_model() -> None:
    policy = Policy(attempts_max=3, repeats_share=1.0, fallbacks=("n",))
    route = a_route(count=1, policy=policy)
    attempts, (only,) = attempts_at(route), route.deployments
    assert chosen(attempts.next_after(K.BROKEN, only, 0.0)) == "a"
    assert attempts.next_after(K.BROKEN, only, 0.0) is None
    assert attempts.may_fall_back(K.BROKEN, 0.0)


def test_no_attempt_is_left_to_models_that_do_not_serve_after_such_a_failure() -> None:
    policy = Policy(
        attempts_max=2,
        repeats_share=1.0,
        fallbacks=("n",),
        fallback_on=frozenset({FallbackOn.CONTEXT_LENGTH}),
    )
    route = a_route(count=1, policy=policy)
    attempts = attempts_at(route)
    assert chosen(attempts.next_after(K.BROKEN, route.deployments[0], 0.0)) == "a"


def test_a_full_deployment_is_no_attempt_and_no_repeat() -> None:
    route = a_route(count=3, policy=Policy(attempts_max=1, repeats_share=0.0))
    attempts = attempts_at(route)
    a, b, c = route.deployments
    assert chosen(attempts.next_after(K.SATURATED, a, 0.0)) == "b"
    assert chosen(attempts.next_after(K.SATURATED, b, 0.0)) == "c"
    assert attempts.next_after(K.SATURATED, c, 0.0) is None
    assert (attempts.count, attempts.may_go_on()) == (0, True)


def test_one_that_was_full_is_looked_at_anew_whenever_another_has_failed() -> None:
    """Before that is tried again; the look alone is no attempt, and the two of them one repeat."""
    route = a_route(count=2, policy=Policy(attempts_max=3, repeats_share=1.0))
    attempts = attempts_at(route)
    a, b = route.deployments
    assert attempts.next_after(K.SATURATED, a, 0.0) == Next(b, 0.0)
    left = route.repeats.left
    assert attempts.next_after(K.UNREACHABLE, b, 0.0) == Next(a, 0.0)
    assert attempts.next_after(K.SATURATED, a, 0.0) == Next(b, 0.05)
    assert (attempts.count, route.repeats.left) == (1, left - 1)
    assert attempts.next_after(K.UNREACHABLE, b, 0.1) == Next(a, 0.0)
    assert attempts.next_after(K.LOST, a, 0.1) is None
    assert attempts.count == 3


def test_before_the_last_attempt_a_place_at_a_full_one_is_waited_for() -> None:
    route = a_route(count=2, policy=Policy(attempts_max=2, repeats_share=1.0))
    attempts = attempts_at(route)
    a, b = route.deployments
    assert attempts.next_after(K.SATURATED, a, 0.0) == Next(b, 0.0)
    assert attempts.next_after(K.BROKEN, b, 0.0) == Next(a, 0.0)
    assert attempts.next_after(K.SATURATED, a, 0.0) is None
    assert attempts.may_go_on()
    assert attempts.wait_s(K.SATURATED, 20.0) == (60.0 - 20.0) / 2, "b may work again by then"
    attempts.waited_in_vain(a)
    assert attempts.wait_s(K.SATURATED, 22.0) == 0.0
    assert attempts.next_after(K.SATURATED, a, 22.0) == Next(b, 0.05)
    assert attempts.next_after(K.BROKEN, b, 22.1) is None


def test_where_nothing_has_failed_a_place_is_waited_for_as_long_as_there_is_time() -> None:
    attempts = attempts_at(a_route(count=1))
    waits = [attempts.wait_s(K.SATURATED, now_s) for now_s in (0.0, 50.0, 60.0, 70.0)]
    assert waits == [60.0, 10.0, 0.0, 0.0]
    assert attempts.wait_s(K.BROKEN, 0.0) == 0.0


def test_at_the_last_model_a_place_is_waited_for_again() -> None:
    policy = Policy(attempts_max=3, fallbacks=("n",))
    attempts = attempts_at(a_route(count=1, policy=policy))
    assert attempts.wait_s(K.SATURATED, 0.0) == 0.0
    attempts.move_to(a_route(name="n", count=1), NO_FACTS)
    assert attempts.wait_s(K.SATURATED, 0.0) > 0.0


def test_after_a_wait_in_vain_others_that_were_full_are_looked_at_anew() -> None:
    route = a_route(count=3, policy=Policy(attempts_max=2, repeats_share=1.0))
    attempts = attempts_at(route)
    a, b, c = route.deployments
    tried = [(a, K.BROKEN), (b, K.SATURATED), (c, K.SATURATED)]
    found = [attempts.next_after(kind, at, 0.0) for at, kind in tried]
    assert found == [Next(b, 0.0), Next(c, 0.0), None]
    attempts.waited_in_vain(c)
    assert attempts.next_after(K.SATURATED, c, 2.0) == Next(b, 0.0)
    assert attempts.next_after(K.SATURATED, b, 2.0) == Next(a, 0.05)
    assert attempts.next_after(K.BROKEN, a, 2.1) is None


def test_no_place_is_waited_for_where_another_model_stands_ready() -> None:
    policy = Policy(
        attempts_max=2,
        repeats_share=1.0,
        fallbacks=("n",),
        fallback_on=frozenset({FallbackOn.CONTEXT_LENGTH}),
    )
    attempts = attempts_at(route := a_route(count=2, policy=policy))
    a, b = route.deployments
    assert attempts.next_after(K.SATURATED, a, 0.0) == Next(b, 0.0)
    assert attempts.next_after(K.BROKEN, b, 0.0) == Next(a, 0.0)
    assert attempts.next_after(K.SATURATED, a, 0.0) == Next(b, 0.05)


def test_one_that_was_full_is_tried_last_where_the_other_is_barred() -> None:
    route = a_route(count=2)
    attempts = attempts_at(route)
    a, b = route.deployments
    assert attempts.next_after(K.SATURATED, a, 0.0) == Next(b, 0.0)
    assert attempts.next_after(K.SILENT, b, 0.0) == Next(a, 0.0)
    assert attempts.next_after(K.SATURATED, a, 0.0) is None


def test_all_that_were_full_are_looked_at_anew() -> None:
    route = a_route(count=3)
    attempts = attempts_at(route)
    a, b, c = route.deployments
    tried = [(a, K.SATURATED), (b, K.SATURATED), (c, K.BROKEN), (a, K.SATURATED), (b, K.BROKEN)]
    found = [chosen(attempts.next_after(kind, at, 0.0)) for at, kind in tried]
    assert found == ["b", "c", "a", "b", "a"]


def test_repeats_are_those_of_the_model_that_was_asked_for() -> None:
    route, other = a_route(policy=Policy(attempts_max=100)), a_route("n")
    attempts = attempts_at(route)
    attempts.move_to(other, NO_FACTS)
    before = other.repeats.left
    made = 0
    while attempts.next_after(K.BROKEN, other.deployments[0], 0.0) is not None:
        made += 1
    assert (made, other.repeats.left) == (FLOOR, before)


@pytest.mark.parametrize(
    ("left_s", "random", "goes_on"),
    [(0.0, 0.0, False), (-1.0, 0.0, False), (0.04, 0.5, False), (0.06, 0.5, True)],
)
def test_what_would_come_too_late_is_not_tried(left_s: float, random: float, goes_on: bool) -> None:
    route = a_route(count=1)
    attempts = attempts_at(route, random=random, ends_at_s=100.0)
    now_s = 100.0 - left_s
    found = attempts.next_after(K.BROKEN, route.deployments[0], now_s)
    assert (found is not None) == goes_on
    assert attempts.left_s(now_s) == pytest.approx(left_s)
    assert attempts.may_fall_back(K.BROKEN, now_s) == (left_s > 0)


@pytest.mark.parametrize(
    ("rest_s", "pause_s"),
    [(0.01, 0.05), (1.0, 1.0), (REST_WAITED_MAX_S, REST_WAITED_MAX_S), (5.1, None), (3600, None)],
)
def test_one_that_rests_is_waited_for_if_that_is_soon(rest_s: float, pause_s: float | None) -> None:
    route = a_route(count=1)
    (only,) = route.deployments
    only.condition.rest_until(rest_s, "429", 0.0)
    found = attempts_at(route).next_after(K.THROTTLED, only, 0.0)
    assert (found and found.pause_s) == pause_s


def test_of_several_that_rest_the_first_to_be_free_is_waited_for() -> None:
    route = a_route(count=3)
    attempts = attempts_at(route)
    a, b, c = route.deployments
    found = []
    for one, rest_s in ((a, 3.0), (b, 2.0), (c, 4.0)):
        one.condition.rest_until(rest_s, "429", 0.0)
        found.append(attempts.next_after(K.THROTTLED, one, 0.0))
    assert found[-1] == Next(b, 2.0)


def test_one_that_rests_is_not_waited_for_where_its_breaker_stays_open() -> None:
    route = a_route(count=1)
    (only,) = route.deployments
    condition = only.condition
    while condition.breaker.state is State.CLOSED:
        condition.failed("down", 0.0, condition.breaker.spell)
    condition.rest_until(1.0, "503", 0.0)
    assert attempts_at(route).next_after(K.BROKEN, only, 0.0) is None


def test_one_that_is_out_is_not_chosen() -> None:
    route = a_route(count=3)
    a, b, _ = route.deployments
    b.condition.rest_until(60.0, "429", 0.0)
    assert chosen(attempts_at(route).next_after(K.LOST, a, 0.0)) == "c"


# ---- two at once -------------------------------------------------------------------------------


def test_a_second_attempt_is_at_another_deployment_and_counts() -> None:
    route = a_route(policy=Policy(attempts_max=2, repeats_share=1.0))
    attempts = attempts_at(route)
    left = route.repeats.left
    a, b = route.deployments
    assert attempts.beside(a, 0.0) is b
    assert (attempts.count, route.repeats.left) == (1, left - 1)
    assert attempts.next_after(K.BROKEN, b, 0.0) is None


def test_a_second_attempt_that_was_not_made_costs_nothing() -> None:
    route = a_route(policy=Policy(attempts_max=2, repeats_share=1.0))
    attempts = attempts_at(route)
    left = route.repeats.left
    a, b = route.deployments
    assert attempts.beside(a, 0.0) is b
    attempts.withdraw(a)
    assert (attempts.count, route.repeats.left) == (0, left)
    assert chosen(attempts.next_after(K.BROKEN, a, 0.0)) == "b"


@pytest.mark.parametrize(
    "policy",
    [Policy(attempts_max=1, repeats_share=1.0), Policy(attempts_max=5, repeats_share=0.0)],
)
def test_there_is_no_second_attempt_where_none_is_left(policy: Policy) -> None:
    route = a_route(policy=policy)
    assert attempts_at(route).beside(route.deployments[0], 0.0) is None


def test_there_is_no_second_attempt_at_the_same_deployment() -> None:
    route = a_route(count=1)
    assert attempts_at(route).beside(route.deployments[0], 0.0) is None


@pytest.mark.parametrize("first_fails_last", [False, True])
def test_where_both_fail_neither_is_taken_for_one_that_was_not_tried(
    first_fails_last: bool,
) -> None:
    route = a_route(count=3)
    attempts = attempts_at(route)
    a, b, _ = route.deployments
    assert attempts.beside(a, 0.0) is b
    earlier, later = (b, a) if first_fails_last else (a, b)
    attempts.failed_as_well(K.DISOWNED, earlier)
    assert chosen(attempts.next_after(K.BROKEN, later, 0.0)) == "c"
    assert attempts.count == 2
    assert chosen(attempts.next_after(K.DISOWNED, route.deployments[2], 0.0)) == later.upstream


def test_a_second_attempt_that_had_no_place_is_none_and_follows_when_the_first_has_failed() -> None:
    route = a_route(count=2)
    attempts = attempts_at(route)
    a, b = route.deployments
    assert attempts.beside(a, 0.0) is b
    attempts.failed_as_well(K.SATURATED, b)
    assert attempts.next_after(K.BROKEN, a, 0.0) == Next(b, 0.0)
    assert attempts.count == 1


kinds = st.lists(st.sampled_from(list(K)), min_size=1, max_size=30)


@given(kinds, st.integers(1, 6), st.integers(1, 4), st.sampled_from([0.0, 0.1, 1.0]), st.booleans())
def test_whatever_fails_the_bounds_hold(
    happens: list[FailureKind], most: int, count: int, share: float, falls_back: bool
) -> None:
    fallbacks = ("n",) if falls_back else ()
    policy = Policy(attempts_max=most, repeats_share=share, fallbacks=fallbacks)
    route = a_route(count=count, policy=policy)
    attempts = attempts_at(route)
    sent, deployment = 0, route.deployments[0]
    for kind in happens:
        sent += kind is not K.SATURATED
        found = attempts.next_after(kind, deployment, 0.0)
        assert sent == attempts.count <= most
        if found is None:
            break
        deployment = found.deployment
        assert 0.0 <= found.pause_s < 60.0
    assert sent <= 1 + (FLOOR + share if share else 0)


def test_repr_shows_where_it_stands() -> None:
    route = a_route()
    attempts = attempts_at(route)
    attempts.next_after(K.BROKEN, route.deployments[0], 0.0)
    assert repr(attempts) == "<Attempts m count=1 at=m>"
