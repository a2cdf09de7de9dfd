from functools import partial
from typing import Any

import msgspec
import pytest

from llmrouter.access.issued import (
    KEY_MAPPED_MAX,
    RULES_MAX,
    IssuedKey,
    KeyChanges,
    KeyStatus,
    KeyTerms,
    KeyView,
    expiry_s,
    iso_utc,
)
from llmrouter.access.ruletext import parse_budget, parse_limit
from llmrouter.contracts.rule import Rule

DIGEST = "0f" * 32
RULES = (
    parse_limit("requests=60/minute"),
    parse_limit("tokens=20000/minute,model=gpt-4o*"),
    parse_budget("usd=20/day,strict"),
)


def issued(**changes: Any) -> IssuedKey:
    members = {"id": "0123456789AB", "digest": DIGEST, "org": "acme", "created_at_s": 0}
    return msgspec.convert(members | changes, IssuedKey)


@pytest.mark.parametrize(
    "members",
    [
        {"org": "acme"},
        {"org": "a"},
        {"org": "x" * 64},
        {"org": "Société Générale", "team": "R & D", "name": "CI: nightly (2)"},
        {"org": "acme", "user": "ada@example.com"},
        {"org": "acme", "user": "u" * 128},
        {"org": "acme", "models": ("gpt-4o*",), "expires_in_s": 1},
    ],
)
def test_names_that_people_use_are_accepted(members: dict[str, Any]) -> None:
    assert KeyTerms(**members).org == members["org"]


@pytest.mark.parametrize("what", ["org", "team", "user", "name"])
@pytest.mark.parametrize(
    "value", ["", " ", "acme ", " acme", "a\nb", "a\x00b", "a\u202eb", "a/b", "x" * 129, "\udcff"]
)
def test_a_name_that_could_mislead_is_refused(what: str, value: str) -> None:
    members: dict[str, Any] = {"org": "acme", what: value}

    with pytest.raises(ValueError, match=rf"^{what} .* is not a name: write 1 to \d+ printable"):
        KeyTerms(**members)


@pytest.mark.parametrize("seconds", [0, -1, 100 * 365 * 86_400 + 1])
def test_a_lifetime_that_makes_no_sense_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match="at least 1 s and at most 100 years"):
        KeyTerms(org="acme", expires_in_s=seconds)


def test_model_patterns_are_checked_with_the_terms() -> None:
    with pytest.raises(ValueError, match="is not a model pattern"):
        KeyTerms(org="acme", models=("gpt-4o,gpt-4",))


@pytest.mark.parametrize(
    ("model_map", "words"),
    [
        ({"a": "a"}, "is mapped to itself"),
        ({"a": "b*"}, "to the pattern"),
        ({"a b": "c"}, "is not a model pattern"),
        (
            {f"m{number}": "x" for number in range(KEY_MAPPED_MAX + 1)},
            "33 mapped models .*; 32 fit",
        ),
    ],
)
def test_a_map_is_checked_with_the_terms_and_with_a_change(
    model_map: dict[str, str], words: str
) -> None:
    for make in (partial(KeyTerms, org="acme"), KeyChanges):
        with pytest.raises(ValueError, match=words):
            make(model_map=model_map)


def test_two_limits_of_one_name_are_refused() -> None:
    rules = (*RULES, parse_limit("requests=5/minute,burst=9"))

    for made in (lambda: KeyTerms(org="acme", rules=rules), lambda: KeyChanges(rules=rules)):
        with pytest.raises(
            ValueError, match=r"^requests/minute is given 2 times; a key has one of"
        ):
            made()


def test_a_key_has_so_many_rules_and_no_more() -> None:
    rules = tuple(parse_limit(f"concurrent=1,model=m{number}") for number in range(RULES_MAX + 1))

    assert KeyTerms(org="acme", rules=rules[1:]).rules == rules[1:]
    with pytest.raises(ValueError, match=r"^33 limits and budgets are too many for a key; 32 fit"):
        KeyTerms(org="acme", rules=rules)


def test_terms_that_arrive_as_json_are_checked_the_same() -> None:
    with pytest.raises(msgspec.ValidationError, match="org 'a/b' is not a name"):
        msgspec.json.decode(b'{"org": "a/b"}', type=KeyTerms)
    with pytest.raises(msgspec.ValidationError, match="unknown field `orgs`"):
        msgspec.json.decode(b'{"org": "acme", "orgs": 1}', type=KeyTerms)


