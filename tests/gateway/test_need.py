import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.contracts.rule import Rule
from llmrouter.dialects.openai import OpenAI
from llmrouter.gateway import need
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.need import (
    SAMPLES,
    TEMPLATE_TOKENS_MAX,
    Case,
    Cases,
    _embedded_bytes,
    _is_text,
)
from llmrouter.gateway.spending import Flight
from llmrouter.metering.prices import Equals, Listed, Price, PriceBook, PriceTable
from llmrouter.quota.desk import DeskTerms
from llmrouter.quota.estimate import FIRST_OUTPUT, Estimator
from llmrouter.quota.leases import Leases
from llmrouter.quota.rulebook import Rulebook
from llmrouter.routing.routes import Route
from llmrouter.routing.strategy import Ordered
from tests.support.gateway import Quota, Stage, asking, error_of, limited, reporting, shown, staged
from tests.support.idle import NOW_MS, deployment, idle_exchange
from tests.support.ledger import ACME, FLAT, TOKEN_NANO, at_once, money, requests, tokens
from tests.support.upstream import Play, Wait, answer
from tests.support.waiting import until

OK: Play = [reporting(20, 10)]
LIMITS = (requests(1_000), tokens(10**6), at_once(50), money(10**6))


def prompt_of(**members: Any) -> int:
    """The tokens that the prompt of a first call is taken for."""
    return Estimator().prompt_tokens("gpt", len(asking(**members)))


async def held(stage: Stage, **members: Any) -> tuple[int, int]:
    """Tokens and money held for a call, as its begin says."""
    count = len(stage.journal().calls) + 1
    assert (await stage.ask(stage.chat(**members))).status == 200
    begin = (await stage.calls(count))[-1].begin
    return begin.hold_tokens, begin.hold_nano_usd


# ---- what calls are foreseen to use ----------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("members", "output"),
    [
        ({}, FIRST_OUTPUT),
        ({"max_tokens": 32_000}, FIRST_OUTPUT),
        ({"max_completion_tokens": 32_000}, FIRST_OUTPUT),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 0}, 0),
    ],
)
async def test_a_key_s_first_call_holds_no_more_than_it_allows_itself(
    tmp_path: Path, members: dict[str, int], output: int
) -> None:
    async with staged(tmp_path, OK, quota=limited(*LIMITS)) as stage:
        tokens_held = prompt_of(**members) + output
        assert await held(stage, **members) == (tokens_held, tokens_held * TOKEN_NANO)


@pytest.mark.asyncio
async def test_where_no_budget_applies_the_begin_says_what_the_call_may_cost(
    tmp_path: Path,
) -> None:
    """So that it is booked at that if its worker dies."""
    async with staged(tmp_path, OK, quota=limited(tokens(10**6))) as stage:
        tokens_held = prompt_of() + FIRST_OUTPUT
        assert await held(stage) == (tokens_held, tokens_held * TOKEN_NANO)


@pytest.mark.asyncio
@pytest.mark.parametrize(("output_max", "output"), [(300, 300), (5_000, FIRST_OUTPUT)])
async def test_a_model_that_cannot_say_more_is_not_held_for_more(
    tmp_path: Path, output_max: int, output: int
) -> None:
    quota = limited(*LIMITS, output_max=output_max)
    async with staged(tmp_path, OK, quota=quota) as stage:
        assert (await held(stage))[0] == prompt_of() + output


