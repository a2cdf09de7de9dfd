"""Which rules apply to a call: those of its org, its team, its user and its key, as buckets.

Rules of orgs, teams and users stand in the configuration and never change here; those of a key are
set as keys come and go. What a key had before is remembered with its generations: calls that were
admitted under it may still run, and are to be counted where they have reserved. The user `*` of an
org stands for each of its users that has no rules of its own there: every such user has buckets of
their own, made when asked for and not remembered, because callers could make any number of them.

Invariant: names hold no slash, and a bucket's name says which scope and rule it is of; so `rule`
finds back what `applying` gave, and nothing else.
"""

from collections.abc import Iterable, Mapping

import msgspec

from llmrouter.contracts.rule import Rule, Scope

EVERY_USER = "*"
"""The user whose rules count, for each one apart, for users that have none of their own."""
PAST_MAX = 64
"""So many rules that a key had before are remembered; more than change while any call runs."""


class Bucketed(msgspec.Struct, frozen=True, kw_only=True):
    """A rule in force in one scope, and its bucket there."""

    bucket: str
    """The bucket's name."""
    scope: Scope
    rule: Rule
    since: int = 0
    """The generation of the rules that first had this one; an amount that changes is no new one."""
    until: int | None = None
    """The first generation that has it no more; None while it is in force."""

    def was_in_force(self, generation: int) -> bool:
        """Whether calls that were admitted under these rules have reserved from its bucket."""
        return self.since <= generation and (self.until is None or generation < self.until)


class Rulebook:
    """The rules in force on a node; every worker has one, and the ledger's owner too."""

    __slots__ = ("_by_bucket", "_by_scope", "_every_user", "_past", "generation", "version")

    def __init__(self, rules: Mapping[Scope, tuple[Rule, ...]]) -> None:
        self._by_scope: dict[Scope, tuple[Bucketed, ...]] = {}
        self._by_bucket: dict[str, Bucketed] = {}
        self._past: dict[Scope, tuple[Bucketed, ...]] = {}
        """What was taken away, the latest last."""
        self._every_user: dict[str, tuple[Rule, ...]] = {}
        """By org: what a user goes by who has no rules of their own."""
        self.version = 0
        """Grows with every change; what was asked of an older version is to be asked again."""
        self.generation = 0
        """Which rules these are, on the whole node: the supervisor counts, and tells its workers.
        Calls are journaled with theirs, so that a new rule counts none that reserved nothing."""
        for scope, own in rules.items():
            org, _, name = scope.name.partition("/")
            if scope.kind == "user" and name == EVERY_USER:
                _bucketed(scope, own)  # refused here, not when the first such user calls
                self._every_user[org] = own
            else:
                self._put(scope, own)

    def __repr__(self) -> str:
        return f"<Rulebook scopes={len(self._by_scope)} version={self.version}>"

    def set_key(self, key_id: str, rules: tuple[Rule, ...]) -> None:
        """Put a key's own rules in force, in place of those it had; none takes them away."""
        scope = Scope(kind="key", name=key_id)
        if rules == tuple(found.rule for found in self._by_scope.get(scope, ())):
            return
        self._put(scope, rules)
        if not rules:
            del self._by_scope[scope]
        self.version += 1

    def applying(
        self, *, org: str, team: str | None, user: str | None, key_id: str, model: str
    ) -> tuple[Bucketed, ...]:
        """The rules that a call counts for: of org, team, user and key, in that order.

        Not for every call: callers remember what they were given while `version` stays.
        """
        scopes = [Scope(kind="org", name=org)]
        if team is not None:
            scopes.append(_within("team", org, team))
        if user is not None:
            scopes.append(_within("user", org, user))
        scopes.append(Scope(kind="key", name=key_id))
        return tuple(
            found for scope in scopes for found in self.of_scope(scope) if found.rule.covers(model)
        )

    def ever_applying(
        self, *, org: str, team: str | None, user: str | None, key_id: str, model: str
    ) -> tuple[Bucketed, ...]:
        """What `applying` gives, and then what it gave before and was taken away."""
        past = self._past.get(Scope(kind="key", name=key_id), ())
        return (
            *self.applying(org=org, team=team, user=user, key_id=key_id, model=model),
            *(found for found in past if found.rule.covers(model)),
        )

    def of_scope(self, scope: Scope) -> tuple[Bucketed, ...]:
        """The rules in force in one scope, whatever model they are for."""
        own = self._by_scope.get(scope)
        if own is not None or scope.kind != "user":
            return own or ()
        org, _, _ = scope.name.partition("/")
        rules = self._every_user.get(org)
        return _bucketed(scope, rules) if rules else ()

    def rule(self, bucket: str) -> Bucketed | None:
        """The rule that makes this bucket; None if none in force does."""
        found = self._by_bucket.get(bucket)
        if found is not None:
            return found
        kind, _, rest = bucket.partition("/")
        org, _, rest = rest.partition("/")
        user, _, _ = rest.partition("/")
        if kind != "user" or not user or org not in self._every_user:
            return None
        others = self.of_scope(_within("user", org, user))
        return next((other for other in others if other.bucket == bucket), None)

    def latest(self, bucket: str) -> Bucketed | None:
        """The rule that makes this bucket, else the last one that did; None if none ever has."""
        found = self.rule(bucket)
        if found is not None:
            return found
        kind, _, rest = bucket.partition("/")
        past = self._past.get(Scope(kind=kind, name=rest.partition("/")[0]), ())
        return next((one for one in reversed(past) if one.bucket == bucket), None)

    def scopes(self) -> tuple[Scope, ...]:
        """Every scope with rules; the user `*` for all those that it stands for."""
        others = (_within("user", org, EVERY_USER) for org, own in self._every_user.items() if own)
        return (*(scope for scope, found in self._by_scope.items() if found), *others)

    def _put(self, scope: Scope, rules: tuple[Rule, ...]) -> None:
        old = self._by_scope.get(scope, ())
        since = {one.bucket: one.since for one in old}
        new = tuple(
            msgspec.structs.replace(one, since=since.get(one.bucket, self.generation))
            for one in _bucketed(scope, rules)
        )
        for bucket in since:
            del self._by_bucket[bucket]
        self._by_scope[scope] = new
        kept = {one.bucket for one in new}
        gone = [
            msgspec.structs.replace(one, until=self.generation)
            for one in old
            if one.bucket not in kept
        ]
        if gone:
            self._past[scope] = (*self._past.get(scope, ()), *gone)[-PAST_MAX:]
        self._by_bucket.update((found.bucket, found) for found in new)


def _within(kind: str, org: str, name: str) -> Scope:
    assert "/" not in org, "names are checked where keys are issued"
    assert "/" not in name, "names are checked where keys are issued"
    return Scope(kind=kind, name=f"{org}/{name}")


def _bucketed(scope: Scope, rules: Iterable[Rule]) -> tuple[Bucketed, ...]:
    found = tuple(Bucketed(bucket=scope.bucket(rule), scope=scope, rule=rule) for rule in rules)
    if len({one.bucket for one in found}) < len(found):
        names = ", ".join(one.rule.name for one in found)
        raise ValueError(f"two rules of {scope.name!r} count the same ({names}); keep one of them")
    return found
