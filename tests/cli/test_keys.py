"""`llmrouter keys`, as an admin uses it."""

import contextlib
import datetime
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from llmrouter.access.issued import KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.cli.main import app
from llmrouter.daemon import administer
from llmrouter.daemon.state import open_state
from tests.support.daemon import DEMO, LLMROUTER, run, serving, write_config

FILE = """
[upstreams.demo]
url = "builtin:demo"
[models."demo"]
deployments = [{ upstream = "demo" }]
[orgs.acme]
[orgs.acme.teams.research]
"""
KEY = re.compile(r"sk-lr-[0-9A-Za-z]{12}-[0-9A-Za-z]{43}")
A_YEAR_AGO_S = 1_700_000_000


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMROUTER_CONFIG", raising=False)
    Path("router.toml").write_text(FILE)
    before = os.umask(0o022)
    yield
    os.umask(before)


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments], env={"COLUMNS": "80"})


def created(*options: str) -> dict[str, Any]:
    done = keys("create", "--org", "acme", "--json", *options)
    assert done.exit_code == 0, done.stderr
    view: dict[str, Any] = msgspec.json.decode(done.stdout)
    return view


def at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


# ---- create -----------------------------------------------------------------------------------


def test_the_key_alone_is_printed_and_the_rest_is_said_beside_it() -> None:
    """So that `KEY=$(llmrouter keys create --org acme)` works."""
    done = keys("create", "--org", "acme")

    assert done.exit_code == 0
    assert KEY.fullmatch(done.stdout.removesuffix("\n"))
    key_id = done.stdout[6:18]
    assert done.stderr == (
        f"the key {key_id} of acme is in force; it is not shown again, so keep it now\n"
    )


def test_the_json_of_a_new_key_is_its_view_with_its_text() -> None:
    view = created(
        "--team", "research", "--user", "ada@example.com", "--name", "ci", "--expires", "90d"
    )

    assert list(view) == [
        "id", "key", "org", "team", "user", "name", "models", "model_map", "limits", "budgets",
        "created_at", "expires_at", "revoked_at", "status",
    ]  # fmt: skip
    assert KEY.fullmatch(view["key"])
    assert view["key"][6:18] == view["id"]
    assert (view["org"], view["team"], view["user"]) == ("acme", "research", "ada@example.com")
    assert (view["name"], view["models"], view["status"]) == ("ci", [], "active")
    assert view["revoked_at"] is None
    assert at(view["expires_at"]) - at(view["created_at"]) == datetime.timedelta(days=90)


@pytest.mark.parametrize(
    ("options", "models"),
    [
        ([], []),
        (["--models", "demo"], ["demo"]),
        (["--models", "demo,gpt-4o*"], ["demo", "gpt-4o*"]),
        (["--models", "demo", "--models", "a,b"], ["demo", "a", "b"]),
    ],
)
def test_models_may_be_repeated_and_joined_by_commas(options: list[str], models: list[str]) -> None:
    assert created(*options)["models"] == models


@pytest.mark.parametrize(
    ("text", "lifetime"),
    [
        ("90d", datetime.timedelta(days=90)),
        ("12h", datetime.timedelta(hours=12)),
        ("2w", datetime.timedelta(weeks=2)),
        ("1s", datetime.timedelta(seconds=1)),
    ],
)
def test_a_key_lives_as_long_as_was_said(text: str, lifetime: datetime.timedelta) -> None:
    view = created("--expires", text)

    assert at(view["expires_at"]) - at(view["created_at"]) == lifetime


