"""The keys as a worker holds them: from the text a request presents to its principal.

What a stranger learns: an unknown id and a wrong secret cost the same work and get the same words,
so a refusal does not tell which ids exist. That a key expired or was revoked is told only to who
holds its secret. No message repeats any part of what was presented.

A key takes about 1 kB here, so a table of 10,000 keys takes 10 MB in every worker. It is bounded
by the number of keys ever issued, which callers cannot raise.
"""

import hmac
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from llmrouter.access.issued import IssuedKey, iso_utc
from llmrouter.access.key import Digest, read_id
from llmrouter.access.mapping import ModelMap
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.principal import NO_MAP, Principal
from llmrouter.errors import ExpiredKey, InvalidKey, RevokedKey

_INVALID: Final = (
    "the key is not valid; check that it was copied whole, or ask your admin for a new one"
)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    digest: bytes
    principal: Principal | None = None
    revoked_at_s: int | None = None
    ends_at_s: float = math.inf
    """The first moment in which the key is refused; minus infinity once it is revoked."""


# Stands in for an id that nobody has, so that one costs the same work as a wrong secret.
_NOBODY: Final = _Entry(digest=bytes(32))
_EVERY_MODEL: Final = ModelPatterns()


class Keyring:
    """The table of every key, live or not, that authenticates requests without any I/O."""

    __slots__ = ("_digest", "_entries", "changes")

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._entries: dict[bytes, _Entry] = {}
        self.changes = 0
        """How often keys were applied: whoever is known from before may have ended since."""

    def __repr__(self) -> str:
        return f"<Keyring keys={len(self._entries)}>"

    def __len__(self) -> int:
        return len(self._entries)

    def apply(self, keys: Iterable[IssuedKey]) -> None:
        """Insert `keys`, replacing those already here; in force for the next request."""
        self.changes += 1
        for key in keys:
            self._entries[key.id.encode()] = _entry(key)

    def authenticate(self, text: bytes, now_s: float) -> Principal:
        """Find who the presented `text` stands for.

        Raises InvalidKey, or ExpiredKey or RevokedKey for the right text of a key that ended.
        """
        key_id = read_id(text)
        if key_id is None:
            raise InvalidKey(_INVALID)
        entry = self._entries.get(key_id, _NOBODY)
        if not hmac.compare_digest(self._digest(text), entry.digest) or entry.principal is None:
            raise InvalidKey(_INVALID)
        if now_s >= entry.ends_at_s:
            raise _ended(entry)
        return entry.principal

    def find(
        self, key_id: str, now_s: float
    ) -> tuple[Principal, ExpiredKey | RevokedKey | None] | None:
        """Who a key stands for, and why it is refused if it is; None for an id that nobody has.

        For those who may see all keys: it takes no secret.
        """
        entry = self._entries.get(key_id.encode())
        if entry is None or entry.principal is None:
            return None
        return entry.principal, _ended(entry) if now_s >= entry.ends_at_s else None


def _entry(key: IssuedKey) -> _Entry:
    ends_at_s = math.inf if key.expires_at_s is None else float(key.expires_at_s)
    return _Entry(
        digest=bytes.fromhex(key.digest),
        principal=Principal(
            org=key.org,
            team=key.team,
            user=key.user,
            key_id=key.id,
            models=ModelPatterns(key.models) if key.models else _EVERY_MODEL,
            model_map=ModelMap(key.model_map) if key.model_map else NO_MAP,
        ),
        revoked_at_s=key.revoked_at_s,
        ends_at_s=ends_at_s if key.revoked_at_s is None else -math.inf,
    )


def _ended(entry: _Entry) -> ExpiredKey | RevokedKey:
    if entry.revoked_at_s is not None:
        at = iso_utc(entry.revoked_at_s)
        return RevokedKey(f"the key was revoked at {at}; ask your admin for a new one")
    at = iso_utc(int(entry.ends_at_s))
    return ExpiredKey(f"the key expired at {at}; ask your admin for a new one")
