"""Rules, as the limits and budgets of router.toml become them."""

import pytest

from llmrouter.config.schema import Budget, Deployment, Limit, Model, Org, Settings, Team, User
from llmrouter.config.schema import Price as ModelPrice
from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.daemon.rules import key_rules, prices, prices_at, rules
from llmrouter.metering.prices import Price, PriceBook, PriceTable
from llmrouter.quota.rulebook import Rulebook

ACME = Scope(kind="org", name="acme")
MODELS = {"big": Model(deployments=(Deployment(upstream="demo"),), aliases=("best",))}


def of_org(*, limits: tuple[Limit, ...] = (), budgets: tuple[Budget, ...] = ()) -> tuple[Rule, ...]:
    org = Org(limits=limits, budgets=budgets)
    return rules(Settings(models=MODELS, orgs={"acme": org}))[ACME]


@pytest.mark.parametrize(
    ("limit", "rule"),
    [
        (
            Limit(requests=600, per="minute"),
            Rule(kind=Kind.REQUESTS, amount=600, per="minute"),
        ),
        (
            Limit(tokens=10**15, per="day", burst=7, model="b*"),
            Rule(kind=Kind.TOKENS, amount=10**15, per="day", burst=7, model="b*"),
        ),
        (
            Limit(concurrent=5, at_limit="queue", wait=2.5, model="best"),
            Rule(kind=Kind.CONCURRENT, amount=5, at_limit="queue", wait_ms=2_500, model="big"),
        ),
        (
            Limit(concurrent=5, at_limit="queue", wait=0.0001, model="*"),
            Rule(kind=Kind.CONCURRENT, amount=5, at_limit="queue", wait_ms=1),
        ),
        (
            Limit(concurrent=5, at_limit="model:best"),
            Rule(kind=Kind.CONCURRENT, amount=5, at_limit="model:best"),
        ),
    ],
)
def test_translates_limits(limit: Limit, rule: Rule) -> None:
    assert of_org(limits=(limit,)) == (rule,)


@pytest.mark.parametrize(
    ("budget", "rule"),
    [
        (
            Budget(usd=500, per="month"),
            Rule(kind=Kind.USD, amount=500_000_000_000, per="month"),
        ),
        (
            Budget(usd=0.1, per="total", model="best", mid_stream="cut"),
            Rule(kind=Kind.USD, amount=100_000_000, per="total", model="big", cut=True),
        ),
        (
            Budget(usd=1e-9, per="day", strict=True, at_limit="queue", wait=86_400),
            Rule(
                kind=Kind.USD,
                amount=1,
                per="day",
                strict=True,
                at_limit="queue",
                wait_ms=86_400_000,
            ),
        ),
    ],
)
def test_translates_budgets_to_whole_nano_usd(budget: Budget, rule: Rule) -> None:
    assert of_org(budgets=(budget,)) == (rule,)


def test_defaults_of_the_file_are_those_of_rules() -> None:
    (limit, budget) = of_org(limits=(Limit(concurrent=1),), budgets=(Budget(usd=1, per="day"),))

    assert limit == Rule(kind=Kind.CONCURRENT, amount=1)
    assert budget == Rule(kind=Kind.USD, amount=10**9, per="day")


def test_every_table_is_a_scope_also_one_without_rules() -> None:
    org = Org(
        limits=(Limit(concurrent=9),),
        teams={"research": Team(limits=(Limit(concurrent=2),))},
        users={"*": User(limits=(Limit(concurrent=1),)), "ann": User()},
    )

    assert rules(Settings(orgs={"acme": org, "globex": Org()})) == {
        ACME: (Rule(kind=Kind.CONCURRENT, amount=9),),
        Scope(kind="team", name="acme/research"): (Rule(kind=Kind.CONCURRENT, amount=2),),
        Scope(kind="user", name="acme/*"): (Rule(kind=Kind.CONCURRENT, amount=1),),
        Scope(kind="user", name="acme/ann"): (),
        Scope(kind="org", name="globex"): (),
    }


