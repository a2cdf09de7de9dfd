"""The books under load and kills, on a full disk, and beside the ledger: each call once."""

import asyncio
import contextlib
import http.client
import itertools
import random
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.metering.records import Attempt, End
from llmrouter.metering.replay import JournaledCall
from tests.support.daemon import DEMO, Daemon, create_key, limits, run, serving, wait_for
from tests.support.load import request
from tests.support.node import Node, loaded, node, seen_most
from tests.support.sums import assert_settled, journaled, used

pytestmark = pytest.mark.e2e

BOOKED_WITHIN_S = 10.0
"""Generous, as the machine may be busy; what is meant is a second."""
PRICED = {
    "models": {"demo": {"deployments": [{"upstream": "demo"}], "price": {"input": 3, "output": 9}}},
    "orgs": {"acme": {"budgets": [{"usd": 1000, "per": "total"}]}},
}
FILLING_BYTES = 1 << 16
CHAT: dict[str, object] = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}


def rows(state: Path, select: str) -> list[tuple[Any, ...]]:
    """What any other program reads there."""
    with contextlib.closing(sqlite3.connect(f"file:{state}/books.db?mode=ro", uri=True)) as db:
        return db.execute(select).fetchall()


Booked = tuple[Any, ...]
_COLUMNS = (
    "request_id, model, attempts, org, team, user, key_id,"
    " outcome, prompt_tokens, output_tokens, cost_nano_usd"
)


def booked(state: Path) -> Counter[Booked]:
    return Counter(rows(state, f"SELECT {_COLUMNS} FROM usage_calls"))


def expected(calls: list[JournaledCall]) -> Counter[Booked]:
    return Counter(row for call in calls for row in rows_of(call))


def rows_of(call: JournaledCall) -> Iterator[Booked]:
    """One for the call, and one for each of its attempts that did not answer; those count 0."""
    begin, end = call.begin, call.end
    name, who = (begin.request_id, begin.model), (begin.org, begin.team, begin.user, begin.key_id)
    if end is None:
        yield (*name, 1, *who, "interrupted", call.hold[0], 0, call.hold[1] or None)
        return
    yield (*name, 0 if end.replaced else end.attempts, *who, *used_by(end))
    for other in end.others:
        yield (*name, 0, *who, *used_by(other))


def used_by(end: End | Attempt) -> Booked:
    usage = end.usage
    return end.outcome, usage.prompt_tokens, usage.output_tokens, end.cost_nano_usd


def assert_booked(state: Path) -> int:
    """Wait until the books say what the journals do, row by row; how many calls there are."""

    def agree() -> bool:
        return booked(state) == expected(journaled(state))

    with contextlib.suppress(AssertionError):
        wait_for(agree, timeout_s=BOOKED_WITHIN_S, what="agreement of books and journals")
    wanted, found = expected(journaled(state)), booked(state)
    assert found == wanted, f"missing {wanted - found}\ntoo many {found - wanted}"
    calls = count_calls(found)
    assert calls == len({row[:2] for row in found if row[2]}), "a call is double"
    sums = calls, found.total() - calls
    for totals in ("usage_hours", "usage_days"):
        assert rows(state, f"SELECT SUM(calls), SUM(other_attempts) FROM {totals}") == [sums]
    return calls


def count_calls(booked_rows: Counter[Booked]) -> int:
    return sum(count for (_, _, attempts, *_), count in booked_rows.items() if attempts)


def usage(config: Path, *options: str) -> dict[str, Any]:
    done = run("usage", "--config", str(config), "--json", *options)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = msgspec.json.decode(done.stdout)
    return document


def nano_usd(total: dict[str, Any]) -> int:
    return int(Decimal(str(total["cost_usd"])) * 1_000_000_000)


# ---- kills ----------------------------------------------------------------------------------


VICTIMS = ("worker", "supervisor", "worker", "everything")


