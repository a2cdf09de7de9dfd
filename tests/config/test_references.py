"""References between models, upstreams and orgs that `test_load` has no row for."""

from llmrouter.config.references import model_findings, org_findings, uncovered_patterns
from llmrouter.config.schema import Budget, Deployment, Limit, Model, Org, Settings, Team, Upstream

AT_DEMO = (Deployment(upstream="demo"),)
DEMO = {"demo": Upstream(url="builtin:demo")}


def models(**fallbacks: tuple[str, ...]) -> dict[str, Model]:
    return {
        name: Model(deployments=AT_DEMO, fallbacks=others) for name, others in fallbacks.items()
    }


def loops(settings: Settings) -> list[str]:
    return [message.split(";")[0] for _, message in model_findings(settings)]


def test_reports_each_loop_of_fallbacks_once() -> None:
    settings = Settings(upstreams=DEMO, models=models(a=("b",), b=("c",), c=("a", "b"), d=("a",)))

    assert loops(settings) == [
        "falls back to itself: a -> b -> c -> a",
        "falls back to itself: b -> c -> b",
    ]


def test_fallbacks_that_meet_again_are_no_loop() -> None:
    settings = Settings(upstreams=DEMO, models=models(a=("b", "c"), b=("d",), c=("d",), d=()))

    assert loops(settings) == []


def test_follows_fallbacks_through_aliases_and_patterns() -> None:
    settings = Settings(
        upstreams=DEMO,
        models={
            "a": Model(deployments=AT_DEMO, aliases=("first",), fallbacks=("gpt-4",)),
            "gpt-*": Model(deployments=AT_DEMO, fallbacks=("first",)),
        },
    )

    assert loops(settings) == ["falls back to itself: a -> gpt-* -> a"]


def test_a_name_that_a_pattern_covers_is_a_reference_too() -> None:
    """A limit or an org may name a model that exists only through a pattern."""
    org = Org(
        models=("gpt-4o", "other-*"),
        limits=(Limit(requests=1, per="day", model="gpt-4o"),),
        budgets=(Budget(usd=1, per="total", at_limit="model:gpt-4o-mini"),),
        teams={"a": Team(models=("gpt-4o-mini",))},
    )
    settings = Settings(models={"gpt-*": Model(deployments=AT_DEMO)}, orgs={"acme": org})

    assert list(org_findings(settings)) == []


def test_tells_patterns_that_cover_nothing() -> None:
    known = {
        "gpt-*": Model(deployments=AT_DEMO),
        "demo": Model(deployments=AT_DEMO, aliases=("chat",)),
    }

    assert uncovered_patterns(("gpt-4*", "g*", "ch*", "claude-*", "*", "gone"), known) == [
        "claude-*"
    ]
