"""The list of known prices, which came as plain data from a process of its own.

It knows a model by a clause on its name, since providers give a model many names; the first entry
whose clause matches is the model's, also if it names no price: an entry behind it is another
model's.

Clauses and the names that they are asked about are in lower case; only a regular expression stands
as it was written. Deliberately absent: the clock (the list holds the prices of the time when it was
read).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from datetime import date

import msgspec

from llmrouter.metering.price import Price

FOUND_MAX = 4_096
"""How many names are remembered with their price; callers choose the names."""


class Equals(msgspec.Struct, frozen=True, tag_field="t", tag="equals"):
    """The name is `text`."""

    text: str

    def matches(self, name: str) -> bool:
        """Whether the model that a caller names `name` is meant; so in every clause."""
        return name == self.text


class StartsWith(msgspec.Struct, frozen=True, tag_field="t", tag="starts_with"):
    """The name starts with `text`."""

    text: str

    def matches(self, name: str) -> bool:
        return name.startswith(self.text)


class EndsWith(msgspec.Struct, frozen=True, tag_field="t", tag="ends_with"):
    """The name ends with `text`."""

    text: str

    def matches(self, name: str) -> bool:
        return name.endswith(self.text)


class Contains(msgspec.Struct, frozen=True, tag_field="t", tag="contains"):
    """The name has `text` in it."""

    text: str

    def matches(self, name: str) -> bool:
        return self.text in name


class Regex(msgspec.Struct, frozen=True, tag_field="t", tag="regex"):
    """`pattern` is found somewhere in the name."""

    pattern: str

    def matches(self, name: str) -> bool:
        return _compiled(self.pattern).search(name) is not None


class AnyOf(msgspec.Struct, frozen=True, tag_field="t", tag="or"):
    """One of `clauses` matches."""

    clauses: tuple["Clause", ...]

    def matches(self, name: str) -> bool:
        return any(clause.matches(name) for clause in self.clauses)


class AllOf(msgspec.Struct, frozen=True, tag_field="t", tag="and"):
    """All of `clauses` match."""

    clauses: tuple["Clause", ...]

    def matches(self, name: str) -> bool:
        return all(clause.matches(name) for clause in self.clauses)


Clause = Equals | StartsWith | EndsWith | Contains | Regex | AnyOf | AllOf
_compiled = functools.cache(re.compile)  # as many as the list has; no caller adds one


class Listed(msgspec.Struct, frozen=True):
    """One model of a provider, as the list knows it."""

    clause: Clause
    """Which names mean it."""
    price: Price | None
    """None where it is not sold by the token."""


_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


def dashed(name: str) -> str:
    """`name` with its dates as most of the list writes them: `-20251211` as `-2025-12-11`.

    Only for a name that is not listed as it is: some entries have the date in the compact form.
    """
    return _COMPACT_DATE.sub(_dashed, name)


def _dashed(found: re.Match[str]) -> str:
    try:
        return f"-{date(*map(int, found.groups())).isoformat()}"
    except ValueError:
        return found[0]  # the 31st of February is a number, and no date


class PriceList:
    """Finds the listed price of a model, and remembers it."""

    __slots__ = ("_found", "_listed")

    def __init__(self, listed: Mapping[str, Sequence[Listed]]) -> None:
        self._listed = listed
        self._found: dict[tuple[str, str], Price | None] = {}

    def __repr__(self) -> str:
        return f"<PriceList providers={len(self._listed)} found={len(self._found)}>"

    def find(self, provider: str, model: str) -> Price | None:
        """What `provider` asks for `model`, by the name it is called there; None if not listed."""
        asked = (provider, model)
        if asked in self._found:
            return self._found[asked]
        if len(self._found) >= FOUND_MAX:
            self._found.clear()
        self._found[asked] = price = self._search(provider, model.lower())
        return price

    def _search(self, provider: str, name: str) -> Price | None:
        listed = self._listed.get(provider, ())
        entry = _first(listed, name)
        if entry is None and (rewritten := dashed(name)) != name:
            entry = _first(listed, rewritten)
        return None if entry is None else entry.price


def _first(listed: Sequence[Listed], name: str) -> Listed | None:
    return next((entry for entry in listed if entry.clause.matches(name)), None)
