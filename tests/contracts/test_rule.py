"""Rules: how they are named, and which calls they count."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.rule import BUDGET_WINDOWS, RATE_PERIODS_MS, Kind, Rule, Scope

ORG = Scope(kind="org", name="acme")


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (Rule(kind=Kind.REQUESTS, amount=1, per="minute"), "requests/minute"),
        (Rule(kind=Kind.TOKENS, amount=1, per="day", model="gpt-4o*"), "tokens/day/gpt-4o*"),
        (Rule(kind=Kind.CONCURRENT, amount=1), "concurrent"),
        (Rule(kind=Kind.CONCURRENT, amount=1, model="a/b"), "concurrent/a/b"),
        (Rule(kind=Kind.USD, amount=1, per="total"), "usd/total"),
    ],
)
def test_a_name_says_what_is_counted(rule: Rule, name: str) -> None:
    assert rule.name == name
    assert ORG.bucket(rule) == f"org/acme/{name}"


def test_a_limit_that_is_raised_keeps_its_bucket() -> None:
    rule = Rule(kind=Kind.TOKENS, amount=1, per="day")
    raised = Rule(kind=Kind.TOKENS, amount=2, per="day", burst=5, at_limit="queue", wait_ms=1)

    assert ORG.bucket(raised) == ORG.bucket(rule)


@pytest.mark.parametrize(
    ("model", "called", "counts"),
    [
        (None, "gpt-4o", True),
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("*-mini", "gpt-4o", False),
    ],
)
def test_counts_calls_to_its_models(model: str | None, called: str, counts: bool) -> None:
    assert Rule(kind=Kind.CONCURRENT, amount=1, model=model).covers(called) is counts


_NAMES = st.text("ab*", min_size=1, max_size=3)
_SCOPES = st.builds(Scope, kind=st.sampled_from(["org", "key"]), name=_NAMES) | st.builds(
    lambda kind, org, name: Scope(kind=kind, name=f"{org}/{name}"),
    st.sampled_from(["team", "user"]),
    _NAMES,
    _NAMES,
)
_MODELS = st.none() | st.sampled_from(["minute", "requests/minute", "a", "a/b*", "concurrent"])
_RULES = (
    st.builds(Rule, kind=st.just(Kind.CONCURRENT), amount=st.just(1), model=_MODELS)
    | st.builds(
        Rule,
        kind=st.sampled_from([Kind.REQUESTS, Kind.TOKENS]),
        amount=st.just(1),
        per=st.sampled_from(sorted(RATE_PERIODS_MS)),
        model=_MODELS,
    )
    | st.builds(
        Rule,
        kind=st.just(Kind.USD),
        amount=st.just(1),
        per=st.sampled_from(BUDGET_WINDOWS),
        model=_MODELS,
    )
)


@given(scopes=st.tuples(_SCOPES, _SCOPES), rules=st.tuples(_RULES, _RULES))
def test_no_two_buckets_have_one_name(
    scopes: tuple[Scope, Scope], rules: tuple[Rule, Rule]
) -> None:
    one, other = (scope.bucket(rule) for scope, rule in zip(scopes, rules, strict=True))

    assert (one == other) is ((scopes[0], rules[0]) == (scopes[1], rules[1]))


@given(rule=_RULES)
def test_a_rule_can_be_stored_and_read_back(rule: Rule) -> None:
    assert msgspec.json.decode(msgspec.json.encode(rule), type=Rule) == rule
