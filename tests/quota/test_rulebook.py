"""The rulebook: which rules apply to a call, and back from a bucket to its rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.quota.rulebook import PAST_MAX, Bucketed, Rulebook

ORG = Scope(kind="org", name="acme")
TEAM = Scope(kind="team", name="acme/research")
ANN = Scope(kind="user", name="acme/ann@x.org")
FREE = Scope(kind="user", name="acme/free")
EVERY_USER = Scope(kind="user", name="acme/*")
KEY = Scope(kind="key", name="3fQ9xW2LbT0c")

RATE = Rule(kind=Kind.REQUESTS, amount=600, per="minute")
TOKENS = Rule(kind=Kind.TOKENS, amount=1_000, per="day", model="gpt-4o*")
SLOTS = Rule(kind=Kind.CONCURRENT, amount=5)
MONEY = Rule(kind=Kind.USD, amount=10**9, per="month")

RULES = {
    ORG: (RATE, TOKENS),
    TEAM: (SLOTS,),
    ANN: (MONEY,),
    FREE: (),
    EVERY_USER: (SLOTS, TOKENS),
}


def book() -> Rulebook:
    return Rulebook(RULES)


def applying(
    found: Rulebook,
    *,
    org: str = "acme",
    team: str | None = None,
    user: str | None = None,
    key_id: str = KEY.name,
    model: str = "gpt-4o",
) -> list[str]:
    return [
        one.bucket
        for one in found.applying(org=org, team=team, user=user, key_id=key_id, model=model)
    ]


def test_gives_the_rules_of_org_team_user_and_key_in_that_order() -> None:
    found = book()
    found.set_key(KEY.name, (RATE,))

    assert applying(found, team="research", user="ann@x.org") == [
        "org/acme/requests/minute",
        "org/acme/tokens/day/gpt-4o*",
        "team/acme/research/concurrent",
        "user/acme/ann@x.org/usd/month",
        "key/3fQ9xW2LbT0c/requests/minute",
    ]


def test_leaves_out_rules_for_other_models() -> None:
    assert applying(book(), model="gpt-3") == ["org/acme/requests/minute"]


def test_each_user_without_rules_has_buckets_of_their_own() -> None:
    found = book()

    assert applying(found, user="bob", model="m")[1:] == ["user/acme/bob/concurrent"]
    assert applying(found, user="eve")[2:] == [
        "user/acme/eve/concurrent",
        "user/acme/eve/tokens/day/gpt-4o*",
    ]


def test_a_user_with_an_empty_table_has_no_rules() -> None:
    assert applying(book(), user="free", model="m") == ["org/acme/requests/minute"]


def test_a_user_called_star_is_a_user_as_any_other() -> None:
    """Whoever creates keys may name one so; nobody else's buckets are theirs."""
    found = book()

    assert applying(found, user="*", model="m")[1:] == ["user/acme/*/concurrent"]
    assert applying(Rulebook({ORG: ()}), user="*") == []


def test_names_of_one_org_mean_nothing_in_another() -> None:
    assert applying(book(), org="globex", team="research", user="ann@x.org") == []


def test_a_team_and_a_user_of_one_name_are_apart() -> None:
    assert applying(book(), team="ann@x.org", model="m") == ["org/acme/requests/minute"]


def test_a_name_with_a_slash_is_a_bug_elsewhere() -> None:
    with pytest.raises(AssertionError):
        applying(book(), user="ann/requests")


# Rules of keys


def test_rules_of_a_key_replace_those_it_had() -> None:
    found = book()
    found.set_key(KEY.name, (RATE, SLOTS))
    found.set_key(KEY.name, (MONEY,))

    assert applying(found)[2:] == ["key/3fQ9xW2LbT0c/usd/month"]
    assert found.rule("key/3fQ9xW2LbT0c/concurrent") is None

    found.set_key(KEY.name, ())

    assert applying(found)[2:] == []
    assert found.rule("key/3fQ9xW2LbT0c/usd/month") is None
    assert KEY not in found.scopes()


