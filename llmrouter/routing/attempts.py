"""What one call has tried, and what it tries next: retry, failover, or nothing more.

A failure leads to another deployment of the model, at once; when all that can be used have been
tried, to one of them again, after a pause; and then, or instead, to another model, which the caller
of this decides (`may_fall_back`). Where other models stand ready, the last attempt is left to them.
A deployment that was full counts as not tried as soon as another has failed: it may have room now.
If it has none again and one attempt is left, and no other model stands ready, nothing follows: then
a place there is to be waited for, for part of the time that is left (`wait_s`), and if that was in
vain (`waited_in_vain`), what was full meanwhile is looked at and what has failed tried once more.

Two bounds hold whatever fails: attempts a call, and repeats of all calls to the model that was
asked for. Pure; made only for calls that have failed once.
"""

from collections.abc import Callable

import msgspec

from llmrouter.routing.backoff import pause_s
from llmrouter.routing.deployment import Deployment
from llmrouter.routing.failure import RULES, FailureKind
from llmrouter.routing.routes import Route
from llmrouter.routing.strategy import Facts

REST_WAITED_MAX_S = 5.0
"""A deployment that says when it has room again is waited for so long at most: SDKs wait longer."""


class Next(msgspec.Struct, frozen=True, gc=False):
    """The next attempt."""

    deployment: Deployment
    pause_s: float
    """To be waited before it."""


