"""The books beside what upstreams say that they have served."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import cast

from llmrouter.daemon.control import ask
from llmrouter.daemon.state import control_path
from llmrouter.metering.accounts import Accounts, BookedCall, Dimension, Where
from tests.support.daemon import Daemon, wait_for
from tests.support.faults import WORDS, Seen

BOOKED_WITHIN_S = 15.0
"""Generous, as the machine may be busy."""
ALL: Where = {}


def key_of(daemon: Daemon, **terms: object) -> dict[str, str]:
    """Issue a key of the org `acme` without a process of its own: its `id` and its `key`."""
    issued = ask(control_path(daemon.state), "keys.create", {"org": "acme", **terms})
    return cast("dict[str, str]", issued)


def booked(daemon: Daemon, where: Where = ALL) -> list[BookedCall]:
    """The rows of calls and of attempts as they stand in the books now."""
    path = daemon.state / "books.db"
    if not path.exists():
        return []
    with contextlib.closing(Accounts(path)) as accounts:
        return accounts.calls(where=where, last=100_000)


def made(rows: Sequence[BookedCall]) -> int:
    """How many attempts these rows tell of."""
    return sum(row.attempts for row in rows)


def rows_of(daemon: Daemon, key_id: str, *, attempts: int, calls: int = 0) -> list[BookedCall]:
    """The rows of a key, once they tell of so many attempts and calls; there must be no fewer."""
    where = {Dimension.KEY: key_id}

    def are_there() -> bool:
        rows = booked(daemon, where)
        return made(rows) >= attempts and sum(row.attempts > 0 for row in rows) >= calls

    with contextlib.suppress(AssertionError):  # the assertion below says what there was instead
        wait_for(are_there, timeout_s=BOOKED_WITHIN_S)
    rows = booked(daemon, where)
    assert are_there(), rows
    return rows


def assert_all_booked(
    rows: Sequence[BookedCall], seen: Mapping[str, Seen], *, resent: bool = False
) -> None:
    """Each attempt that reached an upstream is counted, and has one row; there is no other row.

    `seen` says by the name of an upstream what came there. Where the connection of an attempt may
    have been stale, it was `resent`: that is counted, in the row of the attempt it belongs to.
    """
    for upstream, those in seen.items():
        own = [row for row in rows if row.upstream == upstream]
        assert len(own) == those.begun or (resent and len(own) < those.begun), (those, rows)
    assert made(rows) == sum(those.begun for those in seen.values()), (seen, rows)
    assert resent or made(rows) == len(rows), (seen, rows)


def assert_tokens_agree(
    rows: Sequence[BookedCall], seen: Mapping[str, Seen], output_max: int = WORDS
) -> None:
    """The books have what upstreams told, to the token.

    What was not told can only be estimated: of a stream as what was sent, with an event or two that
    are no words; of a plain answer as no more than `output_max`, which the call had asked for.
    """
    for upstream, those in seen.items():
        own = [row for row in rows if row.upstream == upstream]
        told = [row for row in own if not row.estimated]
        assert sum(row.prompt_tokens for row in told) == those.prompt, (upstream, those, rows)
        assert sum(row.output_tokens for row in told) == those.output, (upstream, those, rows)
        guessed = [row for row in own if row.estimated]
        streams = [row.output_tokens for row in guessed if row.stream]
        assert sum(streams) <= those.sent + 2 * len(streams), (upstream, those, rows)
        assert all(row.output_tokens <= output_max for row in guessed), (upstream, those, rows)
