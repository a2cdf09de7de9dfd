"""What buckets must say, summed up from the journals: another count than the ledger's own."""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, cast

from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.control import ask
from llmrouter.daemon.state import control_path
from llmrouter.metering.journal import journal_paths
from llmrouter.metering.replay import JournaledCall, pair
from llmrouter.quota import window
from tests.support.daemon import Daemon, limits, wait_for
from tests.support.ledger import cost_of, tokens_of

NANO_PER_USD = 1_000_000_000
PERIODS_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
SETTLED_WITHIN_S = 30.0
"""Idle leases go back within half a second; the machine may be busy."""
_AMOUNT = re.compile(r"\w+=([0-9]+)")
View = dict[str, Any]


class Counted(NamedTuple):
    """What a bucket counts, read from its name alone."""

    scope: str
    name: str
    kind: str
    per: str
    model: str

    @classmethod
    def by(cls, view: View) -> "Counted":
        """What the bucket of a view counts."""
        scope, name = view["scope"], view["name"]
        rule = view["bucket"].removeprefix(f"{scope}/{name}/")
        kind, _, rest = rule.partition("/")
        per, _, model = ("", "", rest) if kind == "concurrent" else rest.partition("/")
        return cls(scope, name, kind, per, model or "*")

    def has(self, call: JournaledCall) -> bool:
        """Whether a call counts there."""
        begin = call.begin
        owners = {
            "org": begin.org,
            "team": f"{begin.org}/{begin.team}",
            "user": f"{begin.org}/{begin.user}",
            "key": begin.key_id,
        }
        return owners[self.scope] == self.name and self.covers(begin.model)

    def covers(self, model: str) -> bool:
        """Whether calls of that model count there."""
        return fnmatchcase(model, self.model)


class Spent(NamedTuple):
    """What one call is charged with, and when."""

    at_ms: int
    amount: int


def spent(counted: Counted, call: JournaledCall) -> Spent:
    """Ended calls at what all of their attempts used, interrupted ones at their last hold.

    A request counts once, whichever models it was moved to.
    """
    begin, end = call.begin, call.end
    if counted.kind == "requests":
        return Spent(begin.at_ms, int(not any(map(counted.covers, begin.instead_of))))
    at_ms = begin.at_ms if end is None else end.at_ms
    if counted.kind == "tokens":
        return Spent(at_ms, call.hold[0] if end is None else tokens_of(end))
    return Spent(at_ms, call.hold[1] if end is None else cost_of(end))


def used(view: View) -> int:
    """What a view says was used, in whole units; money in nano-USD."""
    amount = view["used"]
    return round(amount * NANO_PER_USD) if view["kind"] == "usd" else int(amount)


def claimed(view: View) -> int:
    """The same of what is claimed."""
    amount = view["claimed"]
    return round(amount * NANO_PER_USD) if view["kind"] == "usd" else int(amount)


def bounds(view: View, calls: Iterable[JournaledCall], now_ms: int) -> tuple[int, int]:
    """The least and the most that the bucket may say was used at `now_ms`.

    Of budgets they are the same. A rate has drained since its first charge, at most; where it
    drains less than one unit they are the same, too.
    """
    counted = Counted.by(view)
    charges = [spent(counted, call) for call in calls if counted.has(call)]
    if counted.kind == "concurrent" or not charges:
        return 0, 0
    if counted.kind == "usd":
        start_ms = window.start_ms(counted.per, now_ms)
        total = sum(charge.amount for charge in charges if charge.at_ms >= start_ms)
        return total, total
    total = sum(charge.amount for charge in charges)
    per_period = int(_amount(view["rule"]))
    since_ms = now_ms - min(charge.at_ms for charge in charges)
    return max(0, total - since_ms * per_period // PERIODS_MS[counted.per]), total


def _amount(rule: str) -> str:
    found = _AMOUNT.match(rule)
    assert found is not None, rule
    return found[1]


def held(view: View, calls: Iterable[JournaledCall]) -> int:
    """What calls in flight must be seen to hold of a bucket while nothing else is claimed."""
    counted = Counted.by(view)
    running = [call for call in calls if counted.has(call)]
    match counted.kind:
        case "requests":
            return 0  # spent when they began
        case "concurrent":
            return len(running)
        case _:
            return sum(spent(counted, call).amount for call in running)


def journaled(state: Path) -> list[JournaledCall]:
    """All calls in the journals, which must be sound."""
    found = pair(journal_paths(state / "journal"))
    assert not found.damaged
    assert not found.duplicates
    assert not found.orphans
    return found.calls


def standing(daemon: Daemon, calls: Iterable[JournaledCall]) -> dict[str, View]:
    """How every bucket stands, also those of users that have no table of their own."""
    users = {(call.begin.org, call.begin.user) for call in calls if call.begin.user is not None}
    scopes = [("user", f"{org}/{user}") for org, user in sorted(users)]
    listed = cast("list[View]", ask(control_path(daemon.state), "limits.list", {"scopes": scopes}))
    return limits(daemon) | {view["bucket"]: view for view in listed}


def differences(daemon: Daemon, running: Collection[str] = ()) -> list[str]:
    """Where buckets do not say what the journals do; `running` are calls known to be in flight.

    Only while no other call is made: then every call without an end, but these, was interrupted.
    """
    calls = journaled(daemon.state)
    views = standing(daemon, calls)
    over = [call for call in calls if call.begin.request_id not in running]
    open_calls = [call for call in calls if call.begin.request_id in running]
    now_ms = SteadyClock().now_ms()
    found = []
    for name, view in views.items():
        counts = calls if view["kind"] == "requests" else over
        least, most = bounds(view, counts, now_ms)
        if not least <= used(view) <= most:
            found.append(f"{name}: used {used(view)}, journals say {least} to {most}")
        if claimed(view) != (holds := held(view, open_calls)):
            found.append(f"{name}: claimed {claimed(view)}, calls in flight hold {holds}")
    return found


def assert_settled(daemon: Daemon, running: Collection[str] = ()) -> None:
    """Wait, within bounds, until every bucket says what the journals say, and nothing is claimed.

    Nothing but what the calls `running` hold, that is.
    """
    found: list[str] = []

    def agree() -> bool:
        found[:] = differences(daemon, running)
        return not found

    try:
        wait_for(agree, timeout_s=SETTLED_WITHIN_S, what="agreement of buckets and journals")
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *found])) from None
