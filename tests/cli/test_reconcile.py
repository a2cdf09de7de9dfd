"""`llmrouter usage reconcile`, as an admin uses it with the month's exports."""

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from llmrouter.cli.main import app
from llmrouter.contracts.call import Usage
from llmrouter.daemon.state import open_state
from llmrouter.metering.books import DAY_MS, Books
from llmrouter.metering.records import Attempt
from llmrouter.metering.tail import Ended
from tests.metering.test_books import NOW_MS, ended
from tests.support.daemon import run
from tests.support.folding import fold

CONFIG = """
[upstreams.openai]
url = "https://api.openai.com/v1"
credential = { env = "HOME" }
[upstreams.claude]
dialect = "anthropic"
url = "https://api.anthropic.com"
credential = { env = "HOME" }
[models."gpt-4o"]
deployments = [{ upstream = "openai" }]
"""
GENERIC = "day,model,calls,prompt_tokens,cached_tokens,output_tokens,cost_usd\n"
DAY, NEXT = "2025-11-23", "2025-11-24"
USED = Usage(prompt_tokens=1_000, cached_tokens=200, output_tokens=50)


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMROUTER_CONFIG", raising=False)
    Path("router.toml").write_text(CONFIG)


def booked(seq: int, deployment: str = "openai/gpt-4o-2024-08-06", *, day: int = 0) -> Ended:
    return ended(
        seq,
        at_ms=NOW_MS + day * DAY_MS,
        deployment=deployment,
        usage=USED,
        cost_nano_usd=3_000_000,
    )


def keep(*facts: Ended) -> None:
    with open_state(Path("state")), contextlib.closing(Books(Path("state/books.db"))) as books:
        fold(books, facts, {})


def reconcile(text: str, *arguments: str, provider: str = "generic") -> Result:
    Path("export").write_text(text)
    options = ("--provider", provider, *arguments)
    if provider == "generic" and "--upstream" not in arguments:
        options += ("--upstream", "openai")
    return CliRunner().invoke(app, ["usage", "reconcile", "export", *options])


def decoded(done: Result) -> Any:
    return msgspec.json.decode(done.stdout)


def words(text: str) -> str:
    """A usage error without the box around it."""
    return " ".join(text.replace("│", " ").split())


# ---- the comparison ---------------------------------------------------------------------------


def test_an_export_that_agrees_is_status_0() -> None:
    keep(booked(1), booked(2))

    done = reconcile(f"{GENERIC}{DAY},gpt-4o-2024-08-06,2,2000,400,100,0.006\n")

    assert (done.exit_code, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()[:6]] == [
        ["day", "model", "what", "ours", "theirs", "difference", "%"],
        [DAY, "gpt-4o-2024-08-06", "calls", "2", "2", "0", "0.00"],
        [DAY, "gpt-4o-2024-08-06", "prompt", "tokens", "2_000", "2_000", "0", "0.00"],
        [DAY, "gpt-4o-2024-08-06", "cached", "tokens", "400", "400", "0", "0.00"],
        [DAY, "gpt-4o-2024-08-06", "output", "tokens", "100", "100", "0", "0.00"],
        [DAY, "gpt-4o-2024-08-06", "USD", "0.006", "0.006", "0.00", "0.00"],
    ]
    assert done.stdout.splitlines()[-1] == "all of 1 days and models agree within 0 %"


@pytest.mark.parametrize(
    ("tolerance", "status", "verdict"),
    [
        ("0", 1, "1 of 1 days and models differ by more than 0 %"),
        ("4.7", 1, "1 of 1 days and models differ by more than 4.7 %"),
        ("4.8", 0, "all of 1 days and models agree within 4.8 %"),
        ("5%", 0, "all of 1 days and models agree within 5 %"),
    ],
)
def test_what_is_off_by_more_than_the_tolerance_is_status_1(
    tolerance: str, status: int, verdict: str
) -> None:
    keep(booked(1), booked(2))

    done = reconcile(f"{GENERIC}{DAY},gpt-4o,,2100,,100,\n", "--tolerance", tolerance)

    assert done.exit_code == status
    assert done.stdout.splitlines()[-1] == verdict
    _, line, *_ = done.stdout.splitlines()
    marked = ["exceeds"] if status else []
    assert line.split()[4:] == ["2_000", "2_100", "-100", "-4.76", *marked]