class Attempts:
    """The attempts of one call."""

    __slots__ = (
        "_asked",
        "_barred",
        "_ends_at_s",
        "_facts",
        "_full",
        "_random",
        "_route",
        "_tried",
        "_waited_in_vain",
        "count",
    )

    def __init__(
        self, route: Route, facts: Facts, random: Callable[[], float], *, ends_at_s: float
    ) -> None:
        # for the call
        self._asked = route
        """The model that was asked for: its policy bounds the attempts at all models."""
        self._random = random
        self._ends_at_s = ends_at_s
        """When the time of all its attempts together is over."""
        self.count = 0
        """Attempts that were made, but for the one that runs."""
        self._waited_in_vain = False
        """For a place at a full deployment: that is done once."""
        # for the model that is tried
        self._facts = facts
        self._route = route
        self._tried: list[Deployment] = []
        self._barred: list[Deployment] = []
        """Not to be tried again."""
        self._full: list[Deployment] = []
        """Were so when they were tried, and nothing else has failed since."""

    def __repr__(self) -> str:
        return f"<Attempts {self._asked.name} count={self.count} at={self._route.name}>"

    def move_to(self, route: Route, facts: Facts) -> None:
        """Another model is tried from now on."""
        self._route, self._facts = route, facts
        self._tried, self._barred, self._full = [], [], []

    def may_add(self) -> bool:
        """Whether the attempt that runs may be made twice; if so, that is counted."""
        if self.count + 2 > self._asked.policy.attempts_max:
            return False
        self.count += 1
        return True

    def may_go_on(self) -> bool:
        """Whether the call may make one more attempt."""
        return self.count < self._asked.policy.attempts_max

    def may_fall_back(self, kind: FailureKind, now_s: float) -> bool:
        """Whether another model may be tried after this failure, and a repeat is left for it."""
        may = self.may_go_on() and self.left_s(now_s) > 0 and self._asked.falls_back_on(kind)
        return may and self._asked.repeats.take()

    def left_s(self, now_s: float) -> float:
        """What all its attempts have left of their time."""
        return self._ends_at_s - now_s

    def wait_s(self, kind: FailureKind, now_s: float) -> float:
        """How long a place may be waited for after this failure; 0 if not at all.

        Only where `next_after` has named nothing that follows it.
        """
        if kind is not FailureKind.SATURATED or not self._may_wait():
            return 0.0
        left_s = self.left_s(now_s)
        return max(left_s / 2 if self.count else left_s, 0.0)  # one that has failed may work again

    def waited_in_vain(self, full: Deployment) -> None:
        """No place came free there in that time; the others may have had one."""
        self._waited_in_vain = True
        others = [one for one in self._full if one is not full]
        self._full = [one for one in self._full if one is full]
        self._forget(others)

    def next_after(self, kind: FailureKind, failed: Deployment, now_s: float) -> Next | None:
        """What follows the failure of an attempt at `failed`; None if nothing at this model."""
        rule = RULES[kind]
        self._note(kind, failed)
        if kind is not FailureKind.SATURATED:
            self.count += 1
        left_s = self.left_s(now_s)
        if not rule.other or not self.may_go_on() or left_s <= 0:
            return None
        found = self._another(now_s) or self._again(kind, now_s, left_s)
        if found is None or kind is FailureKind.SATURATED:
            return found  # nothing was sent, so it is no repeat
        return found if self._asked.repeats.take() else None

    def beside(self, running: Deployment, now_s: float) -> Deployment | None:
        """Another deployment for a second attempt while one runs; None if there may be none."""
        if self.count + 2 > self._asked.policy.attempts_max:
            return None
        tried = [running, *self._tried]
        usable = [one for one in self._route.usable(now_s) if one not in tried]
        if not usable or not self._asked.repeats.take():
            return None
        self.count += 1
        self._tried.append(running)
        return self._route.strategy.choose(usable, now_s, self._facts)

    def withdraw(self, running: Deployment) -> None:
        """The second attempt was not made after all."""
        self.count -= 1
        self._tried.remove(running)
        self._asked.repeats.put_back()

    def failed_as_well(self, kind: FailureKind, failed: Deployment) -> None:
        """Of two attempts at once, this one failed before the one that `next_after` hears of."""
        self._note(kind, failed)
        if kind is FailureKind.SATURATED:
            self.count -= 1

    def _note(self, kind: FailureKind, failed: Deployment) -> None:
        if kind is FailureKind.SATURATED:
            self._full.append(failed)
        else:
            self._look_anew_at_the_full()
        self._tried.append(failed)
        if not RULES[kind].same:
            self._barred.append(failed)

    def _look_anew_at_the_full(self) -> None:
        self._forget(self._full)
        self._full.clear()

    def _forget(self, full: list[Deployment]) -> None:
        for deployment in full:
            self._tried.remove(deployment)
            self._barred.remove(deployment)

    def _another(self, now_s: float) -> Next | None:
        """A deployment that was not tried yet."""
        usable = [one for one in self._route.usable(now_s) if one not in self._tried]
        if not usable:
            return None
        return Next(self._route.strategy.choose(usable, now_s, self._facts), 0.0)

    def _again(self, kind: FailureKind, now_s: float, left_s: float) -> Next | None:
        """One that was tried, but where that may help; not if the last attempt is for others.

        One that rests until a moment it has named is waited for.
        """
        policy = self._asked.policy
        others_stand_ready = bool(policy.fallbacks) and self._asked.falls_back_on(kind)
        place_is_left = bool(self._full) and self._may_wait()
        if (others_stand_ready or place_is_left) and self.count + 1 >= policy.attempts_max:
            return None
        pause = pause_s(self.count, self._random())
        again = [one for one in self._route.deployments if self._may_be_again(one)]
        usable = [one for one in again if one.condition.passes(now_s)]
        if usable:
            return _in_time(self._route.strategy.choose(usable, now_s, self._facts), pause, left_s)
        if others_stand_ready:
            return None
        rests = [(one.condition.rest_s(now_s), one) for one in again if _only_rests(one, now_s)]
        if not rests:
            return None
        rest, deployment = min(rests, key=lambda found: found[0])
        if rest > REST_WAITED_MAX_S:
            return None
        return _in_time(deployment, max(rest, pause), left_s)

    def _may_wait(self) -> bool:
        """Whether a place may still be waited for: not where another model stands ready."""
        return not self._route.policy.fallbacks and not self._waited_in_vain

    def _may_be_again(self, deployment: Deployment) -> bool:
        return deployment in self._tried and deployment not in self._barred


def _only_rests(deployment: Deployment, now_s: float) -> bool:
    """Whether it has named the moment from which it can be used, and nothing else is against it."""
    condition = deployment.condition
    is_resting = condition.is_resting(now_s)
    return is_resting and condition.breaker.allows(now_s + condition.rest_s(now_s))


def _in_time(deployment: Deployment, pause: float, left_s: float) -> Next | None:
    return Next(deployment, pause) if pause < left_s else None
