"""The verdict on the node: what workers and probes say of deployments, in one word, with reasons.

A deployment can be used while it is closed, and on trial while it is half-open; it is out while it
is open, rests (an upstream that answered 429 said until when), or is down (its upstream's probes
fail). A model or an upstream is healthy while all its deployments are closed, unhealthy while all
of them are out, else degraded. The node is unhealthy when no model can be used or no worker serves,
healthy when every model is and every worker serves, else degraded.

Pure: it is given the time, and asks nobody anything.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from llmrouter.access.issued import iso_utc
from llmrouter.contracts import patterns
from llmrouter.contracts.patterns import is_pattern
from llmrouter.routing.breaker import State
from llmrouter.routing.report import Report

REASON_CHARS_MAX = 200
NAMED_MAX = 5
"""So many models are named in a reason; each stands with its own further down."""


RESTED_SHOWN_S = 600.0
"""For so long after its breaker opened a name under a pattern is shown that has rested: callers
choose these names, and perhaps nobody asks for it again, whose calls would close it."""


class Status(enum.StrEnum):
    """Of a model, an upstream or the node."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class How(enum.StrEnum):
    """How a deployment is."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"
    RESTING = "resting"
    DOWN = "down"


OUT = frozenset({How.OPEN, How.RESTING, How.DOWN})
"""As these it gets no calls."""


class Plan(msgspec.Struct, frozen=True):
    """What there is: the names that verdicts are about."""

    models: Mapping[str, tuple[str, ...]]
    """By public name or pattern: its deployments, each as `upstream/model`."""
    upstreams: tuple[str, ...]


class Down(msgspec.Struct, frozen=True):
    """What the probes of an upstream say while they fail."""

    reason: str
    since_s: float
    """Monotonic."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All that a verdict is made of, at one moment."""

    reports: Mapping[str, Report]
    """By deployment; those that are missing are closed."""
    down: Mapping[str, Down]
    """By upstream; the others' probes succeed, or they have none."""
    serving: int
    """Workers that serve..."""
    workers: int
    """... of so many."""
    now_s: float
    """Monotonic."""
    wall_s: float
    """The same moment by the calendar, unix time."""


class DeploymentHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One deployment, as `/health` shows it."""

    state: How
    reason: str = ""
    since: str | None = None
    until: str | None = None
    """When it will be tried again, as far as that is known."""


class ModelHealth(msgspec.Struct, frozen=True):
    """One model."""

    status: Status
    deployments: Mapping[str, DeploymentHealth]


class UpstreamHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """One upstream: all its deployments together, and its probes."""

    status: Status
    reason: str = ""
    since: str | None = None


class WorkersHealth(msgspec.Struct, frozen=True):
    """How many workers serve, of how many."""

    serving: int
    of: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The whole verdict: what `/health` answers."""

    status: Status
    reasons: tuple[str, ...]
    """Why it is no better, in words; empty if it is healthy."""
    can_serve: bool
    """Some worker serves, and some model can be used."""
    workers: WorkersHealth
    upstreams: Mapping[str, UpstreamHealth]
    models: Mapping[str, ModelHealth]


_CLOSED = DeploymentHealth(state=How.CLOSED)


def verdict(plan: Plan, seen: Seen) -> Health:
    """How the node is."""
    of_models = {name: _named(found, seen) for name, found in plan.models.items()}
    deployments = {
        name: _deployment(name, seen)
        for name in sorted({name for each in of_models.values() for name in each})
    }
    models = {
        name: _model({each: deployments[each] for each in of_model})
        for name, of_model in of_models.items()
    }
    can_serve = seen.serving > 0 and any(
        model.status is not Status.UNHEALTHY for model in models.values()
    )
    reasons = tuple(_reasons(models, seen))
    return Health(
        status=_overall(can_serve=can_serve, reasons=reasons),
        reasons=reasons,
        can_serve=can_serve,
        workers=WorkersHealth(seen.serving, seen.workers),
        upstreams=_upstreams(plan, deployments, seen),
        models=models,
    )