@pytest.mark.asyncio
async def test_what_calls_used_is_what_the_next_one_holds(tmp_path: Path) -> None:
    """FR-003: by key and model; bytes of a token by model."""
    used: Play = [reporting(len(asking()) // 2, 40)]
    async with staged(tmp_path, used, quota=limited(*LIMITS)) as stage:
        prompt = prompt_of()
        assert (await held(stage))[0] == prompt + FIRST_OUTPUT
        assert len(asking()) // 2 + 50 <= (await held(stage))[0] <= len(asking()) // 2 + 53
        # Another model has its own figures; another key has the model's bytes, not its output.
        assert (await held(stage, model="same"))[0] == prompt_of(model="same") + FIRST_OUTPUT
        stage.key = stage.issue()
        assert (await held(stage))[0] >= len(asking()) // 2 + FIRST_OUTPUT


@pytest.mark.asyncio
async def test_long_max_tokens_at_low_spend_starve_nobody(tmp_path: Path) -> None:
    """A budget that is hardly used has room for agents that always ask for the most."""
    quota = limited(money(2_000), terms=DeskTerms(hold_wait_ms=0, waiting_max=0))
    async with staged(tmp_path, OK, quota=quota) as stage:
        for _ in range(30):
            assert (await stage.ask(stage.chat(max_tokens=32_000))).status == 200
        await stage.calls(30)
        assert stage.node.standing()["org/acme/usd/total"].used == 30 * 30 * TOKEN_NANO


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "rule",
    [tokens(500), tokens(10**6, burst=500), money(500)],
    ids=["tokens", "burst", "usd"],
)
async def test_no_more_is_held_than_fits_at_all(tmp_path: Path, rule: Rule) -> None:
    """Else nobody could begin: the estimate may be too much, and the caller named no maximum."""
    async with staged(tmp_path, OK, quota=limited(rule, at_once(50))) as stage:
        tokens_held, nano_usd = await held(stage)
        assert tokens_held == 500
        assert nano_usd == 500 * TOKEN_NANO


# ---- strict budgets --------------------------------------------------------------------------


def worst(max_tokens: int, **members: Any) -> int:
    """The most tokens that a call can have."""
    return len(asking(max_tokens=max_tokens, **members)) + TEMPLATE_TOKENS_MAX + max_tokens


@pytest.mark.asyncio
async def test_under_a_strict_budget_the_worst_case_is_held(tmp_path: Path) -> None:
    quota = limited(money(10**6, strict=True), tokens(10**6))
    async with staged(tmp_path, OK, quota=quota) as stage:
        tokens_held, nano_usd = await held(stage, max_tokens=32_000)
        assert tokens_held == prompt_of(max_tokens=32_000) + FIRST_OUTPUT
        assert nano_usd == worst(32_000) * TOKEN_NANO


@pytest.mark.asyncio
@pytest.mark.parametrize(("members", "choices"), [({}, 1), ({"n": 3}, 3)])
async def test_a_model_s_own_maximum_bounds_a_call_that_names_none(
    tmp_path: Path, members: dict[str, Any], choices: int
) -> None:
    quota = limited(money(10**6, strict=True), output_max=4_000)
    async with staged(tmp_path, OK, quota=quota) as stage:
        _, nano_usd = await held(stage, **members)
        most = len(asking(**members)) + TEMPLATE_TOKENS_MAX + 4_000 * choices
        assert nano_usd == most * TOKEN_NANO


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("members", "param", "says"),
    [
        ({}, "max_tokens", "send max_tokens"),
        ({"max_tokens": None}, "max_tokens", "send max_tokens"),
        (
            {"max_tokens": 5, "messages": IMAGE},
            None,
            "may cost more than it shows; send text itself",
        ),
        ({"max_tokens": 5, "previous_thing": "x"}, None, "may cost more"),
    ],
    ids=["no-maximum", "null", "image", "unknown-member"],
)
async def test_under_a_strict_budget_a_call_without_a_worst_case_is_refused(
    tmp_path: Path, members: dict[str, Any], param: str | None, says: str
) -> None:
    async with staged(tmp_path, OK, quota=limited(money(10**6, strict=True))) as stage:
        body = msgspec.json.decode(asking())
        message = stage.chat(**{**body, **members}) if "messages" not in members else None
        if message is None:
            body = msgspec.json.encode({**body, **members})
            message = stage.chat().replace(asking(), body)
            message = message.replace(
                b"content-length: %d" % len(asking()), b"content-length: %d" % len(body)
            )
        response = await stage.ask(message)
        error = error_of(response)
        assert (response.status, error["code"], error["param"]) == (400, "invalid_request", param)
        assert says in error["message"]
        assert stage.upstream.seen == []


@pytest.mark.asyncio
async def test_the_last_call_that_a_strict_budget_can_pay_for_is_admitted(tmp_path: Path) -> None:
    fits = worst(100)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with staged(tmp_path / "a", OK, quota=limited(money(fits, strict=True))) as stage:
        assert await held(stage, max_tokens=100)
    async with staged(tmp_path / "b", OK, quota=limited(money(fits - 1, strict=True))) as stage:
        response = await stage.ask(stage.chat(max_tokens=100))
        error = error_of(response)
        assert (response.status, error["code"]) == (402, "insufficient_quota")
        assert "the call may cost 0.00" in error["message"]
        assert stage.upstream.seen == []


@pytest.mark.asyncio
async def test_a_strict_budget_is_never_overshot_whatever_upstreams_make_of_it(
    tmp_path: Path,
) -> None:
    """FR-003: each call uses all it may, and they race."""
    body_bytes = len(asking(max_tokens=100))
    go_on = asyncio.Event()
    most: Play = [Wait(go_on), reporting(body_bytes + TEMPLATE_TOKENS_MAX, 100)]
    capacity = 3 * worst(100) + worst(100) // 2
    terms = DeskTerms(hold_wait_ms=100, waiting_max=100)
    quota = limited(money(capacity, strict=True), terms=terms)
    async with staged(tmp_path, most, quota=quota) as stage:

        async def call() -> int:
            async with stage.connected() as client:
                await client.send(stage.chat(max_tokens=100))
                return (await shown(client)).status

        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(call()) for _ in range(6)]
            await until(lambda: len(stage.upstream.seen) == 3, "not three arrived")
            go_on.set()
        statuses = sorted(task.result() for task in calls)
        assert statuses[:3] == [200] * 3
        assert {*statuses[3:]} <= {402, 429}  # 429 where they waited in vain before it was spent
        await stage.calls(3)
        assert stage.node.standing()["org/acme/usd/total"].used == 3 * worst(100) * TOKEN_NANO


