"""`llmrouter orgs`, as an admin uses it."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from llmrouter.cli.main import app
from llmrouter.cli.orgs import BAR_CELLS, bar, colour, drawn, standing_cells
from llmrouter.daemon.limitdesk import LimitView
from tests.support.daemon import Daemon, Settings, create_key, run, serving, wait_for

FILE = """
[upstreams.demo]
url = "builtin:demo"
[models."demo"]
deployments = [{ upstream = "demo" }]
price = { input = 1, output = 1 }
[orgs.acme]
limits = [{ requests = 600, per = "minute" }, { concurrent = 50, at_limit = "queue", wait = 5 }]
budgets = [{ usd = 500, per = "month" }]
[orgs.acme.teams.research]
limits = [{ tokens = 1_000, per = "day", model = "demo" }]
[orgs.acme.users."*"]
budgets = [{ usd = 0.5, per = "total" }]
[orgs.acme.users.bo]
[orgs.globex]
"""
KEY = "3fQ9xW2LbT0c"


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMROUTER_CONFIG", raising=False)
    Path("router.toml").write_text(FILE)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})


def new_key(*options: str) -> str:
    done = command("keys", "create", "--json", *options)
    assert done.exit_code == 0, done.stderr
    key_id: str = msgspec.json.decode(done.stdout)["id"]
    return key_id


def decoded(done: Result) -> Any:
    assert done.exit_code == 0, done.stderr
    return msgspec.json.decode(done.stdout)


# ---- list -------------------------------------------------------------------------------------


def test_every_org_is_listed_with_its_keys_and_rules() -> None:
    new_key("--org", "acme")
    new_key("--org", "acme", "--team", "research")
    new_key("--org", "nowhere")

    done = command("orgs", "list")

    assert [line.rstrip() for line in done.stdout.splitlines()] == [
        "org      keys  teams     users  limits and budgets",
        "acme     2     research  * bo   600 requests per minute; 50 calls at once, queue for 5 s;"
        " 500 USD per month, reject",
        "globex   0     -         -      none",
        "nowhere  1     -         -      none: it has no table in router.toml",
    ]
    assert done.stderr == ""


def test_keys_that_are_no_longer_in_force_do_not_count() -> None:
    revoked = new_key("--org", "acme")
    new_key("--org", "acme")
    command("keys", "revoke", revoked)

    acme, _ = decoded(command("orgs", "list", "--json"))

    assert acme["keys"] == 1


def test_the_json_of_a_list_has_it_all() -> None:
    new_key("--org", "nowhere")

    assert decoded(command("orgs", "list", "--json"))[1:] == [
        {"org": "globex", "in_file": True, "keys": 0, "teams": [], "users": [], "rules": []},
        {"org": "nowhere", "in_file": False, "keys": 1, "teams": [], "users": [], "rules": []},
    ]


def test_a_node_without_orgs_says_how_to_have_one() -> None:
    Path("router.toml").write_text(FILE.partition("[orgs.acme]")[0])

    done = command("orgs", "list")

    assert (done.exit_code, done.stdout) == (0, "")
    assert "[orgs.NAME]" in done.stderr


# ---- show -------------------------------------------------------------------------------------

SETTINGS: Settings = {
    "upstreams": {"demo": {"url": "builtin:demo"}},
    "models": {
        "demo": {
            "deployments": [{"upstream": "demo"}],
            "price": {"input": 1_000.0, "output": 1_000.0},
        }
    },
    "orgs": {
        "acme": {
            "budgets": [{"usd": 500.0, "per": "total"}],
            "teams": {"research": {"limits": [{"requests": 9, "per": "day"}]}},
            "users": {"*": {"limits": [{"concurrent": 3}]}, "bo": {}},
        },
        "globex": {},
    },
}


def call(daemon: Daemon, key: str) -> None:
    body = msgspec.json.encode({"model": "demo", "messages": [{"role": "user", "content": "hi"}]})
    connection = daemon.connection()
    connection.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    connection.close()


def shown(daemon: Daemon, org: str) -> list[dict[str, Any]]:
    done = run("orgs", "show", org, "--json", "--config", str(daemon.config))
    assert done.returncode == 0, done.stderr
    listed: list[dict[str, Any]] = msgspec.json.decode(done.stdout)["limits"]
    return listed


@pytest.mark.e2e
def test_an_org_is_shown_with_its_teams_users_and_keys(tmp_path: Path) -> None:
    with serving(tmp_path, SETTINGS) as daemon:
        made = create_key(
            daemon.config, "--team", "research", "--user", "ann", "--limit", "requests=60/minute"
        )
        create_key(daemon.config, "--org", "globex", "--budget", "usd=1/day")
        call(daemon, made["key"])

        def spent() -> list[dict[str, Any]] | None:
            found = shown(daemon, "acme")
            return found if found[0]["used"] else None

        found = wait_for(spent, what="the call's charge")
        text = run("orgs", "show", "acme", "--config", str(daemon.config)).stdout

    buckets = {view["bucket"]: view for view in found}
    assert list(buckets) == [
        "org/acme/usd/total",
        "team/acme/research/requests/day",
        "user/acme/*/concurrent",
        "user/acme/ann/concurrent",
        f"key/{made['id']}/requests/minute",
    ]
    budget = buckets["org/acme/usd/total"]
    assert budget["left"] == pytest.approx(500 - budget["used"] - budget["claimed"])
    head, org, team, every, user, key = (line.split("  ") for line in text.splitlines())
    assert head[0] == "whose"
    assert (org[0], team[0], every[0], user[0]) == (
        "org acme", "team research", "each other user", "user ann",
    )  # fmt: skip
    assert key[0] == f"key {made['id']}"


@pytest.mark.e2e
def test_the_same_is_shown_while_no_daemon_runs(tmp_path: Path) -> None:
    with serving(tmp_path, SETTINGS) as daemon:
        made = create_key(daemon.config, "--team", "research", "--user", "ann")
        call(daemon, made["key"])
        wait_for(lambda: shown(daemon, "acme")[0]["used"], what="the call's charge")
        assert daemon.stop() == 0
        budget, requests, *others = shown(daemon, "acme")

    assert budget["used"] > 0
    assert (budget["claimed"], requests["used"]) == (0, 1)
    assert [view["bucket"] for view in others] == [
        "user/acme/*/concurrent",
        "user/acme/ann/concurrent",
    ]


def test_users_with_a_table_and_users_of_keys_are_shown_once_each() -> None:
    new_key("--org", "acme", "--user", "ann")
    new_key("--org", "acme", "--user", "ann")
    new_key("--org", "acme", "--user", "bo")
    new_key("--org", "globex", "--user", "cy")

    found = decoded(command("orgs", "show", "acme", "--json"))["limits"]

    names = [view["name"] for view in found if view["scope"] == "user"]
    assert names == ["acme/*", "acme/ann"], "bo has a table, and no rule in it"


def test_a_key_that_is_no_longer_in_force_is_not_shown() -> None:
    revoked = new_key("--org", "globex", "--limit", "concurrent=1")
    kept = new_key("--org", "globex", "--limit", "concurrent=1")
    command("keys", "revoke", revoked)

    found = decoded(command("orgs", "show", "globex", "--json"))

    assert found["keys"] == 1
    assert [view["name"] for view in found["limits"]] == [kept]


def test_an_org_that_nothing_limits_is_said_to_be_so() -> None:
    done = command("orgs", "show", "globex")

    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "no limit or budget applies to globex, its teams, users or keys\n"


def test_an_org_that_nobody_knows_is_refused() -> None:
    done = command("orgs", "show", "acne")

    assert (done.exit_code, done.stdout) == (1, "")
    assert "knows the org 'acne'" in done.stderr


# ---- how a bucket is shown --------------------------------------------------------------------


def standing(**members: Any) -> LimitView:
    members = {
        "bucket": "org/acme/requests/minute",
        "scope": "org",
        "name": "acme",
        "rule": "requests=1000/minute",
        "kind": "requests",
        "limit": 1_000,
        "used": 0,
        "claimed": 0,
        "left": 1_000,
        "resets_at": None,
        **members,
    }
    return LimitView(**members)


@pytest.mark.parametrize(
    ("used", "claimed", "cells"),
    [
        (0, 0, "················"),
        (1, 0, "█···············"),
        (500, 0, "████████········"),
        (500, 250, "████████▒▒▒▒····"),
        (1_000, 0, "████████████████"),
        (1_500, 100, "████████████████"),
        (0, 1_000, "▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒"),
        (1_200, -300, "████████████████"),
    ],
)
def test_a_bar_shows_what_is_used_then_held_then_left(used: int, claimed: int, cells: str) -> None:
    drawn_bar = bar(standing(used=used, claimed=claimed))

    assert drawn_bar == cells
    assert len(drawn_bar) == BAR_CELLS


@pytest.mark.parametrize(
    ("used", "claimed", "expected"),
    [
        (0, 0, "green"),
        (799, 0, "green"),
        (400, 400, "yellow"),
        (500, 500, "red"),
        (1_001, 0, "red"),
    ],
)
def test_the_colour_says_how_near_the_limit_is(used: int, claimed: int, expected: str) -> None:
    view = standing(used=used, claimed=claimed, left=1_000 - used - claimed)

    assert colour(view) == expected


@pytest.mark.parametrize(
    ("members", "cells"),
    [
        (
            {"used": 600, "claimed": 50, "left": 350, "resets_at": "2026-11-23T10:00:00Z"},
            ["org acme", "1_000 requests per minute", "1_000", "600", "50", "350",
             "2026-11-23T10:00:00Z"],
        ),
        (
            {"scope": "team", "name": "acme/research", "kind": "usd", "rule": "usd=20/day,strict",
             "limit": 20.0, "used": 1e-09, "claimed": 2.5, "left": -0.25},
            ["team research", "20 USD per day, reject, strict", "20.00", "0.000000001", "2.50",
             "-0.25", "-"],
        ),
        (
            {"scope": "user", "name": "acme/ann@x.org"},
            ["user ann@x.org", "1_000 requests per minute", "1_000", "0", "0", "1_000", "-"],
        ),
        (
            {"scope": "user", "name": "acme/*", "resets_at": "2026-11-23T10:00:00Z"},
            ["each other user", "1_000 requests per minute", "1_000", "-", "-", "-", "-"],
        ),
        (
            {"scope": "key", "name": KEY},
            [f"key {KEY} (ci)", "1_000 requests per minute", "1_000", "0", "0", "1_000", "-"],
        ),
        (
            {"scope": "key", "name": "0" * 12},
            [f"key {'0' * 12}", "1_000 requests per minute", "1_000", "0", "0", "1_000", "-"],
        ),
    ],
)  # fmt: skip
def test_a_bucket_is_told_in_words(members: dict[str, Any], cells: list[str]) -> None:
    told = standing_cells(standing(**members), {KEY: "ci", "0" * 12: None})

    assert list(told.values()) == cells


def test_a_terminal_sees_bars_but_not_of_users_that_have_buckets_of_their_own() -> None:
    views = [standing(used=500, left=500), standing(scope="user", name="acme/*")]
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system="standard")

    console.print(drawn([(view, standing_cells(view, {})) for view in views]))

    assert isinstance(console.file, io.StringIO)
    _, org, every = console.file.getvalue().splitlines()
    assert "\x1b[32m████████········" in org
    assert "·" not in every
    assert "each other user" in every
