import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.rule import Rule, Scope
from llmrouter.errors import LimitReached, LimitState, QuotaRefused, RouterError
from llmrouter.gateway import quotas
from llmrouter.quota.leases import Lease, Refusal
from llmrouter.quota.messages import Reason, Refused
from llmrouter.quota.rulebook import Bucketed
from tests.support.gateway import limited, reporting, staged
from tests.support.ledger import ACME, at_once, money, requests, tokens
from tests.support.upstream import Play, stream

NOW_MS = 1_800_000_000_000
"""2027-01-15T08:00:00Z."""
ANN = Scope(kind="user", name="acme/ann@example.com")
OK: Play = [reporting(20, 10)]
STREAM: Play = [stream(b"data: {}\n\n", b"data: [DONE]\n\n")]


def lease_of(rule: Rule, scope: Scope = ACME, *, left: int = 0, free: int = 0) -> Lease:
    """A lease of which the ledger has just said what is left."""
    lease = Lease(Bucketed(bucket=scope.bucket(rule), scope=scope, rule=rule))
    lease.left, lease.left_at_ms, lease.free = left, NOW_MS, free
    return lease


# ---- refusals in words -----------------------------------------------------------------------


class Case(msgspec.Struct):
    """Why a call is refused, and what is said of it."""

    rule: Rule
    reason: Reason
    status: int
    code: str
    message: str
    left: int = 0
    wanted: int = 1
    retry_in_ms: int | None = None
    retry_s: int | None = None
    resets_in_ms: int | None = None
    scope: Scope = ACME


SPENT, HELD, OCCUPIED = Reason.SPENT, Reason.HELD, Reason.OCCUPIED
TOO_LARGE, WAITED = Reason.TOO_LARGE, Reason.WAITED
RATE = 429, "rate_limit_exceeded"
SHORTER = "; shorten it, send a smaller max_tokens, or ask your admin for more"
CASES = [
    Case(
        requests(600, per="minute"),
        SPENT,
        *RATE,
        "the org acme has used the 600 requests per minute; try again in 3 s",
        retry_in_ms=2_001,
        retry_s=3,
        resets_in_ms=60_000,
    ),
    Case(
        requests(600, per="minute", burst=10),
        SPENT,
        *RATE,
        "the org acme has used the 600 requests per minute (10 at once); try again in 1 s",
        retry_in_ms=100,
        retry_s=1,
        resets_in_ms=1_000,
    ),
    Case(
        requests(1, per="hour", model="gpt-4o*"),
        SPENT,
        *RATE,
        "the user ann@example.com for gpt-4o* has used the 1 request per hour; try again in 1 s",
        retry_in_ms=-50,
        retry_s=1,
        scope=ANN,
    ),
    Case(
        tokens(200_000, per="minute"),
        SPENT,
        *RATE,
        "the org acme has 1,200 left of the 200,000 tokens per minute, and the call needs about"
        " 5,000; try again in 2 s",
        left=1_200,
        wanted=5_000,
        retry_in_ms=1_140,
        retry_s=2,
    ),
    Case(
        tokens(200_000, per="minute"),
        SPENT,
        *RATE,
        "the org acme has used the 200,000 tokens per minute; try again in 1 s",
        left=-70,
        retry_s=1,
    ),
    Case(
        tokens(200_000, burst=1_000),
        TOO_LARGE,
        400,
        "invalid_request",
        "the call needs about 5,000 tokens, and 1,000 at once fit into the 200,000 tokens per day"
        f" of the org acme{SHORTER}",
        wanted=5_000,
    ),
    Case(
        money(500_000_000, per="month"),
        SPENT,
        402,
        "insufficient_quota",
        "the 500 USD per month of the org acme are spent: 0.25 USD left, 0.5 USD needed; it starts"
        " anew at 2027-01-15T08:00:01Z, or ask your admin for more",
        left=250_000_000,
        wanted=500_000_000,
        resets_in_ms=1,
    ),
    Case(
        money(500_000_000, per="month"),
        SPENT,
        402,
        "insufficient_quota",
        "the 500 USD per month of the org acme are spent: 0.25 USD left, 0.5 USD needed; it starts"
        " anew at 2027-01-15T08:00:00Z, or ask your admin for more",
        left=250_000_000,
        wanted=500_000_000,
        resets_in_ms=-60_000,
    ),
    Case(
        money(12_345_678_901_234_567, model="gpt"),
        SPENT,
        402,
        "insufficient_quota",
        "the 12,345,678,901.234567 USD of the org acme for gpt are spent: 0 USD left,"
        " 0.000000001 USD needed; ask your admin for more",
        left=-9,
    ),
    Case(
        money(1_000_000),
        TOO_LARGE,
        402,
        "insufficient_quota",
        f"the call may cost 3 USD, more than the 1 USD of the org acme in all{SHORTER}",
        wanted=3_000_000_000,
    ),
    Case(
        at_once(1),
        OCCUPIED,
        429,
        "concurrency_limit_exceeded",
        "the org acme has 1 call in flight, as many as may be; try again when one has ended",
        retry_s=1,
    ),
    Case(
        money(1_000_000, per="day"),
        HELD,
        429,
        "quota_held",
        "calls in flight hold what is left of the 1 USD per day of the org acme; try again when"
        " they have ended",
        retry_s=1,
        resets_in_ms=5,
    ),
    Case(
        tokens(50),
        WAITED,
        429,
        "queue_timeout",
        "no turn came within 10 s at the 50 tokens per day of the org acme; try again later",
        retry_in_ms=30_000,
        retry_s=30,
    ),
    Case(
        at_once(7),
        WAITED,
        429,
        "queue_timeout",
        "no turn came within 10 s at the 7 calls at once of the org acme; try again later",
        retry_s=1,
    ),
]


