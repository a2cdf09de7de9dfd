"""The whole of router.toml, and the tables in it that no group of tables is made of."""

from pathlib import Path
from typing import Literal

from msgspec import Struct

from llmrouter.config.schema.models import Model
from llmrouter.config.schema.orgs import Org
from llmrouter.config.schema.server import Server
from llmrouter.config.schema.upstreams import Upstream
from llmrouter.config.schema.values import Days, SecondsOrZero, Text


class Claims(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which claims of a signed-in person's JWT say who they are."""

    org: Text = "org"
    """The claim that names the org."""
    user: Text = "email"
    """The claim that names the person."""
    teams: Text = "groups"
    """The claim that lists the teams."""


class Oidc(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An identity provider whose JWTs we accept from signed-in people."""

    issuer: Text
    """Its issuer URL, exactly as it stands in the JWTs."""
    audience: Text
    """The audience that a JWT for us must name."""
    claims: Claims = Claims()
    """Which claims say who somebody is; see there."""


class Auth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ways to be known to us besides our own keys."""

    oidc: dict[str, Oidc] = {}
    """Identity providers, by a name of your choice."""


class Journal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record of calls that every worker writes below `state`."""

    fsync: Literal["batch", "off"] = "batch"
    """Whether records are made durable against a power cut, a few times a second. Even with "off"
    they survive any death of our processes."""


class Books(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accounts of all calls, which the supervisor keeps below `state`."""

    keep_days: Days = 400
    """How long single calls stay in the books. Totals by hour and day are kept for ever. Lower it
    where the disk is small: a million calls take at most 250 MB."""
    on_disk_full: Literal["refuse", "serve"] = "refuse"
    """What happens to calls while the disk is full and takes no record of them: "refuse" (503), or
    "serve" them though no limit will count them, and the books never have them."""


class Quotas(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How limits and budgets are kept, whosever they are."""

    hold_wait: SecondsOrZero = 2.0
    """How long a call waits in order, in seconds, for money or tokens that calls in flight hold and
    may not need; 0 refuses it at once."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of router.toml."""

    state: Text = "state"
    """The directory of keys, journals and books, created 0700. Put it on a local disk."""
    server: Server = Server()
    """Where we listen, and what protects us."""
    upstreams: dict[str, Upstream] = {}
    """The hosts we call, by a name of your choice."""
    models: dict[str, Model] = {}
    """What callers may ask for, by name or pattern."""
    orgs: dict[str, Org] = {}
    """Who may call, by name."""
    auth: Auth = Auth()
    """Ways in besides our own keys."""
    quotas: Quotas = Quotas()
    """How limits and budgets are kept; see there."""
    journal: Journal = Journal()
    """The record of calls; see there."""
    books: Books = Books()
    """The accounts of calls; see there."""


class Config(Settings, frozen=True, kw_only=True):
    """The settings that `load` read, and where it read them.

    Two are equal when they would run the same: what was left to its default does not matter.
    """

    file: Path
    """The file as it was named to us."""
    given: tuple[tuple[str, ...], ...] = ()
    """The tables and keys that stand in the file, in its order, whatever their value."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in settings_names())


def settings_names() -> tuple[str, ...]:
    """The top-level keys of router.toml."""
    return Settings.__struct_fields__