def test_a_rule_that_changes_its_amount_keeps_its_bucket() -> None:
    found = book()
    raised = Rule(kind=Kind.CONCURRENT, amount=50)
    found.set_key(KEY.name, (SLOTS,))
    found.set_key(KEY.name, (raised,))

    assert found.rule("key/3fQ9xW2LbT0c/concurrent") == Bucketed(
        bucket="key/3fQ9xW2LbT0c/concurrent", scope=KEY, rule=raised
    )


def test_the_version_grows_with_every_change_and_no_other() -> None:
    found = book()
    versions = []
    for rules in ((), (RATE,), (RATE,), (SLOTS,), (), ()):
        found.set_key(KEY.name, rules)
        versions.append(found.version)

    assert versions == [0, 1, 1, 2, 3, 3]


def test_refuses_two_rules_of_one_bucket_and_keeps_what_was_there() -> None:
    found = book()
    found.set_key(KEY.name, (MONEY,))

    with pytest.raises(ValueError, match=r"count the same \(concurrent, concurrent\)"):
        found.set_key(KEY.name, (SLOTS, Rule(kind=Kind.CONCURRENT, amount=9)))

    assert found.version == 1
    assert applying(found)[2:] == ["key/3fQ9xW2LbT0c/usd/month"]


@pytest.mark.parametrize("scope", [ORG, EVERY_USER])
def test_refuses_two_rules_of_one_bucket_from_the_start(scope: Scope) -> None:
    with pytest.raises(ValueError, match="count the same"):
        Rulebook({scope: (SLOTS, SLOTS)})


# Generations


def generations(found: Rulebook, *rules: tuple[Rule, ...]) -> None:
    """The key has these rules, one after the other, from the generation 1 on."""
    for own in rules:
        found.generation += 1
        found.set_key(KEY.name, own)


def test_a_rule_is_in_force_since_the_generation_that_first_had_it() -> None:
    found = book()
    raised = Rule(kind=Kind.CONCURRENT, amount=50)
    generations(found, (SLOTS,), (SLOTS, RATE), (raised, RATE))

    since = {one.bucket: (one.since, one.until) for one in found.of_scope(KEY)}
    assert since == {
        "key/3fQ9xW2LbT0c/concurrent": (1, None),
        "key/3fQ9xW2LbT0c/requests/minute": (2, None),
    }
    assert {one.since for one in found.of_scope(ORG)} == {0}


@pytest.mark.parametrize(
    ("since", "until", "generations"),
    [(0, None, [0, 1, 2, 3]), (2, None, [2, 3]), (1, 3, [1, 2]), (2, 2, [])],
)
def test_calls_have_reserved_where_a_rule_was_in_force(
    since: int, until: int | None, generations: list[int]
) -> None:
    found = Bucketed(bucket="b", scope=KEY, rule=RATE, since=since, until=until)
    assert [one for one in range(4) if found.was_in_force(one)] == generations


def test_remembers_what_a_key_had_before() -> None:
    found = book()
    generations(found, (MONEY,), (), (MONEY,), (TOKENS,))
    bucket = "key/3fQ9xW2LbT0c/usd/month"

    assert found.rule(bucket) is None
    latest = found.latest(bucket)
    assert latest is not None
    assert (latest.since, latest.until) == (3, 4)
    ever = found.ever_applying(org="acme", team=None, user=None, key_id=KEY.name, model="m")
    assert [(one.bucket, one.since, one.until) for one in ever] == [
        ("org/acme/requests/minute", 0, None),
        (bucket, 1, 2),
        (bucket, 3, 4),
    ]


def test_what_was_for_another_model_did_not_apply() -> None:
    found = book()
    generations(found, (TOKENS,), ())
    ever = found.ever_applying(org="acme", team=None, user=None, key_id=KEY.name, model="m")
    assert [one.bucket for one in ever] == ["org/acme/requests/minute"]