@pytest.mark.parametrize(
    ("members", "now_s", "status"),
    [
        ({}, 1e12, KeyStatus.ACTIVE),
        ({"expires_at_s": 100}, 99.9, KeyStatus.ACTIVE),
        ({"expires_at_s": 100}, 100, KeyStatus.EXPIRED),
        ({"revoked_at_s": 50}, 1, KeyStatus.REVOKED),
        ({"revoked_at_s": 50, "expires_at_s": 40}, 60, KeyStatus.REVOKED),
    ],
)
def test_status_follows_the_clock(members: dict[str, Any], now_s: float, status: KeyStatus) -> None:
    assert issued(**members).status(now_s) is status


def test_the_view_has_iso_times_and_no_digest() -> None:
    key = issued(
        team="research",
        models=["gpt-4o*"],
        model_map={"gpt-4": "gpt-4o"},
        expires_at_s=90 * 86_400,
        revoked_at_s=61,
        rules=RULES,
    )

    view = key.view(now_s=100)

    assert view == KeyView(
        id="0123456789AB",
        org="acme",
        team="research",
        user=None,
        name=None,
        models=("gpt-4o*",),
        model_map={"gpt-4": "gpt-4o"},
        limits=("requests=60/minute", "tokens=20000/minute,model=gpt-4o*"),
        budgets=("usd=20/day,strict",),
        created_at="1970-01-01T00:00:00Z",
        expires_at="1970-04-01T00:00:00Z",
        revoked_at="1970-01-01T00:01:01Z",
        status=KeyStatus.REVOKED,
    )
    assert DIGEST.encode() not in msgspec.json.encode(view)
    assert b'"status":"revoked"' in msgspec.json.encode(view)


def test_repr_shows_no_digest() -> None:
    assert repr(issued()) == "<IssuedKey 0123456789AB org='acme' revoked=False>"


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "short"},
        {"digest": "0F" * 32},
        {"digest": "0f" * 31},
        {"addresses": ["10.0.0.0/8"]},
    ],
)
def test_what_was_not_written_by_this_version_is_not_read(changes: dict[str, Any]) -> None:
    """A restriction of a newer version, unknown here, must not be dropped in silence."""
    with pytest.raises(msgspec.ValidationError):
        issued(**changes)


def test_a_key_of_a_version_without_rules_or_a_map_is_read_and_has_none() -> None:
    written = b'{"id":"0123456789AB","digest":"%b","org":"a","created_at_s":0}' % DIGEST.encode()

    key = msgspec.json.decode(written, type=IssuedKey)

    assert (key.rules, key.model_map) == ((), {})
    assert msgspec.json.encode(key) == written


@pytest.mark.parametrize("protocol", [msgspec.json, msgspec.msgpack])
def test_rules_and_maps_are_kept_and_sent_whole(protocol: Any) -> None:
    key = issued(rules=RULES, model_map={"gpt-4*": "gpt-4o-mini"})

    assert protocol.decode(protocol.encode(key), type=IssuedKey) == key


# ---- changes ----------------------------------------------------------------------------------


def texts(*limits: str) -> tuple[Rule, ...]:
    return tuple(map(parse_limit, limits))


