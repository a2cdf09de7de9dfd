"""Models without a price under budgets, as `llmrouter check` tells of them."""

import sys
from pathlib import Path

import pytest

from llmrouter.cli.unpriced import price_notes, unpriced
from llmrouter.config.load import load
from llmrouter.config.schema import Config
from llmrouter.daemon import pricelist
from llmrouter.metering.prices import PriceTable

UPSTREAMS = """
[upstreams.local]
url = "http://127.0.0.1:8000/v1"
[upstreams.openai]
url = "https://api.openai.com/v1"
[upstreams.other]
url = "https://models.example.com/v1"
"""
PRICE = "price = { input = 1, output = 2 }\n"
BUDGET = 'budgets = [{ usd = 5, per = "day" }]\n'
REFUSED = (
    "calls to them get 402 insufficient_quota; set price = { input = …, output = … } there,"
    ' or unpriced = "warn" in orgs.acme'
)


@pytest.fixture(autouse=True)
def _beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of the price list that fails."""
    failing = (sys.executable, "-c", "raise SystemExit('the list is gone')")
    monkeypatch.setattr(pricelist, "COMMAND", failing)


def model(name: str, *upstreams: str, more: str = "") -> str:
    deployments = ", ".join(f'{{ upstream = "{upstream}" }}' for upstream in upstreams)
    return f'[models."{name}"]\ndeployments = [{deployments}]\n{more}'


def config(*texts: str) -> Config:
    Path("router.toml").write_text("".join((UPSTREAMS, *texts)))
    return load(Path("router.toml"))


def noted(*texts: str) -> list[str]:
    return [str(note).removeprefix("router.toml: ") for note in price_notes(config(*texts))]


@pytest.mark.usefixtures("no_list")
def test_says_what_becomes_of_calls_to_a_model_without_a_price() -> None:
    """A budget must never be silently without end."""
    assert noted(model("qwen", "local"), "[orgs.acme]\n", BUDGET) == [
        f"orgs.acme.budgets: no price is known of 'qwen' (at local): {REFUSED}"
    ]


@pytest.mark.usefixtures("no_list")
def test_an_org_that_only_warns_is_told_so() -> None:
    warned = noted(model("qwen", "local"), '[orgs.acme]\nunpriced = "warn"\n', BUDGET)

    assert warned == [
        "orgs.acme.budgets: no price is known of 'qwen' (at local): "
        'unpriced = "warn" serves calls to them as if they cost nothing; '
        "set price = { input = …, output = … } there"
    ]


@pytest.mark.usefixtures("no_list")
@pytest.mark.parametrize(
    "tables",
    [
        "[orgs.acme]\nlimits = [{ concurrent = 1 }]\n",
        f'[orgs.acme]\nmodels = ["priced"]\n{BUDGET}',
        f'[orgs.acme]\n[orgs.acme.teams.a]\nmodels = ["priced"]\n{BUDGET}',
        '[orgs.acme]\nbudgets = [{ usd = 5, per = "day", model = "priced" }]\n',
    ],
    ids=["no budget", "not allowed", "not allowed to the team", "not counted"],
)
def test_says_nothing_of_models_that_no_budget_pays_for(tables: str) -> None:
    models = model("qwen", "local"), model("priced", "local", more=PRICE)

    assert noted(*models, tables) == []


@pytest.mark.usefixtures("no_list")
@pytest.mark.parametrize(
    ("tables", "key"),
    [
        (f"[orgs.acme]\n[orgs.acme.teams.a]\n{BUDGET}", "orgs.acme.teams.a.budgets"),
        (f'[orgs.acme]\n[orgs.acme.users."*"]\n{BUDGET}', 'orgs.acme.users."*".budgets'),
        (f'[orgs.acme]\nmodels = ["fast"]\n{BUDGET}', "orgs.acme.budgets"),
        (
            '[orgs.acme]\nbudgets = [{ usd = 5, per = "day", model = "fast" }]\n',
            "orgs.acme.budgets",
        ),
        ('[orgs.acme]\nbudgets = [{ usd = 5, per = "day", model = "q*" }]\n', "orgs.acme.budgets"),
    ],
    ids=["team", "every user", "allowed by an alias", "counted by an alias", "by a pattern"],
)
def test_names_the_table_whose_budget_it_is(tables: str, key: str) -> None:
    named = noted(model("qwen", "local", more='aliases = ["fast"]\n'), tables)

    assert [note.partition(": ")[0] for note in named] == [key]


@pytest.mark.usefixtures("no_list")
def test_names_at_most_eight_models() -> None:
    models = [model(f"m{number}", "local") for number in range(10)]

    (note,) = noted(*models, "[orgs.acme]\n", BUDGET)

    assert "'m7' (at local), and 2 more:" in note
    assert "'m8'" not in note


LISTED = """
[models."gpt-4o"]
deployments = [{ upstream = "openai" }, { upstream = "other" }, { upstream = "local" }]
[models."gpt-4o-mini"]
deployments = [{ upstream = "openai" }]
[models."no-such-model-anywhere"]
deployments = [{ upstream = "openai" }]
[models."house"]
deployments = [{ upstream = "openai", model = "gpt-4o" }]
[models."gpt-*"]
deployments = [{ upstream = "openai" }]
[models."qwen-*"]
deployments = [{ upstream = "local" }]
"""


def test_the_price_list_prices_what_its_providers_serve() -> None:
    """By the deployment's name; of a pattern, only that nobody behind it is known."""
    (note,) = noted(LISTED, "[orgs.acme]\n", BUDGET)

    assert note == (
        "orgs.acme.budgets: no price is known of 'gpt-4o' (at other and local), "
        f"'no-such-model-anywhere' (at openai), 'qwen-*' (at local): {REFUSED}"
    )


