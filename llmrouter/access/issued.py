"""Keys as they are kept and shown: what was asked for, what was issued, and its public view."""

import datetime
import enum
from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import msgspec

from llmrouter.access.mapping import ModelMap
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.ruletext import show
from llmrouter.contracts.rule import Kind, Rule

NAME_CHARS_MAX = 64
USER_CHARS_MAX = 128  # people are often named by their e-mail address
LAST_S = 253_402_300_799  # the last second that has a date, in the year 9999
LIFETIME_S_MAX = 100 * 365 * 86_400  # a longer wish is a typing error
RULES_MAX = 32  # of one key: every call may have to reserve from the buckets of all of them
KEY_MAPPED_MAX = 32  # of one key: every worker holds the maps of all keys


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
    model_map: dict[str, str] = {}
    """From a name or pattern that is asked for by it to the model that serves instead."""
    expires_in_s: int | None = None
    rules: tuple[Rule, ...] = ()
    """Its own limits and budgets, beside those of its org, team and user."""

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
        _check_map(self.model_map)
        _check_lifetime(self.expires_in_s)
        _check_rules(self.rules)


class KeyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What shall change on a key; the rest stays. Raises ValueError, as KeyTerms does."""

    rules: tuple[Rule, ...] = ()
    """Limits and budgets; each replaces that of the same name, or is added."""
    remove: tuple[str, ...] = ()
    """Limits and budgets to take off, by name, or as `show` writes them; it must have them."""
    discard: tuple[str, ...] = ()
    """The same, but it need not have them."""
    name: str | None = None
    models: tuple[str, ...] | None = None
    """Instead of those that it had; none of them means every model of the org."""
    model_map: dict[str, str] | None = None
    """Instead of the whole map that it had."""
    expires_in_s: int | msgspec.UnsetType | None = msgspec.UNSET
    """From the change on; None means never."""

    def __post_init__(self) -> None:
        if self.name is not None:
            _check_name("name", self.name, NAME_CHARS_MAX)
        if self.models is not None:
            ModelPatterns(self.models)
        if self.model_map is not None:
            _check_map(self.model_map)
        if self.expires_in_s is not msgspec.UNSET:
            _check_lifetime(self.expires_in_s)
        _check_rules(self.rules)


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key as people and scripts see it; times are ISO 8601 in UTC."""

    id: str
    org: str
    team: str | None
    user: str | None
    name: str | None
    models: tuple[str, ...]
    model_map: dict[str, str]
    limits: tuple[str, ...]
    """As they can be given again."""
    budgets: tuple[str, ...]
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
    model_map: dict[str, str] = {}
    """A key that has any cannot be read by a version that knew of none, nor one with rules."""
    created_at_s: int
    expires_at_s: int | None = None
    """The first second in which the key is refused."""
    revoked_at_s: int | None = None
    rules: tuple[Rule, ...] = ()
    """Limits and budgets."""

    def __repr__(self) -> str:
        return f"<IssuedKey {self.id} org={self.org!r} revoked={self.revoked_at_s is not None}>"

    def status(self, now_s: float) -> KeyStatus:
        """Tell whether the key is accepted at `now_s`."""
        if self.revoked_at_s is not None:
            return KeyStatus.REVOKED
        if self.expires_at_s is not None and now_s >= self.expires_at_s:
            return KeyStatus.EXPIRED
        return KeyStatus.ACTIVE

    def changed(self, changes: KeyChanges, now_s: float) -> "IssuedKey":
        """Tell what the key becomes. Raises ValueError if it can have no such change."""
        if self.revoked_at_s is not None:
            raise ValueError(
                f"the key {self.id} was revoked at {iso_utc(self.revoked_at_s)}, and that is for"
                " good; issue another one with `llmrouter keys create`"
            )
        if changes == KeyChanges():
            raise ValueError(
                "nothing to change was given; give a limit, a budget, a rule to remove,"
                " a name, models, a map or an expiry, such as --limit requests=100/minute"
            )
        expires_at_s = self.expires_at_s
        if changes.expires_in_s is not msgspec.UNSET:
            expires_at_s = expiry_s(changes.expires_in_s, now_s)
        return msgspec.structs.replace(
            self,
            name=self.name if changes.name is None else changes.name,
            models=self.models if changes.models is None else changes.models,
            model_map=self.model_map if changes.model_map is None else changes.model_map,
            expires_at_s=expires_at_s,
            rules=_changed_rules(self.rules, changes),
        )

    def view(self, now_s: float) -> KeyView:
        """Show the key as of `now_s`, without its digest."""
        return KeyView(
            id=self.id,
            org=self.org,
            team=self.team,
            user=self.user,
            name=self.name,
            models=self.models,
            model_map=self.model_map,
            limits=tuple(show(rule) for rule in self.rules if rule.kind is not Kind.USD),
            budgets=tuple(show(rule) for rule in self.rules if rule.kind is Kind.USD),
            created_at=iso_utc(self.created_at_s),
            expires_at=None if self.expires_at_s is None else iso_utc(self.expires_at_s),
            revoked_at=None if self.revoked_at_s is None else iso_utc(self.revoked_at_s),
            status=self.status(now_s),
        )