def error_for(case: Case) -> RouterError:
    def after(ms: int | None) -> int | None:
        return None if ms is None else NOW_MS + ms

    refused = Refused(
        id=1,
        bucket="",
        reason=case.reason,
        left=case.left,
        at_ms=NOW_MS,
        retry_at_ms=after(case.retry_in_ms),
        resets_at_ms=after(case.resets_in_ms),
    )
    lease = lease_of(case.rule, case.scope)
    return quotas.refused(Refusal(lease, refused, case.wanted), NOW_MS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.reason}-{case.rule.name}")
def test_each_refusal_says_what_stands_against_the_call_and_what_to_do(case: Case) -> None:
    """FR-007."""
    error = error_for(case)
    assert (error.status, error.code) == (case.status, case.code)
    assert error.message == case.message
    assert error.retry_after_s == case.retry_s
    assert isinstance(error, LimitReached) is (case.status == 429)
    assert isinstance(error, QuotaRefused) is (case.status != 400)


def test_a_limit_that_time_will_not_make_whole_is_told_with_the_last_moment_there_is() -> None:
    rule, drained_in_ms = tokens(1, burst=10**9), 86_400_000 * 10**9
    error = error_for(Case(rule, SPENT, *RATE, "", resets_in_ms=drained_in_ms))
    assert isinstance(error, LimitReached)
    assert error.limit is not None
    assert error.limit.resets_at == "9999-12-31T23:59:59Z"


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("rule", [requests(5), tokens(5), at_once(5), money(5)])
def test_no_reason_is_without_its_words(reason: Reason, rule: Rule) -> None:
    error = error_for(Case(rule, reason, 0, "", ""))
    assert error.message[0].islower()
    assert "org acme" in error.message
    assert (error.retry_after_s is not None) is (error.status == 429)


@pytest.mark.parametrize(
    ("rule", "scope", "left", "state"),
    [
        (
            requests(600, per="minute"),
            ACME,
            -3,
            LimitState(
                scope="org",
                name="acme",
                kind="requests",
                limit=600,
                per="minute",
                used=603,
                resets_at="2027-01-15T08:01:00Z",
            ),
        ),
        (
            money(500_000, per="month", model="gpt-4o"),
            ANN,
            100_000_000,
            LimitState(
                scope="user",
                name="ann@example.com",
                kind="usd",
                limit=0.5,
                per="month",
                model="gpt-4o",
                used=0.4,
                resets_at="2027-01-15T08:01:00Z",
            ),
        ),
        (
            tokens(600, burst=30),
            Scope(kind="team", name="acme/research"),
            40,
            LimitState(
                scope="team",
                name="research",
                kind="tokens",
                limit=600,
                per="day",
                used=0,
                resets_at="2027-01-15T08:01:00Z",
            ),
        ),
    ],
)
def test_the_limit_is_shown_as_it_stood(
    rule: Rule, scope: Scope, left: int, state: LimitState
) -> None:
    case = Case(rule, SPENT, 0, "", "", left=left, resets_in_ms=59_001, scope=scope)
    error = error_for(case)
    assert isinstance(error, QuotaRefused)
    assert error.limit == state


