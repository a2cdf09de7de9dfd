"""What would run, in words."""

from pathlib import Path

import pytest

from llmrouter.cli.overview import overview, rule_text
from llmrouter.config.load import load
from llmrouter.contracts.rule import Kind, Rule

FILE = """
state = "/s"
server.workers = 1
[upstreams.eu]
url = "https://eu.example.com/v1"
concurrent = 10
health = { path = "/models", every = 2.5 }
tags = { region = "eu" }
[upstreams.new]
url = "http://127.0.0.1:8000/v1"
[models.a]
aliases = ["a-latest"]
strategy = "sticky"
hedge_after = "p95"
fallbacks = ["b", "c"]
deployments = [{ upstream = "eu", weight = 2 }, { upstream = "new", tags = { tier = "gold" } }]
shadow = { upstream = "new", model = "next", share = 0.1 }
[models.b]
hedge_after = 2
deployments = [{ upstream = "eu" }]
[models.c]
strategy = "cheapest"
fallback_on = ["content_filter"]
deployments = [{ upstream = "eu" }]
shadow = { upstream = "new" }
[orgs.acme]
models = ["a", "b"]
model_map = { "old-*" = "a", "gpt-4" = "b" }
require = { region = "eu" }
[orgs.acme.teams.t]
model_map = { "x" = "a" }
"""


def test_shows_how_models_are_routed_and_what_orgs_may_use(tmp_path: Path) -> None:
    (tmp_path / "router.toml").write_text(FILE)

    _, *lines = overview(load(tmp_path / "router.toml"))

    assert lines[lines.index("upstreams") :] == [
        "upstreams",
        "  eu   https://eu.example.com/v1, openai, no credential, 10 calls at once, "
        "probed at /models every 2.5 s, region = eu",
        "  new  http://127.0.0.1:8000/v1, openai, no credential",
        "",
        "models",
        "  a, a-latest  sticky by conversation, hedged after p95",
        "               eu: the name asked for, weight 2",
        "               new: the name asked for, weight 1, tier = gold",
        "               then b, c, on unavailable, context_length",
        "               copies of 0.1 of calls to new: next",
        "  b            weighted, hedged after 2 s",
        "               eu: the name asked for, weight 1",
        "  c            cheapest",
        "               eu: the name asked for, weight 1",
        "               copies of all calls to new: the name asked for",
        "",
        "orgs",
        "  acme    a, b, a for old-*, b for gpt-4, only where region = eu",
        "  acme/t  every model, a for x",
    ]


def test_says_that_no_failure_leads_to_the_fallbacks(tmp_path: Path) -> None:
    fallbacks = 'fallbacks = ["b", "c"]'
    (tmp_path / "router.toml").write_text(FILE.replace(fallbacks, f"{fallbacks}\nfallback_on = []"))

    lines = overview(load(tmp_path / "router.toml"))

    assert "               then b, c, on nothing" in list(lines)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(kind=Kind.REQUESTS, amount=1, per="second"), "1 request per second"),
        (Rule(kind=Kind.CONCURRENT, amount=1_000), "1_000 calls at once"),
        (Rule(kind=Kind.CONCURRENT, amount=1), "1 call at once"),
        (
            Rule(kind=Kind.CONCURRENT, amount=5, model="b*", at_limit="model:c"),
            "5 calls at once for b*, then c",
        ),
        (Rule(kind=Kind.USD, amount=1, per="day"), "0.000000001 USD per day, reject"),
        (Rule(kind=Kind.USD, amount=10**18, per="day"), "1000000000 USD per day, reject"),
        (
            Rule(kind=Kind.USD, amount=10**9, per="week", strict=True, at_limit="queue"),
            "1 USD per week, queue for 10 s, strict",
        ),
        (
            Rule(kind=Kind.USD, amount=10**9, per="total", cut=True, model="a"),
            "1 USD in total for a, reject, cut mid-stream",
        ),
    ],
)
def test_says_a_rule_in_words(rule: Rule, text: str) -> None:
    assert rule_text(rule) == text