# ---- models without a price ------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_budget_that_could_not_be_kept_refuses_the_model(tmp_path: Path) -> None:
    """FR-003: nothing is silently free."""
    quota = Quota(rules={ACME: (money(10**6), requests(5))})
    async with staged(tmp_path, OK, quota=quota) as stage:
        response = await stage.ask(stage.chat())
        error = error_of(response)
        assert (response.status, error["code"]) == (402, "insufficient_quota")
        assert "the model 'gpt' has no price, so no budget could be kept" in error["message"]
        assert "`price` in router.toml" in error["message"]
        assert "limit" not in error
        assert (stage.upstream.seen, stage.journal().calls) == ([], [])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("rules", "allowed"),
    [((money(10**6),), frozenset({"acme"})), ((requests(5), tokens(10**6)), frozenset[str]())],
    ids=["allowed", "no-budget"],
)
async def test_a_model_without_a_price_is_served_where_it_may_or_no_money_counts(
    tmp_path: Path, rules: tuple[Rule, ...], allowed: frozenset[str]
) -> None:
    quota = Quota(rules={ACME: rules}, unpriced_allowed=allowed)
    async with staged(tmp_path, OK, quota=quota) as stage:
        assert (await held(stage))[1] == 0
        (call,) = await stage.calls(1)
        assert call.end is not None
        assert call.end.cost_nano_usd is None


@pytest.mark.asyncio
async def test_what_an_unpriced_model_s_upstream_says_it_costs_counts(tmp_path: Path) -> None:
    said: Play = [answer(b'{"usage":{"prompt_tokens":9,"completion_tokens":4,"cost":0.0005}}')]
    quota = Quota(rules={ACME: (money(900),)}, unpriced_allowed=frozenset({"acme"}))
    async with staged(tmp_path, said, quota=quota) as stage:
        for status in (200, 200, 200):
            assert (await stage.ask(stage.chat())).status == status
        await stage.calls(3)
        assert stage.node.standing()["org/acme/usd/total"].used == 3 * 500_000


# ---- cases -----------------------------------------------------------------------------------


CHEAP = Price(input=1, cached_input=1, output=9, reasoning=9)
DEAR = Price(input=5, cached_input=1, output=5, reasoning=9)
ROUTE = Route("gpt", [deployment("a"), deployment("b", "m")], Ordered)


class Known:
    """Cases over some rules and prices, for a call of `idle_exchange`."""

    def __init__(self, prices: PriceTable | None = None, *rules: Rule) -> None:
        self.rulebook = Rulebook({ACME: rules})
        leases = Leases(self.rulebook, wake=lambda: None, flush_journal=lambda: None)
        table = prices or PriceTable(explicit={"gpt": FLAT})
        flight = Flight(Estimator(), PriceBook(table), lambda: NOW_MS)
        self.cases = Cases(flight, leases, unpriced_allowed=frozenset())

    def case(self, route: Route = ROUTE, exchange: Exchange | None = None) -> Case:
        return self.cases.of(exchange or asked(), route)


def asked(name: str = "gpt") -> Exchange:
    exchange = idle_exchange()
    exchange.asked = exchange.model = name
    return exchange


def listed(**prices: Price) -> PriceTable:
    """The price list of two providers, `a` and `b`, which price one model each."""
    names = {"a": "gpt", "b": "m"}
    return PriceTable(
        providers={name: name for name in prices},
        listed={name: (Listed(Equals(names[name]), price),) for name, price in prices.items()},
    )


def test_a_call_is_held_at_the_price_of_the_dearest_deployment() -> None:
    """Which of them serves it is not known yet."""
    price = Known(listed(a=CHEAP, b=DEAR)).case().price
    assert price is not None
    assert (price.input, price.output) == (5, 9)


def test_a_model_has_no_price_if_one_of_its_deployments_has_none() -> None:
    assert Known(listed(a=CHEAP)).case().price is None


def test_a_case_is_made_once_and_again_when_anything_has_changed() -> None:
    known, exchange = Known(None, requests(5)), asked()
    case = known.case(exchange=exchange)
    assert known.case(exchange=exchange) is case
    other = known.case(Route("gpt", ROUTE.deployments, Ordered), exchange)
    assert other is not case
    principal = exchange.principal
    assert principal is not None
    exchange.principal = msgspec.structs.replace(principal, team="research")
    changed = known.case(exchange=exchange)
    assert changed.principal.team == "research"
    known.rulebook.set_key("k" * 12, (tokens(7),))
    limited_again = known.case(exchange=exchange)
    assert [lease.name for lease in limited_again.account.gating] == [
        "org/acme/requests/day",
        "key/kkkkkkkkkkkk/tokens/day",
    ]
    assert limited_again.tokens_max == 7