def _named(deployments: Iterable[str], seen: Seen) -> dict[str, None]:
    """With those that stand under a pattern, as far as there is something to say of them."""
    found = dict.fromkeys(deployments)
    for name in filter(is_pattern, tuple(found)):
        parts = patterns.split(name)
        matching = (one for one in seen.reports if patterns.matches(parts, one))
        found |= dict.fromkeys(sorted(one for one in matching if _matters(seen.reports[one], seen)))
    return found


def _matters(report: Report, seen: Seen) -> bool:
    """Whether it is out, or somebody has lately asked for it."""
    return _how(report)[0] in OUT or seen.now_s - report.changed_s < RESTED_SHOWN_S


def upstream_of(deployment: str) -> str:
    """The upstream of a deployment by its name; names of upstreams hold no slash."""
    return deployment.partition("/")[0]


def _deployment(name: str, seen: Seen) -> DeploymentHealth:
    down = seen.down.get(upstream_of(name))
    if down is not None:
        return DeploymentHealth(
            state=How.DOWN, reason=_short(down.reason), since=_iso(seen, down.since_s)
        )
    report = seen.reports.get(name)
    how, left_s = (How.CLOSED, 0.0) if report is None else _how(report)
    if report is None or how is How.CLOSED:
        return _CLOSED
    return DeploymentHealth(
        state=how,
        reason=_short(report.reason),
        since=None if how is How.RESTING else _iso(seen, report.changed_s),
        until=_iso(seen, seen.now_s + left_s) if left_s > 0 else None,
    )


def _how(report: Report) -> tuple[How, float]:
    """How a deployment is, and for how many seconds more."""
    if report.state == State.OPEN and report.rest_s > 0:
        return How.OPEN, max(report.rest_s, report.throttled_s)
    if report.throttled_s > 0:
        return How.RESTING, report.throttled_s
    return How.CLOSED if report.state == State.CLOSED else How.HALF_OPEN, 0.0


def _model(deployments: dict[str, DeploymentHealth]) -> ModelHealth:
    return ModelHealth(_status(deployments.values()), deployments)


def _upstreams(
    plan: Plan, deployments: Mapping[str, DeploymentHealth], seen: Seen
) -> dict[str, UpstreamHealth]:
    of_each: dict[str, dict[str, DeploymentHealth]] = {name: {} for name in plan.upstreams}
    for name, one in deployments.items():
        of_each[upstream_of(name)][name] = one
    return {name: _upstream(mine, seen.down.get(name), seen) for name, mine in of_each.items()}


def _upstream(
    deployments: Mapping[str, DeploymentHealth], down: Down | None, seen: Seen
) -> UpstreamHealth:
    if down is not None:
        since = _iso(seen, down.since_s)
        return UpstreamHealth(Status.UNHEALTHY, f"its probes fail: {_short(down.reason)}", since)
    for name, one in deployments.items():
        if one.state is not How.CLOSED:
            reason = f"{name} is {one.state}" + (f": {one.reason}" if one.reason else "")
            return UpstreamHealth(_status(deployments.values()), reason, one.since)
    return UpstreamHealth(Status.HEALTHY)


def _status(deployments: Iterable[DeploymentHealth]) -> Status:
    states = {one.state for one in deployments}
    if states <= {How.CLOSED}:
        return Status.HEALTHY
    return Status.UNHEALTHY if states <= OUT else Status.DEGRADED


def _overall(*, can_serve: bool, reasons: tuple[str, ...]) -> Status:
    if not can_serve:
        return Status.UNHEALTHY
    return Status.DEGRADED if reasons else Status.HEALTHY


def _reasons(models: Mapping[str, ModelHealth], seen: Seen) -> Iterator[str]:
    if seen.serving < seen.workers:
        yield f"workers that serve: {seen.serving} of {seen.workers}"
    if not models:
        yield "no model is defined"
    for status in (Status.UNHEALTHY, Status.DEGRADED):
        names = [name for name, model in models.items() if model.status is status]
        if names:
            more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
            yield f"{status} models: {', '.join(names[:NAMED_MAX])}{more}"


def _iso(seen: Seen, at_s: float) -> str:
    return iso_utc(round(seen.wall_s + at_s - seen.now_s))


def _short(reason: str) -> str:
    return reason[:REASON_CHARS_MAX]
