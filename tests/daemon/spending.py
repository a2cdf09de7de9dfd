"""Workers that journal what they spend, and the limits of their org: what a teller counts."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrouter.access.ruletext import parse_budget, parse_limit
from llmrouter.contracts.call import Usage
from llmrouter.contracts.rule import Scope
from llmrouter.contracts.store import StoreError
from llmrouter.metering.journal import Journal, JournalFiles
from llmrouter.metering.records import Attempt, Begin, End, Header, Hold
from llmrouter.quota.ledger import Standing
from llmrouter.quota.rulebook import Bucketed, Rulebook
from llmrouter.stores.memory import MemoryStore

NOW_MS = 1_763_892_000_000
"""A moment in which time stands still, so that rates do not drain."""
ACME = Scope(kind="org", name="acme")
RULES = (
    parse_limit("requests=1000000/day"),
    parse_limit("tokens=1000000000/day"),
    parse_budget("usd=1000/total"),
    parse_limit("concurrent=1000"),
)
Amounts = tuple[int, int, int, int]
"""Requests, tokens, nano-USD, calls at once: in the order of RULES."""
NOTHING: Amounts = (0, 0, 0, 0)


def now_ms() -> int:
    """The clock."""
    return NOW_MS


def rulebook() -> Rulebook:
    """The rules of acme."""
    return Rulebook({ACME: RULES})


def buckets(book: Rulebook) -> tuple[Bucketed, ...]:
    """Those of acme."""
    return book.of_scope(ACME)


def used(standings: list[Standing]) -> Amounts:
    """What was spent."""
    requests, tokens, nano_usd, slots = (standing.used for standing in standings)
    return requests, tokens, nano_usd, slots


def claimed(standings: list[Standing]) -> Amounts:
    """What is claimed."""
    requests, tokens, nano_usd, slots = (standing.claimed for standing in standings)
    return requests, tokens, nano_usd, slots


def usage_of(tokens: int) -> Usage:
    """Some of them are output."""
    return Usage(prompt_tokens=tokens - tokens // 3, output_tokens=tokens // 3)


def an_attempt(tokens: int, nano_usd: int | None) -> Attempt:
    """One that lost, elsewhere, and has used so much."""
    return Attempt(
        deployment="else/m",
        upstream="else",
        outcome="hedged",
        usage=usage_of(tokens),
        cost_nano_usd=nano_usd,
    )


class Writer:
    """One life of a worker: a real journal, locked as long as it is open."""

    def __init__(self, directory: Path, boot: str = "b00t", worker: str = "0") -> None:
        self.boot = boot
        self._files = JournalFiles(directory, Header(worker=worker, boot=boot, pid=os.getpid()))
        self._journal = Journal(
            self._files, call_soon=lambda _: None, call_later=lambda _, __: None
        )

    def begin(self, tokens: int = 0, nano_usd: int = 0, **members: Any) -> int:
        """A call of acme begins, and holds so much."""
        seq = self._journal.next_seq()
        said: Mapping[str, Any] = {"org": "acme", "key_id": "Ab12", "model": "m", **members}
        record = Begin(
            seq=seq,
            at_ms=NOW_MS,
            request_id=f"req_{seq}",
            deployment="up/m",
            dialect="openai",
            operation="chat",
            hold_tokens=tokens,
            hold_nano_usd=nano_usd,
            **said,
        )
        failed: list[OSError] = []
        self._journal.begin(record, lambda: None, failed.append)
        self._journal.flush()
        assert not failed
        return seq

    def hold(self, seq: int, tokens: int, nano_usd: int) -> None:
        """It holds so much from now on."""
        self._journal.hold(Hold(seq=seq, tokens=tokens, nano_usd=nano_usd))
        self._journal.flush()

    def end(
        self,
        seq: int,
        tokens: int = 0,
        nano_usd: int | None = None,
        *,
        others: tuple[Attempt, ...] = (),
        replaced: bool = False,
    ) -> None:
        """It has used so much, beside what its other attempts did."""
        self._journal.end(
            End(
                seq=seq,
                at_ms=NOW_MS,
                request_id=f"req_{seq}",
                status=200,
                outcome="ok",
                attempts=1 + len(others),
                usage=usage_of(tokens),
                cost_nano_usd=nano_usd,
                duration_ms=1,
                others=others,
                replaced=replaced,
            )
        )
        self._journal.flush()

    def write(self, line: bytes) -> None:
        """Any line, as a failing disk may leave it."""
        assert self._files.append([line]) == 1

    def die(self) -> None:
        """Let go of the file, as a kill does."""
        self._files.close()


class FullStore(MemoryStore):
    """A store whose disk may be full."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.refused = 0
        self.writes: list[dict[str, bytes | None]] = []

    def write(self, changes: Mapping[str, bytes | None]) -> None:
        """Unless it is full."""
        if self.full:
            self.refused += 1
            raise StoreError("the store cannot be written: no space left on device")
        self.writes.append(dict(changes))
        super().write(changes)
