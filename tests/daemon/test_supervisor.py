"""The supervisor: starting, replacing, draining and dying, with real processes."""

import contextlib
import http.client
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmrouter.access.issued import KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.config.load import load
from llmrouter.daemon import unix
from llmrouter.daemon.state import open_state
from llmrouter.daemon.supervisor import Supervisor
from llmrouter.tasks import spawn
from tests.daemon.answering import (
    ModelServer,
    Stream,
    call,
    drain_for,
    everywhere,
    gone,
    holds,
    listening,
    send,
    unix_call,
)
from tests.support.certificates import Authority
from tests.support.daemon import (
    DEMO,
    LLMROUTER,
    Daemon,
    create_key,
    run,
    serving,
    wait_for,
    write_config,
)
from tests.support.leaks import Failures

pytestmark = pytest.mark.e2e

CREDENTIAL = "sk-provider-abcDEF123456"  # made up
AT_ONCE_S = 5.0
"""Far below any drain time here, far above what a busy machine needs."""


def refused(config: Path, env: Mapping[str, str] | None = None) -> str:
    """What `serve` says when it will not; it must do so soon, and leave nothing behind."""
    began = time.monotonic()
    done = run("serve", "--config", str(config), env=env)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert time.monotonic() - began < 20
    return done.stderr


def last_line(said: str) -> str:
    assert "Traceback" not in said
    return said.splitlines()[-1]


# ---- serving --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, upstream: ModelServer
) -> Iterator[tuple[Daemon, list[str]]]:
    """A daemon with two workers and every kind of secret; and the texts that nobody may see."""
    directory = tmp_path_factory.mktemp("two")
    (directory / "credential").write_text(CREDENTIAL + "-file\n")
    settings = dict(upstream.settings({"credential": {"env": "UP_API_KEY"}}))
    settings["upstreams"] |= {
        "other": {"url": upstream.url, "credential": {"file": "credential"}},
        "demo": {"url": "builtin:demo"},
    }
    settings["models"] |= {"o": {"deployments": [{"upstream": "other"}]}}
    env = {"UP_API_KEY": CREDENTIAL + "-env"}
    config = write_config(directory, settings, workers=2)
    key = create_key(config)["key"]
    with serving(directory, settings, workers=2, env=env) as daemon:
        yield daemon, [key, CREDENTIAL]


def test_every_worker_knows_a_key_as_soon_as_it_is_created(
    two: tuple[Daemon, list[str]],
) -> None:
    """FR-010: in force on every worker when the command returns."""
    daemon, _ = two
    key = create_key(daemon.config)["key"]

    statuses = everywhere(daemon, key, 200)

    assert set(statuses) == {200}


def test_no_worker_takes_a_key_once_it_is_revoked(two: tuple[Daemon, list[str]]) -> None:
    """FR-010: refused on every worker when the command returns."""
    daemon, _ = two
    created = create_key(daemon.config)
    assert call(daemon, created["key"]).status == 200

    done = run("keys", "revoke", created["id"], "--config", str(daemon.config))

    assert done.returncode == 0, done.stderr
    answers = everywhere(daemon, created["key"], 401)
    assert set(answers) == {401}
    assert call(daemon, created["key"]).code == "revoked_key"


def test_the_credential_goes_upstream_and_the_key_does_not(
    two: tuple[Daemon, list[str]], upstream: ModelServer
) -> None:
    daemon, (key, _) = two
    del upstream.authorizations[:]

    assert call(daemon, key, model="m").status == 200
    assert call(daemon, key, model="o").status == 200

    sources = [f"Bearer {CREDENTIAL}-env", f"Bearer {CREDENTIAL}-file"]
    assert upstream.authorizations == sources


def test_no_secret_stands_in_any_process_list(two: tuple[Daemon, list[str]]) -> None:
    """SC: `ps` shows arguments and environments to whoever may look."""
    daemon, secrets = two
    pids = [daemon.process.pid, *daemon.children()]
    assert len(pids) == 4  # supervisor, two workers, demo

    for pid in pids:
        names = ["cmdline"] + ["environ"] * (pid != daemon.process.pid)  # that is the operator's
        for name in names:
            for secret in secrets:
                assert not holds(Path(f"/proc/{pid}/{name}"), secret.encode())
        assert not holds(Path(f"/proc/{pid}/environ"), daemon_key(daemon))


