"""The events: what limits and budgets refused or downgraded, kept to be looked up.

A row of the store is `event/<ms of the first>/<seq>`, and holds the equal denials of a UTC minute.
The book writes nothing itself: `changes` is what whoever writes the buckets puts into the same
transaction, and `written` is told when that is done. Up to then what is looked up is found here.

Invariant: `find` may run in another thread than the rest.
"""

import bisect
import re
import threading
from collections.abc import Iterable, Mapping

import msgspec

from llmrouter.contracts.store import Store, StoreError
from llmrouter.quota.denials import MINUTE_MS, Denial, Identity

EVENTS_MAX = 10_000
"""The oldest row goes when there are more; so many take about 4 MB of the store."""
LIST_DEFAULT = 100

_PREFIX = "event/"
_NAME = re.compile(r"event/([0-9]{13})/([0-9]{10})")
_RESTORE = "restore the state from a backup"
_decode = msgspec.json.Decoder(Denial).decode
_encode = msgspec.json.Encoder().encode


class EventBook:
    """Every denial of late. Its methods raise StoreError where the store fails."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._names = sorted(name for name, _ in store.items(_PREFIX))
        """Of all rows, oldest first."""
        self._seq = max(map(_seq, self._names), default=0)
        self._pending: dict[str, bytes | None] = {}
        self._unwritten: set[str] = set()
        """Rows that the store has never held; what is pruned of them needs no deleting."""
        self._minutes: dict[int, dict[Identity, str]] = {}
        """By UTC minute, the names of the rows that may still grow."""
        self._growing: dict[str, Denial] = {}
        self._reopen()
        self._prune()

    def __repr__(self) -> str:
        return f"<EventBook {len(self._names)} pending={len(self._pending)}>"

    def add(self, denials: Iterable[Denial], now_ms: int) -> None:
        """Take what workers have gathered; equal ones of a minute become one row."""
        with self._lock:
            for denial in denials:
                self._add(denial)
            self._let_go(now_ms // MINUTE_MS - 1)  # whose last counts may still be on their way
            self._prune()

    def changes(self) -> dict[str, bytes | None]:
        """What is to be written, for `Store.write`; the same again until `written` is told."""
        with self._lock:
            return dict(self._pending)

    def written(self, changes: Mapping[str, bytes | None]) -> None:
        """Forget what was written, unless it has changed since; others' rows may be among it."""
        with self._lock:
            for name, value in changes.items():
                if not name.startswith(_PREFIX):
                    continue
                self._unwritten.discard(name)
                if self._pending.get(name, b"") is value:
                    del self._pending[name]
                elif value is not None and not self._holds(name):
                    self._pending[name] = None  # a new row that was pruned while it was written

    def find(
        self,
        *,
        org: str | None = None,
        key: str | None = None,
        since_ms: int | None = None,
        limit: int = LIST_DEFAULT,
    ) -> list[Denial]:
        """The newest `limit` rows of an org, of a key, or of a time on; newest last."""
        names, pending = self._snapshot(since_ms or 0)
        found: list[Denial] = []
        while names and len(found) < limit:
            name = names.pop()
            value = pending.get(name) or self._store.get(name)
            if value is None:  # pruned since
                continue
            row = _read(name, value)
            wanted = org in (None, row.org) and key in (None, row.key_id)
            if wanted and row.last_ms >= (since_ms or 0):
                found.append(row)
        return found[::-1]

    def _snapshot(self, since_ms: int) -> tuple[list[str], dict[str, bytes | None]]:
        """The rows that may reach beyond `since_ms`, and what is not written yet."""
        with self._lock:
            start = self._place(max(0, since_ms // MINUTE_MS - 1))
            return self._names[start:], dict(self._pending)

    def _place(self, minute: int) -> int:
        return bisect.bisect_left(self._names, f"{_PREFIX}{minute * MINUTE_MS:013}")

    def _holds(self, name: str) -> bool:
        place = bisect.bisect_left(self._names, name)
        return self._names[place : place + 1] == [name]

    def _add(self, denial: Denial) -> None:
        names = self._minutes.setdefault(denial.at_ms // MINUTE_MS, {})
        if (name := names.get(denial.identity)) is None:
            name = names[denial.identity] = self._new_name(denial)
        else:
            denial = self._growing[name].joined(denial)
        self._growing[name] = denial
        self._pending[name] = _encode(denial)

    def _new_name(self, denial: Denial) -> str:
        self._seq += 1
        name = f"{_PREFIX}{denial.at_ms:013}/{self._seq:010}"
        bisect.insort(self._names, name)
        self._unwritten.add(name)
        return name

    def _let_go(self, before: int) -> None:
        for minute in [minute for minute in self._minutes if minute < before]:
            for name in self._minutes.pop(minute).values():
                del self._growing[name]

    def _prune(self) -> None:
        """Drop the oldest rows of too many."""
        excess = self._names[: max(0, len(self._names) - EVENTS_MAX)]
        del self._names[: len(excess)]
        for name in excess:
            if (row := self._growing.pop(name, None)) is not None:
                del self._minutes[row.at_ms // MINUTE_MS][row.identity]
            if name in self._unwritten:
                self._unwritten.remove(name)
                del self._pending[name]
            else:
                self._pending[name] = None

    def _reopen(self) -> None:
        """Let the rows of the last two minutes grow on, as if nothing had happened between."""
        if not self._names:
            return
        for name in self._names[self._place(max(0, _at_ms(self._names[-1]) // MINUTE_MS - 1)) :]:
            value = self._store.get(name)
            assert value is not None
            row = _read(name, value)
            names = self._minutes.setdefault(row.at_ms // MINUTE_MS, {})
            if names.setdefault(row.identity, name) == name:
                self._growing[name] = row


def _seq(name: str) -> int:
    return int(_matched(name)[2])


def _at_ms(name: str) -> int:
    return int(_matched(name)[1])


def _matched(name: str) -> re.Match[str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise StoreError(f"{name!r} in the store is not the name of an event; {_RESTORE}")
    return match


def _read(name: str, value: bytes) -> Denial:
    try:
        return _decode(value)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"{name!r} in the store cannot be read as an event ({error}): it is damaged or was"
            f" written by a newer llmrouter; {_RESTORE}"
        ) from error
