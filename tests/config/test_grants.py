"""Grants: what orgs and teams may use."""

import pytest

from llmrouter.config.grants import grants
from llmrouter.config.schema import Deployment, Model, Org, Settings, Team

MODELS = {
    "gpt-4o": Model(deployments=(Deployment(upstream="demo"),), aliases=("best",)),
    "gpt-*": Model(deployments=(Deployment(upstream="demo"),)),
}
SETTINGS = Settings(
    models=MODELS,
    orgs={
        "acme": Org(
            models=("gpt-4o", "gpt-5*"),
            require={"region": "eu"},
            teams={"ops": Team(models=("best", "gpt-5"), require={"tier": "gold"})},
        ),
        "plain": Org(),
    },
)
ACME, OPS, PLAIN = grants(SETTINGS)


def test_each_org_has_one_and_then_its_teams() -> None:
    assert [(grant.key, grant.who) for grant in (ACME, OPS, PLAIN)] == [
        (("orgs", "acme"), "org acme"),
        (("orgs", "acme", "teams", "ops"), "team acme/ops"),
        (("orgs", "plain"), "org plain"),
    ]


def test_a_team_requires_what_its_org_does_too() -> None:
    assert ACME.require == {"region": "eu"}
    assert OPS.require == {"region": "eu", "tier": "gold"}
    assert PLAIN.require == {}


@pytest.mark.parametrize(
    ("name", "acme", "ops"),
    [
        ("gpt-4o", True, False),
        ("best", True, False),
        ("gpt-5", True, True),
        ("gpt-5-mini", True, False),
        ("gpt-3", False, False),
    ],
)
def test_every_list_must_allow_a_name_or_the_model_that_it_stands_for(
    name: str, acme: bool, ops: bool
) -> None:
    """`best` is in the team's list alone, and the model that it stands for in the org's alone."""
    assert (ACME.allows(name, MODELS), OPS.allows(name, MODELS)) == (acme, ops)
    assert PLAIN.allows(name, MODELS)