def daemon_key(daemon: Daemon) -> bytes:
    return (daemon.state / "digest.key").read_bytes()


def test_no_secret_stands_in_the_log_or_in_any_file_but_its_own(
    two: tuple[Daemon, list[str]],
) -> None:
    daemon, (key, _) = two
    assert call(daemon, key).status == 200
    assert call(daemon, key[:-1] + "_").status == 401

    directory = daemon.config.parent
    files = [path for path in directory.rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        assert key[-43:].encode() not in content, path
        assert CREDENTIAL.encode() not in content or path.name == "credential", path
        assert daemon_key(daemon) not in content or path.name == "digest.key", path
    assert directory / "serve.log" in files


def test_nobody_else_can_read_anything_in_the_state(two: tuple[Daemon, list[str]]) -> None:
    daemon, (key, _) = two
    assert call(daemon, key).status == 200

    for path in (daemon.state, *daemon.state.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def test_an_error_of_a_stranger_is_logged_with_no_part_of_what_was_presented(
    two: tuple[Daemon, list[str]],
) -> None:
    daemon, _ = two
    presented = "sk-lr-AAAAAAAAAAAA-" + "Q" * 43

    assert call(daemon, presented).code == "invalid_key"

    wait_for(lambda: "code=invalid_key" in daemon.log)
    assert "QQQQ" not in daemon.log
    assert "AAAAAAAAAAAA" not in daemon.log


def test_a_reload_that_is_not_there_yet_is_said_and_stops_nothing(
    two: tuple[Daemon, list[str]],
) -> None:
    daemon, (key, _) = two

    daemon.process.send_signal(signal.SIGHUP)

    wait_for(lambda: "reload" in daemon.log)
    assert call(daemon, key).status == 200


def test_a_revocation_waits_but_a_moment_for_a_worker_that_hangs_and_is_no_success(
    two: tuple[Daemon, list[str]],
) -> None:
    """FR-010: success would say that the key is refused everywhere."""
    daemon, _ = two
    created = create_key(daemon.config)
    key_id = created["id"]
    hanging = daemon.workers()[0]
    os.kill(hanging, signal.SIGSTOP)
    try:
        done = run("keys", "revoke", key_id, "--config", str(daemon.config))
    finally:
        os.kill(hanging, signal.SIGCONT)

    assert done.returncode == 1
    assert done.stdout == ""
    assert "a worker has not confirmed it in time; run the same command again" in done.stderr
    assert f"keys={key_id}: a worker has not confirmed them yet" in daemon.log
    again = run("keys", "revoke", key_id, "--config", str(daemon.config))
    assert again.returncode == 0, again.stderr
    assert set(everywhere(daemon, created["key"], 401)) == {401}


@pytest.mark.parametrize("workers", [1, 8])
def test_so_many_workers_serve_as_were_asked_for(
    tmp_path: Path, upstream: ModelServer, workers: int
) -> None:
    config = write_config(tmp_path, upstream.settings(), workers=workers)
    key = create_key(config)["key"]
    with serving(tmp_path, upstream.settings(), workers=workers) as daemon:
        assert len(daemon.workers()) == workers
        assert call(daemon, key).status == 200
        log = daemon.log
    assert f"pid={daemon.process.pid}" in log
    assert not (tmp_path / "state" / "control.sock").exists()


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path, upstream: ModelServer) -> None:
    config = write_config(tmp_path, upstream.settings())
    key = create_key(config)["key"]
    with subprocess.Popen(
        [*LLMROUTER, "serve", "--config", str(config)], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "serving addresses=" in line)
            found = re.search(r"addresses=127\.0\.0\.1:(\d+)", line)
            assert found is not None
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
            for _ in range(450):  # each leaves a line; a pipe holds about 350
                connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
                response = connection.getresponse()
                assert (response.status, bool(response.read())) == (200, True)
            connection.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_children_have_as_many_descriptors_as_we_may_have(
    two: tuple[Daemon, list[str]],
) -> None:
    daemon, _ = two
    for pid in daemon.children():
        limits = Path(f"/proc/{pid}/limits").read_text()
        found = re.search(r"Max open files +(\d+) +(\d+)", limits)
        assert found is not None
        assert found[1] == found[2]


@contextlib.contextmanager
def core_files_allowed() -> Iterator[None]:
    """As a developer's shell, or a system that collects them, may have it."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("no process of ours may leave a core file here anyway")
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def test_no_process_leaves_a_core_file(tmp_path: Path) -> None:
    """It would hold credentials, the digest key and prompts."""
    with core_files_allowed(), serving(tmp_path, DEMO, workers=2) as daemon:
        pids = [daemon.process.pid, *daemon.children()]
        assert len(pids) == 4
        for pid in pids:
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"Max core file size +0 ", limits), limits


def test_keys_that_no_table_limits_are_warned_of(tmp_path: Path, upstream: ModelServer) -> None:
    """A table that was renamed or removed takes its rules along, which nobody may notice."""
    config = write_config(tmp_path, upstream.settings())
    create_key(config)
    create_key(config, "--org", "globex")
    ended = create_key(config, "--org", "initech")["id"]
    assert run("keys", "revoke", ended, "--config", str(config)).returncode == 0

    with serving(tmp_path, upstream.settings()) as daemon:
        warned = [line for line in daemon.events.splitlines() if "no table" in line]

    assert len(warned) == 1
    assert " level=warning process=supervisor org='globex' has keys but no table in" in warned[0]


def damage(store: Path) -> dict[Path, bytes]:
    """Overwrite every file of a store, as a failing disk may; what was there."""
    before = {path: path.read_bytes() for path in store.iterdir()}
    for path, content in before.items():
        path.write_bytes(b"\xff" * len(content))
    return before


def test_a_worker_that_dies_while_the_store_cannot_be_read_is_replaced_once_it_can(
    tmp_path: Path, upstream: ModelServer
) -> None:
    with serving(tmp_path, upstream.settings()) as daemon:
        key = create_key(daemon.config)["key"]
        before = damage(daemon.state / "store")
        os.kill(daemon.workers()[0], signal.SIGKILL)
        wait_for(lambda: daemon.log.count(" cannot_start") > 1, what="a second try")
        for path, content in before.items():
            path.write_bytes(content)

        assert call(daemon, key).status == 200  # waits in the listener for whoever comes
    assert "level=error process=supervisor child=worker-0 cannot_start" in daemon.log


def test_the_service_manager_is_told_when_it_serves_and_when_it_stops(
    tmp_path: Path, upstream: ModelServer
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with serving(tmp_path, upstream.settings(), env=env) as daemon:
            assert manager.recv(64) == b"READY=1"
            assert daemon.stop() == 0
            assert manager.recv(64) == b"STOPPING=1"


def test_keys_are_in_force_after_a_restart(tmp_path: Path, upstream: ModelServer) -> None:
    settings = upstream.settings()
    config = write_config(tmp_path, settings)
    kept, revoked = create_key(config)["key"], create_key(config)
    assert run("keys", "revoke", revoked["id"], "--config", str(config)).returncode == 0
    expired = key_of_long_ago(tmp_path / "state")

    for _ in range(2):
        with serving(tmp_path, settings) as daemon:
            assert call(daemon, kept).status == 200
            assert call(daemon, revoked["key"]).code == "revoked_key"
            assert call(daemon, expired).code == "expired_key"


def key_of_long_ago(state: Path) -> str:
    """A key that lived for a second, a year ago."""
    with open_state(state) as opened:
        book = KeyBook(opened.store, KeyDigest(opened.digest_key))
        year_ago_s = time.time() - 365 * 86_400  # noqa: TID251 - keys expire by the calendar
        _, text = book.create(KeyTerms(org="acme", expires_in_s=1), year_ago_s)
    return text


@pytest.mark.asyncio
async def test_a_ledger_that_no_longer_counts_ends_the_daemon(
    tmp_path: Path, upstream: ModelServer, no_leaks: Failures
) -> None:
    """By a bug of ours: to go on would be to limit nobody rightly."""

    async def fail() -> None:
        raise AssertionError("a bug")

    config = load(write_config(tmp_path, upstream.settings()))
    with open_state(tmp_path / "state") as state:
        supervisor = Supervisor(config, state)

        with pytest.raises(AssertionError, match="a bug"):
            await supervisor._until_told(spawn(fail(), name="treasury"))
    assert len(no_leaks.seen) == 1
    no_leaks.seen.clear()


# ---- listeners ------------------------------------------------------------------------------


def test_an_inherited_socket_is_served_and_left_to_who_opened_it(
    tmp_path: Path, upstream: ModelServer
) -> None:
    """As systemd does: it opens the socket, and keeps it when we stop."""
    path = tmp_path / "activated.sock"
    with unix.listen(path, mode=0o600, backlog=16) as opened:
        settings = {**upstream.settings(), "server": {"listen": f"fd:{opened.fileno()}"}}
        with serving(tmp_path, settings, pass_fds=[opened.fileno()]) as daemon:
            key = create_key(daemon.config)["key"]
            assert daemon.address == f"unix:{path}"
            assert unix_call(path, key) == 200
        assert path.is_socket()


def test_several_addresses_are_served(tmp_path: Path, upstream: ModelServer) -> None:
    listen = ["127.0.0.1:0", "[::1]:0", "unix:llmrouter.sock"]
    settings = {**upstream.settings(), "server": {"listen": listen}}
    with serving(tmp_path, settings) as daemon:
        addresses = re.search(r"addresses=(\S+)", daemon.log)
        assert addresses is not None
        four, six, path = addresses[1].split(",")
        key = create_key(daemon.config)["key"]
        assert unix_call(tmp_path / "llmrouter.sock", key) == 200
        for address, family in ((four, socket.AF_INET), (six, socket.AF_INET6)):
            host, _, port = address.rpartition(":")
            with socket.socket(family) as client:
                client.connect((host.strip("[]"), int(port)))
    assert path == f"unix:{tmp_path}/llmrouter.sock"


def test_health_is_answered_on_a_unix_socket_too(tmp_path: Path, upstream: ModelServer) -> None:
    settings = {**upstream.settings(), "server": {"admin_listen": "unix:admin.sock"}}
    path = tmp_path / "admin.sock"
    with serving(tmp_path, settings) as daemon:
        assert daemon.admin_address == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert not path.exists()


def test_the_demo_is_served_below_a_path_of_any_length(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    demo = {"upstreams": {"demo": {"url": "builtin:demo"}}}
    models = {"m": {"deployments": [{"upstream": "demo", "model": "demo"}]}}
    with serving(deep, {**demo, "models": models}) as daemon:
        assert call(daemon, create_key(daemon.config)["key"]).status == 200


def test_a_killed_demo_is_replaced(tmp_path: Path) -> None:
    demo = {"upstreams": {"demo": {"url": "builtin:demo"}}}
    models = {"m": {"deployments": [{"upstream": "demo", "model": "demo"}]}}
    with serving(tmp_path, {**demo, "models": models}) as daemon:
        key = create_key(daemon.config)["key"]
        assert call(daemon, key).status == 200
        (pid,) = [p for p in daemon.children() if holds(Path(f"/proc/{p}/cmdline"), b".demo")]

        os.kill(pid, signal.SIGKILL)

        wait_for(lambda: call(daemon, key).status == 200)
    assert f"child=demo pid={pid} ended='signal SIGKILL'" in daemon.log


# ---- stopping -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_what_is_in_flight_and_takes_nothing_new(
    tmp_path: Path, held: ModelServer, number: signal.Signals
) -> None:
    """A stream in flight ends whole; exit status 0."""
    with serving(tmp_path, {**held.settings(), **drain_for(60)}, workers=2) as daemon:
        key = create_key(daemon.config)["key"]
        stream, idle = Stream(daemon, key), daemon.connection()
        send(idle, key)
        assert idle.getresponse().read()

        os.killpg(daemon.process.pid, number)  # as a terminal does it

        wait_for(lambda: not listening(daemon), what="closing the listeners")
        ready, why = daemon.admin("/readyz")
        assert (ready, why["detail"]) == (503, "this node is draining")
        assert daemon.admin("/livez")[0] == 200  # to the end
        assert idle.sock.recv(1) == b""  # told that it is over, not left to find out
        idle.close()
        assert daemon.process.poll() is None
        created = create_key(daemon.config)  # administration goes on
        assert run("keys", "revoke", created["id"], "-c", str(daemon.config)).returncode == 0
        assert "not confirmed" not in daemon.log
        held.go_on.set()
        assert stream.is_whole()
        assert daemon.process.wait(30) == 0
        daemon.stopped = True
    assert not (daemon.state / "control.sock").exists()
    assert "connections_cut" not in daemon.log
    with open_state(daemon.state):
        pass


def test_a_second_signal_stops_at_once(tmp_path: Path, held: ModelServer) -> None:
    with serving(tmp_path, {**held.settings(), **drain_for(60)}) as daemon:
        stream = Stream(daemon, create_key(daemon.config)["key"])
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not listening(daemon))
        began = time.monotonic()

        daemon.process.send_signal(signal.SIGTERM)

        assert daemon.process.wait(30) == 0
        daemon.stopped = True
        assert time.monotonic() - began < AT_ONCE_S
        assert not stream.is_whole()
    assert "told to stop twice" in daemon.log


def test_a_killed_supervisor_leaves_calls_whole_and_the_state_usable(
    tmp_path: Path, held: ModelServer
) -> None:
    """Workers finish what is in flight, then exit; meanwhile another daemon serves."""
    settings = {**held.settings(), **drain_for(60)}
    first = Daemon(write_config(tmp_path, settings, workers=2))
    workers = first.workers()
    try:
        created = create_key(first.config)
        stream = Stream(first, created["key"])

        first.process.kill()
        first.process.wait()

        wait_for(lambda: not listening(first), what="closing the listeners")
        assert (first.state / "control.sock").is_socket()  # nobody could remove it
        wait_for(lambda: sum(map(gone, workers)) == 1, what="the end of the idle worker")
        with serving(tmp_path, settings) as second:
            shown = run("keys", "show", created["id"], "--config", str(second.config))
            assert shown.returncode == 0, shown.stderr
            assert call(second, created["key"]).status == 200
            held.go_on.set()
            assert stream.is_whole()
        wait_for(lambda: all(map(gone, workers)), what="the end of every worker")
    finally:
        first.kill()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# ---- refusing to start ----------------------------------------------------------------------


def test_a_port_that_is_taken_is_told(tmp_path: Path, upstream: ModelServer) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        settings = {**upstream.settings(), "server": {"listen": listen}}

        said = refused(write_config(tmp_path, settings))

    assert said == (
        f"llmrouter: cannot listen on {listen}: address already in use; stop what listens there,"
        " or change server.listen in router.toml\n"
    )
    assert not (tmp_path / "state" / "control.sock").exists()


def test_an_admin_port_that_is_taken_is_told_with_its_own_key(
    tmp_path: Path, upstream: ModelServer
) -> None:
    """As that of a second daemon on a machine is, where neither names one."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        settings = {
            **upstream.settings(),
            "server": {"listen": "unix:llmrouter.sock", "admin_listen": listen},
        }

        said = refused(write_config(tmp_path, settings))

    assert said == (
        f"llmrouter: cannot listen on {listen}: address already in use; stop what listens there,"
        " or change server.admin_listen in router.toml\n"
    )
    assert not (tmp_path / "llmrouter.sock").exists()


