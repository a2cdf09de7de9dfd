import pytest

from llmrouter.access.mapping import ModelMap
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.policy import ModelPolicy, ModelTerms
from llmrouter.access.principal import Principal

POLICY = ModelPolicy(
    orgs={"acme": ModelTerms(models=ModelPatterns(["gpt-*", "claude-*"]))},
    teams={("acme", "research"): ModelTerms(models=ModelPatterns(["*-mini", "claude-*"]))},
)


def principal(
    org: str, team: str | None, *models: str, model_map: dict[str, str] | None = None
) -> Principal:
    return Principal(
        org=org,
        team=team,
        user=None,
        key_id="0123456789AB",
        models=ModelPatterns(models),
        model_map=ModelMap(model_map),
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


MAPS = ModelPolicy(
    orgs={
        "acme": ModelTerms(
            model_map=ModelMap({"gpt-4": "of-org", "gpt-*": "of-org-s-pattern"}),
            require={"region": "eu"},
        ),
        "plain": ModelTerms(),
    },
    teams={
        ("acme", "research"): ModelTerms(
            model_map=ModelMap({"gpt-*": "of-team"}), require={"tier": "gold", "region": "us"}
        ),
        ("acme", "sales"): ModelTerms(),
        ("plain", "research"): ModelTerms(require={"tier": "gold"}),
    },
)


@pytest.mark.parametrize(
    ("who", "asked", "served"),
    [
        (principal("acme", None), "gpt-4", "of-org"),
        (principal("acme", None), "gpt-5", "of-org-s-pattern"),
        (principal("acme", None), "claude", "claude"),
        (principal("acme", "sales"), "gpt-4", "of-org"),
        (principal("acme", "unknown"), "gpt-4", "of-org"),
        (principal("acme", "research"), "gpt-4", "of-team"),
        (principal("acme", "research", model_map={"gpt-4": "of-key"}), "gpt-4", "of-key"),
        (principal("acme", "research", model_map={"gpt-4": "of-key"}), "gpt-5", "of-team"),
        (principal("acme", None, model_map={"x": "gpt-4"}), "x", "gpt-4"),
        (principal("plain", "research"), "gpt-4", "gpt-4"),
        (principal("other", None), "gpt-4", "gpt-4"),
    ],
)
def test_the_key_s_map_goes_before_the_team_s_and_that_before_the_org_s(
    who: Principal, asked: str, served: str
) -> None:
    """FR-002: and a name is mapped once, never along a chain."""
    assert MAPS.mapped(who, asked) == served


@pytest.mark.parametrize(
    ("who", "names"),
    [
        (principal("acme", "research", model_map={"x": "y", "y*": "z"}), {"gpt-4", "x"}),
        (principal("plain", None), set()),
    ],
)
def test_tells_the_names_that_are_mapped_as_they_stand(who: Principal, names: set[str]) -> None:
    assert MAPS.mapped_names(who) == names


@pytest.mark.parametrize(
    ("who", "tags"),
    [
        (principal("acme", None), {"region": "eu"}),
        (principal("acme", "sales"), {"region": "eu"}),
        (principal("acme", "unknown"), {"region": "eu"}),
        (principal("acme", "research"), {"region": "eu", "tier": "gold"}),
        (principal("plain", "research"), {"tier": "gold"}),
        (principal("plain", None), {}),
        (principal("other", "research"), {}),
    ],
)
def test_a_team_adds_to_what_its_org_requires_and_changes_none_of_it(
    who: Principal, tags: dict[str, str]
) -> None:
    """FR-002."""
    assert MAPS.required(who) == tags


@pytest.mark.parametrize(
    ("asked", "whose"),
    [("of-key", "key"), ("of-team", "team"), ("of-org", "org"), ("of-none", None)],
)
def test_says_whose_map_a_name_is_mapped_by(asked: str, whose: str | None) -> None:
    policy = ModelPolicy(
        orgs={
            "acme": ModelTerms(model_map=ModelMap({"of-*g": "m", "of-team": "m", "of-key": "m"}))
        },
        teams={("acme", "x"): ModelTerms(model_map=ModelMap({"of-team": "n", "of-key": "n"}))},
    )
    who = principal("acme", "x", model_map={"of-key": "o"})

    assert policy.mapped_by(who, asked) == whose
