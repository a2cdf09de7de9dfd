"""Notes: what is allowed, but probably not meant."""

import re
from pathlib import Path

import pytest

from llmrouter.config.load import load
from llmrouter.config.notes import NO_EFFECT_YET, notes
from llmrouter.config.schema import Config, Settings
from tests.config.files import DEMO, DESIGN, MODEL, OK

URL = 'url = "https://a.example.com"\n'
USED = '[models.x]\ndeployments = [{ upstream = "a" }]\n'


@pytest.fixture(autouse=True)
def _beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def noted(text: str) -> list[str]:
    Path("router.toml").write_text(text)
    return [str(note).removeprefix("router.toml: ") for note in notes(load(Path("router.toml")))]


def test_names_every_key_of_the_design_that_has_no_effect_yet() -> None:
    Path("tls.crt").touch(mode=0o600)
    Path("tls.key").touch(mode=0o600)

    assert noted(DESIGN) == [
        "server.admin_listen: has no effect yet: nothing listens there",
        "upstreams.openai.concurrent: has no effect yet: calls to an upstream are not counted",
        "upstreams.openai.health: has no effect yet: upstreams are not probed",
        'models."gpt-4o".fallbacks: has no effect yet: no other model is tried',
        'models."gpt-4o".retry: has no effect yet: its figures are not used',
        "orgs.acme.weight: has no effect yet: all orgs are treated alike",
        "orgs.acme.priority: has no effect yet: all calls are treated alike",
        "auth: has no effect yet: only our own keys are accepted",
        "upstreams.claude.dialect: the dialect 'anthropic' is not served yet; no model can use it",
        "upstreams.demo: no model uses this upstream",
        "orgs.acme.models[1]: 'claude-*' covers no model of this file",
    ]


@pytest.mark.parametrize("pattern", NO_EFFECT_YET, ids=".".join)
def test_keys_without_effect_are_keys_of_the_schema(pattern: tuple[str, ...]) -> None:
    source = Path(__file__).parents[2] / "llmrouter/config/schema.py"

    assert pattern[0] in Settings.__struct_fields__
    assert re.search(rf"^    {pattern[-1]}: ", source.read_text(), re.MULTILINE)


def test_notes_a_key_without_effect_even_at_its_default() -> None:
    assert noted('[server]\nadmin_listen = "127.0.0.1:4001"\n' + OK) == [
        "server.admin_listen: has no effect yet: nothing listens there"
    ]


@pytest.mark.parametrize("strategy", ["least-inflight", "fastest", "cheapest", "sticky"])
def test_says_how_a_strategy_without_effect_is_served(strategy: str) -> None:
    assert noted(OK + f'strategy = "{strategy}"\n') == [
        f"models.\"gpt-4o\".strategy: '{strategy}' has no effect yet: it is served as 'weighted'"
    ]


@pytest.mark.parametrize("strategy", ["weighted", "ordered"])
def test_says_nothing_about_strategies_that_route(strategy: str) -> None:
    assert noted(OK + f'strategy = "{strategy}"\n') == []


def test_notes_a_file_that_serves_nothing() -> None:
    assert noted("") == [
        'models: no model is defined, so every call is refused; add [models."NAME"]'
    ]


@pytest.mark.parametrize(
    ("url", "is_noted"),
    [
        ("http://10.0.0.1/v1", True),
        ("https://10.0.0.1/v1", False),
        ("http://localhost:1/v1", False),
        ("http://[::1]:1/v1", False),
    ],
)
def test_notes_a_credential_that_leaves_the_machine_unencrypted(url: str, is_noted: bool) -> None:
    text = f'[upstreams.a]\nurl = "{url}"\ncredential = {{ env = "A_KEY" }}\n{USED}'
    note = "upstreams.a.url: sends its credential unencrypted; use https, or a tunnel"

    assert noted(text) == ([note] if is_noted else [])


@pytest.mark.parametrize(
    ("mode", "is_noted"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)]
)
def test_notes_secret_files_that_others_may_read(mode: int, is_noted: bool) -> None:
    for name in ("a.key", "tls.key", "tls.crt"):
        Path(name).touch()
        Path(name).chmod(mode)
    text = (
        '[server]\ntls = { cert = "tls.crt", key = "tls.key" }\n'
        f'[upstreams.a]\n{URL}credential = {{ file = "a.key" }}\n{USED}'
    )
    expected = [
        "upstreams.a.credential.file: others may read it; chmod it 0600",
        "server.tls.key: others may read it; chmod it 0600",
    ]

    assert noted(text) == (expected if is_noted else [])


def test_a_credential_file_that_is_missing_is_left_to_credentials() -> None:
    assert noted(f'[upstreams.a]\n{URL}credential = {{ file = "none" }}\n{USED}') == []


def test_notes_patterns_of_teams_that_cover_nothing() -> None:
    assert noted(DEMO + MODEL + '[orgs.acme.teams.a]\nmodels = ["gpt-*", "zzz-*"]\n') == [
        "orgs.acme.teams.a.models[1]: 'zzz-*' covers no model of this file"
    ]


def test_notes_limits_and_budgets_too() -> None:
    assert noted(
        OK + '[orgs.acme.users."*@x.org"]\nlimits = [{ concurrent = 1, model = "x*" }]\n'
    ) == [
        'orgs.acme.users."*@x.org": is no pattern: only "*" itself stands for other users',
        'orgs.acme.users."*@x.org".limits[0].model: '
        "'x*' covers no model of this file (aliases do not count)",
    ]


def test_a_config_that_was_not_read_from_a_file_has_its_notes_too() -> None:
    assert [note.key for note in notes(Config(file=Path("x.toml")))] == ["models"]
