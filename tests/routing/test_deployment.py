import pytest

from llmrouter.routing.deployment import Deployment


@pytest.mark.parametrize(
    ("model", "sent"), [(None, "gpt-4o"), ("gpt-4o-2024-08-06", "gpt-4o-2024-08-06")]
)
def test_the_name_sent_upstream(model: str | None, sent: str) -> None:
    assert Deployment(upstream="main", model=model).model_for("gpt-4o") == sent


def test_a_deployment_cannot_be_changed() -> None:
    deployment = Deployment(upstream="main")

    with pytest.raises(AttributeError):
        deployment.weight = 2  # type: ignore[misc]  # the assignment is what is tested
    assert deployment.weight == 1
