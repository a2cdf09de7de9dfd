"""`llmrouter events`, as an operator uses it."""

import datetime
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from llmrouter.cli.main import app
from llmrouter.daemon.eventbook import EventBook
from llmrouter.daemon.eventdesk import view
from llmrouter.daemon.state import open_state
from llmrouter.quota.denials import Action, Denial

KEY = "3fQ9xW2LbT0c"
AT_MS = 1_763_892_000_000
ONE = Denial(
    at_ms=AT_MS,
    last_ms=AT_MS,
    org="acme",
    key_id=KEY,
    model="gpt-4o",
    action=Action.REFUSED,
    code="rate_limit_exceeded",
    bucket="org/acme/requests/minute",
    limit=600,
    balance=0,
    wanted=1,
)


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMROUTER_CONFIG", raising=False)
    Path("router.toml").write_text(
        '[upstreams.demo]\nurl = "builtin:demo"\n'
        '[models."demo"]\ndeployments = [{ upstream = "demo" }]\n'
    )


def events(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["events", *arguments], env={"COLUMNS": "80"})


def denial(at_ms: int = AT_MS, **members: object) -> Denial:
    return msgspec.structs.replace(ONE, **{"at_ms": at_ms, "last_ms": at_ms, **members})


def keep(*denials: Denial) -> None:
    with open_state(Path("state")) as state:
        book = EventBook(state.store)
        book.add(denials, max(one.at_ms for one in denials))
        state.store.write(book.changes())


def cells(done: Result) -> list[list[str]]:
    """The table without its head; columns stand two spaces apart at least."""
    assert done.exit_code == 0, done.stderr
    rows = [line.split("  ") for line in done.stdout.splitlines()[1:]]
    return [[cell.strip() for cell in row if cell] for row in rows]


def test_every_event_is_a_row_newest_last_whatever_the_width() -> None:
    keep(
        denial(count=1_204, team="research", user="u" * 100),
        denial(
            AT_MS + 90_000,
            action=Action.DOWNGRADED,
            served_by="gpt-4o-mini",
            code="insufficient_quota",
            bucket="team/acme/research/usd/month/gpt-4o*",
            limit=500_000_000_000,
            balance=-1_500,
            wanted=5,
        ),
    )

    done = events()

    assert done.stdout.splitlines()[0].split() == [
        "time", "org", "team", "user", "key", "model", "what", "code", "bucket", "limit",
        "balance", "count",
    ]  # fmt: skip
    assert cells(done) == [
        ["2025-11-23T10:00:00Z", "acme", "research", "u" * 100, KEY, "gpt-4o", "refused",
         "rate_limit_exceeded", "org: requests per minute", "600", "0", "1204"],
        ["2025-11-23T10:01:30Z", "acme", "-", "-", KEY, "gpt-4o", "downgraded to gpt-4o-mini",
         "insufficient_quota", "team: USD per month of gpt-4o*", "500.00", "-0.0000015", "1"],
    ]  # fmt: skip
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("bucket", "words"),
    [
        ("org/acme/tokens/day/meta/llama-*", "org: tokens per day of meta/llama-*"),
        ("user/acme/ann@example.com/requests/hour", "user: requests per hour"),
        (f"key/{KEY}/concurrent", "key: calls at once"),
        (f"key/{KEY}/concurrent/gpt-4o", "key: calls at once of gpt-4o"),
        ("org/acme/usd/total", "org: USD in total"),
        ("fleet/eu/parsecs", "fleet/eu/parsecs"),
        ("", "-"),
    ],
)
def test_a_bucket_is_told_in_words(bucket: str, words: str) -> None:
    keep(denial(bucket=bucket))

    assert cells(events())[0][8] == words


@pytest.mark.parametrize(
    ("nano", "usd"),
    [(0, "0.00"), (1, "0.000000001"), (20_000_000, "0.02"), (-2_500_000_000, "-2.50"),
     (123_456_700_000_000, "123456.70"), (10**18, "1000000000.00")],
)  # fmt: skip
def test_money_is_shown_in_usd(nano: int, usd: str) -> None:
    keep(denial(bucket="org/acme/usd/day", balance=nano))

    assert cells(events())[0][10] == usd


def test_json_has_every_member() -> None:
    keep(denial(count=3, team="research"))

    done = events("--json")

    assert msgspec.json.decode(done.stdout) == [view(denial(count=3, team="research"))]


def test_none_are_none_in_words_and_an_empty_list_in_json() -> None:
    done = events()

    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "no call was refused or downgraded by a limit or budget\n"
    assert msgspec.json.decode(events("--json").stdout) == []
    assert "of those that you asked for" in events("--org", "acme").stderr


def test_they_are_chosen_by_org_and_key() -> None:
    keep(denial(), denial(org="globex"), denial(org="globex", key_id="0" * 12))

    assert [row[1] for row in cells(events("--org", "globex"))] == ["globex", "globex"]
    assert [row[1] for row in cells(events("--key", KEY))] == ["acme", "globex"]
    assert len(cells(events("--key", KEY, "--org", "globex"))) == 1


def test_the_newest_are_shown_and_it_is_said_that_there_may_be_more() -> None:
    keep(*(denial(AT_MS + number, model=f"m{number}") for number in range(5)))

    done = events("--limit", "2")

    assert [row[5] for row in cells(done)] == ["m3", "m4"]
    assert done.stderr == "these are the newest 2; --limit shows more, at most 10000\n"


def now_ms() -> int:
    return int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)


def test_since_takes_how_long_ago() -> None:
    keep(denial(now_ms() - 7_200_000, model="old"), denial(now_ms() - 1_800_000, model="new"))

    assert [row[5] for row in cells(events("--since", "1h"))] == ["new"]
    assert [row[5] for row in cells(events("--since", "3h"))] == ["old", "new"]


@pytest.mark.parametrize(
    "text",
    ["2025-11-23T10:00Z", "2025-11-23T10:00", "2025-11-23T11:00+01:00", "2025-11-23 10:00:00"],
)
def test_since_takes_a_time_in_utc_if_nothing_else_is_said(text: str) -> None:
    keep(denial(AT_MS - 1, model="before"), denial(AT_MS, model="then"))

    assert [row[5] for row in cells(events("--since", text))] == ["then"]


@pytest.mark.parametrize("text", ["", "yesterday", "1", "-1h", "2025-13-01", "10:00"])
def test_a_time_that_is_none_is_a_usage_error(text: str) -> None:
    done = events("--since", text)

    assert done.exit_code == 2
    assert "is neither a duration nor a time" in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
    assert not Path("state").exists()


def test_a_whole_key_is_neither_taken_for_its_id_nor_repeated() -> None:
    done = events("--key", f"sk-lr-{KEY}-{'x' * 43}")

    assert done.exit_code == 1
    assert "never give the key itself" in done.stderr
    assert "xxx" not in done.stderr


@pytest.mark.parametrize("limit", ["0", "10001", "many"])
def test_a_limit_out_of_bounds_is_a_usage_error(limit: str) -> None:
    assert events("--limit", limit).exit_code == 2
