import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmrouter.daemon import pricelist
from llmrouter.daemon.pricelist import COMMAND, PriceListError, read, read_now
from llmrouter.daemon.pricereader import table_of
from llmrouter.metering.prices import Price, PriceBook, PriceTable
from llmrouter.tasks import spawn
from tests.daemon.bills import UPSTREAMS
from tests.support.waiting import until


def test_the_list_is_read_by_a_process_of_its_own() -> None:
    table = read_now(UPSTREAMS)
    assert table.providers == table_of(UPSTREAMS, datetime.now(tz=UTC)).providers
    assert PriceBook(table).price("any", "openai", "gpt-4o") == Price.of_usd("2.5", "1.25", 10)


@pytest.mark.asyncio
async def test_reading_does_not_block_the_supervisor_and_gives_the_same() -> None:
    assert await read({"o": UPSTREAMS["openai"]}) == read_now({"o": UPSTREAMS["openai"]})


@pytest.mark.asyncio
async def test_without_upstreams_there_are_no_prices() -> None:
    assert await read({}) == read_now({}) == PriceTable()


def test_whoever_asks_never_holds_the_library() -> None:
    """Its import costs more than half of what a supervisor may weigh."""
    script = (
        "import sys, llmrouter.daemon.pricelist as p; p.read_now({});"
        " sys.exit('genai_prices' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], check=False)
    assert done.returncode == 0


def replaced(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let another program stand for the reader."""
    monkeypatch.setattr(pricelist, "COMMAND", (sys.executable, "-c", script))


async def refusal(asynchronous: bool) -> str:
    """What is said when the list cannot be read."""
    try:
        table = await read(UPSTREAMS) if asynchronous else read_now(UPSTREAMS)
    except PriceListError as error:
        return str(error)
    pytest.fail(f"it was read: {table}")


both_ways = pytest.mark.parametrize("asynchronous", [True, False], ids=["read", "read_now"])


@both_ways
@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "import genai_prices_that_is_missing",
            "its reader ended with exit status 1 (ModuleNotFoundError: No module named"
            " 'genai_prices_that_is_missing'); install llmrouter anew",
        ),
        ("raise SystemExit(3)", "its reader ended with exit status 3 (it said nothing);"),
        ("import os; os.kill(os.getpid(), 9)", "its reader ended with signal SIGKILL (it said"),
        ("raise SystemExit('x' * 1_000)", f"({'x' * 200}); install"),
        ("print('no table')", "what its reader printed is none (JSON is malformed"),
        ("print('{\"listed\": 1}')", "what its reader printed is none (Expected `object`"),
    ],
)
async def test_a_reader_that_fails_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, script: str, said: str, asynchronous: bool
) -> None:
    replaced(monkeypatch, script)
    message = await refusal(asynchronous)
    assert message.startswith("the price list cannot be read: ")
    assert said in message


def children() -> set[str]:
    """Our child processes, those included that are dead and not yet waited for."""
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


@both_ways
@pytest.mark.asyncio
async def test_a_reader_that_hangs_is_ended(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    replaced(monkeypatch, "import threading; threading.Event().wait()")
    monkeypatch.setattr(pricelist, "TIMEOUT_S", 0.05)
    before = children()
    assert "its reader was not done after 0.05 s;" in await refusal(asynchronous)
    assert children() <= before


@pytest.mark.asyncio
async def test_a_reader_that_nobody_waits_for_any_more_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    ask = f"import sys; sys.stdin.read(); open({str(asked)!r}, 'w')"
    replaced(monkeypatch, f"{ask}; import threading; threading.Event().wait()")
    before = children()
    reading = spawn(read(UPSTREAMS), name="read")
    await until(asked.exists, "it was not asked")
    assert not children() <= before

    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reading
    assert children() <= before


@both_ways
@pytest.mark.asyncio
async def test_a_reader_that_cannot_be_started_is_told(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    monkeypatch.setattr(pricelist, "COMMAND", ("/nowhere/python", *COMMAND[1:]))
    assert "cannot be started (No such file or directory);" in await refusal(asynchronous)


@both_ways
@pytest.mark.asyncio
async def test_no_credential_is_handed_on(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    replaced(monkeypatch, "import os; raise SystemExit(' '.join(sorted(os.environ)))")
    message = await refusal(asynchronous)
    assert "LC_ALL" in message
    assert "OPENAI_API_KEY" not in message