def kill(living: Node, victim: str, chance: random.Random) -> None:
    if victim == "worker":
        living.kill_worker(chance)
        return
    if victim == "supervisor":
        living.kill_supervisor()
    else:
        living.kill_everything()
    living.start()


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_no_call_is_missing_or_double_whatever_is_killed_when(tmp_path: Path, kills: int) -> None:
    """FR-013, SC-007: the books are what the journals are, and have all that upstreams saw."""
    chance = random.Random(kills)

    async def kill_them(living: Node) -> None:
        async with loaded(living, seed=kills):
            for victim in itertools.islice(itertools.cycle(VICTIMS), kills):
                await asyncio.sleep(chance.uniform(0.02, 1.0))
                await asyncio.to_thread(kill, living, victim, chance)
            await asyncio.sleep(0.5)

    with node(tmp_path) as living:
        asyncio.run(kill_them(living))
        living.wait_for_workers()
        calls = assert_booked(living.daemon.state)
        records = journaled(living.daemon.state)
        assert living.far.counters()["requests"] <= seen_most(records)
        assert any(record.end and record.end.others for record in records)
        assert any(record.end and record.end.replaced for record in records)
        assert_settled(living.daemon)
        assert_agree_with_budgets(living)
        interrupted = usage(living.config)["total"]["interrupted"]
        print(f"kills={kills} calls={calls} interrupted={interrupted}")  # noqa: T201
        assert interrupted

        living.kill_everything()
        before = usage(living.config)  # daemon down
        living.start()
        assert usage(living.config) == before
        assert living.daemon.stop() == 0
        assert assert_booked(living.daemon.state) == calls


def assert_agree_with_budgets(living: Node) -> None:
    """Books and ledger are kept apart from each other, and say the same."""
    by_model = usage(living.config, "--by", "org,model")["rows"]
    for org in ("acme", "globex"):
        spent = sum(
            nano_usd(total)
            for total in by_model
            if total["org"] == org and total["model"].startswith("demo-")
        )
        assert spent == used(limits(living.daemon)[f"org/{org}/usd/total/demo-*"])
        assert spent


def test_calls_of_a_dead_node_are_told_before_the_next_one_lives(tmp_path: Path) -> None:
    """`usage` folds what is in the journals alone, and neither ledger nor next start lose by it."""

    async def live(living: Node) -> None:
        async with loaded(living, seed=1):
            await asyncio.sleep(1.0)
            living.kill_everything()

    with node(tmp_path) as living:
        asyncio.run(live(living))
        calls = expected(journaled(living.daemon.state))
        told = usage(living.config)
        assert told["total"]["calls"] == count_calls(calls)
        assert told["total"]["interrupted"]
        assert booked(living.daemon.state) == calls

        living.start()

        assert_settled(living.daemon)
        assert_agree_with_budgets(living)
        assert booked(living.daemon.state) == calls


# ---- in time --------------------------------------------------------------------------------


def ask(daemon: Daemon, key: str) -> int:
    """Make a call; its status."""
    with contextlib.closing(daemon.connection()) as connection:
        return ask_on(connection, key)