@pytest.mark.parametrize(
    "text", ["", "90", "tomorrow", "-1d", "0d", "1.5d", "90 d", "1y", "\uff19d"]
)
def test_a_lifetime_that_is_none_is_a_usage_error(text: str) -> None:
    done = keys("create", "--org", "acme", "--expires", text)

    assert done.exit_code == 2
    assert "is not a duration" in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
    assert not Path("state").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--org", "a/b"], "org 'a/b' is not a name"),
        (["--org", ""], "org '' is not a name"),
        (["--org", "acme", "--team", "x" * 65], "is not a name: write 1 to 64"),
        (["--org", "acme", "--models", "gpt-?"], "'gpt-?' is not a model pattern"),
        (["--org", "acme", "--models", ""], "has 0 characters"),
        (["--org", "acme", "--models", "a,,b"], "has 0 characters"),
        (["--org", "acme", "--expires", "999999999d"], "at most 100 years"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(options: list[str], words: str) -> None:
    done = keys("create", *options)

    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("llmrouter: ")
    assert words in done.stderr
    assert keys("list").stdout == ""


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (["--org", "acme"], None),
        (["--org", "acme", "--team", "research"], None),
        (["--org", "globex"], "note: router.toml has no [orgs.globex], so no limits or budgets"),
        (["--org", "acme", "--team", "x"], "note: router.toml has no [orgs.acme.teams.x]: only"),
    ],
)
def test_a_word_is_said_about_whom_the_file_does_not_know(
    options: list[str], note: str | None
) -> None:
    done = keys("create", "--json", *options)

    assert done.exit_code == 0
    assert msgspec.json.decode(done.stdout)["status"] == "active"
    assert (note is None) == (done.stderr == "")
    assert (note or "") in done.stderr


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_limits_and_budgets_are_kept_and_shown(form: list[str]) -> None:
    view = created(
        "--limit", "requests=60/minute,burst=1_00", "--limit", "tokens=20_000/minute,model=demo",
        "--budget", "usd=20.50/day,strict", "--budget", "usd=100/month",
    )  # fmt: skip

    assert view["limits"] == ["requests=60/minute,burst=100", "tokens=20000/minute,model=demo"]
    assert view["budgets"] == ["usd=20.5/day,strict", "usd=100/month"]
    shown = keys("show", view["id"], *form).stdout
    if form:
        del view["key"]
        assert msgspec.json.decode(shown) == view
    else:
        assert (
            "limits      requests=60/minute,burst=100 tokens=20000/minute,model=demo\n"
            "budgets     usd=20.5/day,strict usd=100/month\n"
        ) in shown
    assert "usd=20.5/day,strict usd=100/month" in keys("list").stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--limit", "requests=60"], "requests=60 has no period: write one of second, minute"),
        (["--limit", ""], "does not begin a rule: write requests=60/minute or tokens=20000/minute"),
        (["--limit", "usd=1/day"], "usd is a budget: give it as --budget usd=20/day"),
        (["--budget", "usd=1/minute"], "'minute' is no period of usd: write one of hour, day"),
        (["--budget", "usd=1/day,strict,mid_stream=cut"], "strict or mid_stream=cut, not both"),
    ],
)
@pytest.mark.parametrize("command", [("create", "--org", "acme"), ("update", "3fQ9xW2LbT0c")])
def test_a_rule_that_is_none_is_a_usage_error(
    command: tuple[str, ...], options: list[str], words: str
) -> None:
    done = keys(*command, *options)

    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
    assert not Path("state").exists()


@pytest.mark.parametrize(
    ("rule", "note"),
    [
        (["--limit", "concurrent=1,model=gpt-4,at_limit=model:house"], None),
        (["--limit", "concurrent=1,model=de*"], None),
        (["--limit", "concurrent=1,model=gpt-4"], None),
        (
            ["--budget", "usd=1/day,at_limit=model:small"],
            "note: no model in router.toml serves 'small', the at_limit of usd/day\n",
        ),
        (
            ["--limit", "concurrent=1,model=claude"],
            "note: no model in router.toml serves 'claude': concurrent/claude counts nothing\n",
        ),
        (
            ["--limit", "concurrent=1,model=claude*"],
            "note: no model in router.toml is covered by 'claude*': concurrent/claude* counts"
            " nothing\n",
        ),
        (
            ["--limit", "concurrent=1,model=house"],
            "note: 'house' is an alias, whose calls are counted as 'demo': concurrent/house counts"
            " nothing\n",
        ),
    ],
)
def test_a_word_is_said_about_models_that_the_file_does_not_serve(
    rule: list[str], note: str | None
) -> None:
    Path("router.toml").write_text(
        FILE.replace('[models."demo"]', '[models."gpt-*"]\n'
        'deployments = [{ upstream = "demo" }]\n[models."demo"]\naliases = ["house"]')
    )  # fmt: skip

    made = keys("create", "--org", "acme", "--json", *rule)
    changed = keys("update", msgspec.json.decode(made.stdout)["id"], *rule)

    assert made.exit_code == changed.exit_code == 0
    assert made.stderr == changed.stderr == (note or "")


# ---- map --------------------------------------------------------------------------------------


def test_a_key_maps_names_to_models() -> None:
    view = created("--map", "gpt-4=demo", "--map", "gpt-4o*=demo")

    assert view["model_map"] == {"gpt-4": "demo", "gpt-4o*": "demo"}
    shown = keys("show", view["id"]).stdout
    assert re.search(r"^model_map +gpt-4=demo gpt-4o\*=demo$", shown, re.MULTILINE)
    assert "gpt-4=demo gpt-4o*=demo" in keys("list").stdout


