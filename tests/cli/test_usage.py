"""`llmrouter usage`, as an operator uses it."""

import contextlib
import csv
import functools
import io
import os
import pty
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from llmrouter.cli.main import app
from llmrouter.cli.times import Window, now_ms
from llmrouter.cli.usage import Asked, answer
from llmrouter.config.load import load
from llmrouter.contracts.call import Usage
from llmrouter.daemon.state import open_state
from llmrouter.metering.accounts import Dimension
from llmrouter.metering.books import DAY_MS, Books
from llmrouter.metering.tail import Ended, Folded
from tests.metering.test_books import NOW_MS, ended, interrupted
from tests.metering.test_records import an_attempt
from tests.support.daemon import LLMROUTER, START_TIMEOUT_S, run
from tests.support.folding import fold

KEY = "3fQ9xW2LbT0c"
BOOKS = Path("state/books.db")


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMROUTER_CONFIG", raising=False)
    Path("router.toml").write_text(
        '[upstreams.demo]\nurl = "builtin:demo"\n'
        '[models."demo"]\ndeployments = [{ upstream = "demo" }]\n'
    )


def usage(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["usage", *arguments], env={"COLUMNS": "80"})


def decoded(*arguments: str) -> Any:
    done = usage(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return msgspec.json.decode(done.stdout)


def a_call(seq: int = 1, /, nano: int | None = 2_500_000, **changes: Any) -> Ended:
    """A call; `changes` are those of its end, or of its begin."""
    at_ms = changes.pop("at_ms", NOW_MS)
    of_begin = {
        name: changes.pop(name)
        for name in ("org", "team", "user", "key_id", "model") & changes.keys()
    }
    call = ended(seq, at_ms=at_ms, cost_nano_usd=nano, **changes)
    begin = msgspec.structs.replace(call.begin, at_ms=at_ms, **of_begin)
    return msgspec.structs.replace(call, begin=begin)


@contextlib.contextmanager
def writing(*facts: Folded) -> Iterator[Books]:
    with open_state(Path("state")), contextlib.closing(Books(BOOKS)) as books:
        fold(books, facts, {})
        yield books


def keep(*facts: Folded) -> None:
    with writing(*facts):
        pass


# ---- totals -----------------------------------------------------------------------------------


def test_totals_are_by_org_if_nothing_else_is_said() -> None:
    keep(a_call(1), a_call(2), a_call(3, org="globex", nano=10_000_000))

    done = usage()

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "org     calls  prompt  output     USD",
        "acme        2      18       6  0.0050  ██████████",
        "globex      1       9       3  0.0100  ████████████████████",
        "total       3      27       9  0.0150",
    ]


