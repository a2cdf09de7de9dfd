"""Problems: the words and paths that an operator reads."""

import datetime

import pytest

from llmrouter.config.problems import (
    ConfigError,
    Key,
    Problem,
    did_you_mean,
    key_text,
    shown,
    shown_unknown,
)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ((), ""),
        (("state",), "state"),
        (("upstreams", "azure-eu", "url"), "upstreams.azure-eu.url"),
        (("models", "gpt-4o", "fallbacks", 1), 'models."gpt-4o".fallbacks[1]'),
        (("orgs", "acme", "models", 0), "orgs.acme.models[0]"),
        (("orgs", "a b", "x.y"), 'orgs."a b"."x.y"'),
        (("models", 'a"b\n'), 'models."a\\"b\\n"'),
        (("", "x"), '"".x'),
    ],
)
def test_writes_key_paths_as_toml_would(key: Key, text: str) -> None:
    assert key_text(key) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        (5, "5"),
        (2.5, "2.5"),
        (True, "true"),
        ({}, "a table"),
        ([], "[]"),
        ([1], "a list with entries"),
        pytest.param(-(16**5000), "a huge number", id="too long to print"),
        (datetime.date(2024, 5, 1), "the date or time 2024-05-01"),
        (datetime.time(7, 30), "the date or time 07:30:00"),
        ("x" * 100, "'" + "x" * 59 + "…"),
        ("\x1b[2J", "'\\x1b[2J'"),
    ],
)
def test_shows_values_briefly_and_printably(value: object, text: str) -> None:
    assert shown(value, ("server", "workers")) == text


@pytest.mark.parametrize("key", [("upstreams", "a", "credential"), ("x", "credential", "env")])
def test_never_shows_a_string_where_a_secret_may_stand(key: Key) -> None:
    assert shown("sk-secret", key) == "a string, not shown"


def test_never_shows_a_string_under_an_unknown_key() -> None:
    assert shown_unknown("sk-secret", ("server", "zzz")) == "a string, not shown"
    assert shown_unknown(5, ("server", "zzz")) == "5"


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("conect", "; did you mean 'connect'?"),
        ("CONNECT", "; did you mean 'connect'?"),
        ("zzz", ""),
    ],
)
def test_suggests_only_what_is_near(name: str, ending: str) -> None:
    assert did_you_mean(name, ["connect", "idle"]) == ending


def test_an_error_reads_as_a_line_for_each_problem() -> None:
    problems = [Problem("r.toml", "state", "is wrong"), Problem("r.toml", "", "is missing")]

    error = ConfigError(problems)

    assert str(error) == "r.toml: state: is wrong\nr.toml: is missing"
    assert error.problems == tuple(problems)
