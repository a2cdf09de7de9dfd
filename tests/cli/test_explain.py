"""`llmrouter explain`, as an admin uses it while no daemon runs."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from llmrouter.cli import explain as module
from llmrouter.cli.main import app
from llmrouter.daemon.fresh import NOTE
from llmrouter.gateway.explain import SAMPLE

FILE = """
[upstreams.demo]
url = "builtin:demo"
tags = { region = "eu" }
timeouts = { connect = 2 }
[upstreams.far]
url = "http://192.0.2.1/v1"
dialect = "openai"
[models.demo]
aliases = ["house"]
hedge_after = 0.5
fallbacks = ["plain"]
deployments = [{ upstream = "demo", weight = 2 }, { upstream = "far", model = "x" }]
price = { input = 1, output = 1 }
[models.plain]
deployments = [{ upstream = "far", model = "y" }]
price = { input = 1, output = 1 }
[models."free-*"]
deployments = [{ upstream = "demo" }]
[orgs.acme]
models = ["demo", "free-*"]
model_map = { "gpt-4" = "demo" }
limits = [{ requests = 60, per = "minute", at_limit = "queue", wait = 3 }]
budgets = [{ usd = 500, per = "month", strict = true }]
[orgs.acme.teams.research]
require = { region = "eu" }
[orgs.loose]
"""


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMROUTER_CONFIG", raising=False)
    Path("router.toml").write_text(FILE)


def command(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=stdin, env={"COLUMNS": "80"})


def issue(*options: str) -> tuple[str, str]:
    """The id and the text of a new key."""
    done = command("keys", "create", "--json", *options)
    assert done.exit_code == 0, done.stderr
    view: dict[str, str] = msgspec.json.decode(done.stdout)
    return view["id"], view["key"]


def body(**members: object) -> bytes:
    messages = [{"role": "user", "content": "Hello"}]
    return msgspec.json.encode({"model": "demo", "messages": messages, **members})


def said(*arguments: str, stdin: bytes | None = None) -> dict[str, Any]:
    """What `--json` prints."""
    done = command("explain", "--json", *arguments, stdin=stdin)
    assert done.exit_code in (0, 1), done.stderr
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    assert done.exit_code == (0 if found["outcome"]["admitted"] else 1)
    return found


def test_an_admitted_call_is_explained_from_key_to_deployments() -> None:
    key_id, _ = issue(
        "--org", "acme", "--team", "research", "--user", "bo", "--name", "ci", "--limit",
        "concurrent=5",
    )  # fmt: skip

    done = command("explain", "--key", key_id, stdin=body(model="gpt-4", max_tokens=9, stream=True))

    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert done.exit_code == 0, done.stderr
    assert lines[:8] == [
        "who           org acme, team research, user bo",
        f"key           {key_id} (ci), active",
        "asks for      gpt-4 (chat, streamed)",
        "mapped to     demo, by the map of the org",
        "route         demo, found by its name",
        "required      region = eu",
        "attempts      3 at most, 10 repeats left",
        "hedged        streams, after 0.5 s",
    ]
    assert lines[8] == (
        "would hold    1 request, 27 tokens of prompt, 9 of output, 0.000036 USD,"
        " strictly 0.001126 USD"
    )
    assert lines[9] == "outcome       admitted now"
    assert lines[11] == "deployments  weighted: in turn, each as often as its weight says"
    assert [line.split()[:3] for line in lines[13:15]] == [
        ["1", "demo/demo", "demo"],
        ["-", "far/x", "x"],
    ]
    assert "2/60/30/600 s" in lines[13]
    assert lines[14].endswith("it has not the tag region = eu, which this key requires")
    assert "plain  this key may not call the model 'plain'" in done.stdout
    whose = [line[:18].rstrip() for line in lines[lines.index("limits and budgets") + 2 :][:3]]
    assert whose == ["org acme", "org acme", f"key {key_id}"]
    assert "60 requests per minute, queue for 3 s" in done.stdout
    assert lines[-1] == f"  {NOTE}"
    assert SAMPLE not in done.stdout


def test_a_refused_call_is_explained_with_what_the_caller_would_be_told() -> None:
    key_id, _ = issue("--org", "acme")

    done = command("explain", "--key", key_id, "--model", "house", "--stream")

    assert done.exit_code == 1
    assert "asks for      house (chat, streamed)\n" in done.stdout
    assert "route         demo, found by its alias\n" in done.stdout
    assert (
        "outcome       refused: 400 invalid_request\n"
        "              a strict budget applies to this key, so a call must say how long its"
        " answer may be; send max_tokens\n"
        "admitted      not before the call, the key or router.toml is another\n"
    ) in done.stdout
    assert f"  {SAMPLE}\n" in done.stdout


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--org", "loose", "--limit", "tokens=5/day"), "invalid_request"),
        (("--org", "loose", "--budget", "usd=0.000001/total"), "insufficient_quota"),
        (("--org", "loose", "--models", "plain"), "model_not_allowed"),
        (("--org", "loose"), None),
    ],
)
def test_the_code_is_that_of_the_answer(options: tuple[str, ...], code: str | None) -> None:
    key_id, _ = issue(*options)

    outcome = said("--key", key_id, "--model", "demo")["outcome"]

    assert (outcome["admitted"], outcome["code"]) == (code is None, code)


def test_a_budget_and_a_model_without_a_price() -> None:
    key_id, _ = issue("--org", "loose", "--budget", "usd=5/day")

    found = said("--key", key_id, "--model", "free-1")

    assert found["outcome"]["code"] == "insufficient_quota"
    assert "has no price" in found["outcome"]["message"]
    assert found["served"]["found_by"] == "pattern"


@pytest.mark.parametrize("operation", ["chat", "completion", "embedding", "response"])
def test_every_operation_can_be_asked_for(operation: str) -> None:
    key_id, _ = issue("--org", "loose")

    found = said("--key", key_id, "--model", "demo", "--operation", operation)

    assert found["served"]["operation"] == operation
    assert found["outcome"]["admitted"]


def test_the_key_itself_will_do_and_is_shown_nowhere() -> None:
    key_id, text = issue("--org", "loose")
    secret = text.rpartition("-")[2]

    done = command("explain", "--key", text, "--model", "demo", "--json")
    wrong = command("explain", "--key", text[:-3] + "xyz", "--model", "demo")

    assert msgspec.json.decode(done.stdout)["caller"]["id"] == key_id
    assert wrong.exit_code == 1
    assert "none of ours" in wrong.stderr
    shown = done.stdout + done.stderr + wrong.stdout + wrong.stderr
    assert secret not in shown
    assert secret[:-3] not in shown


def test_a_revoked_key_is_refused_and_still_explained() -> None:
    key_id, _ = issue("--org", "loose")
    assert command("keys", "revoke", key_id).exit_code == 0

    found = said("--key", key_id, "--model", "demo")

    assert (found["outcome"]["status"], found["outcome"]["code"]) == (401, "revoked_key")
    assert found["caller"]["status"] == "revoked"
    assert len(found["deployments"]) == 2


def test_an_unknown_key_is_refused() -> None:
    done = command("explain", "--key", "0" * 12, "--model", "demo")

    assert (done.exit_code, done.stdout) == (1, "")
    assert "no key has the id" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (("--model", "demo"), None),
        (("--key", "x" * 12), b""),
        (("--key", "x" * 12, "--stream"), b"{}"),
        (("--key", "x" * 12, "--model", "demo", "--operation", "dance"), None),
        (("--key", "x" * 12), b" " * 11),
    ],
)
def test_what_is_used_wrongly_ends_with_2(
    arguments: tuple[str, ...], stdin: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BODY_BYTES_MAX", 10)

    assert command("explain", *arguments, stdin=stdin).exit_code == 2


def test_who_types_at_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("never read"))
    with pytest.raises(Exception, match="on standard input"):
        module.explain("x" * 12)


def test_a_body_that_is_no_call_is_refused_as_it_would_be() -> None:
    key_id, _ = issue("--org", "loose")

    found = said("--key", key_id, stdin=b"\xff{")

    assert found["outcome"]["code"] == "invalid_json"
    assert (found["served"], found["deployments"]) == (None, [])


def test_a_model_s_name_that_is_no_text_is_refused_before_anybody_is_asked() -> None:
    """As a terminal of another encoding gives it."""
    done = command("explain", "--key", "a" * 12, "--model", "gpt-\udcff")

    assert done.exit_code == 2
    assert "it is not UTF-8 text; retype it" in done.stderr


def test_its_help_shows_an_example() -> None:
    assert "llmrouter explain --key 3fQ9xW2LbT0c" in command("explain", "--help").stdout
