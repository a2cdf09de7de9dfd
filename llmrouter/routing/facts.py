"""What a strategy may know of a call."""

import enum

import msgspec


class Facts(msgspec.Struct, frozen=True, gc=False):
    """Of one call."""

    asked: str
    """The model's name, as the caller asked for it."""
    key_id: str
    user: str | None
    """The signed-in user, or the one that the call names."""
    conversation: bytes
    """A digest of what all turns of a conversation begin with; empty if there is none."""


NO_FACTS = Facts("", "", None, b"")
"""For strategies that want none."""


class StickyBy(enum.StrEnum):
    """Whose calls stay together; the value is the word in router.toml."""

    CONVERSATION = "conversation"
    KEY = "key"
    USER = "user"