@pytest.mark.parametrize(
    ("options", "model_map"),
    [
        (("--map", "x=demo"), {"x": "demo"}),
        (("--map", "none"), {}),
        (("--name", "night"), {"gpt-4": "demo"}),
    ],
)
def test_an_update_gives_a_key_another_map_or_none(
    options: tuple[str, ...], model_map: dict[str, str]
) -> None:
    key_id = created("--map", "gpt-4=demo")["id"]

    done = keys("update", key_id, "--json", *options)

    assert done.exit_code == 0
    assert msgspec.json.decode(done.stdout)["model_map"] == model_map


@pytest.mark.parametrize("command", [("create", "--org", "acme"), ("update", "3fQ9xW2LbT0c")])
@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (["gpt-4"], "'gpt-4' maps nothing"),
        (["none", "a=b"], "'none' maps nothing"),
        (["a=b", "a=c"], "'a' is mapped twice"),
        (["a=a"], "'a' is mapped to itself"),
    ],
)
def test_a_map_that_is_none_is_a_usage_error(
    command: tuple[str, ...], maps: list[str], words: str
) -> None:
    done = keys(*command, *(part for text in maps for part in ("--map", text)))

    assert done.exit_code == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert "Invalid value for '--map'" in said
    assert words in said
    assert not Path("state").exists()


def test_a_word_is_said_about_a_map_that_leads_nowhere() -> None:
    made = keys("create", "--org", "acme", "--json", "--map", "a=zzz")
    key_id = msgspec.json.decode(made.stdout)["id"]
    note = "note: no model in router.toml serves 'zzz', which names are mapped to\n"

    assert made.stderr == note
    assert keys("update", key_id, "--map", "b=zzz").stderr == note
    assert keys("update", key_id, "--map", "b=demo").stderr == ""
    assert keys("update", key_id, "--models", "x*").stderr == (
        "note: this key may not use 'demo', which names are mapped to\n"
    )
    assert keys("update", key_id, "--name", "x").stderr == ""


# ---- update -----------------------------------------------------------------------------------


def test_an_update_replaces_what_it_names_and_shows_the_key() -> None:
    view = created(
        "--name", "ci", "--expires", "90d", "--limit", "requests=60/minute",
        "--limit", "concurrent=5", "--budget", "usd=20/day",
    )  # fmt: skip

    done = keys(
        "update", view["id"], "--limit", "requests=100/minute", "--budget", "usd=1/hour",
        "--remove", "usd/day", "--name", "night", "--models", "demo,a*", "--models", "b",
    )  # fmt: skip

    assert done.exit_code == 0
    assert done.stderr == ""
    assert done.stdout == keys("show", view["id"]).stdout
    shown = msgspec.json.decode(keys("show", view["id"], "--json").stdout)
    del view["key"]
    assert shown == {
        **view,
        "limits": ["requests=100/minute", "concurrent=5"],
        "budgets": ["usd=1/hour"],
        "name": "night",
        "models": ["demo", "a*", "b"],
    }


def test_what_show_prints_of_a_rule_removes_it() -> None:
    key_id = created("--limit", "concurrent=5,model=demo", "--limit", "concurrent=9")["id"]
    (line,) = re.findall(r"^limits +(.*)$", keys("show", key_id).stdout, re.MULTILINE)

    done = keys("update", key_id, "--remove", line.split()[0], "--json")

    assert msgspec.json.decode(done.stdout)["limits"] == ["concurrent=9"]


def test_a_key_can_be_made_to_live_for_another_time_or_for_ever() -> None:
    key_id = key_of_long_ago()

    longer = msgspec.json.decode(keys("update", key_id, "--expires", "2d", "--json").stdout)
    never = msgspec.json.decode(keys("update", key_id, "--expires", "never", "--json").stdout)

    assert longer["status"] == never["status"] == "active"
    assert at(longer["expires_at"]) > at(longer["created_at"]) + datetime.timedelta(days=2)
    assert never["expires_at"] is None


def test_an_update_without_a_change_is_refused() -> None:
    done = keys("update", created()["id"])

    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("llmrouter: nothing to change was given; give a limit, a budget")


def test_an_update_of_a_revoked_key_is_refused() -> None:
    key_id = created()["id"]
    keys("revoke", key_id)

    done = keys("update", key_id, "--name", "x")

    assert done.exit_code == 1
    assert f"llmrouter: the key {key_id} was revoked at " in done.stderr


