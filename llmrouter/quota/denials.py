"""Denials: the calls that a limit or a budget refused, or had another model serve.

Each one is an event that can be looked up later, but a flood of equal ones is counted, not kept one
by one. A worker gathers them here: the first of its kind in a minute goes to the supervisor at
once, and how often it was repeated goes with the next one, or a second later. Time comes with the
denials; nothing here does I/O.
"""

import enum

import msgspec

from llmrouter.contracts.rule import Kind

MINUTE_MS = 60_000
IDENTITIES_MAX = 1_000
"""So many kinds of denials are kept apart between two takes."""
OVERFLOW_MAX = 1_000
"""So many orgs have an entry of their own for what is beyond that; all others share one."""
EVERY = "*"
"""Stands for the model, and last for the org, in an entry that adds up what differs in them."""

Identity = tuple[str | None, ...]


class Action(enum.StrEnum):
    """What became of the call."""

    REFUSED = "refused"
    DOWNGRADED = "downgraded"
    """Another model served it."""


class Denial(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Equal denials: the first of them, and how many there were."""

    at_ms: int
    """Unix time in milliseconds, of the first."""
    last_ms: int
    count: int = 1
    org: str
    team: str | None = None
    user: str | None = None
    key_id: str
    model: str
    """What was asked for."""
    action: Action
    code: str
    """The code of our error; of a downgraded call, what it would have been refused with."""
    bucket: str
    """The name of the bucket that had no room."""
    served_by: str | None = None
    """The model that served a downgraded call."""
    limit: int
    """What fits into the bucket, in the unit of its rule."""
    balance: int
    """What it had left at the first; less than nothing where it was overshot."""
    wanted: int
    """What the first call needed of it."""

    @property
    def identity(self) -> Identity:
        """What equal denials have in common."""
        return (
            self.org,
            self.team,
            self.user,
            self.key_id,
            self.model,
            self.action,
            self.code,
            self.bucket,
            self.served_by,
        )

    def joined(self, other: "Denial") -> "Denial":
        """Both, of one identity, as one."""
        first = self if self.at_ms <= other.at_ms else other
        return msgspec.structs.replace(
            first,
            last_ms=max(self.last_ms, other.last_ms),
            count=self.count + other.count,
        )


class _Gathered:
    """Equal denials as they come: what `Denial.joined` makes of them, without one made of each."""

    __slots__ = ("count", "first", "last_ms")

    def __init__(self, first: Denial) -> None:
        self.first = first
        self.last_ms = first.last_ms
        self.count = first.count

    def add(self, denial: Denial) -> None:
        if denial.at_ms < self.first.at_ms:
            self.first = denial
        self.last_ms = max(self.last_ms, denial.last_ms)
        self.count += denial.count

    def joined(self) -> Denial:
        return msgspec.structs.replace(self.first, last_ms=self.last_ms, count=self.count)


class Denials:
    """What a worker has to tell of denials since it last did; bounded, and no count is lost."""

    def __init__(self) -> None:
        self._gathered: dict[Identity, _Gathered] = {}
        self._known: set[Identity] = set()
        self._minute = 0
        self.has_new = False
        """Whether something is worth telling at once: the first of its identity in a minute."""

    def __repr__(self) -> str:
        return f"<Denials {len(self._gathered)}{' new' if self.has_new else ''}>"

    def note(self, denial: Denial) -> None:
        """Add one, or several equal ones."""
        identity = denial.identity
        held = self._gathered.get(identity)
        if held is None and len(self._gathered) >= IDENTITIES_MAX:
            denial = self._beyond(denial)
            identity = denial.identity
            held = self._gathered.get(identity)
        if held is None:
            self._gathered[identity] = _Gathered(denial)
            self.has_new |= self._is_new(identity, denial.at_ms // MINUTE_MS)
        else:
            held.add(denial)

    def take(self) -> list[Denial]:
        """Give everything away, in the order of the first of each identity."""
        taken = [held.joined() for held in self._gathered.values()]
        self._gathered.clear()
        self.has_new = False
        return taken

    def _beyond(self, denial: Denial) -> Denial:
        """What `denial` is added to where too many are kept: the entry of its org, or of all."""
        of_org = _summed(denial, denial.org)
        if of_org.identity in self._gathered:
            return of_org
        if len(self._gathered) < IDENTITIES_MAX + OVERFLOW_MAX:
            return of_org
        return _summed(denial, EVERY)

    def _is_new(self, identity: Identity, minute: int) -> bool:
        if minute != self._minute:
            self._minute = minute
            self._known.clear()
        if identity in self._known or len(self._known) >= IDENTITIES_MAX:
            return False
        self._known.add(identity)
        return True


def _summed(denial: Denial, org: str) -> Denial:
    """`denial` without what tells it from others of the same action and code."""
    return Denial(
        at_ms=denial.at_ms,
        last_ms=denial.last_ms,
        count=denial.count,
        org=org,
        key_id="",
        model=EVERY,
        action=denial.action,
        code=denial.code,
        bucket="",
        limit=0,
        balance=0,
        wanted=0,
    )


class BucketName(msgspec.Struct, frozen=True, kw_only=True):
    """What the name of a bucket says: the reverse of `Scope.bucket` and `Rule.name`."""

    scope: str
    """`org`, `team`, `user` or `key`."""
    name: str
    kind: Kind
    per: str = ""
    model: str | None = None


_NAME_PARTS = {"org": 1, "team": 2, "user": 2, "key": 1}
_KINDS = {kind.value: kind for kind in Kind}


def read_bucket(bucket: str) -> BucketName | None:
    """Read the name of a bucket; None if it is not one that this version knows."""
    scope, *parts = bucket.split("/")
    name_parts = _NAME_PARTS.get(scope, len(parts))
    name, rule = parts[:name_parts], parts[name_parts:]
    kind = _KINDS.get(rule[0]) if rule else None
    if kind is None:
        return None
    per_parts = 0 if kind is Kind.CONCURRENT else 1
    per, model = rule[1 : 1 + per_parts], rule[1 + per_parts :]
    return BucketName(
        scope=scope,
        name="/".join(name),
        kind=kind,
        per="".join(per),
        model="/".join(model) or None,
    )
