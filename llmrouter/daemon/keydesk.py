"""Administration of keys: what can be done with them, on an open state.

Who runs a desk puts what has changed in force: `Changed` says which keys that are.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from llmrouter.access.issued import IssuedKey, KeyChanges, KeyTerms
from llmrouter.access.keybook import KeyBook
from llmrouter.access.ruletext import parse_budget, parse_limit
from llmrouter.contracts.rule import Rule

_read_view = msgspec.json.Decoder(dict[str, object]).decode


class Changed(msgspec.Struct, frozen=True):
    """An operation was done, and has changed these keys."""

    result: object
    keys: list[IssuedKey]

    def __repr__(self) -> str:
        return f"<Changed {self.keys}>"  # the result may hold a key's text

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("keys", list(map(repr, self.keys)))]


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Which(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str


class _Ruled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules, as people write them."""

    limits: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()

    def rules(self) -> tuple[Rule, ...]:
        return (*map(parse_limit, self.limits), *map(parse_budget, self.budgets))


class _Create(_Ruled, frozen=True, kw_only=True):
    """`KeyTerms`, as they are asked for."""

    org: str
    team: str | None = None
    user: str | None = None
    name: str | None = None
    models: tuple[str, ...] = ()
    model_map: dict[str, str] = {}
    expires_in_s: int | None = None

    def terms(self) -> KeyTerms:
        return KeyTerms(
            org=self.org,
            team=self.team,
            user=self.user,
            name=self.name,
            models=self.models,
            model_map=self.model_map,
            expires_in_s=self.expires_in_s,
            rules=self.rules(),
        )


class _Update(_Ruled, frozen=True, kw_only=True):
    """A key and `KeyChanges`, as they are asked for."""

    id: str
    remove: tuple[str, ...] = ()
    name: str | None = None
    models: tuple[str, ...] | None = None
    model_map: dict[str, str] | None = None
    expires_in_s: int | msgspec.UnsetType | None = msgspec.UNSET

    def changes(self, removed: Collection[str]) -> KeyChanges:
        return KeyChanges(
            rules=self.rules(),
            remove=tuple(text for text in self.remove if text not in removed),
            discard=tuple(text for text in self.remove if text in removed),
            name=self.name,
            models=self.models,
            model_map=self.model_map,
            expires_in_s=self.expires_in_s,
        )


class KeyDesk:
    """What can be done with keys; arguments and results are plain JSON values."""

    def __init__(self, book: KeyBook, wall: Callable[[], float]) -> None:
        self._book = book
        self._wall = wall
        self._removed: dict[str, tuple[str, ...]] = {}
        """By key, what its last change took off, until that is confirmed.

        So that the same command, run again as it was told, does not fail for want of these rules.
        """

    def steps(self) -> Mapping[str, Callable[[dict[str, object]], object]]:
        """The operations by the names that the control socket knows them by."""
        return {
            "keys.create": self.create,
            "keys.update": self.update,
            "keys.revoke": self.revoke,
            "keys.show": self.show,
            "keys.list": self.list,
        }

    def create(self, args: dict[str, object]) -> Changed:
        """Issue a key: its view with the key's text."""
        key, text = self._book.create(msgspec.convert(args, _Create).terms(), self._wall())
        view = self._view(key)
        return Changed({"id": view.pop("id"), "key": text, **view}, [key])

    def update(self, args: dict[str, object]) -> Changed:
        """Change a key."""
        asked = msgspec.convert(args, _Update)
        changes = asked.changes(self._removed.get(asked.id, ()))
        key = self._book.update(asked.id, changes, self._wall())
        self._removed[key.id] = asked.remove
        return Changed(self._view(key), [key])

    def revoke(self, args: dict[str, object]) -> Changed:
        """End a key for good."""
        key = self._book.revoke(_id(args), self._wall())
        return Changed(self._view(key), [key])

    def show(self, args: dict[str, object]) -> object:
        """One key."""
        return self._view(self._book.get(_id(args)))

    def list(self, args: dict[str, object]) -> object:
        """Every key, oldest first."""
        msgspec.convert(args, _Nothing)
        return [self._view(key) for key in self._book.keys()]  # noqa: SIM118 - not a dict

    def confirmed(self, keys: Iterable[IssuedKey]) -> None:
        """Note that the changes of `keys` are in force everywhere."""
        for key in keys:
            self._removed.pop(key.id, None)

    def _view(self, key: IssuedKey) -> dict[str, object]:
        # By way of JSON, so that it is the same as what comes through the control socket.
        return _read_view(msgspec.json.encode(key.view(self._wall())))


def _id(args: dict[str, object]) -> str:
    return msgspec.convert(args, _Which).id
