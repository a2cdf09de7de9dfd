"""How limits stand, as `orgs show` and scripts are told."""

from typing import Any, cast

import msgspec
import pytest

from llmrouter.access.ruletext import parse_budget, parse_limit
from llmrouter.contracts.rule import Rule, Scope
from llmrouter.daemon.control import ControlError
from llmrouter.daemon.limitdesk import LimitDesk, LimitView
from llmrouter.quota.ledger import Charge, Ledger
from llmrouter.quota.messages import Ask
from llmrouter.quota.rulebook import Rulebook
from tests.daemon.offering import operations
from tests.daemon.spending import NOW_MS

RULES: dict[Scope, tuple[Rule, ...]] = {
    Scope(kind="org", name="acme"): (
        parse_limit("requests=100/hour"),
        parse_budget("usd=2.50/day,strict"),
    ),
    Scope(kind="team", name="acme/research"): (parse_limit("tokens=500/minute,model=m*"),),
    Scope(kind="user", name="acme/*"): (parse_limit("concurrent=3"),),
    Scope(kind="user", name="acme/ann"): (),
}
View = dict[str, Any]


class Books:
    """A ledger that some was spent from, and the desk."""

    def __init__(self) -> None:
        self.rulebook = Rulebook(RULES)
        self.rulebook.set_key("Ab12", (parse_limit("requests=10/day,burst=20"),))
        self.ledger = Ledger(self.rulebook, {})
        self.desk = LimitDesk(
            self.rulebook,
            lambda found: [self.ledger.standing(one, NOW_MS) for one in found],
        )

    def spend(self, **amounts: int) -> None:
        charge = Charge(
            holder="b00t", org="acme", team="research", user="bob", key_id="Ab12", model="m-1",
            at_ms=NOW_MS,
        )  # fmt: skip
        charge = msgspec.structs.replace(charge, **amounts)
        self.ledger.charge(charge, NOW_MS, is_live=False)

    def listed(self, **args: object) -> list[View]:
        return cast("list[View]", self.desk.list(args))

    def of(self, bucket: str) -> View:
        (found,) = [view for view in self.listed() if view["bucket"] == bucket]
        return found


def test_every_bucket_of_every_scope_with_a_rule_is_listed() -> None:
    assert [(view["scope"], view["name"], view["rule"]) for view in Books().listed()] == [
        ("org", "acme", "requests=100/hour"),
        ("org", "acme", "usd=2.5/day,strict"),
        ("team", "acme/research", "tokens=500/minute,model=m*"),
        ("key", "Ab12", "requests=10/day,burst=20"),
        ("user", "acme/*", "concurrent=3"),
    ]


@pytest.mark.parametrize(
    ("scopes", "buckets"),
    [
        ([], []),
        ([("team", "acme/research")], ["team/acme/research/tokens/minute/m*"]),
        ([("user", "acme/bob")], ["user/acme/bob/concurrent"]),
        ([("user", "acme/ann"), ("org", "globex"), ("key", "x")], []),
        (
            [("key", "Ab12"), ("user", "acme/*")],
            ["key/Ab12/requests/day", "user/acme/*/concurrent"],
        ),
    ],
)
def test_those_of_some_scopes_are_listed_in_the_order_asked_for(
    scopes: list[tuple[str, str]], buckets: list[str]
) -> None:
    """A user that only `*` stands for has buckets of their own."""
    assert [view["bucket"] for view in Books().listed(scopes=scopes)] == buckets


def test_what_is_used_and_what_is_claimed_is_left_no_more() -> None:
    books = Books()
    books.spend(requests=7)
    books.ledger.take("b00t", [Ask("org/acme/requests/hour", 20, 20)], NOW_MS)

    assert books.of("org/acme/requests/hour") == {
        "bucket": "org/acme/requests/hour",
        "scope": "org",
        "name": "acme",
        "rule": "requests=100/hour",
        "kind": "requests",
        "limit": 100,
        "used": 7,
        "claimed": 20,
        "left": 73,
        "resets_at": "2025-11-23T10:04:12Z",
    }
    assert books.of("key/Ab12/requests/day")["limit"] == 20, "what a rest leaves room for"


def test_money_is_in_usd_and_an_overshoot_is_less_than_nothing_left() -> None:
    books = Books()
    books.spend(nano_usd=2_600_000_001)

    budget = books.of("org/acme/usd/day")

    assert (budget["limit"], budget["used"], budget["claimed"]) == (2.5, 2.600000001, 0.0)
    assert budget["left"] == pytest.approx(-0.100000001)
    assert budget["resets_at"] == "2025-11-24T00:00:00Z"


def test_what_calls_at_once_hold_never_resets() -> None:
    books = Books()
    books.ledger.take("b00t", [Ask("user/acme/bob/concurrent", 2, 2)], NOW_MS)

    (slots,) = books.listed(scopes=[("user", "acme/bob")])

    assert (slots["used"], slots["claimed"], slots["left"]) == (0, 2, 1)
    assert slots["resets_at"] is None


def test_a_view_reads_back_as_one() -> None:
    (first, *_) = Books().listed()

    assert msgspec.to_builtins(msgspec.convert(first, LimitView)) == first


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"scopes": "all"}, "Expected `array | null`, got `str` - at `$.scopes`"),
        ({"scopes": [["org"]]}, "Expected `array` of length 2"),
        ({"scope": ["org", "acme"]}, "unknown field `scope`"),
    ],
)
async def test_wrong_arguments_are_refused_in_words(args: dict[str, object], words: str) -> None:
    with pytest.raises(ControlError) as refused:
        await operations(limits=Books().desk)["limits.list"](args)

    assert refused.value.code == "invalid_request"
    assert words in str(refused.value)