def ask_on(connection: http.client.HTTPConnection, key: str) -> int:
    head, _, body = request(key, CHAT).partition(b"\r\n\r\n")
    lines = [line.split(": ", 1) for line in head.decode().split("\r\n")[2:]]
    headers = {name: text for name, text in lines if name != "content-length"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_usage_and_budgets_say_the_same_of_calls_that_have_just_ended(tmp_path: Path) -> None:
    with serving(tmp_path, {**DEMO, **PRICED}) as daemon:
        key = create_key(daemon.config)["key"]
        for number in range(1, 4):
            assert ask(daemon, key) == 200
            told = wait_for(
                lambda at_least=number: booked_at_least(daemon.state, at_least),
                timeout_s=BOOKED_WITHIN_S,
                what="a row in the books",
            )
            assert told == number
        total = usage(daemon.config)["total"]
        assert total["calls"] == 3
        spent = used(limits(daemon)["org/acme/usd/total"])
        assert nano_usd(total) == spent > 0
        assert daemon.stop() == 0
        assert usage(daemon.config)["total"] == total


def booked_at_least(state: Path, at_least: int) -> int:
    ((found,),) = rows(state, "SELECT COUNT(*) FROM usage_calls")
    return int(found) if found >= at_least else 0


# ---- what is wrong with the disk ------------------------------------------------------------


def corrupt(books: Path) -> str:
    books.write_bytes(b"\xa5" * 20_000)
    return "books.db is damaged or is not a database"


def newer(books: Path) -> str:
    with contextlib.closing(sqlite3.connect(books)) as db:
        db.execute("PRAGMA user_version = 99")
    return "books.db was written by a newer llmrouter (books format 99"


@pytest.mark.parametrize("spoil", [corrupt, newer])
def test_books_that_cannot_be_kept_are_no_start_and_nothing_is_lost_by_it(
    tmp_path: Path, spoil: Any
) -> None:
    with serving(tmp_path, {**DEMO, **PRICED}) as daemon:
        key = create_key(daemon.config)["key"]
        assert ask(daemon, key) == 200
        assert daemon.stop() == 0
    books = daemon.state / "books.db"
    sound = books.read_bytes()
    words = spoil(books)
    before = books.read_bytes()

    refused = run("serve", "--config", str(daemon.config))
    asked = run("usage", "--config", str(daemon.config))

    for done in (refused, asked):
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert books.read_bytes() == before
    books.write_bytes(sound)  # as from a backup
    with serving(tmp_path, {**DEMO, **PRICED}) as daemon:
        assert ask(daemon, key) == 200
        assert_booked(daemon.state)


def test_books_that_are_moved_away_are_begun_anew_from_the_journals_that_are_left(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, {**DEMO, **PRICED}) as daemon:
        assert ask(daemon, create_key(daemon.config)["key"]) == 200
        assert daemon.stop() == 0
    (daemon.state / "books.db").unlink()

    with serving(tmp_path, {**DEMO, **PRICED}) as daemon:
        assert assert_booked(daemon.state) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a few megabytes; only root can make one."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(path)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as filling:
        while filling.write(bytes(FILLING_BYTES)) == FILLING_BYTES:
            pass
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as filling:
        while filling.write(b"0"):
            pass


def test_a_full_disk_refuses_calls_and_loses_none_that_was_recorded(small_disk: Path) -> None:
    """FR-015: and it goes on by itself, once there is room."""
    filling = small_disk / "filling"
    with serving(small_disk, {**DEMO, **PRICED}) as daemon:
        key = create_key(daemon.config)["key"]
        for _ in range(20):
            assert ask(daemon, key) == 200
        fill(filling)
        statuses = Counter(refusals(daemon, key, filling))
        assert statuses.keys() == {200, 503}
        filling.unlink()
        wait_for(lambda: ask(daemon, key) == 200, what="service after the disk was full")

        calls = assert_booked(daemon.state)

        assert calls >= 21 + statuses[200]
        assert_settled(daemon)
        assert nano_usd(usage(daemon.config)["total"]) == used(limits(daemon)["org/acme/usd/total"])
        assert "Traceback" not in daemon.log
        assert daemon.stop() == 0


def refusals(daemon: Daemon, key: str, filling: Path) -> Iterator[int]:
    """Call on, and keep the disk full, until nothing but refusals has come for a while."""
    refused = 0
    while refused < 30:
        fill(filling)
        status = ask(daemon, key)
        refused = refused + 1 if status == 503 else 0
        yield status


def test_a_read_only_state_is_told_and_left_alone(small_disk: Path) -> None:
    with serving(small_disk, {**DEMO, **PRICED}) as daemon:
        assert ask(daemon, create_key(daemon.config)["key"]) == 200
        assert daemon.stop() == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    for command in ("serve", "usage"):
        done = run(command, "--config", str(daemon.config))

        assert (done.returncode, done.stdout) == (1, "")
        assert "state cannot be used: Read-only file system" in done.stderr
        assert "mend that, or give another `state` in router.toml" in done.stderr


def test_another_program_that_holds_the_books_stops_no_call(tmp_path: Path) -> None:
    with serving(tmp_path, {**DEMO, **PRICED}) as daemon:
        key = create_key(daemon.config)["key"]
        assert ask(daemon, key) == 200
        path = daemon.state / "books.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert ask(daemon, key) == 200
            wait_for(lambda: "books_not_written=" in daemon.log, what="a word about the books")
            assert ask(daemon, key) == 200
            other.execute("ROLLBACK")
        assert assert_booked(daemon.state) == 3
        assert "books written again" in daemon.log
