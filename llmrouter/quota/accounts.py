"""Which leases there are in a worker, and which of them apply to whom. Pure.

Invariant: every bucket has one lease, which goes on with what it has where its rule changes.
"""

from collections.abc import Callable
from typing import Final

from llmrouter.contracts.rule import Scope
from llmrouter.quota.lease import Account, Lease, unit_of
from llmrouter.quota.rulebook import Bucketed, Rulebook

ACCOUNTS_MAX: Final = 8_192
"""Pairs of key and model that are remembered; callers choose the names."""


class Accounts:
    """The leases of one worker, by whom they apply to."""

    def __init__(self, rulebook: Rulebook, retire: Callable[[Lease], None]) -> None:
        self._rulebook = rulebook
        self._retire = retire
        """Told of a lease whose amounts are counted otherwise from now on, in another lease."""
        self._accounts: dict[tuple[object, ...], Account] = {}
        self._version = rulebook.version
        self.leases: dict[str, Lease] = {}
        """Of every bucket that was ever needed here: as many as rules, keys and users allow."""

    def __repr__(self) -> str:
        return f"<Accounts {len(self._accounts)} leases={len(self.leases)}>"

    @property
    def version(self) -> int:
        """Of the rules here: accounts of an older one are out of date."""
        return self._rulebook.version

    @property
    def generation(self) -> int:
        """Of the rules on the whole node, as calls are journaled with."""
        return self._rulebook.generation

    def of(self, org: str, team: str | None, user: str | None, key_id: str, model: str) -> Account:
        """The leases for a call."""
        if self._version != self._rulebook.version:
            self._rules_changed()
        key = org, team, user, key_id, model
        account = self._accounts.get(key)
        if account is None:
            found = self._rulebook.applying(
                org=org, team=team, user=user, key_id=key_id, model=model
            )
            leases = tuple(self._lease(bucketed) for bucketed in found)
            account = Account(leases, rules=self._rulebook.generation)
            if len(self._accounts) >= ACCOUNTS_MAX:
                self._accounts.clear()
            self._accounts[key] = account
        return account

    def of_scope(self, scope: Scope) -> Account:
        """The leases of one scope alone, whose rules never change."""
        found = self._rulebook.of_scope(scope)
        return Account(tuple(map(self._lease, found)), rules=self._rulebook.generation)

    def _rules_changed(self) -> None:
        """Rules have other amounts, or others are in force."""
        self._version = self._rulebook.version
        self._accounts.clear()
        for lease in self.leases.values():
            lease.closed = None

    def _lease(self, found: Bucketed) -> Lease:
        lease = self.leases.get(found.bucket)
        if lease is None:
            lease = self.leases[found.bucket] = Lease(found)
        elif lease.found is not found:
            lease = self._follow(lease, found)
        return lease

    def _follow(self, lease: Lease, found: Bucketed) -> Lease:
        """Go on under a changed rule.

        Where it counts otherwise now, the old lease is left to the calls that hold parts of it.
        """
        if unit_of(found.rule) == lease.unit:
            lease.follow(found)
            return lease
        self._retire(lease)
        new = self.leases[lease.name] = Lease(found)
        return new
