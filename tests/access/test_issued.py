from typing import Any

import msgspec
import pytest

from llmrouter.access.issued import IssuedKey, KeyStatus, KeyTerms, KeyView, iso_utc

DIGEST = "0f" * 32


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
    key = issued(team="research", models=["gpt-4o*"], expires_at_s=90 * 86_400, revoked_at_s=61)

    view = key.view(now_s=100)

    assert view == KeyView(
        id="0123456789AB",
        org="acme",
        team="research",
        user=None,
        name=None,
        models=("gpt-4o*",),
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


@pytest.mark.parametrize(
    ("at_s", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_769_850_000, "2026-01-31T09:00:00Z")],
)
def test_times_are_written_in_utc(at_s: int, text: str) -> None:
    assert iso_utc(at_s) == text
