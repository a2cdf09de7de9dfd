"""No key and no credential is in anything that the daemon writes, says or shows."""

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.daemon import DEMO, Daemon, children, create_key, run, serving
from tests.support.demo import last_request

pytestmark = pytest.mark.e2e

FROM_ENVIRONMENT = "sk-upstream-ENVIRONMENT-0123456789abcdef"
FROM_FILE = "sk-upstream-FILE-fedcba9876543210"
MODELS = (
    "demo",
    "demo-error-400",
    "demo-error-401",
    "demo-error-500",
    "demo-cut",
    "demo-reset",
    "demo-not-json",
    "filed",
    "nowhere",
    "unreachable",
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("secrets")
    (directory / "credential").write_text(FROM_FILE + "\n")
    (directory / "credential").chmod(0o600)
    settings = {
        **DEMO,
        "upstreams": {
            "demo": {"url": "builtin:demo", "credential": {"env": "DEMO_API_KEY"}},
            "filed": {"url": "builtin:demo", "credential": {"file": "credential"}},
            "closed": {"url": "http://127.0.0.1:9", "credential": {"env": "DEMO_API_KEY"}},
        },
        "models": {
            **DEMO["models"],
            "filed": {"deployments": [{"upstream": "filed", "model": "demo"}]},
            "unreachable": {"deployments": [{"upstream": "closed"}]},
        },
    }
    environment = {"DEMO_API_KEY": FROM_ENVIRONMENT}
    with serving(directory, settings, workers=2, env=environment) as daemon:
        yield daemon


def ask(connection: http.client.HTTPConnection, key: str, model: str, *, stream: bool) -> str:
    """One call: everything that came back."""
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"authorization": f"Bearer {key}"}
    connection.request("POST", "/v1/chat/completions", msgspec.json.encode(body), headers)
    response = connection.getresponse()
    try:
        return f"{response.headers}{response.read().decode()}"
    except http.client.IncompleteRead as cut:
        connection.close()
        return f"{response.headers}{cut.partial.decode()}"


def test_no_secret_is_shown_anywhere(daemon: Daemon) -> None:
    """Answers, logs, journal, store, process listings, and what the commands print."""
    environment = {"DEMO_API_KEY": FROM_ENVIRONMENT}
    created = create_key(daemon.config, "--name", "first")
    key, wrong = created["key"], created["key"][:-4] + "0000"
    secrets = (key, key[19:], wrong, FROM_ENVIRONMENT, FROM_FILE)
    connection = daemon.connection()
    said = ""
    for model in MODELS:
        for stream in (False, True):
            said += ask(connection, key, model, stream=stream)
            said += ask(connection, wrong, model, stream=stream)
    connection.close()
    for command in (
        ("check", "--effective"),
        ("check", "--json"),
        ("keys", "list"),
        ("keys", "list", "--json"),
        ("keys", "show", created["id"]),
    ):
        done = run(*command, "--config", str(daemon.config), env=environment)
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    for path in (daemon.log_path, *daemon.state.rglob("*")):
        said += path.read_bytes().decode("latin-1") if path.is_file() else ""
    pids = [daemon.process.pid, *daemon.workers()]
    pids += children(daemon.process.pid, "llmrouter.daemon.demo")
    assert len(pids) == 4
    said += "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)
    said += "".join(Path(f"/proc/{pid}/environ").read_text() for pid in pids[1:])
    for secret in secrets:
        assert secret not in said
    assert created["id"] in said


def test_upstreams_get_our_credential_and_never_the_callers_key(daemon: Daemon) -> None:
    key = create_key(daemon.config)["key"]
    for model, credential in (("demo", FROM_ENVIRONMENT), ("filed", FROM_FILE)):
        with contextlib.closing(daemon.connection()) as connection:
            ask(connection, key, model, stream=False)
        arrived = last_request(daemon.state)
        assert dict(arrived["headers"])["authorization"] == f"Bearer {credential}"
        assert key not in str(arrived)
