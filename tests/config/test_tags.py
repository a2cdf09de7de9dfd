"""Tags of deployments, and what requires them."""

from llmrouter.config.schema import Deployment, Model, Org, Settings, Team, Upstream
from llmrouter.config.tags import has_fitting, tag_findings, tag_notes, tags_of

UPSTREAMS = {
    "eu": Upstream(url="https://eu.example.com", tags={"region": "eu", "tier": "gold"}),
    "us": Upstream(url="https://us.example.com", tags={"region": "us"}),
}
AT_EU, AT_US = Deployment(upstream="eu"), Deployment(upstream="us")
SILVER = Deployment(upstream="eu", tags={"tier": "silver", "size": "8b"})
MODELS = {
    "both": Model(deployments=(AT_EU, AT_US)),
    "american": Model(deployments=(AT_US,), aliases=("usa",)),
    "silver": Model(deployments=(SILVER,)),
    "us-*": Model(deployments=(AT_US,)),
}


def settings(**orgs: Org) -> Settings:
    return Settings(upstreams=UPSTREAMS, models=MODELS, orgs=orgs)


def test_a_deployment_has_its_own_tags_before_those_of_its_upstream() -> None:
    assert tags_of(SILVER, settings()) == {"region": "eu", "tier": "silver", "size": "8b"}
    assert tags_of(Deployment(upstream="none", tags={"a": "b"}), settings()) == {"a": "b"}


def test_one_deployment_must_have_all_of_the_tags() -> None:
    assert has_fitting("both", {"region": "us"}, settings())
    assert has_fitting("both", {}, settings())
    assert not has_fitting("both", {"region": "us", "tier": "gold"}, settings())
    assert not has_fitting("silver", {"tier": "gold"}, settings())


def test_refuses_a_model_that_is_named_and_that_nothing_may_serve() -> None:
    """FR-002: a conflict is refused at check time."""
    acme = Org(models=("both", "american", "usa", "us-1", "us-*"), require={"region": "eu"})

    assert list(tag_findings(settings(acme=acme))) == [
        (
            ("orgs", "acme", "models", index),
            f"no deployment of '{name}' has region = \"eu\", which org acme requires; "
            "give it one that has, or take it out of models",
        )
        for index, name in ((1, "american"), (2, "usa"), (3, "us-1"))
    ]


def test_refuses_what_a_team_names_by_the_tags_of_its_org() -> None:
    team = Team(models=("both", "silver"), require={"tier": "gold"})
    acme = Org(require={"region": "eu"}, teams={"a": team, "b": Team(models=("american",))})

    assert [(key, message.split(",")[0]) for key, message in tag_findings(settings(acme=acme))] == [
        (
            ("orgs", "acme", "teams", "a", "models", 1),
            'no deployment of \'silver\' has tier = "gold" and region = "eu"',
        ),
        (
            ("orgs", "acme", "teams", "b", "models", 0),
            "no deployment of 'american' has region = \"eu\"",
        ),
    ]


def test_a_team_may_add_tags_and_not_change_them() -> None:
    """FR-002."""
    same = Team(require={"region": "eu", "tier": "gold"})
    other = Team(require={"region": "us"})
    acme = Org(require={"region": "eu"}, teams={"same": same, "other": other})

    assert list(tag_findings(settings(acme=acme))) == [
        (
            ("orgs", "acme", "teams", "other", "require", "region"),
            "is 'us', but the org requires 'eu', which a team cannot change; take it out",
        )
    ]


def test_tags_are_words() -> None:
    models = {"m": Model(deployments=(Deployment(upstream="eu", tags={"a b": "c"}),))}
    upstreams = {"eu": Upstream(url="https://eu.example.com", tags={"a": "b c"})}
    orgs = {"acme": Org(require={"region": "\u00e9" * 99})}
    found = tag_findings(Settings(upstreams=upstreams, models=models, orgs=orgs))
    rule = "use letters, digits and . _ - only, at most 64 of them"

    assert list(found) == [
        (("upstreams", "eu", "tags", "a"), f"'b c' is not the value of a tag; {rule}"),
        (
            ("models", "m", "deployments", 0, "tags", "a b"),
            f"is not the name of a tag; {rule}",
        ),
        (
            ("orgs", "acme", "require", "region"),
            f"{chr(0xE9) * 64!r} is not the value of a tag; {rule}",
        ),
    ]


def test_notes_models_that_are_reached_by_a_pattern_and_cannot_be_used() -> None:
    acme = Org(require={"region": "eu"}, teams={"a": Team(), "b": Team(require={"tier": "gold"})})
    narrow = Org(models=("s*",), require={"region": "eu"})

    assert list(tag_notes(settings(acme=acme, narrow=narrow, plain=Org()))) == [
        (
            ("orgs", "acme", "require"),
            "no deployment of 'american', 'us-*' has region = \"eu\", so it cannot be used here",
        ),
        (
            ("orgs", "acme", "teams", "b", "require"),
            "no deployment of 'american', 'silver', 'us-*' has tier = \"gold\" and "
            'region = "eu", so it cannot be used here',
        ),
    ]


def test_a_note_names_eight_models_and_counts_the_rest() -> None:
    models = {f"m{number}": Model(deployments=(AT_US,)) for number in range(10)}
    orgs = {"acme": Org(require={"region": "eu"})}
    ((_, message),) = tag_notes(Settings(upstreams=UPSTREAMS, models=models, orgs=orgs))

    assert "'m7' and 2 more has" in message