def test_what_time_does_not_give_back_has_no_moment_at_which_it_resets() -> None:
    error = error_for(Case(at_once(5), OCCUPIED, 0, "", ""))
    assert isinstance(error, QuotaRefused)
    assert error.limit is not None
    assert (error.limit.per, error.limit.resets_at, error.limit.used) == (None, None, 5)


@given(st.integers(-10_000, 10**9))
def test_who_comes_back_when_told_comes_neither_early_nor_a_second_late(in_ms: int) -> None:
    error = error_for(Case(tokens(5), SPENT, 0, "", "", retry_in_ms=in_ms))
    assert error.retry_after_s is not None
    assert error.retry_after_s >= 1
    assert in_ms <= error.retry_after_s * 1000 < max(in_ms, 1) + 1000


# ---- durations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, b"0s"),
        (1, b"1ms"),
        (17, b"17ms"),
        (999, b"999ms"),
        (1_000, b"1s"),
        (1_500, b"1.5s"),
        (3_114, b"3.114s"),
        (8_640, b"8.64s"),
        (59_999, b"59.999s"),
        (60_000, b"1m0s"),
        (86_400, b"1m26.4s"),
        (360_000, b"6m0s"),
        (3_599_999, b"59m59.999s"),
        (3_600_000, b"1h0m0s"),
        (3_723_000, b"1h2m3s"),
        (86_400_000, b"24h0m0s"),
        (100 * 3_600_000 + 1, b"100h0m0.001s"),
    ],
)
def test_durations_are_written_as_go_does_and_so_the_openai_api(ms: int, text: bytes) -> None:
    assert quotas.duration(ms) == text


_GO = re.compile(rb"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)(?:\.(\d{1,3}))?s)|(\d+)ms")


@given(st.integers(0, 10 * 86_400_000))
def test_no_duration_says_more_or_less_than_it_is(ms: int) -> None:
    """Read as clients read it: hours, minutes, seconds and their fraction, or milliseconds."""
    match = _GO.fullmatch(quotas.duration(ms))
    assert match is not None
    hours, minutes, seconds, fraction, alone = match.groups()
    if alone is not None:
        assert 0 < int(alone) == ms < 1_000
        return
    assert fraction is None or not fraction.endswith(b"0")
    whole = (int(hours or 0) * 60 + int(minutes or 0)) * 60 + int(seconds)
    assert whole * 1_000 + int((fraction or b"0").ljust(3, b"0")) == ms


# ---- headers ---------------------------------------------------------------------------------


def headers(*leases: Lease, later_ms: int = 0) -> dict[str, str]:
    """The headers that are shown; by their names without `x-ratelimit-`."""
    lines = quotas.LimitHeaders(leases).at(NOW_MS + later_ms).split(b"\r\n")
    assert lines.pop() == b""
    pairs = [line.decode().split(": ") for line in lines]
    assert len(dict(pairs)) == len(pairs)
    return {name.removeprefix("x-ratelimit-"): value for name, value in pairs}


def test_without_rates_there_are_no_headers() -> None:
    assert headers() == {}
    assert headers(lease_of(at_once(5), free=3), lease_of(money(5), free=3)) == {}


def test_headers_say_what_may_still_pass_and_when_all_may_again() -> None:
    rule = tokens(200_000, per="minute")
    lease = lease_of(rule, left=90_000, free=10_000)
    assert headers(lease) == {
        "limit-tokens": "200000",
        "remaining-tokens": "100000",
        "reset-tokens": "30s",
    }
    assert headers(lease, later_ms=15_000) == {
        "limit-tokens": "200000",
        "remaining-tokens": "150000",
        "reset-tokens": "15s",
    }
    assert headers(lease, later_ms=100_000)["remaining-tokens"] == "200000"
    assert headers(lease, later_ms=100_000)["reset-tokens"] == "0s"


