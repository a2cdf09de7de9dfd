"""Whoever may not call gets a clear refusal, and no upstream hears of it (SC-002)."""

import random
from collections.abc import Iterator

import msgspec
import pytest

from llmrouter.access.issued import KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.daemon.state import open_state
from tests.support.daemon import DEMO, Daemon, create_key, run, serving, write_config
from tests.support.demo import counters

pytestmark = pytest.mark.e2e

TRIES = 1_200
CONNECTIONS = 8
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
SETTINGS = {**DEMO, "orgs": {"acme": {"models": ["demo", "demo-*"]}, "narrow": {"models": ["x*"]}}}
Case = tuple[str | None, str, int, str]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("denials")
    config = write_config(directory, SETTINGS)
    with open_state(directory / "state") as state:
        book = KeyBook(state.store, KeyDigest(state.digest_key))
        expired = book.create(KeyTerms(org="acme", expires_in_s=60), now_s=1_000_000.0)[1]
    (directory / "expired").write_text(expired)
    assert config.exists()
    with serving(directory, SETTINGS, workers=2) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def cases(daemon: Daemon) -> list[Case]:
    """Key, model, and the refusal that must follow."""
    good = create_key(daemon.config)
    other = create_key(daemon.config)
    revoked = create_key(daemon.config)
    limited = create_key(daemon.config, "--models", "demo")["key"]
    narrow = create_key(daemon.config, "--org", "narrow")["key"]
    done = run("keys", "revoke", "--config", str(daemon.config), revoked["id"])
    assert done.returncode == 0, done.stderr
    expired = (daemon.config.parent / "expired").read_text()
    key = good["key"]
    id_of_one_secret_of_another = other["key"][:19] + key[19:]
    return [
        (None, "demo", 401, "missing_key"),
        ("", "demo", 401, "missing_key"),
        ("sk-wrong", "demo", 401, "invalid_key"),
        ("x" * 4_000, "demo", 401, "invalid_key"),
        (key[:-1], "demo", 401, "invalid_key"),
        (key + "0", "demo", 401, "invalid_key"),
        (key[:-1] + ("0" if key[-1] != "0" else "1"), "demo", 401, "invalid_key"),
        (key.lower(), "demo", 401, "invalid_key"),
        (id_of_one_secret_of_another, "demo", 401, "invalid_key"),
        ("sk-lr-000000000000-" + "0" * 43, "demo", 401, "invalid_key"),
        (expired, "demo", 401, "expired_key"),
        (expired[:-1] + ("0" if expired[-1] != "0" else "1"), "demo", 401, "invalid_key"),
        (revoked["key"], "demo", 401, "revoked_key"),
        (limited, "demo-slow", 403, "model_not_allowed"),
        (narrow, "demo", 403, "model_not_allowed"),
        (key, "nothing", 404, "model_not_found"),
    ]


def test_no_refused_call_reaches_the_upstream(daemon: Daemon, cases: list[Case]) -> None:
    """SC-002: at least a thousand mixed tries on several connections."""
    before = counters(daemon.state)["requests"]
    chance = random.Random(7)
    connections = [daemon.connection() for _ in range(CONNECTIONS)]
    for _ in range(TRIES):
        key, model, status, code = chance.choice(cases)
        header = chance.choice(["authorization", "x-api-key"])
        headers = {"content-type": "application/json"}
        if key is not None:
            headers[header] = f"Bearer {key}" if header == "authorization" else key
        body = msgspec.json.encode(
            {"model": model, "stream": chance.random() < 0.5, "messages": [], "input": "x" * 500}
        )
        connection = chance.choice(connections)
        connection.request("POST", chance.choice(PATHS), body, headers)
        response = connection.getresponse()
        error = msgspec.json.decode(response.read())["error"]
        assert (response.status, error["code"]) == (status, code)
        assert error["request_id"] == response.headers["x-request-id"]
        assert key is None or len(key) < 8 or key not in str(error)
    for connection in connections:
        connection.close()
    assert counters(daemon.state)["requests"] == before == 0


def test_nothing_secret_is_in_what_the_daemon_wrote(daemon: Daemon, cases: list[Case]) -> None:
    written = [daemon.log_path, *daemon.state.rglob("*")]
    text = b"".join(path.read_bytes() for path in written if path.is_file())
    secrets = [key[19:] for key, *_ in cases if key is not None and key.startswith("sk-lr-")]
    assert len(secrets) > 5
    for secret in secrets:
        assert secret.encode() not in text
