"""The keys as they are administered: created, listed, shown, changed and revoked, over a store.

The supervisor uses it for the control socket, and the CLI uses it directly while no daemon runs;
only one of them can have the state open, so a read followed by a write is safe here.
"""

import hmac
import secrets

import msgspec

from llmrouter.access.issued import IssuedKey, KeyChanges, KeyTerms, expiry_s
from llmrouter.access.key import Digest, RandomBytes, is_id, new_key_text, read_id
from llmrouter.contracts.store import Store, StoreError

_PREFIX = "key/"
_ID_TRIES_MAX = 8  # one collision is a wonder; eight mean that the random source is broken
_decode = msgspec.json.Decoder(IssuedKey).decode
_encode = msgspec.json.Encoder().encode


class UnknownKey(LookupError):
    """No key has the id that was given; the message says what an id looks like."""


class KeyBook:
    """Every key ever issued. Its methods raise StoreError where the store fails."""

    def __init__(
        self, store: Store, digest: Digest, random_bytes: RandomBytes = secrets.token_bytes
    ) -> None:
        self._store = store
        self._digest = digest
        self._random_bytes = random_bytes

    def create(self, terms: KeyTerms, now_s: float) -> tuple[IssuedKey, str]:
        """Issue a key: what is kept of it, and its text, which nothing can show again."""
        for _ in range(_ID_TRIES_MAX):
            text = new_key_text(self._random_bytes)
            key = _issue(terms, text, self._digest(text.encode()), int(now_s))
            if self._store.put_new(_PREFIX + key.id, _encode(key)):
                return key, text
        raise RuntimeError(f"{_ID_TRIES_MAX} random ids were all taken; the random source repeats")

    def keys(self) -> list[IssuedKey]:
        """List every key, revoked and expired ones too, oldest first."""
        found = [self._read(name, value) for name, value in self._store.items(_PREFIX)]
        return sorted(found, key=lambda key: (key.created_at_s, key.id))

    def get(self, key_id: str) -> IssuedKey:
        """Find one key by its id. Raises UnknownKey."""
        if not is_id(key_id):
            # What was given may be a key itself, so it is not repeated.
            raise UnknownKey(
                "that is not the id of a key: an id is 12 letters and digits,"
                " as `llmrouter keys list` shows; never give the key itself"
            )
        value = self._store.get(_PREFIX + key_id)
        if value is None:
            raise UnknownKey(f"no key has the id {key_id!r}; `llmrouter keys list` shows all ids")
        return self._read(_PREFIX + key_id, value)

    def find(self, text: str) -> IssuedKey:
        """Find one key by its id, or by its whole text. Raises UnknownKey, which repeats neither.

        Who gives the text is told no more of it than whether it is right.
        """
        presented = text.encode(errors="replace")
        key_id = read_id(presented)
        if is_id(text):
            return self.get(text)
        if key_id is None or not is_id(key_id.decode(errors="replace")):
            raise UnknownKey(
                "that is neither a key nor the id of one: an id is 12 letters and digits,"
                " as `llmrouter keys list` shows"
            )
        value = self._store.get(name := _PREFIX + key_id.decode())
        key = None if value is None else self._read(name, value)
        if key is None or not hmac.compare_digest(self._digest(presented).hex(), key.digest):
            raise UnknownKey("the key that was given is none of ours; give its id, or copy it anew")
        return key

    def update(self, key_id: str, changes: KeyChanges, now_s: float) -> IssuedKey:
        """Change a key that is not revoked.

        Raises UnknownKey, or ValueError if it can have no such change; nothing is changed then.
        """
        key = self.get(key_id).changed(changes, now_s)
        self._store.put(_PREFIX + key_id, _encode(key))
        return key

    def revoke(self, key_id: str, now_s: float) -> IssuedKey:
        """End a key for good; one that is revoked already keeps its time. Raises UnknownKey."""
        key = self.get(key_id)
        if key.revoked_at_s is not None:
            return key
        revoked = msgspec.structs.replace(key, revoked_at_s=int(now_s))
        self._store.put(_PREFIX + key_id, _encode(revoked))
        return revoked

    def _read(self, name: str, value: bytes) -> IssuedKey:
        try:
            key = _decode(value)
        except msgspec.DecodeError as error:
            raise StoreError(
                f"{name!r} in the store cannot be read as a key ({error}): it is damaged or was"
                " written by a newer llmrouter; restore the state from a backup"
            ) from error
        if name != _PREFIX + key.id:
            raise StoreError(
                f"{name!r} in the store holds the key {key.id!r}; restore the state from a backup"
            )
        return key


def _issue(terms: KeyTerms, text: str, digest: bytes, now_s: int) -> IssuedKey:
    key_id = read_id(text.encode())
    assert key_id is not None
    return IssuedKey(
        id=key_id.decode(),
        digest=digest.hex(),
        org=terms.org,
        team=terms.team,
        user=terms.user,
        name=terms.name,
        models=terms.models,
        model_map=terms.model_map,
        created_at_s=now_s,
        expires_at_s=expiry_s(terms.expires_in_s, now_s),
        rules=terms.rules,
    )
