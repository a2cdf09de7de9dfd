"""What has to be right before anybody serves, and the words where it is not."""

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.access.issued import KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.config.schema import Config, Settings
from llmrouter.daemon import build, pricelist
from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.errors import StartError
from llmrouter.daemon.opening import (
    open_books,
    open_treasury,
    read_keys,
    read_prices,
    sockets_refused,
)
from llmrouter.daemon.state import State, open_state
from llmrouter.metering.books import Books
from llmrouter.metering.prices import Price
from tests.daemon.spending import Writer
from tests.daemon.spoiling import damaged_bucket, damaged_event, damaged_journal
from tests.daemon.test_bookkeeping import rows

NOW_S = 1_700_000_000


def config(**tables: Any) -> Config:
    settings = msgspec.convert(tables, Settings)
    values = {name: getattr(settings, name) for name in Settings.__struct_fields__}
    return Config(file=Path("router.toml"), **values)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state") as opened:
        yield opened


# ---- keys -----------------------------------------------------------------------------------


def test_keys_are_read_and_those_that_no_table_limits_are_told(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    book = KeyBook(state.store, KeyDigest(state.digest_key))
    ids = [book.create(KeyTerms(org=org), NOW_S)[0].id for org in ("acme", "globex", "globex")]
    book.create(KeyTerms(org="initech", expires_in_s=1), NOW_S)

    keys = read_keys(book, config(orgs={"acme": {}}))

    assert {key.id for key in keys} > set(ids)
    assert [record.getMessage() for record in caplog.records] == [
        "org='globex' has keys but no table in router.toml: no rule of an org applies to them"
    ]


def test_keys_that_cannot_be_read_are_no_start(state: State) -> None:
    state.store.put("key/AAAAAAAAAAAA", b"{}")

    with pytest.raises(StartError, match="'key/AAAAAAAAAAAA' in the store cannot be read"):
        read_keys(KeyBook(state.store, KeyDigest(state.digest_key)), config())


# ---- prices ---------------------------------------------------------------------------------

PRICED = {
    "m": {
        "deployments": [{"upstream": "up", "price": {"input": 3, "output": 4}}],
        "price": {"input": 1, "output": 2},
    }
}
BROKEN = (sys.executable, "-c", "raise SystemExit('the list is torn')")


@pytest.mark.asyncio
async def test_the_price_list_is_read_only_where_somebody_may_be_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes most of the time that a start takes."""
    monkeypatch.setattr(pricelist, "COMMAND", BROKEN)
    upstreams = {"up": {"url": "http://127.0.0.1:9"}, "demo": {"url": "builtin:demo"}}

    table = await read_prices(config(upstreams=upstreams, models=PRICED))

    assert table.explicit == {"m": Price.of_usd(1, None, 2)}
    assert table.explicit_at == {"m": {"up": Price.of_usd(3, None, 4)}}
    assert table.listed == {}


@pytest.mark.asyncio
async def test_prices_of_known_providers_stand_beside_those_of_the_file() -> None:
    upstreams = {"up": {"url": "HTTPS://api.openai.com/v1"}, "own": {"url": "https://llm.test"}}

    table = await read_prices(config(upstreams=upstreams, models=PRICED))

    assert table.explicit == {"m": Price.of_usd(1, None, 2)}
    assert list(table.providers) == ["up"]
    assert table.listed[table.providers["up"]]


@pytest.mark.asyncio
async def test_a_price_list_that_cannot_be_read_is_no_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pricelist, "COMMAND", BROKEN)

    with pytest.raises(StartError, match="the price list cannot be read") as refused:
        await read_prices(config(upstreams={"up": {"url": "https://llm.test"}}))

    assert "the list is torn" in str(refused.value)
    assert "or set a `price` for every model" in str(refused.value)


# ---- what was spent -------------------------------------------------------------------------

TABLES = {"orgs": {"acme": {"budgets": [{"usd": 1, "per": "total"}]}}, "quotas": {"hold_wait": 0}}


def test_what_was_spent_is_counted_before_anybody_serves(state: State) -> None:
    writer = Writer(state.journal_dir)
    writer.begin(10, 300_000_000)
    writer.die()
    wanted = config(**TABLES)
    rulebook = build.rulebook(wanted, [], 0)

    treasury = open_treasury(state, wanted, rulebook, SteadyClock(), lambda _, __: None)

    (found,) = treasury.standing(rulebook.of_scope(rulebook.scopes()[0]))
    assert found.used == 300_000_000
    treasury.close()


@pytest.mark.parametrize("spoil", [damaged_bucket, damaged_event, damaged_journal])
def test_what_was_spent_and_cannot_be_read_is_no_start(state: State, spoil: Any) -> None:
    words = spoil(state)
    wanted = config(**TABLES)

    with pytest.raises(StartError, match=words):
        open_treasury(
            state, wanted, build.rulebook(wanted, [], 0), SteadyClock(), lambda _, __: None
        )


# ---- books ----------------------------------------------------------------------------------


def test_books_are_opened_where_the_state_is(state: State) -> None:
    writer = Writer(state.journal_dir)
    writer.end(writer.begin())
    writer.die()

    open_books(state, config(books={"keep_days": 7}), SteadyClock()).close()

    assert rows(state.books_path) == [("req_1", "ok")]


def damaged(path: Path) -> str:
    path.write_bytes(b"precious" * 999)
    return "books.db is damaged or is not a database"


def newer(path: Path) -> str:
    Books(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    return r"books.db was written by a newer llmrouter \(books format 99, this one knows 2\)"


def foreign(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE thesis (words)")
    return "books.db is a database, but not ours"


@pytest.mark.parametrize("spoil", [damaged, newer, foreign])
def test_books_that_are_not_ours_to_write_are_no_start_and_left_as_they_are(
    state: State, spoil: Any
) -> None:
    words = spoil(state.books_path)
    before = state.books_path.read_bytes()

    with pytest.raises(StartError, match=words):
        open_books(state, config(), SteadyClock())

    assert state.books_path.read_bytes() == before


# ---- sockets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileExistsError(17, "There is more", "/state/x.sock"), "on /state/x.sock: there is more;"),
        (OSError("odd"), "on its sockets: odd;"),
    ],
)
def test_a_socket_that_cannot_be_made_is_told(error: OSError, words: str) -> None:
    with pytest.raises(StartError) as refused, sockets_refused():
        raise error

    assert str(refused.value).startswith(f"the daemon cannot listen {words}")
    assert str(refused.value).endswith("remove what is there, if it is not needed")