def test_a_second_daemon_on_the_same_state_is_refused_and_the_first_serves_on(
    tmp_path: Path, upstream: ModelServer
) -> None:
    with serving(tmp_path, upstream.settings()) as daemon:
        said = refused(daemon.config)

        assert f"the state {daemon.state} is in use by process {daemon.process.pid};" in said
        assert last_line(said).startswith("llmrouter: ")
        assert call(daemon, create_key(daemon.config)["key"]).status == 200


def test_a_typing_error_in_the_file_is_told_by_its_key(
    tmp_path: Path, upstream: ModelServer
) -> None:
    config = write_config(tmp_path, upstream.settings({"timeouts": {"conect": 1}}))

    said = refused(config)

    assert f"llmrouter: {config}: upstreams.up.timeouts.conect: " in said
    assert "connect" in said
    assert not (tmp_path / "state").exists()


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "no such file" in last_line(refused(tmp_path / "router.toml"))


def test_a_credential_that_is_not_set_is_told(tmp_path: Path, upstream: ModelServer) -> None:
    settings = upstream.settings({"credential": {"env": "NOT_SET_API_KEY"}})

    said = refused(write_config(tmp_path, settings))

    assert "upstreams.up.credential.env: " in last_line(said)
    assert "NOT_SET_API_KEY is not set" in said


