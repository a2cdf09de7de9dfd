"""The verdict on a node, from tables of what workers and probes say."""

from typing import Any

import msgspec
import pytest

from llmrouter.daemon.health import (
    NAMED_MAX,
    REASON_CHARS_MAX,
    RESTED_SHOWN_S,
    DeploymentHealth,
    Down,
    Health,
    How,
    Plan,
    Seen,
    Status,
    upstream_of,
    verdict,
)
from llmrouter.routing.breaker import State
from llmrouter.routing.report import Report

NOW_S = 5_000.0
WALL_S = 1_700_000_000.0  # 2023-11-14T22:13:20Z
PLAN = Plan({"m": ("a/m", "b/m"), "n": ("a/n",), "p-*": ("b/p-*",)}, ("a", "b"))


def report(
    deployment: str,
    state: State = State.OPEN,
    *,
    rest_s: float = 0.0,
    throttled_s: float = 0.0,
    reason: str = "it failed",
    changed_s: float = NOW_S - 10,
) -> Report:
    return Report(
        deployment=deployment,
        state=state,
        rest_s=rest_s,
        reason=reason,
        changed_s=changed_s,
        throttled_s=throttled_s,
    )


def judge(
    *reports: Report,
    plan: Plan = PLAN,
    down: dict[str, Down] | None = None,
    serving: int = 2,
    workers: int = 2,
) -> Health:
    return verdict(
        plan,
        Seen(
            reports={each.deployment: each for each in reports},
            down=down or {},
            serving=serving,
            workers=workers,
            now_s=NOW_S,
            wall_s=WALL_S,
        ),
    )


def test_a_node_of_which_nothing_bad_is_known_is_healthy() -> None:
    health = judge()

    assert (health.status, health.reasons, health.can_serve) == (Status.HEALTHY, (), True)
    assert {model.status for model in health.models.values()} == {Status.HEALTHY}
    assert {upstream.status for upstream in health.upstreams.values()} == {Status.HEALTHY}
    assert list(health.models) == ["m", "n", "p-*"]
    assert list(health.models["m"].deployments) == ["a/m", "b/m"]


Said = dict[str, Any]
OPEN: Said = {"state": State.OPEN, "rest_s": 4.0}
RESTED: Said = {"state": State.OPEN, "rest_s": 0.0}
TRIAL: Said = {"state": State.HALF_OPEN}
RESTING: Said = {"state": State.CLOSED, "throttled_s": 30.0}
CLOSED: Said = {
    "state": "closed",
    "rest_s": 3.0,
}  # another worker proved it before its rest was over


@pytest.mark.parametrize(
    ("a", "b", "model", "node"),
    [
        (CLOSED, CLOSED, Status.HEALTHY, Status.HEALTHY),
        (OPEN, CLOSED, Status.DEGRADED, Status.DEGRADED),
        (RESTING, CLOSED, Status.DEGRADED, Status.DEGRADED),
        (TRIAL, CLOSED, Status.DEGRADED, Status.DEGRADED),
        (RESTED, CLOSED, Status.DEGRADED, Status.DEGRADED),
        (OPEN, OPEN, Status.UNHEALTHY, Status.UNHEALTHY),
        (OPEN, RESTING, Status.UNHEALTHY, Status.UNHEALTHY),
        (OPEN, TRIAL, Status.DEGRADED, Status.DEGRADED),
        (RESTED, RESTED, Status.DEGRADED, Status.DEGRADED),
    ],
)
def test_a_model_is_as_its_deployments_are(a: Said, b: Said, model: Status, node: Status) -> None:
    plan = Plan({"m": ("a/m", "b/m")}, ("a", "b"))

    health = judge(report("a/m", **a), report("b/m", **b), plan=plan)

    assert (health.models["m"].status, health.status) == (model, node)
    assert health.can_serve is (node is not Status.UNHEALTHY)


@pytest.mark.parametrize(
    ("said", "how", "since", "until"),
    [
        (OPEN, How.OPEN, "2023-11-14T22:13:10Z", "2023-11-14T22:13:24Z"),
        (OPEN | {"throttled_s": 9.0}, How.OPEN, "2023-11-14T22:13:10Z", "2023-11-14T22:13:29Z"),
        (RESTED, How.HALF_OPEN, "2023-11-14T22:13:10Z", None),
        (TRIAL, How.HALF_OPEN, "2023-11-14T22:13:10Z", None),
        (RESTING, How.RESTING, None, "2023-11-14T22:13:50Z"),
        (TRIAL | {"throttled_s": 9.0}, How.RESTING, None, "2023-11-14T22:13:29Z"),
    ],
)
def test_a_deployment_says_how_it_is_why_since_when_and_until_when(
    said: Said, how: How, since: str | None, until: str | None
) -> None:
    health = judge(report("a/n", **said))

    assert health.models["n"].deployments["a/n"] == DeploymentHealth(
        state=how, reason="it failed", since=since, until=until
    )


def test_a_closed_deployment_has_no_reason_left() -> None:
    health = judge(report("a/n", State.CLOSED, rest_s=3.0, reason="it failed before"))

    assert health.models["n"].deployments["a/n"] == DeploymentHealth(state=How.CLOSED)


