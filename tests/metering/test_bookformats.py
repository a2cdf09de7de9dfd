"""The formats of the books: what an older file holds is still there in the newest."""

import contextlib
import hashlib
from pathlib import Path

import pytest

from llmrouter.metering.accounts import Accounts, Dimension
from llmrouter.metering.bookfile import open_to_write
from llmrouter.metering.bookformats import STEPS
from llmrouter.metering.books import DAY_MS, HOUR_MS, Books
from llmrouter.metering.tally import Tally
from tests.metering.test_books import NOW_MS, agree, ended, rows, tally_of
from tests.metering.test_records import an_attempt
from tests.support.folding import fold

OLD = Tally(
    calls=2, errors=1, estimated=1, unpriced=1, prompt_tokens=20, output_tokens=6, cost_nano_usd=70
)
_FILL_1 = (
    "INSERT INTO who VALUES (1, 'acme', '', '', 'Ab12')",
    "INSERT INTO what VALUES (1, 'gpt-4o', 'openai/gpt-4o', 'openai', 'openai', 'chat')",
    "INSERT INTO how VALUES (1, 200, 'ok', '', 1, 0, 0, 0)",
    "INSERT INTO how VALUES (2, 502, 'upstream_error', 'upstream_error', 1, 0, 1, 1)",
    "INSERT INTO priced VALUES (1, '')",
    f"INSERT INTO calls VALUES (1, {NOW_MS}, 'a', 1, 1, 1, 1, 9, 0, 3, 0, 70, NULL, 5, 6)",
    f"INSERT INTO calls VALUES (2, {NOW_MS}, 'b', 1, 1, 2, 1, 11, 0, 3, 0, NULL, NULL, NULL, 6)",
    *(
        f"INSERT INTO {table} VALUES ({NOW_MS // length * length}, 1, 1,"
        " 2, 1, 1, 0, 1, 0, 20, 0, 6, 0, 70, 0)"
        for table, length in (("hours", HOUR_MS), ("days", DAY_MS))
    ),
)


def columns(path: Path, view: str) -> list[object]:
    return [row[1] for row in rows(path, f"PRAGMA table_info({view})")]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Books of format 1, as they were left."""
    path = tmp_path / "books.db"
    with contextlib.closing(open_to_write(path, STEPS[:1])) as db:
        for statement in _FILL_1:
            db.execute(statement)
    return path


def test_books_of_format_1_say_the_same_in_the_newest(old: Path) -> None:
    before = rows(old, "SELECT * FROM usage_calls")

    Books(old).close()

    assert rows(old, "SELECT * FROM usage_calls") == before
    assert agree(old) == OLD
    with contextlib.closing(Accounts(old)) as accounts:
        (total,) = accounts.totals([Dimension.DEPLOYMENT], since_ms=NOW_MS - 1).totals
    assert (total.group, total.tally) == (("openai/gpt-4o",), OLD)


def test_what_is_folded_after_a_migration_adds_up_with_what_was_there(old: Path) -> None:
    call = ended(3, attempts=2, deployment="openai/gpt-4o", others=(an_attempt(),))
    with contextlib.closing(Books(old)) as books:
        fold(books, [call], {})

    found, new = agree(old), tally_of([call])

    assert (found.calls, found.errors, found.other_attempts) == (3, 1, 1)
    assert found.prompt_tokens == OLD.prompt_tokens + new.prompt_tokens
    assert found.cost_nano_usd == OLD.cost_nano_usd + new.cost_nano_usd


@pytest.mark.parametrize("view", ["usage_calls", "usage_hours", "usage_days"])
def test_views_only_get_more_columns_at_their_end(old: Path, view: str) -> None:
    before = columns(old, view)

    Books(old).close()

    assert columns(old, view)[: len(before)] == before


def test_totals_stand_in_the_order_of_a_tally(tmp_path: Path) -> None:
    """Rows are put into them by their place."""
    path = tmp_path / "books.db"
    Books(path).close()

    for table in ("hours", "days", "singles"):
        assert columns(path, table) == ["start_ms", "who", "what", *Tally.__struct_fields__]


def test_a_format_that_stands_is_never_changed() -> None:
    """Somebody has books that were made by these very statements."""
    digests = [hashlib.sha256("\n".join(step).encode()).hexdigest()[:16] for step in STEPS]

    assert digests == ["255227f21336d919", "795176806fb7c1f3"]
