"""Limits and budgets, beside the others of their scope and the models they name."""

import pytest

from llmrouter.config.problems import key_text
from llmrouter.config.quotas import amount, counted_model, quota_findings, quota_notes, ruled
from llmrouter.config.schema import (
    Budget,
    Deployment,
    Limit,
    Model,
    Org,
    Price,
    Settings,
    Team,
    User,
)
from llmrouter.contracts.rule import Kind

AT_DEMO = (Deployment(upstream="demo"),)
MODELS = {
    "big": Model(deployments=AT_DEMO, aliases=("best",), max_output=100),
    "small": Model(deployments=AT_DEMO, aliases=("cheap",), max_output=100),
    "gpt-*": Model(deployments=AT_DEMO),
}


def found(**orgs: Org) -> list[str]:
    settings = Settings(models=MODELS, orgs=orgs)
    return [f"{key_text(key)}: {message}" for key, message in quota_findings(settings)]


def noted(**orgs: Org) -> list[str]:
    settings = Settings(models=MODELS, orgs=orgs)
    return [f"{key_text(key)}: {message}" for key, message in quota_notes(settings)]


def test_finds_every_table_of_rules() -> None:
    org = Org(models=("a",), teams={"t": Team(models=("b",))}, users={"*": User()})

    assert [(scope.key, scope.allowed) for scope in ruled(Settings(orgs={"acme": org}))] == [
        (("orgs", "acme"), (("a",),)),
        (("orgs", "acme", "teams", "t"), (("a",), ("b",))),
        (("orgs", "acme", "users", "*"), (("a",),)),
    ]


@pytest.mark.parametrize(
    ("limit", "counts"),
    [
        (Limit(requests=1, per="day"), (Kind.REQUESTS, 1)),
        (Limit(tokens=2, per="day"), (Kind.TOKENS, 2)),
        (Limit(concurrent=3), (Kind.CONCURRENT, 3)),
    ],
)
def test_a_limit_has_one_amount(limit: Limit, counts: tuple[Kind, int]) -> None:
    assert amount(limit) == counts


@pytest.mark.parametrize(
    ("model", "counted"),
    [(None, None), ("*", None), ("big", "big"), ("best", "big"), ("b*", "b*"), ("gpt-4", "gpt-4")],
)
def test_a_rule_counts_under_the_own_name_of_its_model(
    model: str | None, counted: str | None
) -> None:
    """Calls to an alias count as calls to its model, so a rule that names one must too."""
    assert counted_model(model, MODELS) == counted


# Rules of one scope


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (Limit(requests=1, per="day"), Limit(requests=2, per="day"), True),
        (Limit(requests=1, per="day"), Limit(requests=1, per="hour"), False),
        (Limit(requests=1, per="day"), Limit(tokens=1, per="day"), False),
        (Limit(concurrent=1), Limit(concurrent=2), True),
        (Limit(concurrent=1), Limit(concurrent=2, model="big"), False),
        (Limit(concurrent=1), Limit(concurrent=2, model="*"), True),
        (Limit(concurrent=1, model="big"), Limit(concurrent=2, model="best"), True),
        (Limit(concurrent=1, model="big"), Limit(concurrent=2, model="small"), False),
    ],
)
def test_refuses_two_limits_that_count_the_same(one: Limit, other: Limit, is_same: bool) -> None:
    problem = "orgs.acme.limits[1]: counts the same as orgs.acme.limits[0]; keep one"

    assert found(acme=Org(limits=(one, other))) == ([problem] if is_same else [])


def test_refuses_two_budgets_that_count_the_same() -> None:
    user = User(budgets=(Budget(usd=1, per="day"), Budget(usd=2, per="day", at_limit="queue")))

    assert found(acme=Org(users={"a@b.c": user})) == [
        'orgs.acme.users."a@b.c".budgets[1]: '
        'counts the same as orgs.acme.users."a@b.c".budgets[0]; keep one'
    ]


def test_scopes_may_have_the_same_rules() -> None:
    limits = (Limit(concurrent=1),)
    org = Org(
        limits=limits,
        teams={"t": Team(limits=limits)},
        users={"*": User(limits=limits), "ann": User(limits=limits)},
    )

    assert found(acme=org, globex=org) == []


# What happens at the limit