def test_an_upstream_whose_probes_fail_takes_all_its_deployments_down() -> None:
    health = judge(
        report("a/m", **OPEN),
        down={"a": Down("it answered 500", NOW_S - 60)},
    )

    down = DeploymentHealth(state=How.DOWN, reason="it answered 500", since="2023-11-14T22:12:20Z")
    assert health.models["m"].deployments == {
        "a/m": down,
        "b/m": DeploymentHealth(state=How.CLOSED),
    }
    assert health.models["n"].deployments == {"a/n": down}
    assert {name: model.status for name, model in health.models.items()} == {
        "m": Status.DEGRADED,
        "n": Status.UNHEALTHY,
        "p-*": Status.HEALTHY,
    }
    upstream = health.upstreams["a"]
    assert upstream.status is Status.UNHEALTHY
    assert upstream.reason == "its probes fail: it answered 500"
    assert upstream.since == "2023-11-14T22:12:20Z"
    assert health.status is Status.DEGRADED
    assert health.reasons == ("unhealthy models: n", "degraded models: m")


def test_an_upstream_is_as_its_deployments_are_and_names_the_first_that_is_not_well() -> None:
    some = judge(report("a/n", **OPEN)).upstreams["a"]
    every = judge(report("a/n", **OPEN), report("a/m", **RESTING)).upstreams["a"]

    assert (some.status, some.reason) == (Status.DEGRADED, "a/n is open: it failed")
    assert (every.status, every.reason) == (Status.UNHEALTHY, "a/m is resting: it failed")


def test_an_upstream_that_no_model_uses_is_healthy() -> None:
    health = judge(plan=Plan({"m": ("a/m",)}, ("a", "spare")))

    assert health.upstreams["spare"].status is Status.HEALTHY


@pytest.mark.parametrize(
    ("serving", "status", "reasons"),
    [
        (2, Status.HEALTHY, ()),
        (1, Status.DEGRADED, ("workers that serve: 1 of 2",)),
        (0, Status.UNHEALTHY, ("workers that serve: 0 of 2",)),
    ],
)
def test_workers_that_do_not_serve_count_too(
    serving: int, status: Status, reasons: tuple[str, ...]
) -> None:
    health = judge(serving=serving)

    assert (health.status, health.reasons) == (status, reasons)
    assert health.can_serve is (serving > 0)


def test_a_node_without_models_serves_nobody() -> None:
    health = judge(plan=Plan({}, ("a",)))

    assert (health.status, health.can_serve) == (Status.UNHEALTHY, False)
    assert health.reasons == ("no model is defined",)


def test_reasons_are_short_however_many_models_are_out() -> None:
    count = NAMED_MAX + 3
    plan = Plan({f"m{number}": (f"a/m{number}",) for number in range(count)}, ("a",))

    health = judge(plan=plan, down={"a": Down("x" * 1_000, NOW_S)})

    assert health.reasons == ("unhealthy models: m0, m1, m2, m3, m4 and 3 more",)
    assert len(health.models["m0"].deployments["a/m0"].reason) == REASON_CHARS_MAX


def test_a_deployment_that_no_model_uses_is_not_judged() -> None:
    assert judge(report("a/old", **OPEN)).status is Status.HEALTHY


def test_as_json_it_says_no_more_than_it_must() -> None:
    said = msgspec.json.decode(msgspec.json.encode(judge(report("a/n", State.HALF_OPEN))))

    assert said == {
        "status": "degraded",
        "reasons": ["degraded models: n"],
        "can_serve": True,
        "workers": {"serving": 2, "of": 2},
        "upstreams": {
            "a": {
                "status": "degraded",
                "reason": "a/n is half-open: it failed",
                "since": "2023-11-14T22:13:10Z",
            },
            "b": {"status": "healthy"},
        },
        "models": {
            "m": {
                "status": "healthy",
                "deployments": {"a/m": {"state": "closed"}, "b/m": {"state": "closed"}},
            },
            "n": {
                "status": "degraded",
                "deployments": {
                    "a/n": {
                        "state": "half-open",
                        "reason": "it failed",
                        "since": "2023-11-14T22:13:10Z",
                    }
                },
            },
            "p-*": {"status": "healthy", "deployments": {"b/p-*": {"state": "closed"}}},
        },
    }


@pytest.mark.parametrize("name", ["a/m", "a/org/m", "a/"])
def test_the_upstream_of_a_deployment_is_what_stands_before_its_first_slash(name: str) -> None:
    assert upstream_of(name) == "a"


def test_a_name_under_a_pattern_degrades_it_and_stands_beside_it() -> None:
    found = judge(report("b/p-1", rest_s=3.0), report("b/other", rest_s=3.0))
    model = found.models["p-*"]
    assert (model.status, set(model.deployments)) == (Status.DEGRADED, {"b/p-*", "b/p-1"})
    assert found.upstreams["b"].status is Status.DEGRADED


@pytest.mark.parametrize(
    ("said", "is_shown"),
    [
        ({"state": State.OPEN, "changed_s": NOW_S - RESTED_SHOWN_S + 1}, True),
        ({"state": State.OPEN, "changed_s": NOW_S - RESTED_SHOWN_S}, False),
        ({"state": State.HALF_OPEN, "changed_s": NOW_S - RESTED_SHOWN_S}, False),
        ({"rest_s": 1.0, "changed_s": NOW_S - RESTED_SHOWN_S}, True),
        ({"throttled_s": 1.0, "changed_s": NOW_S - RESTED_SHOWN_S}, True),
    ],
)
def test_a_name_under_a_pattern_that_nobody_asks_for_any_more_is_forgotten(
    said: dict[str, Any], is_shown: bool
) -> None:
    """Callers choose them: one of theirs must not keep the node degraded for ever."""
    found = judge(report("b/p-1", **said))

    assert ("b/p-1" in found.models["p-*"].deployments) is is_shown
    assert (found.status is Status.DEGRADED) is is_shown
