"""Orgs of router.toml, as the gateway goes by them."""

import pytest

from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.principal import Principal
from llmrouter.config.schema import Org, Team
from llmrouter.daemon.policy import model_policy

POLICY = model_policy(
    {
        "acme": Org(
            models=("a", "b"),
            model_map={"old": "a"},
            require={"region": "eu"},
            teams={"ops": Team(models=("b",), model_map={"old": "b"}, require={"tier": "gold"})},
        ),
        "globex": Org(teams={"ops": Team()}),
    }
)
EU_GOLD = {"region": "eu", "tier": "gold"}


def principal(org: str, team: str | None) -> Principal:
    return Principal(org=org, team=team, user=None, key_id="k" * 12, models=ModelPatterns())


@pytest.mark.parametrize(
    ("org", "team", "allowed", "served", "required"),
    [
        ("acme", None, ["a", "b"], "a", {"region": "eu"}),
        ("acme", "ops", ["b"], "b", EU_GOLD),
        ("acme", "unheard of", ["a", "b"], "a", {"region": "eu"}),
        ("globex", "ops", ["a", "b", "c"], "old", {}),  # not that of the other org
        ("unheard of", None, ["a", "b", "c"], "old", {}),
    ],
)
def test_orgs_and_teams_are_held_to_their_tables(
    org: str, team: str | None, allowed: list[str], served: str, required: dict[str, str]
) -> None:
    """FR-002."""
    who = principal(org, team)

    assert [model for model in "abc" if POLICY.allows(who, model)] == allowed
    assert POLICY.mapped(who, "old") == served
    assert POLICY.required(who) == required
