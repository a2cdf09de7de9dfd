"""What the supervisor knows of deployments: it hears workers and probes, and tells all workers.

It keeps conditions of its own, which adopt what workers say by the same rule as theirs do: the
later opening or closing holds, and the longer rest. What that changes here goes to every worker but
the one it came from, once a turn of the loop, each deployment as it is by then. A worker that
starts begins with all of it.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from llmrouter.daemon.channel import Conditions as Told
from llmrouter.daemon.channel import Probed
from llmrouter.daemon.health import Down, Health, Plan, Seen, upstream_of, verdict
from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.conditions import Conditions
from llmrouter.routing.report import Report

FRESH_S = 0.1
"""A verdict is this old at most; so it costs next to nothing, however many ask for it..."""
FRESH_PER_REPORT_S = 0.0002
"""... or this times what there is to say of deployments, where many are out: several times what it
takes to work it out, so that whoever asks all the time does not keep us from all else."""
_log = logging.getLogger(__name__)


class Workers(Protocol):
    """Who tells, and is told."""

    def __len__(self) -> int:
        """How many there are to be."""

    @property
    def serving(self) -> int:
        """How many serve."""

    def boots(self) -> list[str]:
        """Those that live."""

    def send(self, boot: str, message: Told | Probed) -> None:
        """Tell one of them."""


class Loop(Protocol):
    """What we need of an event loop."""

    def time(self) -> float:
        """Monotonic seconds."""

    def call_soon(self, callback: Callable[[], None]) -> object:
        """Call it in the next turn."""


class HealthDesk:
    """The conditions of the node, and the verdict on it."""

    def __init__(
        self,
        plan: Plan,
        terms: Mapping[str, BreakerTerms],
        workers: Workers,
        loop: Loop,
        wall: Callable[[], float],
    ) -> None:
        """`terms` are those of breakers, by upstream; `wall` is unix time."""
        self._plan = plan
        self._terms = terms
        self._conditions = Conditions(terms, now_s=loop.time())
        self._workers = workers
        self._loop = loop
        self._wall = wall
        self._down: dict[str, Down] = {}
        """By upstream."""
        self._changed: dict[str, str | None] = {}
        """What is to be told: by deployment, the boot that knows it already, if one does."""
        self._verdict: Health | None = None
        self._fresh_until_s = 0.0

    def __repr__(self) -> str:
        return f"<HealthDesk down={sorted(self._down)} untold={len(self._changed)}>"

    def standing(self) -> tuple[list[Report], list[str]]:
        """What a worker begins with: how deployments are, and the upstreams that are down."""
        return self._conditions.reports(self._loop.time()), list(self._down)

    def hear(self, boot: str, reports: Iterable[Report]) -> None:
        """What a worker has seen."""
        for report in reports:
            self._adopt(report, boot)

    def probed(self, upstream: str, failure: str | None) -> None:
        """The probes of an upstream began to fail, or succeed again (None)."""
        now_s = self._loop.time()
        sound = failure is None
        if failure is not None:
            self._down[upstream] = Down(failure, now_s)
            _log.warning("upstream=%s probes=failing reason=%r", upstream, failure)
        else:
            self._down.pop(upstream, None)
            _log.info("upstream=%s probes=succeeding", upstream)
        for boot in self._workers.boots():
            self._workers.send(boot, Probed(upstream, sound))
        if sound:
            self._close_rested(upstream, now_s)

    def health(self) -> Health:
        """How the node is, or was a moment ago."""
        now_s = self._loop.time()
        if self._verdict is None or now_s >= self._fresh_until_s:
            reports = {report.deployment: report for report in self._conditions.reports(now_s)}
            seen = Seen(
                reports=reports,
                down=self._down,
                serving=self._workers.serving,
                workers=len(self._workers),
                now_s=now_s,
                wall_s=self._wall(),
            )
            self._verdict = verdict(self._plan, seen)
            self._fresh_until_s = now_s + max(FRESH_S, len(reports) * FRESH_PER_REPORT_S)
        return self._verdict

    def _close_rested(self, upstream: str, now_s: float) -> None:
        """Its breakers that have rested need no call of anybody's to prove it."""
        for report in self._conditions.reports(now_s):
            rested = report.state != State.CLOSED and report.rest_s <= 0
            if rested and upstream_of(report.deployment) == upstream:
                closed = Report(
                    deployment=report.deployment,
                    state=State.CLOSED,
                    rest_s=0.0,
                    reason="",
                    changed_s=now_s,
                )
                self._adopt(closed, None)

    def _adopt(self, report: Report, source: str | None) -> None:
        """Take what is news; remember to tell it."""
        now_s, name = self._loop.time(), report.deployment
        if upstream_of(name) not in self._terms:
            return  # a reload has reached that worker, but not us
        condition = self._conditions.of(name)
        was = condition.report(now_s)
        self._conditions.adopt([report], now_s)
        now = condition.report(now_s)
        if now == was:
            return
        _tell_log(was, now)
        if not self._changed:
            self._loop.call_soon(self._tell)
        known = self._changed.setdefault(name, source)
        if known != source:
            self._changed[name] = None

    def _tell(self) -> None:
        now_s = self._loop.time()
        changed, self._changed = self._changed, {}
        reports = {name: self._conditions.of(name).report(now_s) for name in changed}
        for boot in self._workers.boots():
            news = [reports[name] for name, source in changed.items() if source != boot]
            if news:
                self._workers.send(boot, Told(news))


def _tell_log(was: Report, now: Report) -> None:
    """One line for each change of state."""
    name = now.deployment
    if now.state == State.OPEN and now.changed_s != was.changed_s:
        _log.warning("deployment=%s state=open rest_s=%.1f reason=%r", name, now.rest_s, now.reason)
    elif now.state != was.state:
        _log.info("deployment=%s state=%s", name, now.state)
    elif now.throttled_s > 0 and was.throttled_s <= 0:
        _log.warning("deployment=%s state=resting rest_s=%.1f", name, now.throttled_s)