def broken_pair(directory: Path) -> str:
    authority = Authority(directory)
    for name in ("one.test", "two.test"):
        authority.server_context(name)
    (directory / "one.test.key").write_bytes((directory / "two.test.key").read_bytes())
    return "key values mismatch"


def no_certificate(directory: Path) -> str:
    (directory / "one.test.crt").write_text("hello")
    (directory / "one.test.key").write_text("hello")
    return "server.tls takes a PEM certificate chain"


def locked_key(directory: Path) -> str:
    Authority(directory).server_context("one.test")
    key = directory / "one.test.key"
    subprocess.run(
        ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", key, "-out", key],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return "unencrypted"


@pytest.mark.parametrize("make", [broken_pair, no_certificate, locked_key])
def test_a_certificate_that_cannot_be_served_is_told(
    tmp_path: Path, upstream: ModelServer, make: Any
) -> None:
    words = make(tmp_path)
    tls = {"cert": "one.test.crt", "key": "one.test.key"}
    settings = {**upstream.settings(), "server": {"tls": tls}}

    said = last_line(refused(write_config(tmp_path, settings)))

    assert said.startswith(f"llmrouter: cannot serve TLS with the certificate {tmp_path}/one.")
    assert words in said


def test_a_file_in_the_place_of_the_journal_is_told(tmp_path: Path, upstream: ModelServer) -> None:
    config = write_config(tmp_path, upstream.settings())
    create_key(config)
    (tmp_path / "state" / "journal").rmdir()
    (tmp_path / "state" / "journal").write_text("precious")

    said = last_line(refused(config))

    assert f"{tmp_path}/state/journal" in said
    assert (tmp_path / "state" / "journal").read_text() == "precious"


def test_a_file_in_the_place_of_the_control_socket_is_told(
    tmp_path: Path, upstream: ModelServer
) -> None:
    config = write_config(tmp_path, upstream.settings())
    create_key(config)
    path = tmp_path / "state" / "control.sock"
    path.write_text("precious")

    said = last_line(refused(config))

    assert said == (
        f"llmrouter: the daemon cannot listen on {path}: there is something else than a socket;"
        " remove what is there, if it is not needed"
    )
    assert path.read_text() == "precious"


def test_a_key_that_cannot_be_read_is_told(tmp_path: Path, upstream: ModelServer) -> None:
    """A newer llmrouter may have written it; to start without it would refuse its holder."""
    config = write_config(tmp_path, upstream.settings())
    create_key(config)
    with open_state(tmp_path / "state") as state:
        state.store.put("key/AAAAAAAAAAAA", b'{"id":"AAAAAAAAAAAA","more":1}')

    said = refused(config)

    assert said.startswith("llmrouter: ")
    assert "AAAAAAAAAAAA" in last_line(said)
    assert not (tmp_path / "state" / "control.sock").exists()


def test_workers_that_cannot_start_are_not_started_for_ever(
    tmp_path: Path, upstream: ModelServer
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'llmrouter.daemon.worker' in sys.orig_argv:\n"
        "    os.write(2, b'the disk is broken\\n')\n"
        "    os._exit(3)\n"
    )
    config = write_config(tmp_path, upstream.settings(), workers=2)

    said = refused(config, {"PYTHONPATH": str(site)})

    assert "the disk is broken" in said
    assert "ended='exit status 3'" in said
    assert "llmrouter: the workers do not start; the log lines above say why" in said
    assert said.count("the disk is broken") <= 6
    assert not (tmp_path / "state" / "control.sock").exists()


def test_settings_of_the_log_are_read_by_programs(tmp_path: Path, upstream: ModelServer) -> None:
    with serving(tmp_path, upstream.settings()) as daemon:
        key = create_key(daemon.config)
        assert call(daemon, key["key"], model="m-x").status == 200
        line = wait_for(
            lambda: next((line for line in daemon.log.splitlines() if " status=200" in line), None)
        )
    assert re.fullmatch(
        r"time=\S+Z level=info process=worker-0 request=req_[0-9a-f]{17} org=acme"
        rf" key={key['id']} method=POST path=/v1/chat/completions model=m-x deployment=up/m-x"
        r" status=200 ms=\d+\.\d",
        line,
    )