def test_the_document_has_everything_and_money_to_the_nano() -> None:
    keep(booked(1))

    done = reconcile(f"{GENERIC}{DAY},gpt-4o-2024-08-06,1,1000,200,50,0.004\n", "--json")

    assert done.exit_code == 1
    document = decoded(done)
    assert (document["first_day"], document["last_day"]) == (DAY, DAY)
    assert (document["tolerance_percent"], document["agrees"]) == (0.0, False)
    (row,) = document["rows"]
    assert (row["day"], row["model"], row["exceeds"]) == (DAY, "gpt-4o-2024-08-06", True)
    assert row["calls"] == {
        "ours": 1, "theirs": 1, "difference": 0, "percent": 0.0, "exceeds": False,
    }  # fmt: skip
    assert row["cost_usd"] == {
        "ours": "0.003", "theirs": "0.004", "difference": "-0.001", "percent": -25.0,
        "exceeds": True,
    }  # fmt: skip
    assert document["total"]["cost_usd"] == row["cost_usd"]


def test_what_each_upstream_served_is_compared_whoever_answered_at_last() -> None:
    """A hedged call is billed by both; the rounding of each is no difference."""
    hedged = Attempt(
        deployment="openai/gpt-4o-2024-08-06",
        upstream="openai",
        outcome="hedged",
        usage=USED,
        cost_nano_usd=3_000_000,
    )
    shadow = booked(2)
    shadow = replace(shadow, begin=replace(shadow.begin, org="(shadow)", key_id="(shadow)"))
    call = booked(1, "lab/llama")
    keep(replace(call, end=replace(call.end, others=(hedged,))), shadow)

    done = reconcile(f"{GENERIC}{DAY},gpt-4o-2024-08-06,2,2000,400,100,0.006000001\n", "--json")

    assert done.exit_code == 0, done.output
    (row,) = decoded(done)["rows"]
    assert (row["calls"]["ours"], row["cost_usd"]["ours"]) == (2, "0.006")


def test_every_day_and_model_of_either_side_is_shown() -> None:
    keep(booked(1), booked(2, "openai/o3", day=1))

    done = reconcile(
        f"{GENERIC}{DAY},o1,1,1,,1,\n{NEXT},o3,1,1000,,50,\n", "--json", "--tolerance", "1"
    )

    assert [(row["day"], row["model"], row["exceeds"]) for row in decoded(done)["rows"]] == [
        (DAY, "gpt-4o-2024-08-06", True),
        (DAY, "o1", True),
        (NEXT, "o3", False),
    ]


def test_usage_and_cost_may_stand_in_two_files() -> None:
    keep(booked(1))
    Path("usage.csv").write_text(f"{GENERIC}{DAY},gpt-4o-2024-08-06,1,1000,200,50,\n")
    Path("cost.json").write_text(
        f'[{{"day": "{DAY}", "model": "gpt-4o-2024-08-06", "cost_usd": 0.003}}]'
    )

    done = CliRunner().invoke(
        app,
        ["usage", "reconcile", "usage.csv", "cost.json", "--provider", "generic", "--upstream",
         "openai", "--json"],
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    assert len(decoded(done)["rows"]) == 1


# ---- which days -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "days"),
    [
        ((), [DAY, NEXT]),
        (("--since", NEXT), [NEXT]),
        (("--until", NEXT), [DAY]),
        (("--since", "2025-11-22"), ["2025-11-22", DAY, NEXT]),
        (("--month", "2025-11"), ["2025-11-22", DAY, NEXT, "2025-11-25"]),
        (("--since", f"{NEXT}T13:00Z", "--until", f"{NEXT}T14:00Z"), [NEXT]),
    ],
)
def test_the_days_are_those_of_the_export_if_nothing_else_is_said(
    arguments: tuple[str, ...], days: list[str]
) -> None:
    keep(*(booked(day + 2, day=day) for day in (-1, 0, 1, 2)))

    done = reconcile(f"{GENERIC}{DAY},o1,1,,,,\n{NEXT},,,,,,\n", "--json", *arguments)

    ours = [row["day"] for row in decoded(done)["rows"] if row["model"] != "o1"]
    assert ours == days