def iso_utc(at_s: int) -> str:
    """Write a Unix time as ISO 8601 in UTC, such as `2026-01-31T09:00:00Z`; no later than years go.

    A rate of few a day and a large burst may be used up until after that.
    """
    at = datetime.datetime.fromtimestamp(min(at_s, LAST_S), datetime.UTC)
    return at.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _check_name(what: str, value: str, chars_max: int) -> None:
    fits = 0 < len(value) <= chars_max and value.isprintable() and "/" not in value
    if not fits or value != value.strip():
        raise ValueError(
            f"{what} {value[:chars_max]!r} is not a name: write 1 to {chars_max} printable"
            " characters, without '/' and without spaces at either end"
        )


def expiry_s(expires_in_s: int | None, now_s: float) -> int | None:
    """The second from which on a key is refused that lives for so long; None means for ever."""
    return None if expires_in_s is None else int(now_s) + expires_in_s


def _check_lifetime(expires_in_s: int | None) -> None:
    if expires_in_s is not None and not 0 < expires_in_s <= LIFETIME_S_MAX:
        raise ValueError("a key expires after at least 1 s and at most 100 years")


def _check_map(model_map: dict[str, str]) -> None:
    ModelMap(model_map)
    if (count := len(model_map)) > KEY_MAPPED_MAX:
        raise ValueError(f"{count} mapped models are too many for a key; {KEY_MAPPED_MAX} fit")


def _check_rules(rules: Iterable[Rule]) -> None:
    names = Counter(rule.name for rule in rules)
    if (count := names.total()) > RULES_MAX:
        raise ValueError(f"{count} limits and budgets are too many for a key; {RULES_MAX} fit")
    for name, times in names.items():
        if times > 1:
            raise ValueError(f"{name} is given {times} times; a key has one of each name")


def _changed_rules(rules: tuple[Rule, ...], changes: KeyChanges) -> tuple[Rule, ...]:
    known = {text for rule in rules for text in (rule.name, show(rule))}
    for text in changes.remove:
        if text not in known:
            raise ValueError(_no_rule(text, rules))
    gone = {*changes.remove, *changes.discard}
    kept = {rule.name: rule for rule in rules if gone.isdisjoint((rule.name, show(rule)))}
    changed = tuple((kept | {rule.name: rule for rule in changes.rules}).values())
    _check_rules(changed)
    return changed


def _no_rule(text: str, rules: tuple[Rule, ...]) -> str:
    has = ", ".join(rule.name for rule in rules)
    return f"the key has no limit or budget {text[:NAME_CHARS_MAX]!r}; it has {has or 'none'}"
