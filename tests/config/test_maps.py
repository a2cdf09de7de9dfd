"""Maps of orgs and teams: what they lead to."""

import pytest

from llmrouter.access.mapping import ModelMap
from llmrouter.config.maps import map_findings, map_notes
from llmrouter.config.schema import Deployment, Model, Org, Settings, Team, Upstream

AT = (Deployment(upstream="us"),)
MODELS = {
    "large": Model(deployments=AT, aliases=("best",)),
    "small": Model(deployments=AT),
    "gpt-*": Model(deployments=AT),
}
UPSTREAMS = {"us": Upstream(url="https://us.example.com", tags={"region": "us"})}


def settings(**orgs: Org) -> Settings:
    return Settings(upstreams=UPSTREAMS, models=MODELS, orgs=orgs)


@pytest.mark.parametrize(
    ("model_map", "message"),
    [
        ({"old": "smal"}, "no model is called 'smal'; define it as"),
        ({"old": "gpt*"}, "'gpt*' is a pattern; name one model"),
        ({"large": "large"}, "'large' is mapped to itself; name another model, or take it out"),
        ({"best": "large"}, "'best' is mapped to itself; name another model, or take it out"),
        ({"large": "best"}, "'large' is mapped to itself; name another model, or take it out"),
        ({"a b": "small"}, "is not a model name; use letters"),
        ({"a**": "small"}, "has ** in it, which means the same as *; write one"),
    ],
)
def test_refuses_what_cannot_serve(model_map: dict[str, str], message: str) -> None:
    """FR-002: conflicts and missing mappings are refused at check time."""
    ((key, said),) = map_findings(settings(acme=Org(model_map=model_map)))

    assert key == ("orgs", "acme", "model_map", next(iter(model_map)))
    assert said.startswith(message)


@pytest.mark.parametrize(
    "model_map",
    [
        {"old": "small", "large": "small", "gpt-4*": "gpt-4o", "*": "best"},
        {"gpt-4": "gpt-5"},
        {"best": "small"},
        {},
    ],
)
def test_takes_what_leads_to_a_model(model_map: dict[str, str]) -> None:
    found = settings(acme=Org(model_map=model_map))

    assert list(map_findings(found)) == list(map_notes(found)) == []
    ModelMap(model_map)  # what is taken here must serve


def test_refuses_a_model_that_may_not_be_used() -> None:
    """FR-002."""
    team = Team(models=("large",), model_map={"old": "small"})
    acme = Org(models=("large", "small"), model_map={"x": "gpt-4", "y": "best"}, teams={"a": team})
    why = "is not among the models that may be used here; add it to models"

    assert list(map_findings(settings(acme=acme))) == [
        (("orgs", "acme", "model_map", "x"), f"'gpt-4' {why}"),
        (("orgs", "acme", "teams", "a", "model_map", "old"), f"'small' {why}"),
    ]


def test_refuses_a_model_that_no_deployment_may_serve() -> None:
    acme = Org(model_map={"old": "small"}, require={"region": "eu"})

    assert list(map_findings(settings(acme=acme))) == [
        (
            ("orgs", "acme", "model_map", "old"),
            "no deployment of 'small' has region = \"eu\", which org acme requires; name another",
        )
    ]


def test_notes_a_map_that_seems_to_go_on() -> None:
    acme = Org(model_map={"old": "large", "large": "small"})

    assert list(map_notes(settings(acme=acme))) == [
        (
            ("orgs", "acme", "model_map", "old"),
            "'large' is itself mapped to 'small', but a name is mapped once: 'large' serves",
        )
    ]


def test_notes_a_map_of_an_org_that_leads_a_team_nowhere() -> None:
    """Names that the team maps itself are its own."""
    narrow = Team(models=("large",))
    itself = Team(models=("large",), model_map={"old": "large"})
    acme = Org(model_map={"old": "small"}, teams={"a": narrow, "b": itself, "c": Team()})

    assert list(map_notes(settings(acme=acme, other=Org(teams={"a": narrow})))) == [
        (
            ("orgs", "acme", "teams", "a", "models"),
            "its org maps names to 'small', which team acme/a may not use",
        )
    ]
