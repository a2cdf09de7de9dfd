"""Rules of every kind, in scopes that share calls; and who makes those, with which amounts."""

from hypothesis import strategies as st

from llmrouter.contracts.rule import QUEUE, Kind, Rule, Scope
from tests.quota.workers import Who


def requests(amount: int, per: str, **more: object) -> Rule:
    return Rule(kind=Kind.REQUESTS, amount=amount, per=per, **more)  # type: ignore[arg-type]


def tokens(amount: int, per: str, **more: object) -> Rule:
    return Rule(kind=Kind.TOKENS, amount=amount, per=per, **more)  # type: ignore[arg-type]


def usd(amount: int, per: str, **more: object) -> Rule:
    return Rule(kind=Kind.USD, amount=amount, per=per, **more)  # type: ignore[arg-type]


def slots(amount: int, **more: object) -> Rule:
    return Rule(kind=Kind.CONCURRENT, amount=amount, **more)  # type: ignore[arg-type]


RULES = {
    Scope(kind="org", name="acme"): (
        requests(12, "minute"),
        tokens(300, "minute", model="m", burst=500),
        slots(5),
        usd(900, "hour", at_limit=QUEUE, wait_ms=3_000),
    ),
    Scope(kind="team", name="acme/red"): (
        requests(4, "second", at_limit=QUEUE, wait_ms=500),
        usd(500, "day", cut=True),
        usd(400, "month", cut=True, model="m"),
    ),
    Scope(kind="team", name="acme/blue"): (usd(2_000, "total", strict=True),),
    Scope(kind="user", name="acme/*"): (slots(2), tokens(400, "hour")),
}
KEY_RULES = (
    requests(3, "second"),
    requests(9, "minute"),
    tokens(200, "minute"),
    tokens(80, "minute"),
    slots(3),
    slots(1, at_limit=QUEUE, wait_ms=1_000),
    usd(300, "hour"),
    usd(150, "hour"),
    usd(300, "hour", strict=True),
    usd(200, "hour", cut=True),
    usd(100, "week", model="m"),
)
WHOS = st.builds(
    Who,
    key_id=st.sampled_from(["k", "l"]),
    team=st.sampled_from([None, "red", "blue"]),
    user=st.sampled_from([None, "ann", "bob"]),
    model=st.sampled_from(["m", "n"]),
)
MONEY = st.just(0) | st.integers(0, 20) | st.integers(0, 150)
TOKENS = st.just(0) | st.integers(0, 150)
PICK = st.integers(0, 1 << 16)