def test_a_table_of_its_own_frees_a_user_from_that_of_every_user() -> None:
    """The rulebook and this module mean the same by `*`."""
    org = Org(users={"*": User(limits=(Limit(concurrent=1),)), "ann": User()})
    book = Rulebook(rules(Settings(orgs={"acme": org})))

    applying = {
        user: [
            found.bucket
            for found in book.applying(org="acme", team=None, user=user, key_id="k", model="m")
        ]
        for user in ("ann", "bob")
    }

    assert applying == {"ann": [], "bob": ["user/acme/bob/concurrent"]}


def test_there_are_no_rules_without_orgs() -> None:
    assert rules(Settings()) == {}


def requests(amount: int, model: str | None) -> Rule:
    return Rule(kind=Kind.REQUESTS, amount=amount, per="minute", model=model)


@pytest.mark.parametrize(
    ("own", "meant"),
    [
        ([requests(9, "house")], [requests(9, "demo")]),
        ([requests(9, "demo-*"), requests(8, None)], [requests(9, "demo-*"), requests(8, None)]),
        ([requests(9, "demo"), requests(2, "house")], [requests(2, "demo")]),
        ([requests(2, "house"), requests(9, "demo"), requests(3, "home")], [requests(2, "demo")]),
        ([requests(9, "unknown")], [requests(9, "unknown")]),
    ],
)
def test_aliases_in_the_rules_of_a_key_mean_their_model(own: list[Rule], meant: list[Rule]) -> None:
    """Two that mean the same must not keep the daemon from starting: the smaller holds."""
    deployments = (Deployment(upstream="demo"),)
    demo = Model(aliases=("house", "home"), deployments=deployments)
    settings = Settings(models={"demo": demo, "demo-*": Model(deployments=deployments)})
    book = Rulebook({})

    book.set_key("k", key_rules(settings, own))

    applying = book.of_scope(Scope(kind="key", name="k"))
    assert [found.rule for found in applying] == meant


def test_prices_of_the_file_are_whole_nano_usd_per_million_tokens() -> None:
    deployments = (Deployment(upstream="demo"),)
    models = {
        "free": Model(deployments=deployments, price=ModelPrice(input=0, output=0)),
        "cached": Model(
            deployments=deployments, price=ModelPrice(input=2.5, cached_input=1.25, output=10)
        ),
        "listed": Model(deployments=deployments),
    }

    assert prices(Settings(models=models)) == {
        "free": Price(input=0, cached_input=0, output=0, reasoning=0),
        "cached": Price(
            input=2_500_000_000,
            cached_input=1_250_000_000,
            output=10_000_000_000,
            reasoning=10_000_000_000,
        ),
    }


def test_prices_of_deployments_stand_by_where_they_are() -> None:
    one, two = ModelPrice(input=1, output=1), ModelPrice(input=2, output=2)
    models = {
        "house": Model(
            deployments=(
                Deployment(upstream="a", model="meta/llama", price=one),
                Deployment(upstream="b", price=two),
                Deployment(upstream="c", model="qwen"),
            ),
            price=ModelPrice(input=3, output=3),
        ),
        "listed": Model(deployments=(Deployment(upstream="a"),)),
    }
    settings = Settings(models=models)

    assert prices_at(settings) == {
        "house": {"a/meta/llama": Price.of_usd(1, None, 1), "b": Price.of_usd(2, None, 2)}
    }
    assert list(prices(settings)) == ["house"]
    book = PriceBook(PriceTable(explicit=prices(settings), explicit_at=prices_at(settings)))
    places = (("a", "meta/llama"), ("b", "house"), ("c", "qwen"))
    assert [book.price("house", *place) for place in places] == [
        Price.of_usd(usd, None, usd) for usd in (1, 2, 3)
    ]
