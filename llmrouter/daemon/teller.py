"""What the journals say was spent, counted into the ledger: each record once, over any restart.

The buckets as they were saved, and how far each journal was read then (`journal/<boot>`), are read
from the store; `changes` is what has to be written there, all of it in one transaction. So a
restart goes on behind the last record that was counted, whatever was killed in between.

A boot is one life of a worker. When it is dead, its journal is read to the end: its ended calls at
what all of their attempts used, those in flight at what they held at last. A boot of an earlier
supervisor may still be alive and finish its calls: as long as it holds its journal's lock, it is an
*orphan*, and what its calls hold is claimed here.

Deliberately absent: any writing. Who only wants to know how limits stand makes one of these, too.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import msgspec

from llmrouter.contracts.store import Store, StoreError
from llmrouter.metering.records import Begin, End
from llmrouter.metering.replay import UNREADABLE, UnknownFormat
from llmrouter.metering.tail import (
    Began,
    Boot,
    Damaged,
    Ended,
    Folded,
    Found,
    Interrupted,
    Position,
    Tail,
)
from llmrouter.quota.bucket import Saved
from llmrouter.quota.ledger import ROW_PREFIX, Charge, Ledger, Standing, read_rows
from llmrouter.quota.rulebook import Bucketed, Rulebook

_log: Final = logging.getLogger(__name__)

_POSITION_PREFIX: Final = "journal/"
_RESTORE: Final = (
    "it is damaged or was written by a newer llmrouter; restore the state from a backup"
)
_decode_position: Final = msgspec.json.Decoder(Position).decode
_encode: Final = msgspec.json.Encoder().encode


_MINUTE_MS: Final = 60_000
"""No window of a budget begins within a minute."""
_Summed = tuple[str, str, str | None, str | None, str, str, tuple[str, ...], int, int]
"""Boot, org, team, user, key, model, models before, generation of the rules, and minute."""


class JournalError(Exception):
    """The journals cannot be read; the message says where, why and what to do."""


class _Sum:
    """What one caller has spent in a minute, and the latest time at which."""

    __slots__ = ("at_ms", "begin", "nano_usd", "requests", "tokens")

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        """Of one of its calls: who calls, and what for."""
        self.at_ms = 0
        self.requests = 0
        self.tokens = 0
        self.nano_usd = 0


class Teller:
    """The ledger, and how far the journals are counted in it.

    Making one raises StoreError or JournalError where what was saved, or what it names, cannot be
    read: to go on without it would lose what was spent.
    """

    def __init__(
        self, store: Store, journal_dir: Path, rulebook: Rulebook, now_ms: Callable[[], int]
    ) -> None:
        self._now_ms = now_ms
        self._rulebook = rulebook
        self.ledger = Ledger(rulebook, _saved_buckets(store))
        positions = saved_positions(store)
        try:
            self._tail = Tail(journal_dir, positions)
        except (OSError, UnknownFormat) as error:
            raise _unreadable(error) from error
        self._saved = set(positions)
        """Boots whose position is in the store, or soon will be."""
        self._gone: set[str] = set()
        """Those whose position is to be deleted."""
        self._moved: set[str] = set()
        """Boots whose position has changed since it was last asked for."""
        self._sums: dict[_Summed, _Sum] = {}
        """What was spent in this round."""
        self._live: set[str] = set()
        """Boots of our own workers."""
        self._orphans: dict[str, dict[int, Charge]] = {}
        """Boots that outlived an earlier supervisor, and what is claimed for their calls."""
        self._orphans_moved = False
        self._freed: dict[str, set[str]] = {}
        """By orphan, the buckets that it claims less of than before."""
        self.found = 0
        """How many facts the last round found."""
        self._error: Exception | None = None
        self._said = ""
        self._lost = (0, 0)
        """Files, and calls in flight, that were removed before they were counted."""

    def __repr__(self) -> str:
        return f"<Teller live={len(self._live)} orphans={len(self._orphans)} {self.ledger!r}>"

    def recover(self) -> list[Boot]:
        """Count what was journaled and not counted when everything died; the boots that live on.

        The dead come first, one after the other: of all that ever lived, not each can have a file
        open at once. Raises JournalError where some of it cannot be read.
        """
        for boot in [each for each in self._tail.boots() if not each.closed]:
            if self._tail.is_written(boot.boot):
                self._orphans.setdefault(boot.boot, {})
            elif self.finish(boot.boot):
                self.ledger.ended(boot.boot)
        self.fold_all()
        if self._error is not None:
            raise _unreadable(self._error) from self._error
        self._claim_for_orphans()
        self.forget()
        return [each for each in self._tail.boots() if each.boot in self._orphans]

    def close(self) -> None:
        """Let go of the journals; nothing can be counted afterwards."""
        self._tail.close()

    # ---- counting ---------------------------------------------------------------------------

    def started(self, boot: str) -> None:
        """A worker of ours will write under this name."""
        self._live.add(boot)

    def fold(self, only: str = "") -> None:
        """Count what is new in the journals, or in those of `only` one boot, in one round."""
        self._count_all(partial(self._tail.poll, only=only))
        if self._orphans_moved:
            self._claim_for_orphans()

    def fold_all(self, only: str = "") -> None:
        """Count all that is in the journals, but for what cannot be read now."""
        self.fold(only)
        while self._tail.more and self._error is None:
            self.fold(only)

    def finish(self, boot: str) -> bool:
        """The writer of `boot` is dead: count the rest, then its calls in flight at their hold.

        False if that cannot be read now: its claims have to stand, and this to be tried again.
        """
        self.fold_all(boot)
        self._count_all(lambda: self._tail.finish(boot))
        if self._error is not None:
            return False
        if boot in self._tail:  # else it died before it had written anything
            self._moved.add(boot)
        self._live.discard(boot)
        self._orphans.pop(boot, None)
        return True

    def departed(self) -> list[str]:
        """The orphans that have died by now; to be finished."""
        self._claim_for_orphans()  # a hold that was raised is no fact of the tail
        return [boot for boot in self._orphans if not self._tail.is_written(boot)]

    def freed(self) -> dict[str, set[str]]:
        """By orphan, the buckets that it claims less of since this was last asked for."""
        freed, self._freed = self._freed, {}
        return freed

    def standing(self, found: Iterable[Bucketed]) -> list[Standing]:
        """How buckets stand now."""
        self.fold()
        now_ms = self._now_ms()
        return [self.ledger.standing(bucketed, now_ms) for bucketed in found]

    def forget(self) -> None:
        """Let go of the positions of dead boots whose files are gone: nobody needs them."""
        self._gone |= self._saved - {each.boot for each in self._tail.boots()}

    def changes(self) -> dict[str, bytes | None]:
        """What has changed since this was last asked for: rows of buckets, and positions."""
        changes: dict[str, bytes | None] = {**self.ledger.changes(self._now_ms())}
        changes |= dict.fromkeys(map(_POSITION_PREFIX.__add__, self._gone))
        self._saved -= self._gone
        self._gone.clear()
        for boot in self._moved:
            if boot in self._tail:
                changes[_POSITION_PREFIX + boot] = _encode(self._tail.position(boot))
                self._saved.add(boot)
        self._moved.clear()
        return changes

    def _count_all(self, read: Callable[[], Iterator[Found]]) -> None:
        """Count what `read` finds; what cannot be read is said once, and tried by the next."""
        self.found = 0
        try:
            for boot, facts in read():
                for fact in facts:
                    self._count(fact)
                self.found += len(facts)
                self._moved.add(boot)  # also for what is damaged: a restart shall not meet it again
            self._error = self._tail.error
        except UnknownFormat as error:
            self._error = error
        self._charge_sums()
        said = "" if self._error is None else str(self._error)
        if said and said != self._said:
            _log.error("journal_not_read=%r", said)
        self._said = said
        lost = self._tail.counts.files_vanished, self._tail.counts.calls_vanished
        if lost != self._lost:
            _log.error("journal_files_lost=%d calls_lost=%d: what they used is not charged", *lost)
        self._lost = lost

    def _count(self, fact: Folded) -> None:
        match fact:
            case Ended():
                end = fact.end
                tokens, nano_usd = _spent(end)
                self._sum(fact.boot, fact.begin, end.at_ms, 0, tokens, nano_usd)
            case Began():
                boot, begin = fact.boot, fact.begin
                if boot not in self._live:
                    self._orphans.setdefault(boot, {})
                self._sum(boot, begin, begin.at_ms, 1, 0, 0)
            case Interrupted(boot=boot, begin=begin, hold=(tokens, nano_usd)):
                self._sum(boot, begin, begin.at_ms, 0, tokens, nano_usd)
            case Damaged():
                where = fact.path, fact.offset, fact.length
                _log.error("journal=%s damaged at byte %d: %d bytes cannot be read", *where)
            case _:
                assert_never(fact)

    def _sum(
        self, boot: str, begin: Begin, at_ms: int, requests: int, tokens: int, nano_usd: int
    ) -> None:
        """Add to what the same caller has spent in the same minute: a bucket is charged once."""
        name = (
            boot, begin.org, begin.team, begin.user, begin.key_id, begin.model, begin.instead_of,
            begin.rules, at_ms // _MINUTE_MS,
        )  # fmt: skip
        found = self._sums.get(name)
        if found is None:
            found = self._sums[name] = _Sum(begin)
        found.requests += requests
        found.tokens += tokens
        found.nano_usd += nano_usd
        if at_ms > found.at_ms:  # the later drains the later: never too much is given back
            found.at_ms = at_ms

    def _charge_sums(self) -> None:
        now_ms = self._now_ms()
        for (boot, *_), spent in self._sums.items():
            begin = spent.begin
            charge = Charge(
                holder=boot,
                org=begin.org,
                team=begin.team,
                user=begin.user,
                key_id=begin.key_id,
                model=begin.model,
                at_ms=spent.at_ms,
                rules=begin.rules,
                requests=spent.requests,
                tokens=spent.tokens,
                nano_usd=spent.nano_usd,
                instead_of=begin.instead_of,
            )
            self.ledger.charge(charge, now_ms, is_live=boot in self._live)
            self._orphans_moved |= boot in self._orphans
        self._sums.clear()

    # ---- boots of an earlier supervisor -----------------------------------------------------

    def _claim_for_orphans(self) -> None:
        """Claim what the calls of orphans hold now, instead of what was claimed before."""
        self._orphans_moved = False
        now_ms = self._now_ms()
        for boot, claimed in self._orphans.items():
            held = {
                begin.seq: _held_by(boot, begin, tokens, nano_usd)
                for begin, (tokens, nano_usd) in self._tail.held(boot)
            }
            for seq, hold in claimed.items():
                if held.get(seq) != hold:
                    self.ledger.claim(hold, now_ms, sign=-1)
                    self._freed.setdefault(boot, set()).update(self._buckets_of(hold))
            for seq, hold in held.items():
                if claimed.get(seq) != hold:
                    self.ledger.claim(hold, now_ms, sign=1)
            self._orphans[boot] = held

    def _buckets_of(self, hold: Charge) -> Iterator[str]:
        applying = self._rulebook.applying(
            org=hold.org,
            team=hold.team,
            user=hold.user,
            key_id=hold.key_id,
            model=hold.model,
        )
        return (found.bucket for found in applying)


def _spent(end: End) -> tuple[int, int]:
    """Tokens and nano-USD of all attempts of a call; its request was counted at its begin."""
    usage = end.usage
    tokens, nano_usd = usage.prompt_tokens + usage.output_tokens, end.cost_nano_usd or 0
    for other in end.others:
        tokens += other.usage.prompt_tokens + other.usage.output_tokens
        nano_usd += other.cost_nano_usd or 0
    return tokens, nano_usd


def _held_by(boot: str, begin: Begin, tokens: int, nano_usd: int) -> Charge:
    return Charge(
        holder=boot,
        org=begin.org,
        team=begin.team,
        user=begin.user,
        key_id=begin.key_id,
        model=begin.model,
        at_ms=begin.at_ms,
        rules=begin.rules,
        tokens=tokens,
        nano_usd=nano_usd,
    )


def _saved_buckets(store: Store) -> dict[str, Saved]:
    found: dict[str, Saved] = {}
    for name, value in store.items(ROW_PREFIX):
        try:
            found |= read_rows([(name, value)])
        except UNREADABLE as error:
            raise _damaged(name, "the state of a limit or budget", error) from error
    return found


def saved_positions(store: Store) -> dict[str, Position]:
    """Up to where each journal is counted in what `store` has. Raises StoreError."""
    found: dict[str, Position] = {}
    for name, value in store.items(_POSITION_PREFIX):
        try:
            found[name.removeprefix(_POSITION_PREFIX)] = _decode_position(value)
        except UNREADABLE as error:
            raise _damaged(name, "a position in a journal", error) from error
    return found


def _damaged(name: str, what: str, error: Exception) -> StoreError:
    return StoreError(f"{name!r} in the store cannot be read as {what} ({error}): {_RESTORE}")


def _unreadable(error: Exception) -> JournalError:
    if not isinstance(error, OSError):
        return JournalError(str(error))
    reason = (error.strerror or str(error)).lower()
    return JournalError(
        f"the journal {error.filename or ''} cannot be read: {reason}; make it readable for this"
        " user again: without it what was spent would be lost"
    )
