"""Denials gathered by a worker: told promptly, counted in floods, bounded, none lost."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.quota import denials
from llmrouter.quota.denials import (
    IDENTITIES_MAX,
    MINUTE_MS,
    OVERFLOW_MAX,
    Action,
    BucketName,
    Denial,
    Denials,
    read_bucket,
)

AT_MS = 1_763_890_000_000 // MINUTE_MS * MINUTE_MS
ONE = Denial(
    at_ms=AT_MS,
    last_ms=AT_MS,
    org="acme",
    team="research",
    user="ann@example.com",
    key_id="3fQ9xW2LbT0c",
    model="gpt-4o",
    action=Action.REFUSED,
    code="rate_limit_exceeded",
    bucket="org/acme/requests/minute",
    limit=600,
    balance=0,
    wanted=1,
)


def denial(at_ms: int = AT_MS, **members: object) -> Denial:
    return msgspec.structs.replace(ONE, **{"at_ms": at_ms, "last_ms": at_ms, **members})


def numbered(number: int, at_ms: int = AT_MS, **members: object) -> Denial:
    return denial(at_ms, key_id=f"{number:012}", **members)


def noted(*several: Denial) -> Denials:
    gathered = Denials()
    for one in several:
        gathered.note(one)
    return gathered


def test_equal_denials_are_one_with_a_count_and_the_figures_of_the_first() -> None:
    gathered = noted(
        denial(balance=3, wanted=4),
        denial(at_ms=AT_MS + 5, balance=2, wanted=9, limit=700),
        denial(at_ms=AT_MS + 9, count=10),
    )

    assert gathered.take() == [
        denial(balance=3, wanted=4, count=12, last_ms=AT_MS + 9),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"org": "globex"}, {"team": None}, {"user": None}, {"key_id": "000000000000"},
        {"model": "gpt-4o-mini"}, {"action": Action.DOWNGRADED}, {"code": "quota_held"},
        {"bucket": "org/acme/tokens/minute"}, {"served_by": "gpt-4o-mini"},
    ],
    ids=str,
)  # fmt: skip
def test_what_differs_in_more_than_figures_is_kept_apart(other: dict[str, object]) -> None:
    gathered = noted(denial(), denial(AT_MS, **other), denial())

    assert gathered.take() == [denial(count=2), denial(AT_MS, **other)]


def test_what_was_taken_is_gone() -> None:
    gathered = noted(denial())

    assert len(gathered.take()) == 1
    assert gathered.take() == []


def is_news(gathered: Denials, one: Denial) -> bool:
    """Whether `one` is worth telling at once, when all before it was told."""
    gathered.take()
    assert repr(gathered) == "<Denials 0>"
    gathered.note(one)
    return gathered.has_new


def test_the_first_of_its_kind_is_worth_telling_at_once_and_its_repetitions_are_not() -> None:
    gathered = Denials()

    assert is_news(gathered, denial())
    assert not is_news(gathered, denial(AT_MS + 10))
    assert is_news(gathered, denial(AT_MS + 20, code="quota_held"))
    assert not is_news(gathered, denial(AT_MS + 30))


def test_news_stays_news_until_it_is_taken() -> None:
    gathered = noted(denial(), denial(), denial())

    assert gathered.has_new


def test_the_first_of_the_next_minute_is_new_again() -> None:
    gathered = Denials()

    assert is_news(gathered, denial(AT_MS + MINUTE_MS - 1))
    assert is_news(gathered, denial(AT_MS + MINUTE_MS))


def test_a_flood_of_kinds_is_not_told_one_by_one() -> None:
    gathered = noted(*map(numbered, range(IDENTITIES_MAX)))
    gathered.take()

    for number in range(IDENTITIES_MAX, 2 * IDENTITIES_MAX):
        gathered.note(numbered(number))

    assert not gathered.has_new
    assert len(gathered.take()) == IDENTITIES_MAX


def test_beyond_so_many_kinds_they_are_added_up_by_org_action_and_code() -> None:
    gathered = noted(*map(numbered, range(IDENTITIES_MAX)))
    extra = [
        numbered(10_000, at_ms=AT_MS + 1),
        numbered(10_001, at_ms=AT_MS + 2, count=4),
        numbered(10_002, org="globex"),
        numbered(10_003, code="quota_held"),
        numbered(10_004, action=Action.DOWNGRADED, served_by="gpt-4o-mini"),
        numbered(7, at_ms=AT_MS + 9),
    ]
    for one in extra:
        gathered.note(one)

    *kept, acme, globex, held, downgraded = gathered.take()

    assert len(kept) == IDENTITIES_MAX
    assert kept[7] == numbered(7, count=2, last_ms=AT_MS + 9)
    assert acme == Denial(
        at_ms=AT_MS + 1,
        last_ms=AT_MS + 2,
        count=5,
        org="acme",
        key_id="",
        model="*",
        action=Action.REFUSED,
        code="rate_limit_exceeded",
        bucket="",
        limit=0,
        balance=0,
        wanted=0,
    )
    assert (globex.org, globex.model, globex.count) == ("globex", "*", 1)
    assert (held.org, held.code, held.count) == ("acme", "quota_held", 1)
    assert (downgraded.action, downgraded.served_by) == (Action.DOWNGRADED, None)


def test_however_many_orgs_are_denied_it_stays_bounded() -> None:
    total = IDENTITIES_MAX + OVERFLOW_MAX + 50
    gathered = noted(*(numbered(number, org=f"org{number}") for number in range(total)))

    *kept, rest = gathered.take()

    assert len(kept) == IDENTITIES_MAX + OVERFLOW_MAX
    assert (rest.org, rest.model, rest.count) == ("*", "*", 50)


@given(
    steps=st.lists(
        st.none()
        | st.builds(
            numbered,
            st.integers(0, 5),
            org=st.sampled_from(["a", "b", "c"]),
            count=st.integers(1, 3),
            at_ms=st.integers(AT_MS, AT_MS + 3 * MINUTE_MS),
        )
    )
)
def test_no_count_is_lost_and_what_is_held_is_bounded(steps: list[Denial | None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denials, "IDENTITIES_MAX", 3)
        patch.setattr(denials, "OVERFLOW_MAX", 2)
        gathered, taken = Denials(), []
        for step in [*steps, None]:
            if step is not None:
                gathered.note(step)
                continue
            several = gathered.take()
            assert len({one.identity for one in several}) == len(several) <= 3 + 2 + 1
            taken += several

    given_away = [step for step in steps if step is not None]
    assert sum(one.count for one in taken) == sum(one.count for one in given_away)
    assert min((one.at_ms for one in taken), default=0) == min(
        (one.at_ms for one in given_away), default=0
    )
    assert max((one.last_ms for one in taken), default=0) == max(
        (one.last_ms for one in given_away), default=0
    )


def test_joining_does_not_mind_which_came_first() -> None:
    early, late = denial(balance=7), denial(at_ms=AT_MS + 3, balance=1)

    assert early.joined(late) == late.joined(early) == denial(
        balance=7, count=2, last_ms=AT_MS + 3
    )  # fmt: skip


@pytest.mark.parametrize("one", [ONE, denial(action=Action.DOWNGRADED, served_by="x", balance=-7)])
def test_a_denial_reads_as_it_was_written(one: Denial) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Denial) == one
    assert msgspec.json.decode(msgspec.json.encode(one), type=Denial) == one


def test_repr_shows_the_state() -> None:
    gathered = noted(denial())
    assert repr(gathered) == "<Denials 1 new>"
    gathered.take()
    assert repr(gathered) == "<Denials 0>"


# ---- names of buckets -------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_characters="/", codec="utf-8"), min_size=1, max_size=8)
MODELS = st.none() | st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(
    scope=st.builds(Scope, kind=st.sampled_from(["org", "key"]), name=NAMES)
    | st.builds(
        Scope,
        kind=st.sampled_from(["team", "user"]),
        name=st.tuples(NAMES, NAMES).map("/".join),
    ),
    rule=st.builds(
        Rule,
        kind=st.sampled_from([Kind.REQUESTS, Kind.TOKENS, Kind.USD]),
        amount=st.just(1),
        per=st.sampled_from(["minute", "day", "total"]),
        model=MODELS,
    )
    | st.builds(Rule, kind=st.just(Kind.CONCURRENT), amount=st.just(1), model=MODELS),
)
def test_the_name_of_any_bucket_says_whose_it_is_and_what_it_counts(
    scope: Scope, rule: Rule
) -> None:
    assert read_bucket(scope.bucket(rule)) == BucketName(
        scope=scope.kind, name=scope.name, kind=rule.kind, per=rule.per, model=rule.model
    )


@pytest.mark.parametrize(
    "name", ["", "org", "org/acme", "org/acme/parsecs/day", "fleet/eu/usd/day", "team/acme/usd/day"]
)
def test_what_is_no_name_of_a_bucket_reads_as_none(name: str) -> None:
    assert read_bucket(name) is None
