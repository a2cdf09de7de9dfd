"""The books as the command line opens them."""

import contextlib
from pathlib import Path

import msgspec
import pytest
import typer

from llmrouter.cli.openbooks import books_path, open_books
from llmrouter.config.load import load
from llmrouter.config.schema import Config
from llmrouter.daemon.state import open_state
from llmrouter.metering.bookfile import BooksError
from llmrouter.metering.books import Books
from tests.metering.test_books import ended
from tests.support.folding import fold


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "router.toml"
    file.write_text(
        '[upstreams.demo]\nurl = "builtin:demo"\n'
        '[models."demo"]\ndeployments = [{ upstream = "demo" }]\n'
    )
    return load(file)


@pytest.fixture(autouse=True)
def _a_state(config: Config) -> None:
    with open_state(Path(config.state)):
        pass


def book(config: Config, *seqs: int) -> None:
    with contextlib.closing(Books(books_path(config))) as books:
        fold(books, [ended(seq) for seq in seqs], {})


def calls(config: Config) -> int:
    with open_books(config) as books:
        assert books is not None
        (total,) = books.totals().totals
    return total.tally.calls


def leave_alone(_: Config) -> None:
    """Catch up with nothing."""


def test_books_that_are_not_there_are_none(config: Config) -> None:
    with open_books(config, leave_alone) as books:
        assert books is None

    assert not books_path(config).exists()


def test_to_look_at_a_state_that_is_not_there_does_not_make_it(config: Config) -> None:
    nowhere = msgspec.structs.replace(config, state=f"{config.state}-of-another")

    with open_books(nowhere) as books:
        assert books is None

    assert not Path(nowhere.state).exists()


def test_what_only_the_journals_hold_is_folded_before_the_books_are_read(config: Config) -> None:
    with open_books(config, lambda asked: book(asked, 1, 2)) as books:
        assert books is not None
        assert books.totals().totals[0].tally.calls == 2


def test_books_are_read_while_they_are_written(config: Config) -> None:
    with contextlib.closing(Books(books_path(config))) as writer:
        fold(writer, [ended(1)], {})
        assert calls(config) == 1
        fold(writer, [ended(2)], {})
        assert calls(config) == 2


def test_books_that_cannot_be_read_are_a_refusal(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    books_path(config).write_bytes(b"not a database, by any means" * 100)

    with pytest.raises(typer.Exit) as ended_, open_books(config, leave_alone):
        pass

    assert ended_.value.exit_code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"llmrouter: {books_path(config)} is damaged or is not a database")


def test_a_failure_to_catch_up_is_a_refusal_too(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Config) -> None:
        raise BooksError("the disk is full")

    with pytest.raises(typer.Exit), open_books(config, fail):
        pass

    assert capsys.readouterr().err == "llmrouter: the disk is full\n"