@pytest.mark.parametrize(
    "arguments",
    [("--by", "org,model"), ("--by", "org", "--by", "model"), ("--by", "org, model,org")],
)
def test_groups_are_named_once_each_in_a_list_or_one_after_the_other(
    arguments: tuple[str, ...],
) -> None:
    keep(a_call(1), a_call(2, model="large"))

    report = decoded(*arguments)

    assert report["by"] == ["org", "model"]
    assert [(row["org"], row["model"]) for row in report["rows"]] == [
        ("acme", "gpt-4o"), ("acme", "large"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("by", "value"),
    [
        ("org", "acme"), ("team", "research"), ("user", "ann"), ("key", KEY), ("model", "large"),
        ("deployment", "lab/large"), ("hour", "2025-11-23T06:00Z"), ("day", "2025-11-23"),
        ("month", "2025-11"),
    ],
)  # fmt: skip
def test_every_group_can_be_asked_for(by: str, value: str) -> None:
    keep(
        a_call(team="research", user="ann", key_id=KEY, model="large", deployment="lab/large"),
    )

    assert [row[by] for row in decoded("--by", by)["rows"]] == [value]


@pytest.mark.parametrize(
    "arguments",
    [("--org", "globex"), ("--team", "research"), ("--user", "ann"), ("--key", KEY),
     ("--model", "large"), ("--deployment", "lab/large"),
     ("--org", "globex", "--user", "ann", "--model", "large")],
    ids=" ".join,
)  # fmt: skip
def test_calls_are_chosen_by_who_and_what(arguments: tuple[str, ...]) -> None:
    chosen: dict[str, Any] = {
        "org": "globex",
        "team": "research",
        "user": "ann",
        "key_id": KEY,
        "model": "large",
    }
    keep(a_call(1), a_call(2, deployment="lab/large", **chosen))

    assert decoded(*arguments)["total"]["calls"] == 1
    assert [call["request_id"] for call in decoded("--calls", *arguments)] == ["req_2"]


def test_an_empty_name_chooses_calls_without_one() -> None:
    keep(a_call(1), a_call(2, team="research"))

    assert [call["request_id"] for call in decoded("--calls", "--team", "")] == ["req_1"]


def test_money_is_exact_in_json_and_csv_and_rounded_in_the_table() -> None:
    keep(a_call(1, nano=1), a_call(2, nano=123_456_789_012_345_678 // 1_000_000_000))

    assert decoded()["total"]["cost_usd"] == "0.12345679"
    assert next(csv.DictReader(io.StringIO(usage("--csv").stdout)))["cost_usd"] == "0.12345679"
    assert usage().stdout.splitlines()[-1].endswith("0.1235")


def test_csv_has_every_column_and_no_total() -> None:
    keep(a_call(1, team='a "quoted", team'), a_call(2, status=502, outcome="upstream_error"))

    rows = list(csv.DictReader(io.StringIO(usage("--csv", "--by", "team").stdout)))

    assert [(row["team"], row["calls"], row["errors"]) for row in rows] == [
        ("", "1", "1"),
        ('a "quoted", team', "1", "0"),
    ]
    assert list(rows[0]) == list(decoded("--by", "team")["rows"][0])


def test_what_is_uncertain_is_counted_where_there_is_any() -> None:
    keep(a_call(1, nano=None), a_call(2, estimated=True), interrupted(3))

    head, row, _ = usage("--by", "org").stdout.splitlines()

    assert head.split() == [
        "org", "calls", "errors", "estimated", "interrupted", "unpriced", "prompt", "output", "USD",
    ]  # fmt: skip
    assert row.split()[:6] == ["acme", "3", "1", "2", "1", "1"]


def test_other_attempts_add_to_the_cost_of_their_deployment_and_are_no_calls() -> None:
    hedged = replace(an_attempt(), outcome="hedged", cost_nano_usd=2_500_000)
    keep(a_call(1, attempts=2, deployment="openai/gpt-4o", others=(hedged,)))

    assert [line.split() for line in usage("--by", "deployment").stdout.splitlines()] == [
        ["deployment", "calls", "other", "attempts", "prompt", "output", "USD"],
        ["azure/gpt-4o", "0", "1", "0", "0", "0.0025", "█" * 20],
        ["openai/gpt-4o", "1", "0", "9", "3", "0.0025", "█" * 20],
        ["total", "1", "1", "9", "3", "0.0050"],
    ]
    marked = [call["attempts"] for call in decoded("--calls")]
    assert marked == [2, 0]
    assert "hedged (attempt)" in usage("--calls").stdout


def test_shadow_calls_are_a_line_of_their_own() -> None:
    """No org can be called so: they are in nobody's usage."""
    copy = a_call(2, org="(shadow)", key_id="(shadow)", deployment="lab/large")
    keep(a_call(1), copy)

    rows = decoded("--by", "org,key")["rows"]
    assert [(row["org"], row["key"], row["calls"]) for row in rows] == [
        ("(shadow)", "(shadow)", 1),
        ("acme", "Ab12", 1),
    ]
    assert decoded("--org", "(shadow)")["total"]["cost_usd"] == "0.0025"
    assert usage("--by", "org").stdout.splitlines()[1].startswith("(shadow)")


# ---- times ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--since", "2025-11-23T06:40Z"), ["then", "next"]),
        (("--until", "2025-11-23T06:40Z"), ["before"]),
        (("--since", "2025-11-23", "--until", "2025-11-24"), ["before", "then"]),
        (("--month", "2025-11"), ["before", "then"]),
        (("--month", "2025-12"), ["next"]),
        (("--since", "1h"), []),
        (("--since", "today"), []),
    ],
)
def test_calls_are_chosen_by_time(arguments: tuple[str, ...], found: list[str]) -> None:
    keep(
        a_call(1, at_ms=NOW_MS - 1, model="before"),
        a_call(2, model="then"),
        a_call(3, at_ms=NOW_MS + 20 * DAY_MS, model="next"),
    )

    assert sorted(row["model"] for row in decoded("--by", "model", *arguments)["rows"]) == sorted(
        found
    )
    assert [call["model"] for call in decoded("--calls", *arguments)] == found


def test_calls_of_a_second_ago_are_there_while_the_books_are_written() -> None:
    with writing(a_call(1, at_ms=now_ms() - 1_000)) as books:
        assert decoded("--since", "5m")["total"]["calls"] == 1
        assert [call["request_id"] for call in decoded("--calls", "--since", "today")] == ["req_1"]

        fold(books, [a_call(2, at_ms=now_ms())], {})
        assert decoded("--since", "5m")["total"]["calls"] == 2


def test_it_is_said_where_only_whole_hours_are_left() -> None:
    with writing(a_call(1)) as books:
        books.prune(NOW_MS + DAY_MS)

    done = usage("--since", "2025-11-23T06:50Z", "--json")

    assert msgspec.json.decode(done.stdout)["since"] == "2025-11-23T06:00:00.000Z"
    assert msgspec.json.decode(done.stdout)["total"]["calls"] == 1
    assert done.stderr == (
        "single calls of then are not kept any more:"
        " the totals are since 2025-11-23T06:00:00.000Z\n"
    )


# ---- single calls -----------------------------------------------------------------------------


def test_single_calls_are_listed_newest_last_and_as_many_as_asked_for() -> None:
    used = Usage(prompt_tokens=1_000, cached_tokens=400, output_tokens=7)
    keep(
        a_call(1, at_ms=NOW_MS + 2),
        a_call(2, at_ms=NOW_MS + 3, usage=used, key_id=KEY),
        a_call(3, at_ms=NOW_MS + 1),
    )

    head, *rows = usage("--calls", "--limit", "2").stdout.splitlines()

    assert head.split() == [
        "time", "request", "org", "key", "model", "deployment", "status", "outcome", "prompt",
        "cached", "output", "USD", "ms",
    ]  # fmt: skip
    assert [row.split() for row in rows] == [
        ["2025-11-23T06:40:00.002Z", "req_1", "acme", "Ab12", "gpt-4o", "openai/gpt-4o", "200",
         "ok", "9", "0", "3", "0.0025", "2_000"],
        ["2025-11-23T06:40:00.003Z", "req_2", "acme", KEY, "gpt-4o", "openai/gpt-4o", "200",
         "ok", "1_000", "400", "7", "0.0025", "2_000"],
    ]  # fmt: skip
    assert len(decoded("--calls")) == 3
    assert len(list(csv.reader(io.StringIO(usage("--calls", "--csv").stdout)))) == 4


# ---- nothing, and what is refused -------------------------------------------------------------


def test_without_books_there_is_nothing_and_that_is_no_failure() -> None:
    done = usage()

    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == (
        f"there are no books at {BOOKS.absolute()} yet; `llmrouter serve` makes them\n"
    )
    assert decoded()["rows"] == []
    assert decoded()["total"]["calls"] == 0
    assert decoded("--calls") == []
    assert usage("--csv").stdout.startswith("org,calls,")
    assert not Path("state").exists()


def test_without_calls_there_is_nothing_either() -> None:
    keep()

    assert usage().stderr == "there were no calls yet\n"
    assert usage("--org", "acme").stderr == "there were no calls of those that you asked for\n"
    assert usage("--calls", "--since", "1h").stderr.endswith("of those that you asked for\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--by", "colour"), ("--by", ""), ("--by", "org,,model"), ("--since", "yesterday"),
        ("--until", "10:00"), ("--month", "11"), ("--month", "2026-11", "--since", "1h"),
        ("--since", "1h", "--until", "2h"), ("--calls", "--by", "org"), ("--json", "--csv"),
        ("--watch", "--json"), ("--watch",), ("--limit", "0"), ("--by", "org", "reconcile", "x"),
        ("fly",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_meant_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    done = usage(*arguments)

    assert (done.exit_code, done.stdout) == (2, "")
    assert not Path("state").exists()


def test_a_whole_key_is_neither_taken_for_its_id_nor_repeated() -> None:
    done = usage("--key", f"sk-lr-{KEY}-{'x' * 43}")

    assert done.exit_code == 2
    assert "never give the key" in " ".join(done.stderr.replace("│", " ").split())
    assert "xxx" not in done.stderr


def test_books_that_are_damaged_are_a_refusal() -> None:
    with open_state(Path("state")):
        BOOKS.write_bytes(b"not a database, by any means" * 100)

    done = usage("--json")

    assert (done.exit_code, done.stdout) == (1, "")
    assert "is damaged or is not a database" in done.stderr


def test_what_only_the_journals_hold_is_shown_too() -> None:
    window = Window(None, None, None)
    asked = Asked(by=(Dimension.ORG,), where={}, window=window, calls_max=None)

    view = answer(load(Path("router.toml")), asked, lambda _: keep(a_call(1), a_call(2)))

    assert [record["calls"] for record in view.records()] == [2]


# ---- as a process -----------------------------------------------------------------------------


@pytest.mark.e2e
def test_the_command_as_a_process() -> None:
    keep(a_call(1), a_call(2, org="globex"))

    done = run("usage", "--json", "--by", "org", "--config", "router.toml")

    assert (done.returncode, done.stderr) == (0, "")
    assert [row["org"] for row in msgspec.json.decode(done.stdout)["rows"]] == ["acme", "globex"]


def read_until(terminal: int, text: str) -> str:
    seen = ""
    while text not in seen:
        assert select.select([terminal], [], [], START_TIMEOUT_S)[0], f"only seen: {seen}"
        seen += os.read(terminal, 65_536).decode()
    return seen


@pytest.mark.e2e
def test_watching_shows_what_comes_until_it_is_interrupted_which_is_no_failure() -> None:
    with writing(a_call(1, org="acme")) as books:
        terminal, inside = pty.openpty()
        watching = subprocess.Popen(
            [*LLMROUTER, "usage", "--watch"],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            # As in a terminal: who is started in the background may be told to ignore it.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        os.close(inside)
        try:
            read_until(terminal, "acme")
            fold(books, [a_call(2, org="globex")], {})
            read_until(terminal, "globex")
            watching.send_signal(signal.SIGINT)
            assert watching.wait(START_TIMEOUT_S) == 0
        finally:
            watching.kill()
            watching.wait()
            os.close(terminal)
