"""Compares what we booked with what a provider's export says, by day and model.

- Only what the export says is compared: cost exports have no tokens, and usage exports no cost.
- Prompt tokens, output tokens and cost are judged: each of a day and model may be off by the
  tolerance, in percent of theirs. Calls and cached tokens are shown, to find out why: providers
  count neither as we do (we book calls that failed; some exports leave out what was cached). Each
  attempt of a call is a call to a provider.
- Our cost of a call is rounded to a nano-USD. What that may come to is never a difference.
- A model's name without a date (`gpt-4o`, `claude-haiku-4-5`, a display name) may stand for any of
  its dated versions. So where one side alone has such a name, all versions of the model are one.
- An export that names no models at all is compared with the sum over ours.
"""

import enum
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

import msgspec

from llmrouter.metering.exports import DayUsage

_SEPARATORS = re.compile(r"[\s._]+")
_NAME = re.compile(
    r"(?P<family>.*?)(?:-latest|-(?P<date>20[0-9]{2}-?[0-9]{2}-?[0-9]{2}|[0-9]{4}))?", re.DOTALL
)


class Measure(enum.StrEnum):
    """What is compared; the members of `DayUsage`."""

    CALLS = "calls"
    PROMPT_TOKENS = "prompt_tokens"
    CACHED_TOKENS = "cached_tokens"
    OUTPUT_TOKENS = "output_tokens"
    COST_NANO_USD = "cost_nano_usd"


_NOTHING = DayUsage("", None)
_Pair = tuple[DayUsage, DayUsage]
"""Ours and theirs."""
JUDGED = {Measure.PROMPT_TOKENS, Measure.OUTPUT_TOKENS, Measure.COST_NANO_USD}


class Difference(msgspec.Struct, frozen=True):
    """One measure of one day and model."""

    measure: Measure
    ours: int
    theirs: int
    exceeds: bool
    """Whether it is judged, and off by more than the tolerance."""

    @property
    def amount(self) -> int:
        """What we have more than they."""
        return self.ours - self.theirs

    @property
    def percent(self) -> float | None:
        """The same in percent of theirs; None where they have nothing and we have something."""
        if self.ours == self.theirs:
            return 0.0
        return float(Fraction(self.amount * 100, self.theirs)) if self.theirs else None


class Line(msgspec.Struct, frozen=True):
    """One day and model, or the sum of all."""

    day: str | None
    model: str | None
    """None for all models together, and for what they say without naming one."""
    differences: list[Difference]

    @property
    def exceeds(self) -> bool:
        """Whether anything in it is off by more than the tolerance."""
        return any(each.exceeds for each in self.differences)


class Reconciliation(msgspec.Struct, frozen=True):
    """Every day and model that either side has, and the sum of them."""

    lines: list[Line]
    total: Line

    @property
    def exceeding(self) -> list[Line]:
        """The lines in which anything is off by more than the tolerance."""
        return [line for line in self.lines if line.exceeds]


def reconcile(
    ours: Iterable[DayUsage], theirs: Iterable[DayUsage], tolerance_percent: Fraction = Fraction()
) -> Reconciliation:
    """Compare both; what one side alone has is compared with nothing."""
    own, foreign = list(ours), list(theirs)
    said = [name for name in Measure if any(_has(each, name) for each in foreign)]
    measures = said or list(Measure)  # an export without any usage says that there was none
    labels = _labels({each.model for each in own}, {each.model for each in foreign})
    left, right = _sums(own, labels), _sums(foreign, labels)

    def line(key: tuple[str | None, str | None], pairs: list[_Pair]) -> Line:
        return Line(*key, [_difference(name, pairs, tolerance_percent) for name in measures])

    keys = sorted(left.keys() | right.keys(), key=_order)
    pairs = [(left.get(key, _NOTHING), right.get(key, _NOTHING)) for key in keys]
    lines = [line(key, [pair]) for key, pair in zip(keys, pairs, strict=True)]
    return Reconciliation(lines, line((None, None), pairs))


def _order(key: tuple[str, str | None]) -> tuple[str, bool, str]:
    """By day; what names no model comes first."""
    day, model = key
    return day, model is not None, model or ""


def _has(usage: DayUsage, measure: Measure) -> bool:
    return getattr(usage, measure) is not None


def _amount(usage: DayUsage, measure: Measure) -> int:
    return getattr(usage, measure) or 0


def _sum(usages: Iterable[DayUsage]) -> DayUsage:
    found = list(usages)
    sums = {name.value: sum(_amount(each, name) for each in found) for name in Measure}
    return DayUsage("", None, **sums)


def _sums(
    usages: Iterable[DayUsage], labels: Mapping[str | None, str | None]
) -> dict[tuple[str, str | None], DayUsage]:
    groups: dict[tuple[str, str | None], list[DayUsage]] = {}
    for each in usages:
        groups.setdefault((each.day, labels[each.model]), []).append(each)
    return {key: _sum(group) for key, group in groups.items()}


def _difference(measure: Measure, pairs: list[_Pair], tolerance_percent: Fraction) -> Difference:
    mine = sum(_amount(ours, measure) for ours, _ in pairs)
    other = sum(_amount(theirs, measure) for _, theirs in pairs)
    off = Fraction(abs(mine - other))
    if measure is Measure.COST_NANO_USD:
        # Half a nano-USD for each call of ours, and for each sum of theirs.
        roundings = sum((ours.calls or 0) + 1 for ours, _ in pairs)
        off = max(Fraction(), off - Fraction(roundings, 2))
    exceeds = measure in JUDGED and off * 100 > tolerance_percent * abs(other)
    return Difference(measure, mine, other, exceeds)


# ---- names ------------------------------------------------------------------------------------


def _labels(ours: set[str | None], theirs: set[str | None]) -> dict[str | None, str | None]:
    """What each model stands under, of either side."""
    if theirs == {None}:
        return dict.fromkeys(ours | theirs)
    merged = _merged(_dates(ours), _dates(theirs))
    labels: dict[str | None, str | None] = {None: None}
    shown: dict[tuple[str, str], str] = {}
    for model in (*_names(theirs), *_names(ours)):
        family, date = _split(model)
        is_merged = family in merged
        key = (family, "" if is_merged else date)
        labels[model] = shown.setdefault(key, family if is_merged else model)
    return labels


def _merged(ours: Mapping[str, set[str]], theirs: Mapping[str, set[str]]) -> set[str]:
    """The families of which one side alone has a name without a date."""
    both = ours.keys() & theirs.keys()
    return {family for family in both if ("" in ours[family]) != ("" in theirs[family])}


def _dates(models: set[str | None]) -> Mapping[str, set[str]]:
    """Those of each family."""
    dates: dict[str, set[str]] = {}
    for model in _names(models):
        family, date = _split(model)
        dates.setdefault(family, set()).add(date)
    return dates


def _names(models: set[str | None]) -> list[str]:
    return sorted(model for model in models if model is not None)


def _split(model: str) -> tuple[str, str]:
    """The family and the date of a model, or an empty text; each written in one way."""
    match = _NAME.fullmatch(_SEPARATORS.sub("-", model.strip().lower()))
    assert match is not None
    return match["family"], (match["date"] or "").replace("-", "")