@pytest.mark.parametrize("bucket", ["", "key", "key/none/concurrent", "org/acme/requests/hour"])
def test_a_bucket_that_no_rule_ever_made_has_no_latest(bucket: str) -> None:
    assert book().latest(bucket) is None


def test_the_latest_rule_is_the_one_in_force() -> None:
    found = book()
    generations(found, (SLOTS,), (), (SLOTS,))
    assert found.latest("key/3fQ9xW2LbT0c/concurrent") == found.of_scope(KEY)[0]
    assert found.latest("user/acme/bob/concurrent") is not None


def test_a_key_that_is_changed_again_and_again_is_not_remembered_for_ever() -> None:
    found = book()
    for _ in range(PAST_MAX):
        generations(found, (SLOTS,), ())
    ever = found.ever_applying(org="x", team=None, user=None, key_id=KEY.name, model="m")
    assert len(ever) == PAST_MAX
    generations(found, (SLOTS,), ())
    ever = found.ever_applying(org="x", team=None, user=None, key_id=KEY.name, model="m")
    assert (len(ever), ever[-1].until) == (PAST_MAX, found.generation)


# From a bucket to its rule


@pytest.mark.parametrize(
    ("bucket", "scope", "rule"),
    [
        ("org/acme/tokens/day/gpt-4o*", ORG, TOKENS),
        ("team/acme/research/concurrent", TEAM, SLOTS),
        ("user/acme/ann@x.org/usd/month", ANN, MONEY),
        ("user/acme/bob/concurrent", Scope(kind="user", name="acme/bob"), SLOTS),
        (
            "user/acme/bob/tokens/day/gpt-4o*",
            Scope(kind="user", name="acme/bob"),
            TOKENS,
        ),
    ],
)
def test_finds_the_rule_of_a_bucket(bucket: str, scope: Scope, rule: Rule) -> None:
    assert book().rule(bucket) == Bucketed(bucket=bucket, scope=scope, rule=rule)


@pytest.mark.parametrize(
    "bucket",
    [
        "",
        "org",
        "org/acme",
        "org/acme/requests",
        "org/acme/requests/hour",
        "org/globex/requests/minute",
        "team/acme/other/concurrent",
        "user/acme",
        "user/acme//concurrent",
        "user/acme/bob",
        "user/acme/bob/usd/month",
        "user/acme/ann@x.org/concurrent",
        "user/acme/free/concurrent",
        "user/globex/bob/concurrent",
        "key/bob/concurrent",
        "acme/bob/concurrent",
    ],
)
def test_a_bucket_that_no_rule_in_force_makes_has_none(bucket: str) -> None:
    assert book().rule(bucket) is None


_NAMES = st.sampled_from(["acme", "globex", "research", "ann@x.org", "free", "bob", "*", "usd"])


@given(
    org=_NAMES,
    team=st.none() | _NAMES,
    user=st.none() | _NAMES,
    model=st.sampled_from(["gpt-4o", "gpt-4o/minute", "m"]),
)
def test_every_bucket_that_applies_is_found_back(
    org: str, team: str | None, user: str | None, model: str
) -> None:
    found = book()
    found.set_key("k", (RATE, MONEY))

    for one in found.applying(org=org, team=team, user=user, key_id="k", model=model):
        assert found.rule(one.bucket) == one
        assert one in found.of_scope(one.scope)


# For those who look on


def test_lists_scopes_that_have_rules_and_the_rules_of_each() -> None:
    found = book()
    found.set_key(KEY.name, (RATE,))

    assert set(found.scopes()) == {ORG, TEAM, ANN, EVERY_USER, KEY}
    assert [one.rule for one in found.of_scope(EVERY_USER)] == [SLOTS, TOKENS]
    assert [one.bucket for one in found.of_scope(ORG)] == [
        "org/acme/requests/minute",
        "org/acme/tokens/day/gpt-4o*",
    ]
    assert found.of_scope(FREE) == ()
    assert found.of_scope(Scope(kind="team", name="acme/none")) == ()


def test_shows_its_state() -> None:
    assert repr(book()) == "<Rulebook scopes=4 version=0>"
