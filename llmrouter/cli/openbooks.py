"""The books as the command line reads them: brought up to date, and only read."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from llmrouter.config.schema import Config
from llmrouter.daemon import bookkeeping
from llmrouter.metering.accounts import Accounts
from llmrouter.metering.bookfile import BooksError

CatchUp = Callable[[Config], None]


def catch_up(config: Config) -> None:
    """Have what stands in the journals alone folded, where no daemon runs that does it."""
    if Path(config.state).exists():  # to look at it does not make it
        bookkeeping.catch_up(config)


@contextlib.contextmanager
def open_books(config: Config, catch_up: CatchUp = catch_up) -> Iterator[Accounts | None]:
    """The books of `config`, or None if there are none yet.

    What keeps them from being read is told on standard error, with exit status 1.
    """
    path = books_path(config)
    try:
        catch_up(config)
        if not path.exists():
            yield None
            return
        with contextlib.closing(Accounts(path)) as accounts:
            yield accounts
    except BooksError as error:
        print(f"llmrouter: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def books_path(config: Config) -> Path:
    """Where the books are."""
    return Path(config.state) / "books.db"
