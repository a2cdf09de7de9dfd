"""`[models."NAME"]`: defaults, and what is refused of a value alone."""

from typing import Any

import msgspec
import pytest

from llmrouter.config.schema import Deployment, Model, ModelTimeouts, Retry, Shadow

AT = {"deployments": [{"upstream": "demo"}]}


def model(**members: Any) -> Model:
    return msgspec.convert({**AT, **members}, Model)


def test_a_model_is_served_by_weight_with_three_attempts_and_no_hedge() -> None:
    found = model()

    assert (found.strategy, found.sticky_by) == ("weighted", "conversation")
    assert (found.retry, found.hedge_after) == (Retry(attempts=3, budget=0.2), None)
    assert found.fallback_on == ("unavailable", "context_length")
    assert (found.shadow, found.context, found.timeouts) == (None, None, ModelTimeouts())
    assert found.deployments == (Deployment(upstream="demo", weight=1),)


@pytest.mark.parametrize(
    "strategy", ["weighted", "ordered", "least-inflight", "fastest", "cheapest", "sticky"]
)
def test_every_strategy_may_be_named(strategy: str) -> None:
    assert model(strategy=strategy).strategy == strategy


@pytest.mark.parametrize(("given", "hedge"), [("p95", "p95"), (2, 2.0), (0.25, 0.25)])
def test_a_hedge_is_so_many_seconds_late_or_learnt(given: object, hedge: object) -> None:
    assert model(hedge_after=given).hedge_after == hedge


def test_a_shadow_gets_a_copy_of_every_call_unless_it_is_said() -> None:
    assert model(shadow={"upstream": "new"}).shadow == Shadow(upstream="new", share=1)


@pytest.mark.parametrize(
    "members",
    [
        {"deployments": []},
        {"strategy": "random"},
        {"sticky_by": "ip"},
        {"hedge_after": "p99"},
        {"hedge_after": 0},
        {"hedge_after": True},
        {"fallback_on": ["timeout"]},
        {"fallback_on": "unavailable"},
        {"context": 0},
        {"timeouts": {"idle": 0}},
        {"timeouts": {"asked_max": 5}},
        {"shadow": {}},
        {"shadow": {"upstream": "new", "share": 1.5}},
        {"retry": {"attempts": 11}},
        {"deployments": [{"upstream": "demo", "price": {"input": 1}}]},
        {"deployments": [{"upstream": "demo", "tags": ["eu"]}]},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        model(**members)
