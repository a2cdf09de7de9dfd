"""The conditions of all deployments of a process, by name."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from llmrouter.routing.breaker import BreakerTerms, State
from llmrouter.routing.condition import Condition
from llmrouter.routing.report import Report


class Conditions:
    """One condition for each deployment, however many routes lead to it."""

    __slots__ = ("_by_name", "_now_s", "_on_change", "_terms", "_unsound")

    def __init__(
        self,
        terms: Mapping[str, BreakerTerms],
        *,
        now_s: float,
        on_change: Callable[[Condition], None] | None = None,
    ) -> None:
        self._terms = terms
        """By upstream."""
        self._now_s = now_s
        self._on_change = on_change
        self._by_name: dict[str, Condition] = {}
        self._unsound: set[str] = set()
        """Upstreams whose probes fail."""

    def __repr__(self) -> str:
        return f"<Conditions {len(self._by_name)} unsound={sorted(self._unsound)}>"

    def __iter__(self) -> Iterator[Condition]:
        return iter(self._by_name.values())

    def of(self, name: str) -> Condition:
        """The condition of a deployment, `upstream/model`; raises KeyError for no such upstream."""
        condition = self._by_name.get(name)
        if condition is None:
            upstream = _upstream_of(name)
            condition = self._by_name[name] = Condition(
                name, self._terms[upstream], now_s=self._now_s, on_change=self._on_change
            )
            condition.sound = upstream not in self._unsound
        return condition

    def adopt(self, reports: Iterable[Report], now_s: float) -> None:
        """What other processes say; of an upstream that is not known here they say it in vain.

        That is so while a reload has reached them, but not us.
        """
        for report in reports:
            if _upstream_of(report.deployment) in self._terms:
                self.of(report.deployment).adopt(report, now_s)

    def reports(self, now_s: float) -> list[Report]:
        """What there is to say: of those that are closed and do not rest, nothing."""
        return [
            condition.report(now_s)
            for condition in self
            if condition.breaker.state is not State.CLOSED or condition.is_resting(now_s)
        ]

    def set_sound(self, upstream: str, sound: bool) -> None:
        """The active probes of an upstream succeed, or fail."""
        (self._unsound.discard if sound else self._unsound.add)(upstream)
        for condition in self:
            if _upstream_of(condition.name) == upstream:
                condition.sound = sound


def _upstream_of(name: str) -> str:
    return name.partition("/")[0]
