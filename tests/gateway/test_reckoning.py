"""What is said of limits, and of how a call ends that is refused."""

import pytest

from llmrouter.access.ruletext import parse_budget, parse_limit
from llmrouter.contracts.rule import Rule, Scope
from llmrouter.errors import ModelNotFound, NoDeploymentAvailable, RouterError
from llmrouter.gateway.reckoning import no_room, refusal_of
from llmrouter.quota.lease import Lease, Refusal
from llmrouter.quota.messages import Reason, Refused
from llmrouter.quota.rulebook import Bucketed

NOW_MS = 1_767_225_600_500
NEVER = "not before the call, the key or router.toml is another"
ENDED = "when calls in flight have ended"
RATE, BUDGET = parse_limit("requests=10/minute"), parse_budget("usd=5/day")


def refusal(rule: Rule, reason: Reason, retry_at_ms: int | None) -> Refusal:
    scope = Scope(kind="org", name="acme")
    lease = Lease(Bucketed(bucket=scope.bucket(rule), scope=scope, rule=rule))
    refused = Refused(
        id=1, bucket=lease.name, reason=reason, left=0, at_ms=NOW_MS, retry_at_ms=retry_at_ms
    )
    return Refusal(lease, refused, 1)


@pytest.mark.parametrize(
    ("rule", "reason", "retry_at_ms", "code", "when"),
    [
        (
            RATE,
            Reason.SPENT,
            NOW_MS + 6_000,
            "rate_limit_exceeded",
            "at 2026-01-01T00:00:07Z",
        ),
        (BUDGET, Reason.SPENT, None, "insufficient_quota", NEVER),
        (
            BUDGET,
            Reason.SPENT,
            1_767_312_000_000,
            "insufficient_quota",
            "at 2026-01-02T00:00:00Z",
        ),
        (RATE, Reason.TOO_LARGE, None, "invalid_request", NEVER),
        (RATE, Reason.HELD, None, "quota_held", ENDED),
        (RATE, Reason.WAITED, None, "queue_timeout", ENDED),
    ],
)
def test_a_refusal_says_when_the_same_call_is_admitted(
    rule: Rule, reason: Reason, retry_at_ms: int | None, code: str, when: str
) -> None:
    outcome = no_room(refusal(rule, reason, retry_at_ms), 1_500, NOW_MS)

    assert (outcome.admitted, outcome.code, outcome.waits) == (False, code, 1.5)
    assert outcome.when == when
    assert outcome.at == (when.removeprefix("at ") if when.startswith("at ") else None)


@pytest.mark.parametrize(
    ("error", "at"),
    [
        (ModelNotFound("no such model"), None),
        (NoDeploymentAvailable("none now", retry_after_s=9), "2026-01-01T00:00:10Z"),
    ],
)
def test_an_error_is_told_as_the_caller_would_be(error: RouterError, at: str | None) -> None:
    outcome = refusal_of(error, NOW_MS)

    assert (outcome.status, outcome.code) == (error.status, error.code)
    assert (outcome.message, outcome.at) == (error.message, at)
    assert outcome.when == (NEVER if at is None else f"at {at}")
