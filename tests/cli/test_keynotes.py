"""Notes on keys, as router.toml stands."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from llmrouter.access.ruletext import parse_budget, parse_limit
from llmrouter.cli.keynotes import map_notes, org_notes, rule_notes
from llmrouter.config.schema import Config, Deployment, Model, Org, Team

AT = (Deployment(upstream="demo"),)
CONFIG = Config(
    file=Path("router.toml"),
    models={"gpt-*": Model(deployments=AT), "demo": Model(deployments=AT, aliases=("house",))},
    orgs={"acme": Org(models=("demo", "gpt-*"), teams={"ops": Team(models=("gpt-*",))})},
)


@pytest.mark.parametrize(
    ("org", "team", "notes"),
    [
        ("acme", None, []),
        ("acme", "ops", []),
        ("acme", "x", ["router.toml has no [orgs.acme.teams.x]: only what the org has applies"]),
        ("x", "ops", ["router.toml has no [orgs.x], so no limits or budgets of it apply"]),
    ],
)
def test_notes_an_org_or_team_without_a_table(org: str, team: str | None, notes: list[str]) -> None:
    assert list(org_notes(CONFIG, org, team)) == notes


def test_notes_rules_about_models_that_are_not_there() -> None:
    rules = [
        parse_limit("concurrent=1,model=gpt-4"),
        parse_limit("concurrent=1,model=house"),
        parse_limit("concurrent=1,model=x"),
        parse_limit("concurrent=1,model=x*"),
        parse_budget("usd=1/day,at_limit=model:x"),
    ]

    assert list(rule_notes(CONFIG, rules)) == [
        "'house' is an alias, whose calls are counted as 'demo': concurrent/house counts nothing",
        "no model in router.toml serves 'x': concurrent/x counts nothing",
        "no model in router.toml is covered by 'x*': concurrent/x* counts nothing",
        "no model in router.toml serves 'x', the at_limit of usd/day",
    ]


@pytest.mark.parametrize(
    ("org", "team", "models", "served", "notes"),
    [
        ("acme", None, [], "demo", []),
        ("acme", None, [], "house", []),
        ("acme", None, ["demo"], "house", []),
        ("acme", None, ["house"], "house", []),
        ("acme", "ops", ["gpt-4"], "gpt-4", []),
        ("other", "ops", [], "demo", []),
        ("acme", None, [], "x", ["no model in router.toml serves 'x'"]),
        ("acme", "ops", [], "demo", ["team acme/ops may not use 'demo'"]),
        ("acme", "ops", ["x"], "house", ["this key may not use 'house'", "team acme/ops may not"]),
        ("acme", None, ["gpt-5"], "gpt-4", ["this key may not use 'gpt-4'"]),
    ],
)
def test_notes_a_map_that_leads_to_what_this_key_may_not_use(
    org: str, team: str | None, models: list[str], served: str, notes: list[str]
) -> None:
    found = list(map_notes(CONFIG, org, team, models, {"a": served, "b*": served}))

    assert len(found) == len(notes)
    assert all(said.startswith(note) for said, note in zip(found, notes, strict=True))
    assert all(said.endswith(", which names are mapped to") for said in found)


@pytest.mark.parametrize(
    ("team", "served", "notes"),
    [
        (None, "eu", []),
        (None, "demo", ["no deployment with region = \"eu\" serves 'demo'"]),
        ("gold", "eu", ['no deployment with region = "eu" and tier = "gold" serves \'eu\'']),
        ("other", "eu", []),
    ],
)
def test_notes_a_map_that_leads_to_what_has_not_the_required_tags(
    team: str | None, served: str, notes: list[str]
) -> None:
    at = (Deployment(upstream="demo", tags={"region": "eu"}),)
    org = Org(require={"region": "eu"}, teams={"gold": Team(require={"tier": "gold"})})
    config = replace(CONFIG, models={**CONFIG.models, "eu": Model(deployments=at)}, orgs={"a": org})

    found = list(map_notes(config, "a", team, [], {"x": served}))

    assert found == [f"{note}, which names are mapped to" for note in notes]