@pytest.mark.parametrize(
    ("changes", "after"),
    [
        (KeyChanges(name="ci"), {"name": "ci"}),
        (KeyChanges(models=("a", "b*")), {"models": ["a", "b*"]}),
        (KeyChanges(models=()), {"models": []}),
        (KeyChanges(model_map={"a": "b"}), {"model_map": {"a": "b"}}),
        (KeyChanges(model_map={}), {"model_map": {}}),
        (KeyChanges(expires_in_s=60), {"expires_at_s": 160}),
        (KeyChanges(expires_in_s=None), {"expires_at_s": None}),
        (
            KeyChanges(rules=texts("requests=100/minute,burst=9")),
            {"rules": (*texts("requests=100/minute,burst=9"), *RULES[1:])},
        ),
        (
            KeyChanges(rules=texts("requests=9/hour", "requests=9/minute,model=a")),
            {"rules": (*RULES, *texts("requests=9/hour", "requests=9/minute,model=a"))},
        ),
        (KeyChanges(remove=("requests/minute",)), {"rules": RULES[1:]}),
        (KeyChanges(remove=("requests=60/minute",)), {"rules": RULES[1:]}),
        (KeyChanges(remove=("tokens/minute/gpt-4o*", "usd/day")), {"rules": RULES[:1]}),
        (KeyChanges(remove=("usd/day", "usd/day", "usd=20/day,strict")), {"rules": RULES[:2]}),
        (
            KeyChanges(remove=("requests/minute",), rules=texts("requests=5/minute")),
            {"rules": (*RULES[1:], *texts("requests=5/minute"))},
        ),
        (KeyChanges(discard=("usd/day", "usd/hour")), {"rules": RULES[:2]}),
        (KeyChanges(discard=("usd/hour",)), {}),
    ],
)
def test_a_change_leaves_the_rest_as_it_was(changes: KeyChanges, after: dict[str, Any]) -> None:
    before = {"name": "x", "models": ["m"], "expires_at_s": 50, "rules": RULES, "team": "t"}
    before["model_map"] = {"x": "y"}

    assert issued(**before).changed(changes, now_s=100.9) == issued(**(before | after))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("requests/hour", "it has requests/minute, tokens/minute/gpt-4o*, usd/day"),
        ("tokens/minute", "the key has no limit or budget 'tokens/minute'; it has requests/minute"),
        ("requests=61/minute", "the key has no limit or budget 'requests=61/minute'; it has"),
        ("", "the key has no limit or budget ''; it has"),
    ],
)
def test_what_a_key_does_not_have_cannot_be_removed(given: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the words are the table's
        issued(rules=RULES).changed(KeyChanges(remove=("usd/day", given)), 0)

    assert words in str(refused.value)


def test_a_key_without_rules_says_that_it_has_none() -> None:
    with pytest.raises(ValueError, match="no limit or budget 'usd/day'; it has none"):
        issued().changed(KeyChanges(remove=("usd/day",)), 0)


def test_a_revoked_key_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="the key 0123456789AB was revoked at 1970-01-01T00:00:07"):
        issued(revoked_at_s=7).changed(KeyChanges(name="x"), 10)


def test_an_expired_key_lives_again_with_a_new_expiry() -> None:
    key = issued(expires_at_s=5).changed(KeyChanges(expires_in_s=10), 100)

    assert key.status(109.9) is KeyStatus.ACTIVE
    assert key.status(110) is KeyStatus.EXPIRED


def test_a_change_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to change was given; give a limit, a budget"):
        issued(rules=RULES).changed(KeyChanges(), 0)


def test_changes_do_not_make_more_rules_than_a_key_may_have() -> None:
    rules = texts(*(f"concurrent=1,model=m{number}" for number in range(RULES_MAX)))
    key = issued(rules=rules)

    same = key.changed(KeyChanges(rules=rules), 0)
    swapped = key.changed(KeyChanges(rules=texts("concurrent=1"), remove=("concurrent/m0",)), 0)

    assert same == key
    assert len(swapped.rules) == RULES_MAX
    with pytest.raises(ValueError, match="33 limits and budgets are too many"):
        key.changed(KeyChanges(rules=texts("concurrent=1")), 0)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"name": ""}, "name '' is not a name"),
        ({"name": "a/b"}, "name 'a/b' is not a name"),
        ({"models": ("a,b",)}, "is not a model pattern"),
        ({"expires_in_s": 0}, "at least 1 s and at most 100 years"),
        ({"expires_in_s": 10**12}, "at least 1 s and at most 100 years"),
    ],
)
def test_changes_are_checked_as_terms_are(members: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KeyChanges(**members)


def test_an_expiry_counts_whole_seconds() -> None:
    assert (expiry_s(60, 1000.9), expiry_s(None, 1000.9)) == (1060, None)


@pytest.mark.parametrize(
    ("at_s", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_769_850_000, "2026-01-31T09:00:00Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
        # A rate of one a day has drained a burst of a billion only after the last year there is.
        (86_400 * 10**9, "9999-12-31T23:59:59Z"),
    ],
)
def test_times_are_written_in_utc(at_s: int, text: str) -> None:
    assert iso_utc(at_s) == text