@pytest.mark.usefixtures("no_list")
def test_a_price_may_stand_with_each_deployment() -> None:
    """Then the list is not asked; the deployment without one is named."""
    priced = '{ upstream = "openai", model = "gpt-4o", price = { input = 1, output = 2 } }'
    local = '{ upstream = "local" }'
    whole = f'[models."q*"]\ndeployments = [{priced}]\n'
    part = f'[models."qwen"]\ndeployments = [{priced}, {local}]\n'

    assert noted(whole, part, "[orgs.acme]\n", BUDGET) == [
        f"orgs.acme.budgets: no price is known of 'qwen' (at local): {REFUSED}"
    ]


@pytest.mark.usefixtures("no_list")
def test_a_price_list_that_cannot_be_read_is_a_note() -> None:
    (note,) = noted(LISTED, "[orgs.acme]\n", BUDGET)

    assert note.startswith("models: which of them have a price is not known: the price list cannot")
    assert "the list is gone" in note


@pytest.mark.usefixtures("no_list")
def test_the_list_is_not_read_where_no_model_needs_it() -> None:
    assert noted(model("gpt-4o", "openai", more=PRICE), "[orgs.acme]\n", BUDGET) == []
    assert noted(LISTED, "[orgs.acme]\n") == []


def test_a_model_of_an_unknown_provider_has_no_price() -> None:
    found = unpriced(config(LISTED), PriceTable(providers={"openai": "openai"}))

    assert found["gpt-4o"] == ("openai", "other", "local")
    assert "gpt-*" not in found
    assert found["qwen-*"] == ("local",)


ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("no_list")
@pytest.mark.parametrize(
    "path",
    [ROOT / "router.toml", *sorted((ROOT / "examples").glob("*.toml"))],
    ids=lambda p: p.name,
)
def test_every_budget_of_the_files_that_we_ship_can_be_kept(path: Path) -> None:
    assert price_notes(load(path)) == []


@pytest.mark.usefixtures("no_list")
def test_the_first_key_may_have_a_budget() -> None:
    """README's five minutes issue one; the shipped file has no budget of its own."""
    shipped = load(ROOT / "router.toml")

    assert unpriced(shipped, PriceTable()) == {}
