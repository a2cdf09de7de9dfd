import pytest

from llmrouter.routing.failure import RULES, FailureKind, FallbackOn, fallback_on

Kind = FailureKind


def test_every_kind_has_its_rule() -> None:
    assert set(RULES) == set(FailureKind)


@pytest.mark.parametrize(
    ("kind", "may_follow"),
    [
        (Kind.UNREACHABLE, "retry failover fallback"),
        (Kind.LOST, "retry failover fallback"),
        (Kind.SILENT, "failover fallback"),  # it may still work on it: not twice at the same one
        (Kind.BROKEN, "retry failover fallback"),
        (Kind.THROTTLED, "retry failover fallback"),
        (Kind.SATURATED, "failover fallback"),
        (Kind.DISOWNED, "failover fallback"),
        (Kind.ABSENT, "failover fallback"),
        (Kind.TOO_LONG, "fallback"),  # every deployment of the model has the same context
        (Kind.FILTERED, "fallback"),
        (Kind.UNFIT, ""),
    ],
)
def test_what_may_follow_a_failure(kind: FailureKind, may_follow: str) -> None:
    rule = RULES[kind]
    follows = {"retry": rule.same, "failover": rule.other, "fallback": rule.fallback}

    assert " ".join(name for name, may in follows.items() if may) == may_follow


def test_what_speaks_against_a_deployment() -> None:
    """Not that it is busy, and not what the caller sent."""
    assert {kind for kind, rule in RULES.items() if rule.counts} == {
        Kind.UNREACHABLE,
        Kind.LOST,
        Kind.SILENT,
        Kind.BROKEN,
        Kind.DISOWNED,
    }


@pytest.mark.parametrize("kind", FailureKind)
def test_where_the_same_may_be_tried_again_another_may_too(kind: FailureKind) -> None:
    assert RULES[kind].other >= RULES[kind].same
    assert RULES[kind].fallback >= RULES[kind].other


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (Kind.TOO_LONG, "context_length"),
        (Kind.FILTERED, "content_filter"),
        (Kind.SILENT, "unavailable"),
        (Kind.THROTTLED, "unavailable"),
        (Kind.ABSENT, "unavailable"),
    ],
)
def test_by_which_word_a_failure_leads_to_another_model(kind: FailureKind, word: str) -> None:
    assert fallback_on(kind) is FallbackOn(word)
