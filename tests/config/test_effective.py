"""The effective configuration: complete, without a secret, and a configuration itself."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrouter.config.credentials import credentials
from llmrouter.config.effective import effective, effective_toml
from llmrouter.config.load import load
from llmrouter.config.schema import (
    Breaker,
    Budget,
    Config,
    Credential,
    Deployment,
    Health,
    Limit,
    Model,
    ModelTimeouts,
    Org,
    Price,
    Retry,
    Server,
    Settings,
    Shadow,
    Team,
    Upstream,
    User,
)
from tests.config.files import DESIGN, OK

SECRET = "sk-proj-abcDEF123456"  # made up


@pytest.fixture(autouse=True)
def _beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_loads_to_an_equal_configuration_from_any_directory() -> None:
    Path("tls.crt").touch()
    Path("tls.key").touch()
    Path("router.toml").write_text(DESIGN)
    config = load(Path("router.toml"))

    Path("elsewhere").mkdir()
    Path("elsewhere/effective.toml").write_text(effective_toml(config))
    again = load(Path("elsewhere/effective.toml"))

    assert again == config
    assert effective_toml(again) == effective_toml(config)


def test_has_every_default() -> None:
    Path("router.toml").write_text(OK)

    written = tomllib.loads(effective_toml(load(Path("router.toml"))))

    assert set(written) == set(Settings.__struct_fields__)
    assert written["server"]["timeouts"] == {"head": 10, "body": 60, "idle": 75, "drain": 30}
    assert written["upstreams"]["demo"]["timeouts"]["first_token"] == 60
    assert written["models"]["gpt-4o"]["retry"] == {"attempts": 3, "budget": 0.2}
    assert written["state"] == os.path.abspath("state")


def test_shows_a_credential_as_its_source(tmp_path: Path) -> None:
    (tmp_path / "b.key").write_text(SECRET)
    Path("router.toml").write_text(
        '[upstreams.a]\nurl = "https://a.example.com"\ncredential = { env = "A_KEY" }\n'
        '[upstreams.b]\nurl = "https://b.example.com"\ncredential = { file = "b.key" }\n'
    )
    config = load(Path("router.toml"))
    found = credentials(config, {"A_KEY": SECRET})

    written = effective_toml(config)

    assert found["a"].reveal() == found["b"].reveal() == SECRET
    upstreams = tomllib.loads(written)["upstreams"]
    assert upstreams["a"]["credential"] == {"env": "A_KEY"}
    assert upstreams["b"]["credential"] == {"file": str(tmp_path / "b.key")}
    assert SECRET not in written + repr(config) + repr(effective(config)) + repr(found)


_NAMES = st.text("abcXYZ019._-", min_size=1, max_size=6)
_SECONDS = st.floats(0.001, 86_400)
_TAGS = st.dictionaries(_NAMES, _NAMES, max_size=2)
_UPSTREAMS = st.builds(
    Upstream,
    url=st.sampled_from(["builtin:demo", "https://a.example.com/v1", "http://[::1]:8000"]),
    credential=st.none() | st.just(Credential(env="A_KEY")) | st.just(Credential(file="/run/a")),
    concurrent=st.none() | st.integers(1, 1_000),
    health=st.none() | st.builds(Health, path=st.just("/models"), every=_SECONDS),
    breaker=st.builds(Breaker, failures=st.integers(1, 9), rest=st.floats(0.1, 60)),
    tags=_TAGS,
)
_USD = st.integers(1, 10**12).map(lambda nano: nano / 10**9)
_PRICES = st.builds(Price, input=_USD, cached_input=st.none() | _USD, output=_USD)
_MODELS = st.builds(
    Model,
    deployments=st.builds(
        lambda model, weight, tags, price: (
            Deployment(upstream="demo", model=model, weight=weight, tags=tags, price=price),
        ),
        st.none() | st.text("!\"'\\[]#az=", min_size=1, max_size=6),
        st.integers(1, 1_000),
        _TAGS,
        st.none() | _PRICES,
    ),
    timeouts=st.builds(ModelTimeouts, idle=st.none() | _SECONDS),
    hedge_after=st.none() | st.just("p95") | _SECONDS,
    shadow=st.none() | st.builds(Shadow, upstream=st.just("demo"), model=st.just("next")),
    price=st.none() | _PRICES,
    retry=st.builds(Retry, attempts=st.integers(1, 10), budget=st.floats(0, 1)),
)
_TOKENS = st.integers(1, 10**15)
_LIMITS = st.tuples(st.builds(Limit, tokens=_TOKENS, per=st.just("day"), burst=st.none() | _TOKENS))
_BUDGETS = st.tuples(
    st.builds(Budget, usd=_USD, per=st.just("day"), strict=st.booleans()),
    st.builds(Budget, usd=_USD, per=st.just("week"), at_limit=st.just("queue"), wait=_SECONDS),
)
_USERS = st.builds(User, limits=st.just(()) | _LIMITS, budgets=st.just(()) | _BUDGETS)
_ORGS = st.builds(
    Org,
    limits=st.just(()) | _LIMITS,
    weight=st.integers(1, 1_000),
    unpriced=st.sampled_from(["refuse", "warn"]),
    teams=st.dictionaries(_NAMES.map(str.lower), st.builds(Team, limits=_LIMITS), max_size=2),
    users=st.dictionaries(st.sampled_from(["*", "Ann", "ann@x.org", "ä ö"]), _USERS, max_size=2),
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    server=st.builds(Server, workers=st.integers(0, 512), listen=st.sampled_from(["a:1", "fd:3"])),
    upstreams=st.dictionaries(_NAMES.map(str.lower), _UPSTREAMS, max_size=3),
    models=st.dictionaries(_NAMES.map(str.lower), _MODELS, max_size=3),
    orgs=st.dictionaries(_NAMES.map(str.lower), _ORGS, max_size=2),
)
def test_whatever_runs_can_be_written_and_read_back(
    server: Server, upstreams: dict[str, Upstream], models: dict[str, Model], orgs: dict[str, Org]
) -> None:
    upstreams["demo"] = Upstream(url="builtin:demo")
    config = Config(
        file=Path("router.toml"),
        state="/nowhere/state",
        server=server,
        upstreams=upstreams,
        models=models,
        orgs=orgs,
    )
    Path("router.toml").write_text(effective_toml(config), encoding="utf-8")

    assert load(Path("router.toml")) == config