def test_only_so_many_cases_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers choose the names."""
    monkeypatch.setattr(need, "CASES_MAX", 3)
    known = Known()
    route = Route("any-*", ROUTE.deployments, Ordered)
    for count in range(20):
        assert known.case(route, asked(f"any-{count}")).who.model == f"any-{count}"
        assert len(known.cases._cases) <= 3


def test_a_bucket_that_does_not_refuse_still_counts() -> None:
    known = Known(None, requests(5), tokens(7))
    case = known.case().without("org/acme/requests/day")
    assert [lease.name for lease in case.account.gating] == ["org/acme/tokens/day"]
    assert [lease.name for lease in case.account.counted] == ["org/acme/requests/day"]
    assert b"requests" not in case.headers.at(NOW_MS)
    assert b"tokens" in case.headers.at(NOW_MS)


def test_a_prompt_that_is_too_long_for_its_budget_is_not_held_for_less() -> None:
    """It is to be refused, not to be squeezed in."""
    known = Known(None, money(10), tokens(10))
    call = OpenAI().read_call(next(iter(OpenAI().paths.values())), asking())
    exchange = asked()
    _, (_, tokens_held, nano_usd, _, _) = known.cases.need(exchange, call, known.case())
    assert tokens_held == prompt_of() + FIRST_OUTPUT > 10
    assert nano_usd == tokens_held * TOKEN_NANO


# ---- pictures and files ----------------------------------------------------------------------

PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 50_000


def showing(*urls: str) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": parts}]


@pytest.mark.asyncio
async def test_a_picture_fits_into_a_limit_that_has_fewer_tokens_than_it_has_bytes(
    tmp_path: Path,
) -> None:
    """FR-003: it is sold as some hundred tokens, however large its file."""
    async with staged(tmp_path, OK, quota=limited(tokens(20_000, per="minute"))) as stage:
        response = await stage.ask(stage.chat(messages=showing(PICTURE)))
        assert response.status == 200, response.body


@pytest.mark.asyncio
async def test_pictures_teach_nothing_of_texts(tmp_path: Path) -> None:
    """Else the next long text would be held for next to nothing."""
    prompt = Estimator().prompt_tokens("gpt", 100_000)
    async with staged(tmp_path, [reporting(800, 10)], quota=limited(tokens(10**6))) as stage:
        for _ in range(3):
            await stage.ask(stage.chat(messages=showing(PICTURE, PICTURE[:40_000])))
        held_tokens, _ = await held(stage, user="x" * 100_000)
        assert held_tokens > prompt / 4


TEXT = b"A line of a long text, such as a document that is asked about.\n" * 16_000


@pytest.mark.parametrize("at", [0.0, 0.1, 0.5, 0.977, 1.0])
def test_a_picture_that_is_a_notable_part_of_a_body_is_found_wherever_it_stands(at: float) -> None:
    start = int(len(TEXT) * at)
    picture = b'";base64,' + b"A" * (len(TEXT) // SAMPLES + 2_000) + b'"'

    assert not _is_text(TEXT[:start] + picture + TEXT[start:])


@pytest.mark.parametrize("body", [TEXT, TEXT[:20_000], b'{"a": "' + TEXT + b'"}'])
def test_a_text_is_not_searched_for_pictures(body: bytes) -> None:
    assert _is_text(body)


@pytest.mark.parametrize("body", [b"x" * 20_000, "\u4f60\u597d".encode() * 20_000])
def test_what_has_no_spaces_is_searched(body: bytes) -> None:
    assert not _is_text(body)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b"no picture", 10),
        (b'";base64,' + b"A" * 100_000 + b'"', 1 + 4_000 + 1),
        (b'";base64,' + b"A" * 1_279_992 + b'"', 1 + 10_000 + 1),
        (b'";base64,' + b"A" * 100 + b'"', 110),
        (b'";base64,' + b"A" * 100_000, 100_009),
        (b'x;base64,"' * 2_000, 20_000),
        ((b";base64," + b"A" * 9_992 + b'"') * 3, 3 * 4_001),
        (b'"' + (b";base64," + b"A" * 5_000) * 2 + b'"', 1 + 4_000 + 1),
    ],
    ids=["none", "one", "large", "small", "no-end", "flood", "several", "two-in-one-text"],
)
def test_of_a_picture_a_part_counts(body: bytes, left: int) -> None:
    assert len(body) - _embedded_bytes(body) == left