@pytest.mark.parametrize(
    ("models", "rule", "at_limit", "problem"),
    [
        (("*",), None, "small", None),
        (("*",), None, "cheap", None),
        (("*",), "big", "small", None),
        (("*",), "*", "small", None),
        (("*",), "gpt-4*", "gpt-3", None),
        (("big", "small"), None, "cheap", None),  # by its model
        (("big", "cheap"), None, "cheap", None),  # by its alias
        (
            ("big",),
            None,
            "small",
            "'small' is not among the models that may be used here; add it to models",
        ),
        (("big", "cheap"), None, "small", "'small' is not among the models that may be used here"),
        (("*",), "big", "big", "'big' is covered by the model 'big' of this rule"),
        (("*",), "best", "big", "'big' is covered by the model 'best' of this rule"),
        (
            ("*",),
            "b*",
            "best",
            "'best' is covered by the model 'b*' of this rule, "
            "which would refuse it again; name one that is not",
        ),
        (("*",), "gpt-*", "gpt-4", "'gpt-4' is covered by the model 'gpt-*' of this rule"),
        (("*",), None, "none", "no model is called 'none'; define it as [models.\"none\"]"),
        (("*",), None, "gpt-*", "'gpt-*' is a pattern; name one model"),
        (("*",), None, "", "must be 'reject', 'queue' or 'model:NAME' (value 'model:')"),
    ],
)
def test_another_model_must_be_there_allowed_and_not_covered(
    models: tuple[str, ...], rule: str | None, at_limit: str, problem: str | None
) -> None:
    instead = f"model:{at_limit}"
    budget = Budget(usd=1, per="day", model=rule, at_limit=instead)
    limit = Limit(concurrent=1, model=rule, at_limit=instead)

    problems = found(acme=Org(models=models, limits=(limit,), budgets=(budget,)))

    assert len(problems) == (2 if problem else 0)
    for place, text in zip(("limits", "budgets"), problems, strict=False):
        assert text.startswith(f"orgs.acme.{place}[0].at_limit: {problem}")


def test_another_model_must_be_allowed_to_org_and_team_by_one_name() -> None:
    limits = (Limit(concurrent=1, at_limit="model:small"),)
    teams = {
        "both": Team(models=("small",), limits=limits),
        "neither": Team(models=("big",), limits=limits),
        "alias": Team(models=("cheap",), limits=limits),
    }

    assert [text.split(".limits")[0] for text in found(acme=Org(teams=teams))] == [
        "orgs.acme.teams.neither",
        "orgs.acme.teams.alias",
    ]
    assert [text.split(".limits")[0] for text in found(acme=Org(models=("big",), teams=teams))] == [
        f"orgs.acme.teams.{name}" for name in teams
    ]


def test_a_wait_at_its_default_is_taken_for_absent() -> None:
    """A file that shows every default loads too."""
    org = Org(limits=(Limit(concurrent=1, wait=10),), budgets=(Budget(usd=1, per="day", wait=10),))

    assert found(acme=org) == []


@pytest.mark.parametrize("at_limit", ["reject", "model:small"])
def test_refuses_a_wait_where_nothing_waits(at_limit: str) -> None:
    org = Org(limits=(Limit(concurrent=1, wait=2.5, at_limit=at_limit),))

    assert found(acme=org) == [
        'orgs.acme.limits[0].wait: means nothing without at_limit = "queue" (value 2.5); remove it'
    ]


def test_refuses_prices_that_are_no_whole_nano_usd() -> None:
    price = Price(input=2.5, cached_input=1e-10, output=0.0375)
    settings = Settings(models={"a": Model(deployments=AT_DEMO, price=price)})

    assert list(quota_findings(settings)) == [
        (
            ("models", "a", "price", "cached_input"),
            "has more than 9 decimals (value 1e-10); round it",
        )
    ]


# Notes


def test_notes_a_rule_that_counts_no_model() -> None:
    """An alias is no name that calls count under."""
    limits = tuple(Limit(concurrent=1, model=model) for model in ("b*", "best*", "gpt-4*", "x*"))

    assert noted(acme=Org(teams={"t": Team(limits=limits)})) == [
        f"orgs.acme.teams.t.limits[{index}].model: "
        f"'{model}' covers no model of this file (aliases do not count)"
        for index, model in ((1, "best*"), (3, "x*"))
    ]


def test_notes_a_user_that_looks_like_a_pattern() -> None:
    assert noted(acme=Org(users={"*": User(), "*@acme.org": User()})) == [
        'orgs.acme.users."*@acme.org": is no pattern: only "*" itself stands for other users'
    ]


@pytest.mark.parametrize(
    ("models", "model", "is_noted"),
    [(("*",), None, True), (("*",), "gpt-4", True), (("*",), "big", False), (("b*",), None, False)],
)
def test_notes_a_strict_budget_over_models_without_a_known_worst_case(
    models: tuple[str, ...], model: str | None, is_noted: bool
) -> None:
    org = Org(models=models, budgets=(Budget(usd=1, per="day", model=model, strict=True),))
    note = (
        "orgs.acme.budgets[0].strict: no worst case is known of calls to 'gpt-*' "
        "that name no max_tokens; set max_output there"
    )

    assert noted(acme=org) == ([note] if is_noted else [])


def test_a_note_on_many_models_stays_short() -> None:
    models = {f"m{number}": Model(deployments=AT_DEMO) for number in range(20)}
    org = Org(budgets=(Budget(usd=1, per="day", strict=True),))

    ((_, message),) = quota_notes(Settings(models=models, orgs={"acme": org}))

    assert "to 'm0', 'm1', 'm2', 'm3', 'm4', 'm5', 'm6', 'm7' and 12 more that name" in message
