"""Keys of a model that change nothing as they stand."""

from pathlib import Path

import pytest

from llmrouter.config.load import load
from llmrouter.config.routenotes import route_notes
from tests.config.files import OK

OTHER = '[models.other]\ndeployments = [{ upstream = "demo" }]\n'


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ("", []),
        ('strategy = "sticky"\nsticky_by = "key"\n', []),
        ('sticky_by = "key"\n', ['sticky_by: means nothing without strategy = "sticky"']),
        ('sticky_by = "conversation"\n', ['sticky_by: means nothing without strategy = "sticky"']),
        ('fallback_on = ["unavailable"]\n', ["fallback_on: means nothing without fallbacks"]),
        ('fallback_on = ["unavailable"]\nfallbacks = ["other"]\n', []),
        (
            'hedge_after = "p95"\n',
            ["hedge_after: there is no other deployment that a late call could be sent to as well"],
        ),
        (
            'fallbacks = ["other"]\nretry = { budget = 0 }\n',
            ["fallbacks: means nothing with retry.budget = 0, which lets no call be repeated"],
        ),
        (
            'fallbacks = ["other"]\nfallback_on = []\n',
            ["fallbacks: means nothing with fallback_on = []"],
        ),
        ('fallbacks = ["other"]\nretry = { attempts = 1 }\n', []),  # while all of its own are out
    ],
)
def test_notes_what_means_nothing(tmp_path: Path, members: str, found: list[str]) -> None:
    file = tmp_path / "router.toml"
    file.write_text(OK + members + OTHER)

    notes = [f"{key[-1]}: {message}" for key, message in route_notes(load(file))]

    assert notes == found


@pytest.mark.parametrize(
    ("retry", "found"),
    [
        ("{ attempts = 2 }", []),
        (
            "{ attempts = 1 }",
            ["means nothing with retry.attempts = 1: a hedge is a second attempt"],
        ),
        ("{ budget = 0 }", ["means nothing with retry.budget = 0, which lets no call be repeated"]),
    ],
)
def test_notes_a_hedge_that_no_call_may_make(tmp_path: Path, retry: str, found: list[str]) -> None:
    file = tmp_path / "router.toml"
    two = '[{ upstream = "demo", model = "a" }, { upstream = "demo", model = "b" }]'
    file.write_text(
        f"{OK}{OTHER}[models.m]\ndeployments = {two}\nhedge_after = 1\nretry = {retry}\n"
    )

    assert list(route_notes(load(file))) == [
        (("models", "m", "hedge_after"), said) for said in found
    ]


@pytest.mark.parametrize(
    ("own", "other", "extra", "is_noted"),
    [
        (8_192, 8_192, "", True),
        (8_192, 4_096, "", True),
        (8_192, 8_193, "", False),
        (8_192, None, "", False),
        (None, 4_096, "", False),
        (8_192, 4_096, 'fallback_on = ["unavailable"]\n', False),
    ],
)
def test_notes_a_fallback_whose_context_is_no_longer(
    tmp_path: Path, own: int | None, other: int | None, extra: str, is_noted: bool
) -> None:
    def context(tokens: int | None) -> str:
        return "" if tokens is None else f"context = {tokens}\n"

    file = tmp_path / "router.toml"
    file.write_text(f'{OK}fallbacks = ["other"]\n{extra}{context(own)}{OTHER}{context(other)}')

    found = list(route_notes(load(file)))

    assert [key for key, _ in found] == [("models", "gpt-4o", "fallbacks", 0)] * is_noted
    assert all(f"({other} of {own} tokens)" in message for _, message in found)
