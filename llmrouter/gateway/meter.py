"""What a call used and how it ended, written to the journal: once begun, always ended, once."""

import asyncio
from collections.abc import Callable
from types import TracebackType

from llmrouter.contracts.call import Call, Usage
from llmrouter.errors import RouterError, Source
from llmrouter.gateway.exchange import Exchange
from llmrouter.http1.downstream import CUT_BY_US
from llmrouter.metering.journal import Journal
from llmrouter.metering.records import NO_USAGE, Begin, End


class Meter:
    """Follows one call; `with` ends it, however it ends."""

    __slots__ = (
        "_begun",
        "_clock",
        "_exchange",
        "_first_byte_at",
        "_journal",
        "_seq",
        "_wall",
        "attempts",
        "outcome",
        "usage",
    )

    def __init__(
        self,
        journal: Journal,
        exchange: Exchange,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._exchange = exchange
        self._clock = clock
        self._wall = wall
        self._begun = False
        self._seq = 0
        self._first_byte_at = 0.0
        self.attempts = 1
        self.usage: Usage | None = None
        """What the upstream said was used."""
        self.outcome = "ok"

    def begin(
        self, call: Call, then: Callable[[], None], failed: Callable[[OSError], None]
    ) -> None:
        """Have the call's begin written; `then` sends its first upstream byte."""
        exchange = self._exchange
        principal = exchange.principal
        assert principal is not None
        self._seq = self._journal.next_seq()
        record = Begin(
            seq=self._seq,
            at_ms=int(self._wall() * 1000),
            request_id=exchange.request_id,
            org=principal.org,
            team=principal.team,
            user=principal.user,
            key_id=principal.key_id,
            model=exchange.model,
            deployment=exchange.deployment,
            upstream=exchange.upstream_name,
            dialect=exchange.dialect.name,
            operation=call.operation,
            stream=call.stream,
        )
        self._journal.begin(record, then, failed)
        self._begun = True

    def never_begun(self) -> None:
        """The journal could not take the begin, so there is nothing to end."""
        self._begun = False

    def first_byte(self) -> None:
        """The answer has begun to arrive."""
        self._first_byte_at = self._clock()

    def _note_failure(self, error: BaseException) -> None:
        self.outcome = "router_error"
        if isinstance(error, asyncio.CancelledError):
            if error.args != (CUT_BY_US,):
                self.outcome = "client_gone"
        elif isinstance(error, RouterError):
            self._exchange.error = error
            if error.source is Source.UPSTREAM:
                self.outcome = "upstream_error"

    def __enter__(self) -> "Meter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._begun:
            return
        exchange = self._exchange
        now = self._clock()
        if error is not None:
            self._note_failure(error)
        first_at = self._first_byte_at
        refusal = exchange.error
        self._journal.end(
            End(
                seq=self._seq,
                at_ms=int(self._wall() * 1000),
                request_id=exchange.request_id,
                status=exchange.status or (refusal.status if refusal else 0),
                outcome=self.outcome,
                error_code=refusal.code if refusal else None,
                attempts=self.attempts,
                usage=self.usage or NO_USAGE,
                estimated=self.usage is None,
                ttft_ms=int((first_at - exchange.arrived_at) * 1000) if first_at else None,
                duration_ms=int((now - exchange.arrived_at) * 1000),
            )
        )
