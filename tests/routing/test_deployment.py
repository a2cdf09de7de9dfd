import pytest

from llmrouter.routing.breaker import BreakerTerms
from llmrouter.routing.condition import Condition
from llmrouter.routing.deployment import Deployment

CONDITION = Condition("main/gpt-4o", BreakerTerms(), now_s=0.0)


@pytest.mark.parametrize(
    ("model", "sent"), [(None, "gpt-4o"), ("gpt-4o-2024-08-06", "gpt-4o-2024-08-06")]
)
def test_the_name_sent_upstream(model: str | None, sent: str) -> None:
    deployment = Deployment(upstream="main", model=model, condition=CONDITION)

    assert deployment.model_for("gpt-4o") == sent


def test_a_deployment_cannot_be_changed() -> None:
    deployment = Deployment(upstream="main", condition=CONDITION)

    with pytest.raises(AttributeError):
        deployment.weight = 2  # type: ignore[misc]  # the assignment is what is tested
    assert deployment.weight == 1


def test_deployments_of_two_routes_share_the_condition_of_the_same_model() -> None:
    one = Deployment(upstream="main", weight=3, condition=CONDITION)
    other = Deployment(upstream="main", tags={"region": "eu"}, condition=CONDITION)

    one.condition.enter(1.0)

    assert other.condition.inflight == 1
    CONDITION.leave()