def test_a_limit_that_is_overshot_has_nothing_remaining() -> None:
    shown = headers(lease_of(requests(60, per="minute"), left=-30))
    assert shown == {
        "limit-requests": "60",
        "remaining-requests": "0",
        "reset-requests": "1m0s",
    }


@pytest.mark.parametrize(("burst", "left", "reset"), [(10, 4, "6s"), (90, 75, "15s")])
def test_of_a_rate_with_a_burst_that_is_shown_which_may_pass_at_once(
    burst: int, left: int, reset: str
) -> None:
    """What remains is never more than the limit."""
    shown = headers(lease_of(requests(60, per="minute", burst=burst), left=left))
    assert shown == {
        "limit-requests": str(burst),
        "remaining-requests": str(left),
        "reset-requests": reset,
    }


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_the_tightest_limit_of_each_kind_is_shown(left: list[int]) -> None:
    leases = [
        lease_of(kind(100 + n, per="minute"), left=each)
        for n, each in enumerate(left)
        for kind in (requests, tokens)
    ]
    shown = headers(*leases, lease_of(money(1), free=0), lease_of(at_once(1)))
    tightest = left.index(min(left))
    for kind in ("requests", "tokens"):
        assert shown[f"remaining-{kind}"] == str(left[tightest])
        assert shown[f"limit-{kind}"] == str(100 + tightest)


# ---- headers in answers ----------------------------------------------------------------------


def rates(response_headers: dict[bytes, bytes]) -> dict[str, str]:
    found = {name.decode(): value.decode() for name, value in response_headers.items()}
    prefix = "x-ratelimit-"
    return {name.removeprefix(prefix): v for name, v in found.items() if name.startswith(prefix)}


@pytest.mark.asyncio
async def test_answers_say_how_the_requests_stand_after_each(tmp_path: Path) -> None:
    """FR-003: of a limit of five a day, which gives one back every 4 h 48 min."""
    resets = ["4h48m0s", "9h36m0s", "14h24m0s", "19h12m0s", "24h0m0s"]
    async with staged(
        tmp_path, OK, quota=limited(requests(5), requests(10**6, model="*"))
    ) as stage:
        for used, reset in enumerate(resets, 1):
            response = await stage.ask(stage.chat())
            assert rates(response.headers) == {
                "limit-requests": "5",
                "remaining-requests": str(5 - used),
                "reset-requests": reset,
            }
            stage.node.settle()  # whatever of it the worker holds by then
        response = await stage.ask(stage.chat())
        assert (response.status, rates(response.headers)) == (429, {})


@pytest.mark.asyncio
@pytest.mark.parametrize("gives_back", [True, False])
async def test_answers_say_how_the_tokens_stand_with_what_the_call_holds(
    tmp_path: Path, gives_back: bool
) -> None:
    """What earlier calls used, as their upstream said, and the hold of this one."""
    async with staged(tmp_path, OK, quota=limited(tokens(10_000))) as stage:
        for count in range(4):
            response = await stage.ask(stage.chat(max_tokens=100))
            begin = (await stage.calls(count + 1))[count].begin
            remaining = 10_000 - 30 * count - begin.hold_tokens
            assert rates(response.headers)["limit-tokens"] == "10000"
            assert rates(response.headers)["remaining-tokens"] == str(remaining)
            if gives_back:
                stage.node.settle()


@pytest.mark.asyncio
async def test_streams_and_refusals_of_the_upstream_have_the_headers_too(tmp_path: Path) -> None:
    plays: list[Play] = [STREAM, [b"HTTP/1.1 429 Slow\r\ncontent-length: 2\r\n\r\n{}"]]
    async with staged(tmp_path, *plays, quota=limited(requests(5), tokens(10**6))) as stage:
        for status in (200, 429):
            response = await stage.ask(stage.chat(stream=True))
            assert response.status == status
            assert len(rates(response.headers)) == 6


@pytest.mark.asyncio
async def test_without_limits_answers_have_none_of_them(tmp_path: Path) -> None:
    async with staged(tmp_path, OK, quota=limited(at_once(5), money(10**6))) as stage:
        assert rates((await stage.ask(stage.chat())).headers) == {}
