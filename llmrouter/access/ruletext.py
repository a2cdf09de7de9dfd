"""Rules as people write them on the command line: `requests=60/minute`, `usd=20/day,strict`.

An amount comes first, then options after commas, in any order, each at most once:

    limit    requests=N/PERIOD | tokens=N/PERIOD | concurrent=N
    budget   usd=N/WINDOW
    options  model=NAME  at_limit=reject|queue|model:NAME  wait=SECONDS
             burst=N (of rates)  strict  mid_stream=finish|cut (of budgets)

`model=*` is every model, as no model is. `show` writes a rule the one way that reads as the same
rule again. Whatever else is refused by a ValueError that says what was wrong and what is accepted.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from llmrouter.access.patterns import ModelPatterns
from llmrouter.contracts.patterns import is_pattern
from llmrouter.contracts.rule import (
    BUDGET_WINDOWS,
    MODEL_PREFIX,
    QUEUE,
    RATE_PERIODS_MS,
    REJECT,
    Kind,
    Rule,
)

# As router.toml bounds them; 10**9 dollars in nano-USD, too, fit into 64 bits.
AMOUNT_MAX = {
    Kind.REQUESTS: 10**9,
    Kind.TOKENS: 10**15,
    Kind.CONCURRENT: 10**9,
    Kind.USD: 10**18,
}
WAIT_MS_MAX = 86_400_000
_USD_DECIMALS = 9
_SECOND_DECIMALS = 3
_TEXT_CHARS_MAX = 1_000  # two names of models, and room
_SHOWN_CHARS_MAX = 100
_FINISH = "finish"
_CUT = "cut"

_LIMITS = (Kind.REQUESTS, Kind.TOKENS, Kind.CONCURRENT)
_BUDGETS = (Kind.USD,)
_PERIODS: dict[Kind, tuple[str, ...]] = {
    Kind.REQUESTS: tuple(RATE_PERIODS_MS),
    Kind.TOKENS: tuple(RATE_PERIODS_MS),
    Kind.CONCURRENT: (),
    Kind.USD: BUDGET_WINDOWS,
}
_EXAMPLES = {
    Kind.REQUESTS: "requests=60/minute",
    Kind.TOKENS: "tokens=20000/minute",
    Kind.CONCURRENT: "concurrent=5",
    Kind.USD: "usd=20/day",
}
_WHOLE = r"[0-9]+(?:_[0-9]+)*"
_DECIMAL = re.compile(rf"({_WHOLE})(?:\.([0-9]+))?")


def parse_limit(text: str) -> Rule:
    """Read a rule on a rate or on concurrency, such as `tokens=20000/minute,model=gpt-4o*`."""
    return _parse(text, _LIMITS)


def parse_budget(text: str) -> Rule:
    """Read a rule on money, such as `usd=20/day,at_limit=model:gpt-4o-mini`."""
    return _parse(text, _BUDGETS)


def show(rule: Rule) -> str:
    """Write `rule` as it can be given again; options that say the default are left out."""
    amount = _decimal_text(rule.amount, _USD_DECIMALS if rule.kind is Kind.USD else 0)
    parts = [f"{rule.kind.value}={amount}" + (f"/{rule.per}" if rule.per else "")]
    if rule.model is not None:
        parts.append(f"model={rule.model}")
    if rule.burst is not None:
        parts.append(f"burst={rule.burst}")
    if rule.at_limit != REJECT:
        parts.append(f"at_limit={rule.at_limit}")
    if rule.at_limit == QUEUE:
        parts.append(f"wait={_decimal_text(rule.wait_ms, _SECOND_DECIMALS)}s")
    if rule.strict:
        parts.append("strict")
    if rule.cut:
        parts.append(f"mid_stream={_CUT}")
    return ",".join(parts)


def _parse(text: str, kinds: tuple[Kind, ...]) -> Rule:
    if len(text) > _TEXT_CHARS_MAX:
        raise ValueError(f"{_shown(text)} has {len(text)} characters; {_TEXT_CHARS_MAX} are enough")
    head, *parts = (part.strip() for part in text.split(","))
    rule = _amount(head, kinds)
    given: set[str] = set()
    for part in parts:
        name, equals, value = part.partition("=")
        if name not in _OPTIONS or rule.kind not in _OPTIONS[name].kinds:
            raise ValueError(_no_option(part, rule.kind))
        if name in given:
            raise ValueError(f"{name!r} stands twice in {_shown(text)}; leave one out")
        if bool(equals) == (name == "strict"):
            raise ValueError(f"{_shown(part)} is not written so: write {_OPTIONS[name].example}")
        given.add(name)
        rule = _OPTIONS[name].apply(rule, value)
    _check_together(rule, given)
    return rule


def _amount(head: str, kinds: tuple[Kind, ...]) -> Rule:
    """The rule that the first part of a text makes, without any option."""
    word, equals, rest = head.partition("=")
    kind = next((kind for kind in Kind if kind.value == word), None)
    if kind is None or not equals:
        raise ValueError(f"{_shown(head)} does not begin a rule: write {_either(_EXAMPLES, kinds)}")
    if kind not in kinds:
        other, option = ("budget", "--budget") if kind is Kind.USD else ("limit", "--limit")
        raise ValueError(f"{kind.value} is a {other}: give it as {option} {_EXAMPLES[kind]}")
    number, slash, per = rest.partition("/")
    amount = _number(number, kind)
    if not _PERIODS[kind]:
        if slash:
            raise ValueError(f"{kind.value} takes no period: write {kind.value}={number}")
    elif per not in _PERIODS[kind]:
        what = f"{_shown(per)} is no period of {kind.value}" if slash else f"{head} has no period"
        raise ValueError(
            f"{what}: write one of {', '.join(_PERIODS[kind])}, such as {_EXAMPLES[kind]}"
        )
    return Rule(kind=kind, amount=amount, per=per)


def _number(text: str, kind: Kind) -> int:
    """An amount of `kind`, in its unit."""
    decimals = _USD_DECIMALS if kind is Kind.USD else 0
    amount = _decimal(text, decimals)
    if amount is None or not 0 < amount <= AMOUNT_MAX[kind]:
        largest = _decimal_text(AMOUNT_MAX[kind], decimals)
        accepted = (
            f"dollars with at most {decimals} decimals, more than 0 and at most {largest}"
            if kind is Kind.USD
            else f"a whole number from 1 to {largest}"
        )
        raise ValueError(
            f"{_shown(text)} is no amount of {kind.value}: write {accepted},"
            f" such as {_EXAMPLES[kind]}"
        )
    return amount


# ---- options --------------------------------------------------------------------------------


def _with_model(rule: Rule, value: str) -> Rule:
    return replace(rule, model=None if value == "*" else _model(value))


def _with_burst(rule: Rule, value: str) -> Rule:
    burst = _decimal(value, 0)
    if burst is None or not 0 < burst <= AMOUNT_MAX[rule.kind]:
        raise ValueError(
            f"{_shown(value)} is no burst: write a whole number from 1 to"
            f" {AMOUNT_MAX[rule.kind]}, such as {_OPTIONS['burst'].example}"
        )
    return replace(rule, burst=burst)


def _with_at_limit(rule: Rule, value: str) -> Rule:
    if value in (REJECT, QUEUE):
        return replace(rule, at_limit=value)
    name = value.removeprefix(MODEL_PREFIX)
    if name == value:
        raise ValueError(
            f"{_shown(value)} is nothing to do at a limit: write at_limit={REJECT},"
            f" at_limit={QUEUE} or at_limit={MODEL_PREFIX}NAME, such as"
            f" {_OPTIONS['at_limit'].example}"
        )
    if is_pattern(name):
        raise ValueError(
            f"{_shown(name)} is a pattern: name the one model that serves instead, such as"
            f" {_OPTIONS['at_limit'].example}"
        )
    return replace(rule, at_limit=MODEL_PREFIX + _model(name))


def _with_wait(rule: Rule, value: str) -> Rule:
    wait_ms = _decimal(value.removesuffix("s"), _SECOND_DECIMALS)
    if wait_ms is None or not 0 < wait_ms <= WAIT_MS_MAX:
        longest = _decimal_text(WAIT_MS_MAX, _SECOND_DECIMALS)
        raise ValueError(
            f"{_shown(value)} is no time to wait: write seconds with at most {_SECOND_DECIMALS}"
            f" decimals, more than 0 and at most {longest}, such as {_OPTIONS['wait'].example}"
        )
    return replace(rule, wait_ms=wait_ms)


def _with_mid_stream(rule: Rule, value: str) -> Rule:
    if value not in (_FINISH, _CUT):
        raise ValueError(
            f"{_shown(value)} is nothing to do mid-stream: write mid_stream={_FINISH}"
            f" or mid_stream={_CUT}"
        )
    return replace(rule, cut=value == _CUT)


class _Option(NamedTuple):
    """What may follow the amount of some kinds of rules."""

    apply: Callable[[Rule, str], Rule]
    example: str
    kinds: tuple[Kind, ...] = tuple(Kind)


_OPTIONS = {
    "model": _Option(_with_model, "model=gpt-4o*"),
    "burst": _Option(_with_burst, "burst=100", (Kind.REQUESTS, Kind.TOKENS)),
    "at_limit": _Option(_with_at_limit, "at_limit=model:gpt-4o-mini"),
    "wait": _Option(_with_wait, "wait=10s"),
    "strict": _Option(lambda rule, _: replace(rule, strict=True), "strict", _BUDGETS),
    "mid_stream": _Option(_with_mid_stream, f"mid_stream={_CUT}", _BUDGETS),
}


def _no_option(part: str, kind: Kind) -> str:
    fitting = [option.example for option in _OPTIONS.values() if kind in option.kinds]
    return (
        f"{_shown(part)} is no option of {kind.value}: accepted are {', '.join(fitting)},"
        f" such as {_EXAMPLES[kind]},{fitting[0]}"
    )


def _check_together(rule: Rule, given: set[str]) -> None:
    if "wait" in given and rule.at_limit != QUEUE:
        raise ValueError(f"wait means nothing without at_limit={QUEUE}: add that, or leave it out")
    if rule.strict and rule.cut:
        raise ValueError(
            "a strict budget is never overshot, so it has no stream to cut:"
            f" write strict or mid_stream={_CUT}, not both"
        )
    instead = rule.at_limit.removeprefix(MODEL_PREFIX)
    if instead != rule.at_limit and rule.model is not None and rule.covers(instead):
        raise ValueError(
            f"{_shown(instead)} is covered by model={rule.model} of the same rule, which would"
            " refuse it again: name another model in at_limit"
        )


# ---- words and numbers ----------------------------------------------------------------------


def _model(text: str) -> str:
    return ModelPatterns((text,)).texts[0]


def _decimal(text: str, decimals: int) -> int | None:
    """The number in units of its last decimal, exactly; None if it is none, or finer than that."""
    match = _DECIMAL.fullmatch(text)
    if match is None or len(match[2] or "") > decimals:
        return None
    return int(match[1] + (match[2] or "").ljust(decimals, "0"))


def _decimal_text(number: int, decimals: int) -> str:
    whole, fraction = divmod(number, 10**decimals)
    return f"{whole}.{fraction:0{decimals}}".rstrip("0").rstrip(".") if fraction else str(whole)


def _either(examples: dict[Kind, str], kinds: tuple[Kind, ...]) -> str:
    return " or ".join(examples[kind] for kind in kinds)


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_CHARS_MAX])
