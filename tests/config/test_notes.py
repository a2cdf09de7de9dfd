"""Notes: what is allowed, but probably not meant."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import inspect

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
        "orgs.acme.weight: has no effect yet: all orgs are treated alike",
        "orgs.acme.priority: has no effect yet: all calls are treated alike",
        "auth: has no effect yet: only our own keys are accepted",
        "upstreams.claude.dialect: the dialect 'anthropic' is not served yet; no model can use it",
        "upstreams.demo: no model uses this upstream",
        "orgs.acme.models[1]: 'claude-*' covers no model of this file",
    ]


def keys(kind: inspect.Type, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of the schema, `*` standing for names."""
    if isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield (*above, field.name)
            yield from keys(field.type, (*above, field.name))
    elif isinstance(kind, inspect.DictType):
        yield from keys(kind.value_type, (*above, "*"))


@pytest.mark.parametrize("pattern", NO_EFFECT_YET, ids=".".join)
def test_keys_without_effect_are_keys_of_the_schema(pattern: tuple[str, ...]) -> None:
    assert pattern in keys(inspect.type_info(Settings))


def test_notes_a_key_without_effect_even_at_its_default() -> None:
    assert noted(OK + "[orgs.acme]\nweight = 1\n") == [
        "orgs.acme.weight: has no effect yet: all orgs are treated alike"
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


def test_an_upstream_that_only_gets_copies_is_used() -> None:
    other = '[upstreams.new]\nurl = "https://new.example.com"\n'

    assert noted(OK + 'shadow = { upstream = "new" }\n' + other) == []
    assert noted(OK + other) == ["upstreams.new: no model uses this upstream"]


def test_notes_what_routes_tags_and_maps_say_in_vain() -> None:
    org = """[orgs.acme]
require = { region = "eu" }
model_map = { a = "b", b = "gpt-4o" }
"""
    eu = '[models.b]\ndeployments = [{ upstream = "demo", tags = { region = "eu" } }]\n'

    assert noted(OK + "hedge_after = 1\n" + eu + org.replace(', b = "gpt-4o"', "")) == [
        'models."gpt-4o".hedge_after: '
        "there is no other deployment that a late call could be sent to as well",
        "orgs.acme.require: no deployment of 'gpt-4o' has region = \"eu\", "
        "so it cannot be used here",
    ]
    assert noted(OK + eu + org.replace('require = { region = "eu" }', "")) == [
        "orgs.acme.model_map.a: "
        "'b' is itself mapped to 'gpt-4o', but a name is mapped once: 'b' serves"
    ]