def test_an_export_of_no_day_needs_one_that_is_said() -> None:
    keep(booked(1))

    assert "the export names no day" in reconcile(GENERIC).stderr
    assert reconcile(GENERIC).exit_code == 1
    assert decoded(reconcile(GENERIC, "--month", "2025-11", "--json"))["rows"][0]["exceeds"]


# ---- whose calls ------------------------------------------------------------------------------


def test_only_the_calls_of_the_upstream_are_compared() -> None:
    keep(booked(1), booked(2, "claude/claude-haiku-4-5"), booked(3, "lab/meta/llama"))

    def models(*arguments: str) -> list[str]:
        done = reconcile(f"{GENERIC}{DAY},,,,,,\n", "--json", *arguments)
        return [row["model"] for row in decoded(done)["rows"]]

    assert models("--upstream", "claude") == ["claude-haiku-4-5"]
    assert models("--upstream", "lab") == ["meta/llama"], "out of router.toml, still in the books"
    assert models("--upstream", "openai", "--upstream", "lab") == [
        "gpt-4o-2024-08-06",
        "meta/llama",
    ]


def test_the_upstream_of_the_providers_dialect_is_taken_where_there_is_one() -> None:
    keep(booked(1), booked(2, "claude/claude-haiku-4-5-20251001"))
    usage = """{"data": [{"starting_at": "2025-11-23T00:00:00Z", "results": [
      {"uncached_input_tokens": 700, "cache_read_input_tokens": 200, "output_tokens": 50,
       "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0},
       "model": "claude-haiku-4-5-20251001"}]}]}"""

    assert reconcile(usage, provider="anthropic").exit_code == 0


def test_where_several_upstreams_fit_one_is_to_be_said() -> None:
    Path("router.toml").write_text(f'{CONFIG}\n[upstreams.lab]\nurl = "http://127.0.0.1:9/v1"\n')
    keep(booked(1))

    done = reconcile('{"data": []}', provider="openai")

    assert done.exit_code == 2
    assert "say with --upstream whose calls the export bills: openai, lab" in words(done.stderr)


def test_an_upstream_that_nobody_knows_is_refused() -> None:
    keep(booked(1))

    done = reconcile(f"{GENERIC}{DAY},o1,1,,,,\n", "--upstream", "opnai")

    assert (done.exit_code, done.stdout) == (1, "")
    assert "know the upstream 'opnai'; they know claude, openai" in done.stderr


# ---- what is refused --------------------------------------------------------------------------


def test_an_export_that_cannot_be_read_is_refused_with_its_name_and_place() -> None:
    keep(booked(1))

    done = reconcile(f"{GENERIC}{DAY},o1,many,,,,\n")

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "llmrouter: export: entry 1: calls is 'many', which is not a number such as 1234.5\n"
    )


def test_a_file_that_is_not_there_is_refused() -> None:
    done = CliRunner().invoke(
        app, ["usage", "reconcile", "nowhere", "--provider", "generic", "--upstream", "openai"]
    )

    assert done.exit_code == 1
    assert done.stderr == "llmrouter: cannot read nowhere: No such file or directory\n"


def test_without_books_there_is_nothing_to_compare() -> None:
    done = reconcile(f"{GENERIC}{DAY},o1,1,,,,\n")

    assert done.exit_code == 1
    assert "there are no books at" in done.stderr


@pytest.mark.parametrize("tolerance", ["much", "-1", "101", "NaN", "", "1e999999999"])
def test_a_tolerance_is_a_percentage(tolerance: str) -> None:
    done = reconcile(GENERIC, f"--tolerance={tolerance}")

    assert done.exit_code == 2
    assert "is not a percentage" in words(done.stderr)


@pytest.mark.e2e
def test_the_command_as_a_process() -> None:
    keep(booked(1))
    Path("export").write_text(f"{GENERIC}{DAY},gpt-4o,1,1000,200,50,0.003\n")

    done = run("usage", "reconcile", "export", "--provider", "generic", "--upstream", "openai")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "all of 1 days and models agree within 0 %"
