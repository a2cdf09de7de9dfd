"""Keys as they are kept and shown: what was asked for, what was issued, and its public view."""

import datetime
import enum
from typing import Annotated

import msgspec

from llmrouter.access.patterns import ModelPatterns

NAME_CHARS_MAX = 64
USER_CHARS_MAX = 128  # people are often named by their e-mail address
LIFETIME_S_MAX = 100 * 365 * 86_400  # a longer wish is a typing error


class KeyStatus(enum.Enum):
    """Whether a key is accepted now; a revoked key stays revoked after its expiry."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class KeyTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new key shall stand for. Raises ValueError, saying what is accepted, when wrong."""

    org: str
    team: str | None = None
    user: str | None = None
    name: str | None = None
    """What the key is for, in the admin's words."""
    models: tuple[str, ...] = ()
    """Patterns of the models that it opens; none means every model of the org."""
    expires_in_s: int | None = None

    def __post_init__(self) -> None:
        _check_name("org", self.org, NAME_CHARS_MAX)
        for what, value, chars_max in (
            ("team", self.team, NAME_CHARS_MAX),
            ("user", self.user, USER_CHARS_MAX),
            ("name", self.name, NAME_CHARS_MAX),
        ):
            if value is not None:
                _check_name(what, value, chars_max)
        ModelPatterns(self.models)
        if self.expires_in_s is not None and not 0 < self.expires_in_s <= LIFETIME_S_MAX:
            raise ValueError("a key expires after at least 1 s and at most 100 years")


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key as people and scripts see it; times are ISO 8601 in UTC."""

    id: str
    org: str
    team: str | None
    user: str | None
    name: str | None
    models: tuple[str, ...]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    status: KeyStatus


class IssuedKey(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A key of ours without its secret: what stores keep and workers are sent."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z]{12}$")]
    digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    """Hexadecimal HMAC-SHA-256 of the key's whole text."""
    org: str
    team: str | None = None
    user: str | None = None
    name: str | None = None
    models: tuple[str, ...] = ()
    created_at_s: int
    expires_at_s: int | None = None
    """The first second in which the key is refused."""
    revoked_at_s: int | None = None

    def __repr__(self) -> str:
        return f"<IssuedKey {self.id} org={self.org!r} revoked={self.revoked_at_s is not None}>"

    def status(self, now_s: float) -> KeyStatus:
        """Tell whether the key is accepted at `now_s`."""
        if self.revoked_at_s is not None:
            return KeyStatus.REVOKED
        if self.expires_at_s is not None and now_s >= self.expires_at_s:
            return KeyStatus.EXPIRED
        return KeyStatus.ACTIVE

    def view(self, now_s: float) -> KeyView:
        """Show the key as of `now_s`, without its digest."""
        return KeyView(
            id=self.id,
            org=self.org,
            team=self.team,
            user=self.user,
            name=self.name,
            models=self.models,
            created_at=iso_utc(self.created_at_s),
            expires_at=None if self.expires_at_s is None else iso_utc(self.expires_at_s),
            revoked_at=None if self.revoked_at_s is None else iso_utc(self.revoked_at_s),
            status=self.status(now_s),
        )


def iso_utc(at_s: int) -> str:
    """Write a Unix time as ISO 8601 in UTC, such as `2026-01-31T09:00:00Z`."""
    at = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
    return at.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _check_name(what: str, value: str, chars_max: int) -> None:
    fits = 0 < len(value) <= chars_max and value.isprintable() and "/" not in value
    if not fits or value != value.strip():
        raise ValueError(
            f"{what} {value[:chars_max]!r} is not a name: write 1 to {chars_max} printable"
            " characters, without '/' and without spaces at either end"
        )
