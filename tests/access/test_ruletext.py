"""Rules as people write them: what each text means, and what is said of those that mean nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.access.ruletext import AMOUNT_MAX, WAIT_MS_MAX, parse_budget, parse_limit, show
from llmrouter.contracts.rule import BUDGET_WINDOWS, QUEUE, RATE_PERIODS_MS, REJECT, Kind, Rule

NANO = 10**9


def requests(amount: int = 60, **others: object) -> dict[str, object]:
    return {"kind": Kind.REQUESTS, "amount": amount, "per": "minute", **others}


def usd(amount: int = 20 * NANO, **others: object) -> dict[str, object]:
    return {"kind": Kind.USD, "amount": amount, "per": "day", **others}


def rule(members: dict[str, object]) -> Rule:
    return Rule(**members)  # type: ignore[arg-type]  # a table of members


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("requests=60/minute", requests()),
        ("requests=1/second", requests(1, per="second")),
        ("requests=1_000_000_000/day", requests(10**9, per="day")),
        ("requests=0060/minute", requests()),
        ("tokens=20_000/hour", {"kind": Kind.TOKENS, "amount": 20_000, "per": "hour"}),
        ("concurrent=5", {"kind": Kind.CONCURRENT, "amount": 5}),
        ("requests=60/minute,model=gpt-4o*", requests(model="gpt-4o*")),
        ("requests=60/minute,model=*", requests()),
        ("requests=60/minute,model=org/a=b:7b", requests(model="org/a=b:7b")),
        ("requests=60/minute,burst=1_00", requests(burst=100)),
        ("requests=60/minute,burst=60", requests(burst=60)),
        ("requests=60/minute,at_limit=reject", requests()),
        ("requests=60/minute,at_limit=queue", requests(at_limit=QUEUE)),
        ("requests=60/minute,at_limit=model:small", requests(at_limit="model:small")),
        ("requests=60/minute,at_limit=model:a:b", requests(at_limit="model:a:b")),
        ("requests=60/minute,at_limit=queue,wait=10s", requests(at_limit=QUEUE)),
        ("requests=60/minute,wait=2,at_limit=queue", requests(at_limit=QUEUE, wait_ms=2_000)),
        ("requests=60/minute,at_limit=queue,wait=0.25s", requests(at_limit=QUEUE, wait_ms=250)),
        (" requests=60/minute , burst=100 ", requests(burst=100)),
    ],
)
def test_a_limit_means_what_it_says(text: str, members: dict[str, object]) -> None:
    assert parse_limit(text) == rule(members)


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("usd=20/day", usd()),
        ("usd=0.5/hour", usd(500_000_000, per="hour")),
        ("usd=0.000000001/total", usd(1, per="total")),
        ("usd=1_000.50/week", usd(1_000_500_000_000, per="week")),
        ("usd=1000000000/month", usd(10**18, per="month")),
        ("usd=20/day,model=gpt-4o*,at_limit=model:b", usd(model="gpt-4o*", at_limit="model:b")),
        ("usd=20/day,strict", usd(strict=True)),
        ("usd=20/day,mid_stream=cut", usd(cut=True)),
        ("usd=20/day,mid_stream=finish", usd()),
        ("usd=20/day,mid_stream=finish,strict", usd(strict=True)),
    ],
)
def test_a_budget_is_exact_to_the_nano_dollar(text: str, members: dict[str, object]) -> None:
    assert parse_budget(text) == rule(members)


def test_an_amount_that_a_float_would_not_hold_is_held() -> None:
    assert parse_budget("usd=123456789.123456789/total").amount == 123_456_789_123_456_789


WRONG_LIMITS = [
    ("", "'' does not begin a rule: write requests=60/minute or tokens=20000/minute or concurrent"),
    ("60/minute", "does not begin a rule"),
    ("requests", "does not begin a rule"),
    ("Requests=60/minute", "does not begin a rule"),
    ("requests =60/minute", "does not begin a rule"),
    ("rpm=60", "'rpm=60' does not begin a rule"),
    ("usd=20/day", "usd is a budget: give it as --budget usd=20/day"),
    ("requests=60", "requests=60 has no period: write one of second, minute, hour, day, such as"),
    ("requests=60/", "'' is no period of requests"),
    ("requests=60/min", "'min' is no period of requests: write one of second, minute, hour, day"),
    ("requests=60/Minute", "'Minute' is no period"),
    ("requests=60/week", "'week' is no period"),
    ("requests=60/minute/gpt-4o", "'minute/gpt-4o' is no period"),
    ("concurrent=5/minute", "concurrent takes no period: write concurrent=5"),
    ("concurrent=5/", "concurrent takes no period"),
    ("requests=/minute", "'' is no amount of requests: write a whole number from 1 to 1000000000"),
    ("requests=none/minute", "'none' is no amount of requests"),
    ("requests=0/minute", "'0' is no amount"),
    ("requests=-1/minute", "'-1' is no amount"),
    ("requests=1.5/minute", "'1.5' is no amount"),
    ("requests=1e3/minute", "'1e3' is no amount"),
    ("requests=1,000/minute", "requests=1 has no period"),
    ("requests=1__0/minute", "'1__0' is no amount"),
    ("requests=_1/minute", "'_1' is no amount"),
    ("requests=\u0661/minute", "is no amount"),
    ("requests=1000000001/minute", "from 1 to 1000000000, such as requests"),
    ("tokens=1_000_000_000_000_001/day", "from 1 to 1000000000000000, such as tokens=20000/minute"),
    ("requests=60/minute,", "'' is no option of requests: accepted are model=gpt-4o*, burst=100"),
    ("requests=60/minute,speed=1", "'speed=1' is no option of requests"),
    ("requests=60/minute,strict", "'strict' is no option of requests"),
    ("requests=60/minute,mid_stream=cut", "'mid_stream=cut' is no option of requests"),
    ("concurrent=5,burst=9", "'burst=9' is no option of concurrent"),
    ("requests=60/minute,model", "'model' is not written so: write model=gpt-4o*"),
    ("requests=60/minute,burst=1,burst=2", "'burst' stands twice in 'requests=60/minute,burst=1,"),
    ("requests=60/minute,burst=0", "'0' is no burst: write a whole number from 1 to 1000000000"),
    ("requests=60/minute,burst=many", "'many' is no burst"),
    ("requests=60/minute,model=", "the model pattern '' has 0 characters"),
    ("requests=60/minute,model=a b", "'a b' is not a model pattern"),
    ("requests=60/minute,model=\udcff", r"'\udcff' is not a model pattern"),
    ("requests=60/minute,at_limit=drop", "write at_limit=reject, at_limit=queue or at_limit=model"),
    ("requests=60/minute,at_limit=", "'' is nothing to do at a limit"),
    ("requests=60/minute,at_limit=model:", "has 0 characters"),
    ("requests=60/minute,at_limit=model:gpt*", "'gpt*' is a pattern: name the one model that"),
    ("concurrent=5,model=a,at_limit=model:a", "'a' is covered by model=a of the same rule, which"),
    ("concurrent=5,at_limit=model:ab,model=a*", "'ab' is covered by model=a* of the same rule"),
    ("requests=60/minute,wait=5s", "wait means nothing without at_limit=queue"),
    ("requests=60/minute,at_limit=model:a,wait=5s", "wait means nothing without at_limit=queue"),
    ("requests=60/minute,at_limit=queue,wait=0", "'0' is no time to wait: write seconds"),
    ("requests=60/minute,at_limit=queue,wait=5m", "'5m' is no time to wait"),
    ("requests=60/minute,at_limit=queue,wait=0.0001", "with at most 3 decimals"),
    ("requests=60/minute,at_limit=queue,wait=86401", "at most 86400, such as wait=10s"),
    ("requests=60/minute,model=" + "m" * 1_000, "has 1025 characters; 1000 are enough"),
]
WRONG_BUDGETS = [
    ("requests=60/minute", "requests is a limit: give it as --limit requests=60/minute"),
    ("20/day", "'20/day' does not begin a rule: write usd=20/day"),
    ("usd=20", "usd=20 has no period: write one of hour, day, week, month, total"),
    ("usd=20/minute", "'minute' is no period of usd"),
    (
        "usd=$20/day",
        "'$20' is no amount of usd: write dollars with at most 9 decimals, more than 0",
    ),
    ("usd=0/day", "'0' is no amount"),
    ("usd=0.0/day", "'0.0' is no amount"),
    ("usd=.5/day", "'.5' is no amount"),
    ("usd=1./day", "'1.' is no amount"),
    ("usd=0.0000000001/day", "with at most 9 decimals"),
    ("usd=1000000000.1/day", "at most 1000000000, such as usd=20/day"),
    ("usd=nan/day", "'nan' is no amount"),
    ("usd=20/day,burst=5", "'burst=5' is no option of usd"),
    ("usd=20/day,strict=true", "'strict=true' is not written so: write strict"),
    ("usd=20/day,mid_stream=stop", "write mid_stream=finish or mid_stream=cut"),
    ("usd=20/day,strict,mid_stream=cut", "write strict or mid_stream=cut, not both"),
]


@pytest.mark.parametrize(("text", "words"), WRONG_LIMITS)
def test_a_limit_that_is_none_is_refused_with_what_is_accepted(text: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the words are the table's
        parse_limit(text)

    assert words in str(refused.value)


@pytest.mark.parametrize(("text", "words"), WRONG_BUDGETS)
def test_a_budget_that_is_none_is_refused_with_what_is_accepted(text: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the words are the table's
        parse_budget(text)

    assert words in str(refused.value)


@given(st.text(max_size=80))
def test_any_text_is_a_rule_or_refused_in_few_words(text: str) -> None:
    for parse in (parse_limit, parse_budget):
        try:
            parse(text)
        except ValueError as error:
            assert len(str(error)) < 1_000  # noqa: PT017 - most texts are refused, some are not


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (requests(), "requests=60/minute"),
        (requests(burst=60, model="gpt-4o*"), "requests=60/minute,model=gpt-4o*,burst=60"),
        (requests(at_limit=QUEUE), "requests=60/minute,at_limit=queue,wait=10s"),
        (
            requests(at_limit=QUEUE, wait_ms=1_500),
            "requests=60/minute,at_limit=queue,wait=1.5s",
        ),
        ({"kind": Kind.CONCURRENT, "amount": 100}, "concurrent=100"),
        (usd(), "usd=20/day"),
        (usd(1), "usd=0.000000001/day"),
        (usd(1_000_500_000_000, strict=True), "usd=1000.5/day,strict"),
        (usd(at_limit="model:b", cut=True), "usd=20/day,at_limit=model:b,mid_stream=cut"),
    ],
)
def test_a_rule_is_shown_as_it_would_be_given(members: dict[str, object], text: str) -> None:
    assert show(rule(members)) == text


NAMES = st.text("abc019.:/@+~=-", min_size=1, max_size=256)
AT_LIMIT = st.one_of(st.sampled_from([REJECT, QUEUE]), NAMES.map("model:".__add__))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Any rule that can be given."""
    kind = draw(st.sampled_from(Kind))
    periods = {Kind.CONCURRENT: ("",), Kind.USD: BUDGET_WINDOWS}.get(kind, tuple(RATE_PERIODS_MS))
    amounts = st.integers(1, AMOUNT_MAX[kind])
    rated = kind in (Kind.REQUESTS, Kind.TOKENS)
    at_limit = draw(AT_LIMIT)
    strict, cut = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    return Rule(
        kind=kind,
        amount=draw(amounts),
        per=draw(st.sampled_from(periods)),
        model=draw(st.none() | st.builds("{}*{}".format, NAMES.map(lambda name: name[:9]), NAMES)),
        burst=draw(st.none() | amounts) if rated else None,
        at_limit=at_limit,
        wait_ms=draw(st.integers(1, WAIT_MS_MAX)) if at_limit == QUEUE else 10_000,
        strict=strict and kind is Kind.USD,
        cut=cut and kind is Kind.USD,
    )


def can_be_given(rule: Rule) -> bool:
    instead = rule.at_limit.removeprefix("model:")
    again = rule.model is not None and instead != rule.at_limit and rule.covers(instead)
    return len(rule.model or "") <= 256 and not again


@given(rules().filter(can_be_given))
def test_what_is_shown_reads_as_the_same_rule(rule: Rule) -> None:
    parse = parse_budget if rule.kind is Kind.USD else parse_limit

    assert parse(show(rule)) == rule
