from collections.abc import Iterator

import msgspec
import pytest

from llmrouter import errors
from llmrouter.errors import (
    CODES,
    ClientError,
    InsufficientQuota,
    InternalError,
    LimitReached,
    LimitState,
    QuotaRefused,
    RouterError,
    Source,
)

STATUSES = {
    400: {"invalid_json", "invalid_request", "unsupported_parameter"},
    401: {"missing_key", "invalid_key", "expired_key", "revoked_key"},
    402: {"insufficient_quota"},
    403: {"model_not_allowed", "address_not_allowed"},
    404: {"model_not_found", "unknown_path"},
    405: {"method_not_allowed"},
    408: {"request_timeout"},
    413: {"body_too_large"},
    429: {"rate_limit_exceeded", "concurrency_limit_exceeded", "quota_held", "queue_timeout"},
    431: {"head_too_large"},
    500: {"internal_error"},
    502: {"upstream_error", "upstream_unreachable"},
    503: {"overloaded", "no_deployment_available", "draining"},
    504: {"upstream_timeout"},
}
"""Every answer of ours that is not the model's: what is promised to callers."""

MINUTE = LimitState(
    scope="org",
    name="acme",
    kind="requests",
    limit=600,
    per="minute",
    used=600,
    resets_at="2026-10-01T12:00:30Z",
)

over_codes = pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.code)


def leaves(kind: type[RouterError]) -> Iterator[type[RouterError]]:
    below = [one for one in kind.__subclasses__() if one.__module__ == errors.__name__]
    if not below:
        yield kind
    for one in below:
        yield from leaves(one)


def test_every_error_that_can_be_raised_is_in_the_table_once() -> None:
    """FR-007."""
    assert sorted(CODES, key=repr) == sorted(leaves(RouterError), key=repr)


def test_no_two_errors_have_one_code() -> None:
    """FR-007: a code is how callers tell them apart."""
    assert len({kind.code for kind in CODES}) == len(CODES)


@over_codes
def test_a_code_has_the_status_that_was_promised(kind: type[RouterError]) -> None:
    """FR-007."""
    assert kind.code in STATUSES[kind.status]


@over_codes
def test_the_status_tells_whose_fault_it_is(kind: type[RouterError]) -> None:
    """Logs take their level from it."""
    assert (kind.source is Source.CLIENT) is (kind.status < 500)
    assert (kind.source is Source.UPSTREAM) is kind.code.startswith("upstream_")
    assert issubclass(kind, ClientError) is (kind.source is Source.CLIENT)


@over_codes
def test_an_error_carries_its_facts(kind: type[RouterError]) -> None:
    error = kind("no model 'x'; name one", param="model", retry_after_s=3)

    assert str(error) == error.message == "no model 'x'; name one"
    assert (error.param, error.retry_after_s) == ("model", 3)
    assert kind.__doc__


def test_what_is_not_known_is_not_made_up() -> None:
    error = InternalError("a fault of the router")

    assert (error.param, error.retry_after_s) == (None, None)


@over_codes
def test_limits_and_budgets_are_refused_with_statuses_of_their_own(kind: type[RouterError]) -> None:
    """FR-003."""
    assert issubclass(kind, QuotaRefused) is (kind.status in (402, 429))
    assert issubclass(kind, LimitReached) is (kind.status == 429)


@pytest.mark.parametrize("kind", LimitReached.__subclasses__(), ids=lambda kind: kind.code)
def test_no_429_can_be_raised_without_saying_when(kind: type[RouterError]) -> None:
    """FR-003: agents that are not told when to come back come back at once, and without end."""
    with pytest.raises(TypeError, match="retry_after_s"):
        kind("600 requests a minute; wait")

    assert kind("600 requests a minute; wait", retry_after_s=1).retry_after_s == 1


def test_a_budget_names_no_time_to_come_back_unless_it_is_told_one() -> None:
    """FR-003: a caller who waits for it would wait for days."""
    assert InsufficientQuota("5.00 USD of 5.00 are spent").retry_after_s is None


@pytest.mark.parametrize(
    "refused",
    [
        InsufficientQuota("why", limit=MINUTE),
        *(kind("why", limit=MINUTE, retry_after_s=1) for kind in LimitReached.__subclasses__()),
    ],
    ids=lambda refused: refused.code,
)
def test_a_refusal_says_which_limit_was_met(refused: QuotaRefused) -> None:
    """FR-003."""
    assert refused.limit == MINUTE
    assert QuotaRefused("why").limit is None


def test_the_state_of_a_limit_names_a_model_only_where_it_has_one() -> None:
    assert msgspec.json.decode(msgspec.json.encode(MINUTE)) == {
        "scope": "org",
        "name": "acme",
        "kind": "requests",
        "limit": 600,
        "per": "minute",
        "used": 600,
        "resets_at": "2026-10-01T12:00:30Z",
    }
    of_model = msgspec.structs.replace(MINUTE, model="gpt-4o*", per=None, resets_at=None)
    told = msgspec.json.decode(msgspec.json.encode(of_model))
    assert (told["model"], told["per"], told["resets_at"]) == ("gpt-4o*", None, None)


def test_the_state_of_a_limit_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        MINUTE.used = 0  # type: ignore[misc]  # this is what is tested
