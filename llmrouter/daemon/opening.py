"""What has to be right before anybody serves: keys, prices, sockets, and what was spent so far.

Each of these is read here once, at the start; what cannot be read is told in words (`StartError`).
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

import msgspec

from llmrouter.access.issued import IssuedKey, KeyStatus
from llmrouter.access.keybook import KeyBook
from llmrouter.config.schema import Config
from llmrouter.contracts.store import StoreError
from llmrouter.daemon import pricelist, rules
from llmrouter.daemon.bookkeeper import Bookkeeper
from llmrouter.daemon.bookkeeping import Bookkeeping
from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.errors import StartError
from llmrouter.daemon.state import State
from llmrouter.daemon.teller import JournalError
from llmrouter.daemon.treasury import Treasury
from llmrouter.metering.bookfile import BooksError
from llmrouter.metering.prices import PriceTable
from llmrouter.quota.desk import DeskTerms
from llmrouter.quota.messages import FromLedger
from llmrouter.quota.rulebook import Rulebook
from llmrouter.units import MS_PER_S

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def sockets_refused() -> Iterator[None]:
    """Say what is wrong where a socket below `state` cannot be made."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StartError(
            f"the daemon cannot listen on {error.filename or 'its sockets'}: {reason};"
            " remove what is there, if it is not needed"
        ) from error


def read_keys(book: KeyBook, config: Config) -> list[IssuedKey]:
    """Every key; warns of those that no table limits."""
    try:
        keys = book.keys()
    except StoreError as error:
        raise StartError(str(error)) from error
    now_s = time.time()  # noqa: TID251 - keys are dated by the calendar
    orgs = {key.org for key in keys if key.status(now_s) is KeyStatus.ACTIVE}
    for org in sorted(orgs - config.orgs.keys()):
        _log.warning(
            "org=%r has keys but no table in %s: no rule of an org applies to them",
            org,
            config.file,
        )
    return keys


async def read_prices(config: Config) -> PriceTable:
    """What models cost: as the settings say, and as the list says of known providers.

    These are reached by https, so a node that reaches nobody so need not read the list.
    """
    listed = {
        name: upstream.url
        for name, upstream in config.upstreams.items()
        if upstream.url.lower().startswith("https:")
    }
    table = PriceTable()
    if listed:
        try:
            table = await pricelist.read(listed)
        except pricelist.PriceListError as error:
            raise StartError(str(error)) from error
    return msgspec.structs.replace(
        table, explicit=rules.prices(config), explicit_at=rules.prices_at(config)
    )


def open_treasury(
    state: State,
    config: Config,
    rulebook: Rulebook,
    clock: SteadyClock,
    send: Callable[[str, FromLedger], None],
) -> Treasury:
    """The limits and budgets, with everything counted that was spent before."""
    try:
        treasury = Treasury(
            state.store,
            state.journal_dir,
            rulebook,
            now_ms=clock.now_ms,
            send=send,
            terms=DeskTerms(
                hold_wait_ms=round(config.quotas.hold_wait * MS_PER_S),
                waiting_max=config.server.limits.queued,
            ),
        )
        treasury.recover()
    except (StoreError, JournalError) as error:
        raise StartError(str(error)) from error
    return treasury


def open_books(state: State, config: Config, clock: SteadyClock) -> Bookkeeper:
    """The books as they are; what is in the journals alone they take while we serve."""
    try:
        keeping = Bookkeeping(state.books_path, state.journal_dir)
    except BooksError as error:
        raise StartError(str(error)) from error
    return Bookkeeper(keeping, state, keep_days=config.books.keep_days, now_ms=clock.now_ms)