def test_a_rule_that_the_key_does_not_have_is_named_with_those_that_it_has() -> None:
    key_id = created("--limit", "concurrent=5", "--budget", "usd=20/day,model=demo")["id"]

    done = keys("update", key_id, "--remove", "usd/day", "--name", "x")

    assert done.exit_code == 1
    assert done.stderr == (
        "llmrouter: the key has no limit or budget 'usd/day'; it has concurrent, usd/day/demo\n"
    )
    assert msgspec.json.decode(keys("show", key_id, "--json").stdout)["name"] is None


@pytest.mark.parametrize("text", ["", "90", "Never", "0d", "tomorrow"])
def test_an_expiry_that_is_none_is_a_usage_error(text: str) -> None:
    done = keys("update", "3fQ9xW2LbT0c", "--expires", text)

    assert done.exit_code == 2
    assert "is not a duration" in " ".join(done.stderr.replace("│", " ").split())


def test_never_is_no_lifetime_of_a_new_key() -> None:
    """One that never expires is what `create` makes without `--expires`."""
    assert keys("create", "--org", "acme", "--expires", "never").exit_code == 2


@pytest.mark.parametrize("command", ["create", "update"])
def test_help_shows_an_example_with_a_limit(command: str) -> None:
    done = keys(command, "--help")

    assert f"Example: llmrouter keys {command}" in done.stdout
    assert re.search(r"--limit\s+requests=", done.stdout)


# ---- list, show, revoke -----------------------------------------------------------------------


def key_of_long_ago() -> str:
    """The id of a key that has expired."""
    with open_state(Path("state")) as state:
        book = KeyBook(state.store, KeyDigest(state.digest_key))
        return book.create(KeyTerms(org="old", expires_in_s=1), A_YEAR_AGO_S)[0].id


def test_no_keys_are_none_in_words_and_an_empty_list_in_json() -> None:
    assert keys("list").stderr == (
        "there are no keys yet; `llmrouter keys create --org ORG` issues one\n"
    )
    assert keys("list").stdout == ""
    assert msgspec.json.decode(keys("list", "--json").stdout) == []


def test_every_key_is_a_row_oldest_first_whatever_the_width() -> None:
    old = key_of_long_ago()
    active = created("--team", "research", "--user", "u" * 100, "--models", "demo,gpt-4o*")
    ended = created("--name", "of a person who left")["id"]
    assert keys("revoke", ended).exit_code == 0

    done = keys("list")

    head, *rows = done.stdout.splitlines()
    assert head.split() == [
        "id", "org", "team", "user", "name", "models", "model_map", "limits", "budgets",
        "created_at", "expires_at", "status",
    ]  # fmt: skip
    assert len(rows) == 3
    assert rows[0].split()[0] == old
    by_id = {row.split()[0]: row for row in rows}
    assert by_id[old].rstrip().endswith("expired")
    assert by_id[active["id"]].rstrip().endswith("active")
    assert "demo gpt-4o*" in by_id[active["id"]]
    assert "u" * 100 in by_id[active["id"]]
    assert by_id[ended].rstrip().endswith("revoked")
    assert "of a person who left" in by_id[ended]
    assert "every model" in by_id[ended]
    assert active["key"][-43:] not in done.stdout


def test_a_name_is_shown_as_it_is_and_not_as_markup() -> None:
    created("--name", "[red]:smile: [b]x")

    assert "[red]:smile: [b]x" in keys("list").stdout


def test_a_list_has_the_same_members_as_json() -> None:
    view = created("--models", "demo")
    del view["key"]

    assert msgspec.json.decode(keys("list", "--json").stdout) == [view]


def test_one_key_is_shown_field_by_field() -> None:
    view = created("--models", "demo,gpt-4o*", "--user", "ada")

    done = keys("show", view["id"])

    assert done.exit_code == 0
    assert done.stdout == (
        f"id          {view['id']}\n"
        "org         acme\n"
        "team        -\n"
        "user        ada\n"
        "name        -\n"
        "models      demo gpt-4o*\n"
        "model_map   -\n"
        "limits      -\n"
        "budgets     -\n"
        f"created_at  {view['created_at']}\n"
        "expires_at  -\n"
        "revoked_at  -\n"
        "status      active\n"
    )
    shown = msgspec.json.decode(keys("show", view["id"], "--json").stdout)
    assert shown == {name: value for name, value in view.items() if name != "key"}


def test_a_revoked_key_is_shown_as_such_each_time() -> None:
    key_id = created()["id"]

    first = keys("revoke", key_id)
    again = keys("revoke", key_id, "--json")

    assert first.exit_code == again.exit_code == 0
    assert "status      revoked\n" in first.stdout
    revoked_at = msgspec.json.decode(again.stdout)["revoked_at"]
    assert f"revoked_at  {revoked_at}\n" in first.stdout


