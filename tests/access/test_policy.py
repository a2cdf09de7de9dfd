import pytest

from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.policy import ModelPolicy
from llmrouter.access.principal import Principal
from llmrouter.errors import ModelNotAllowed

POLICY = ModelPolicy(
    orgs={"acme": ModelPatterns(["gpt-*", "claude-*"])},
    teams={("acme", "research"): ModelPatterns(["*-mini", "claude-*"])},
)


def principal(org: str, team: str | None, *models: str) -> Principal:
    return Principal(
        org=org, team=team, user=None, key_id="0123456789AB", models=ModelPatterns(models)
    )


@pytest.mark.parametrize(
    ("who", "model", "allowed"),
    [
        (principal("acme", None), "gpt-4o", True),
        (principal("acme", None), "gemini-2.5-pro", False),
        (principal("acme", None, "gpt-4o"), "gpt-4o", True),
        (principal("acme", None, "gpt-4o"), "gpt-5", False),
        (principal("acme", None, "*"), "gemini-2.5-pro", False),
        (principal("acme", "research"), "gpt-4o", False),
        (principal("acme", "research"), "gpt-4o-mini", True),
        (principal("acme", "research"), "gemini-mini", False),
        (principal("acme", "research", "claude-*"), "gpt-4o-mini", False),
        (principal("acme", "research", "claude-*"), "claude-sonnet-4", True),
        (principal("acme", "sales"), "gpt-4o", True),
        (principal("other", "research"), "gemini-2.5-pro", True),
    ],
)
def test_org_team_and_key_must_all_allow(who: Principal, model: str, allowed: bool) -> None:
    """FR-002."""
    assert POLICY.allows(who, model) is allowed


def test_check_passes_what_is_allowed() -> None:
    POLICY.check(principal("acme", None), "gpt-4o")


def test_a_refusal_names_the_model_and_the_way_on() -> None:
    """FR-007."""
    with pytest.raises(ModelNotAllowed) as caught:
        POLICY.check(principal("acme", None), "gemini-2.5-pro")

    assert caught.value.message == (
        "this key may not call the model 'gemini-2.5-pro'; GET /v1/models lists those that it may"
    )
    assert caught.value.param == "model"


def test_a_refusal_does_not_grow_with_the_name_that_the_caller_chose() -> None:
    with pytest.raises(ModelNotAllowed) as caught:
        POLICY.check(principal("acme", None), "x" * 1_000_000)

    assert len(caught.value.message) < 250
