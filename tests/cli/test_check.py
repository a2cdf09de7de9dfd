"""`llmrouter check`, as an operator runs it."""

import tomllib
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

from llmrouter.cli.check import Report, check
from tests.support.certificates import Authority

SECRET = "sk-proj-abcDEF123456"  # made up
FILE = """
state = "/var/lib/llmrouter"
[server]
listen = ["127.0.0.1:4000", "unix:/run/llmrouter.sock"]
workers = 2
[upstreams.openai]
url = "https://api.openai.com/v1"
credential = { env = "OPENAI_API_KEY" }
concurrent = 200
[upstreams.local]
url = "http://127.0.0.1:8000/v1"
[models."gpt-4o"]
aliases = ["best"]
deployments = [{ upstream = "openai", weight = 3 }, { upstream = "local", model = "qwen" }]
price = { input = 2.5, output = 10 }
[models."gpt-*"]
strategy = "ordered"
deployments = [{ upstream = "openai" }]
price = { input = 2.5, output = 10 }
[orgs.acme]
weight = 2
limits = [{ requests = 600, per = "minute" }, { concurrent = 50, at_limit = "queue", wait = 2.5 }]
budgets = [{ usd = 500.00, per = "month" }]
[orgs.acme.teams.research]
models = ["gpt-4o", "gpt-3*"]
limits = [{ tokens = 200_000, per = "day", model = "best", burst = 5_000 }]
[orgs.acme.users."*"]
budgets = [{ usd = 0.5, per = "total", at_limit = "model:gpt-4o" }]
[orgs.acme.users."ann@x.org"]
"""
NOTE = "router.toml: orgs.acme.weight: has no effect yet: all orgs are treated alike"
SEEN = f"""\
router.toml
  state         /var/lib/llmrouter
  listen        127.0.0.1:4000 (http)
  listen        unix:/run/llmrouter.sock (http)
  admin_listen  127.0.0.1:4001 (http)
  workers       2

upstreams
  openai  https://api.openai.com/v1, openai, env OPENAI_API_KEY, 200 calls at once
  local   http://127.0.0.1:8000/v1, openai, no credential

models
  gpt-4o, best  weighted
                openai: the name asked for, weight 3
                local: qwen, weight 1
  gpt-*         ordered
                openai: the name asked for, weight 1

orgs
  acme                      every model
                            600 requests per minute
                            50 calls at once, queue for 2.5 s
                            500 USD per month, reject
  acme/research             gpt-4o, gpt-3*
                            200_000 tokens per day for gpt-4o, at most 5_000 at once
  acme, each other user     0.5 USD in total, then gpt-4o
  acme, the user ann@x.org  no limits of its own

notes
  {NOTE}

ok
"""


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMROUTER_CONFIG", raising=False)
    Path("router.toml").write_text(FILE)


def run(*arguments: str, **environ: str) -> Result:
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, arguments, env={"OPENAI_API_KEY": SECRET, **environ})


def test_shows_what_would_run_then_notes_then_ok() -> None:
    result = run()

    assert result.exit_code == 0
    assert result.stdout == SEEN
    assert result.stderr == ""


def test_shows_an_almost_empty_file_too() -> None:
    Path("router.toml").write_text('state = "/s"\nserver.workers = 0\n')

    result = run()

    assert result.exit_code == 0
    assert "(one per core)\n" in result.stdout
    assert "\nmodels\n  none\n" in result.stdout


def test_effective_prints_nothing_but_a_file_that_checks_alike() -> None:
    result = run("--effective")
    Path("effective.toml").write_text(result.stdout)

    again = run("--effective", "--config", "effective.toml")

    assert result.exit_code == again.exit_code == 0
    assert result.stderr == NOTE + "\n"
    assert again.stdout == result.stdout
    credential = tomllib.loads(result.stdout)["upstreams"]["openai"]["credential"]
    assert credential == {"env": "OPENAI_API_KEY"}


def test_problems_go_to_stderr_with_exit_status_1() -> None:
    Path("router.toml").write_text("[server]\nworkers = -1\nlisen = 'a'\n")

    result = run()

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "router.toml: server.workers: must be a whole number from 0 up to 512 (value -1)",
        "router.toml: server.lisen: unknown key (value a string, not shown); "
        "did you mean 'listen'?",
    ]


def test_a_missing_credential_is_a_problem() -> None:
    result = run(OPENAI_API_KEY="")

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "router.toml: upstreams.openai.credential.env: "
        "the secret there is empty; write it there, on one line\n"
    )


def test_a_certificate_and_key_that_are_no_pair_are_a_problem(tmp_path: Path) -> None:
    """What `serve` refuses must not pass here."""
    authority = Authority(tmp_path)
    for name in ("one.test", "two.test"):
        authority.server_context(name)
    tls = "tls = {{ cert = 'one.test.crt', key = '{}.key' }}\n"
    pair, no_pair = (
        FILE.replace("workers = 2\n", "workers = 2\n" + tls.format(name))
        for name in ("one.test", "two.test")
    )

    Path("router.toml").write_text(no_pair)
    refused = run()
    Path("router.toml").write_text(pair)

    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("router.toml: server.tls: cannot serve TLS with the cert")
    assert "key values mismatch" in refused.stderr
    assert run().exit_code == 0


def test_a_missing_file_is_a_problem_that_says_how_to_get_one() -> None:
    result = run("--config", "none.toml")

    assert result.exit_code == 1
    assert result.stderr.startswith("none.toml: no such file; name one with --config")


def test_json_carries_everything_in_one_object() -> None:
    result = run("--json")
    report = msgspec.json.decode(result.stdout, type=Report)

    assert result.exit_code == 0
    assert (report.ok, report.file, report.workers, report.problems) == (True, "router.toml", 2, ())
    assert [note.key for note in report.notes] == ["orgs.acme.weight"]
    assert report.config is not None
    assert report.config["state"] == "/var/lib/llmrouter"


@pytest.mark.parametrize("arguments", [(), ("--effective",), ("--json",)])
def test_models_without_a_price_under_a_budget_are_noted(arguments: tuple[str, ...]) -> None:
    local = '[models.local]\ndeployments = [{ upstream = "local" }]\n[orgs.acme]\n'
    Path("router.toml").write_text(FILE.replace("[orgs.acme]\n", local))

    result = run(*arguments)

    assert result.exit_code == 0
    assert "no price is known of 'local' (at local)" in result.output
    assert "orgs.acme.budgets" in result.output


def test_json_carries_problems_too() -> None:
    Path("router.toml").write_text("stat = 1\n")

    result = run("--json")
    report = msgspec.json.decode(result.stdout, type=Report)

    assert result.exit_code == 1
    assert result.stderr == ""
    assert (report.ok, report.workers, report.config) == (False, None, None)
    assert [problem.key for problem in report.problems] == ["stat"]


def test_the_environment_may_name_the_file() -> None:
    Path("router.toml").rename("other.toml")

    assert run(LLMROUTER_CONFIG="other.toml").exit_code == 0


def test_an_unknown_option_is_a_usage_error() -> None:
    assert run("--nope").exit_code == 2


@pytest.mark.parametrize("arguments", [(), ("--effective",), ("--json",), ("--help",)])
def test_no_output_shows_a_secret(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)

    assert result.output
    assert SECRET not in result.output


def test_help_shows_an_example() -> None:
    assert "llmrouter check --config" in run("--help").stdout