@pytest.mark.parametrize("command", [("show",), ("revoke",), ("update", "--name", "x")])
def test_an_id_that_no_key_has_is_refused(command: tuple[str, ...]) -> None:
    done = keys(*command, "3fQ9xW2LbT0c")

    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == (
        "llmrouter: no key has the id '3fQ9xW2LbT0c'; `llmrouter keys list` shows all ids\n"
    )


@pytest.mark.parametrize("command", ["show", "revoke", "update"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_whole_key_is_not_taken_for_an_id_nor_repeated(command: str, as_json: bool) -> None:
    view = created()

    done = keys(command, view["key"], *(["--json"] if as_json else []))

    assert done.exit_code == 1
    assert "never give the key itself" in done.stderr
    assert view["key"][-43:] not in done.output
    assert msgspec.json.decode(keys("show", view["id"], "--json").stdout)["status"] == "active"


# ---- the state --------------------------------------------------------------------------------


def test_the_state_is_for_its_owner_only_whatever_the_umask() -> None:
    created()

    for path in (Path("state"), *Path("state").rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_no_part_of_a_key_is_kept_but_its_id_and_digest() -> None:
    view = created()

    content = b"".join(path.read_bytes() for path in Path("state").rglob("*") if path.is_file())

    assert view["id"].encode() in content
    assert view["key"][-43:].encode() not in content


@pytest.mark.parametrize(
    "arguments",
    [
        *(("list",), ("create", "--org", "acme"), ("show", "x"), ("revoke", "x")),
        ("update", "x", "--name", "y"),
    ],
    ids=str,
)
def test_a_state_that_cannot_be_used_is_told(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(administer, "_HANDOVER_S", 0.05)
    with open_state(Path("state")):
        done = keys(*arguments)

    assert done.exit_code == 1
    assert done.stdout == ""
    assert "state is in use by process" in done.stderr


def test_a_file_with_a_mistake_is_refused_before_anything_is_made() -> None:
    Path("router.toml").write_text(FILE + "nonsense = 1\n")

    done = keys("create", "--org", "acme")

    assert done.exit_code == 1
    assert "orgs.acme.teams.research.nonsense" in done.stderr
    assert not Path("state").exists()


@pytest.mark.e2e
def test_what_is_printed_is_the_same_with_the_daemon_up_or_down(tmp_path: Path) -> None:
    config = str(write_config(tmp_path, DEMO))
    made = [
        run("keys", "create", "--org", "acme", "--models", models, "--json", "--config", config)
        for models in ("demo", "demo-*")
    ]
    key_id = msgspec.json.decode(made[0].stdout)["id"]
    update = ("update", key_id, "--limit", "requests=60/minute,model=demo")
    questions = [("list",), ("show", key_id), ("revoke", "nobody"), update]
    run("keys", *update, "--config", config)

    def answers() -> list[tuple[int, str, str]]:
        done = [run("keys", *question, "--config", config) for question in questions]
        return [(one.returncode, one.stdout, one.stderr) for one in done]

    down = answers()
    with serving(tmp_path):
        up = answers()

    assert up == down
    assert [status for status, _, _ in up] == [0, 0, 1, 0]


def said(*arguments: str | bytes, stdout: int | IO[bytes] = subprocess.PIPE) -> tuple[int, str]:
    """The exit status of a command of its own, and what it said beside its output."""
    done = subprocess.run(
        [*LLMROUTER, "keys", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.e2e
@pytest.mark.parametrize(
    "arguments",
    [
        *(("create", "--org", b"\xff"), ("show", b"\xff"), ("revoke", b"\xff")),
        ("update", "3fQ9xW2LbT0c", "--remove", b"\xff"),
    ],
    ids=str,
)
@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
def test_an_argument_that_is_no_text_is_refused_in_words(
    tmp_path: Path, arguments: tuple[str | bytes, ...], up: bool
) -> None:
    config = str(write_config(tmp_path, DEMO))
    with serving(tmp_path) if up else contextlib.nullcontext():
        status, words = said(*arguments, "--config", config)

    assert status == 1
    assert words.startswith("llmrouter: ")
    assert "Traceback" not in words
    assert words.count("\n") == 1


@pytest.mark.e2e
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_a_key_that_could_not_be_shown_is_named_so_that_it_can_be_revoked(form: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        status, words = said("create", "--org", "acme", *form, stdout=full)

    (view,) = msgspec.json.decode(keys("list", "--json").stdout)
    assert status == 1
    assert words.startswith(f"the key {view['id']} was issued but could not be shown (")
    assert "No space left on device); revoke it\n" in words
    assert "Traceback" not in words
    assert "is in force" not in words
