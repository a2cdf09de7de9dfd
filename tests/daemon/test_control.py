"""The control socket: what is asked, what is answered, and who hears what when it fails."""

import asyncio
import contextlib
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.daemon import control, unix
from llmrouter.daemon.control import ControlError, ControlServer, NotRunning, Operation, ask
from tests.support.leaks import Failures
from tests.support.waiting import until


async def echo(args: dict[str, object]) -> object:
    return args


async def refuse(args: dict[str, object]) -> object:
    raise ControlError("unknown_key", f"no key has the id {args['id']!r}")


async def fail(_: dict[str, object]) -> object:
    raise ValueError("a bug of ours")


async def nothing(_: dict[str, object]) -> object:
    return None


OPERATIONS: Mapping[str, Operation] = {
    "echo": echo,
    "refuse": refuse,
    "fail": fail,
    "nothing": nothing,
}


@asynccontextmanager
async def answering(
    path: Path, operations: Mapping[str, Operation] = OPERATIONS
) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, operations)
    await server.open()
    try:
        yield server
    finally:
        server.close()


async def asked(path: Path, op: str, args: dict[str, object] | None = None) -> object:
    """Ask as the command line does: in a thread, because that waits."""
    return await asyncio.to_thread(ask, path, op, args or {})


async def said(path: Path, line: bytes) -> Any:
    """Send any bytes, and read what is answered; None if nothing is."""
    reader, writer = await asyncio.open_unix_connection(unix.address(path), limit=1 << 24)
    with closing(writer):
        writer.write(line)
        answer = await reader.readline()
    return msgspec.json.decode(answer) if answer else None


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("op", "args", "result"),
    [
        ("echo", {"id": "3fQ9xW2LbT0c", "models": ["a", "b"], "n": 1}, ...),
        ("echo", {}, {}),
        ("echo", {"text": "line\nbreak ü \u2028"}, ...),
        ("nothing", {}, None),
    ],
)
async def test_an_operation_is_done_and_its_result_returned(
    path: Path, op: str, args: dict[str, object], result: object
) -> None:
    async with answering(path):
        assert await asked(path, op, args) == (args if result is ... else result)


@pytest.mark.asyncio
async def test_a_request_and_an_answer_may_be_long(path: Path) -> None:
    args: dict[str, object] = {"keys": ["x" * 100] * 100_000}
    async with answering(path):
        assert await asked(path, "echo", args) == args


@pytest.mark.asyncio
async def test_what_the_supervisor_will_not_do_is_told_with_its_code(path: Path) -> None:
    async with answering(path):
        with pytest.raises(ControlError, match=r"^no key has the id 'abc'$") as refused:
            await asked(path, "refuse", {"id": "abc"})

    assert refused.value.code == "unknown_key"


@pytest.mark.asyncio
async def test_a_bug_in_an_operation_is_told_and_logged_and_not_asked_for_again(
    path: Path, no_leaks: Failures
) -> None:
    async with answering(path):
        with pytest.raises(ControlError, match="the daemon's log says why") as refused:
            await asked(path, "fail")

    assert refused.value.code == "internal_error"
    assert "a bug of ours" not in str(refused.value)
    (logged,) = no_leaks.seen
    assert logged.startswith("operation 'fail' failed")
    assert logged.endswith("ValueError: a bug of ours")
    no_leaks.seen.clear()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (b'{"v": 2, "op": "echo"}\n', "version", "speaks version 1 of the control socket, not 2"),
        (b'{"v": 0, "op": "gone", "new": 1}\n', "version", "not 0; use the llmrouter that"),
        (b'{"v": 1, "op": "fly"}\n', "unknown_operation", "knows no operation 'fly'"),
        (b'{"v": 1}\n', "invalid_request", "missing required field `op`"),
        (b'{"v": "1", "op": "echo"}\n', "invalid_request", "Expected `int`"),
        (b'{"v": 1, "op": "echo", "args": [1]}\n', "invalid_request", "Expected `object`"),
        (b"GET / HTTP/1.1\r\n", "invalid_request", "not a request of the control socket"),
        (b"\xff\xfe\x00\n", "invalid_request", "not a request of the control socket"),
        (b"\n", "invalid_request", "not a request of the control socket"),
    ],
    ids=str,
)
async def test_what_is_no_request_is_answered_with_what_is_wrong(
    path: Path, line: bytes, code: str, words: str
) -> None:
    async with answering(path):
        answer = await said(path, line)
        assert await asked(path, "echo", {"still": "there"}) == {"still": "there"}

    assert answer["v"] == 1
    assert answer["error"]["code"] == code
    assert words in answer["error"]["message"]
    assert "result" not in answer


@pytest.mark.asyncio
async def test_members_of_a_later_version_of_the_same_format_are_ignored(path: Path) -> None:
    async with answering(path):
        answer = await said(path, b'{"v": 1, "op": "echo", "args": {"a": 1}, "trace": "x"}\n')

    assert answer == {"v": 1, "result": {"a": 1}}


@pytest.mark.asyncio
async def test_a_line_that_never_ends_is_cut_off(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LINE_BYTES_MAX", 10_000)
    async with answering(path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        with closing(writer):
            writer.write(b"x" * 100_000)
            with contextlib.suppress(ConnectionError):  # bytes unread make it a reset
                assert await reader.read() == b""

        assert await asked(path, "echo") == {}


@pytest.mark.asyncio
async def test_a_client_that_says_nothing_is_left_after_a_while(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.05)
    async with answering(path):
        assert await said(path, b'{"v": 1, "op": "ec') is None


@pytest.mark.asyncio
async def test_a_client_that_says_nothing_holds_up_nobody_else(path: Path) -> None:
    async with answering(path):
        silent = [await asyncio.open_unix_connection(str(path)) for _ in range(50)]

        assert await asked(path, "echo", {"a": 1}) == {"a": 1}
        for _, writer in silent:
            writer.close()


@pytest.mark.asyncio
async def test_a_client_that_leaves_stops_nothing(path: Path) -> None:
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_: dict[str, object]) -> object:
        begun.set()
        await go_on.wait()
        ended.set()
        return "x" * 10_000_000  # more than the socket holds

    async with answering(path, {"slow": slow, "echo": echo}):
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"v": 1, "op": "slow"}\n')
        await begun.wait()
        writer.transport.abort()
        go_on.set()

        await ended.wait()
        assert await asked(path, "echo") == {}


@pytest.mark.asyncio
async def test_the_socket_is_for_its_owner_only_and_goes_with_the_supervisor(path: Path) -> None:
    async with answering(path):
        assert mode_of(path) == 0o600
    assert os.listdir(path.parent) == []


@pytest.mark.asyncio
async def test_a_socket_that_a_killed_supervisor_left_is_replaced(path: Path) -> None:
    unix.listen(path, mode=0o600, backlog=1).close()

    async with answering(path):
        assert await asked(path, "echo") == {}


@pytest.mark.asyncio
async def test_a_second_supervisor_is_refused_and_the_first_serves_on(path: Path) -> None:
    async with answering(path):
        second = ControlServer(path, OPERATIONS)
        with pytest.raises(OSError, match="another process listens there"):
            await second.open()
        second.close()

        assert await asked(path, "echo") == {}


@pytest.mark.asyncio
async def test_it_answers_below_a_directory_of_any_length(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()

    async with answering(deep / "control.sock"):
        assert await asked(deep / "control.sock", "echo", {"a": 1}) == {"a": 1}
    assert list(deep.iterdir()) == []


def nobody(path: Path) -> None:
    """No file at all."""


def stale(path: Path) -> None:
    unix.listen(path, mode=0o600, backlog=1).close()


def a_file(path: Path) -> None:
    path.write_text("precious")


@pytest.mark.parametrize("make", [nobody, stale, a_file])
def test_nobody_that_listens_is_nobody_that_runs(path: Path, make: Callable[[Path], None]) -> None:
    make(path)

    with pytest.raises(NotRunning, match=f"^no daemon answers at {path}: "):
        ask(path, "echo", {})


def test_no_directory_is_nobody_that_runs(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        ask(tmp_path / "missing" / "control.sock", "echo", {})


class Peer:
    """A listener that does with one connection what a broken supervisor might."""

    def __init__(self, path: Path, does: Callable[[socket.socket], None]) -> None:
        self._listener = unix.listen(path, mode=0o600, backlog=4)
        self._listener.setblocking(True)
        self._does = does
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self._does(connection)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()


def read_and_end(connection: socket.socket) -> None:
    connection.recv(65_536)


def answer_half(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b'{"v": 1, "resu')


def test_a_supervisor_that_ends_before_it_answers_may_have_done_it(path: Path) -> None:
    """Asking again might issue a second key, so that is left to who asked."""
    for does in (read_and_end, answer_half):
        with (
            Peer(path, does),
            pytest.raises(ControlError, match="ended before it answered; look whether") as refused,
        ):
            ask(path, "keys.create", {"org": "acme"})
        assert refused.value.code == "no_answer"


def test_a_supervisor_that_ends_before_it_reads_has_not_done_it(path: Path) -> None:
    def end(connection: socket.socket) -> None:
        # Unread bytes make this a reset.
        connection.recv(1, socket.MSG_PEEK)

    with Peer(path, end), pytest.raises(NotRunning):
        ask(path, "keys.create", {"org": "acme"})


def test_a_supervisor_that_hangs_is_not_waited_for_without_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.05)
    with (
        closing(unix.listen(path, mode=0o600, backlog=4)),
        pytest.raises(ControlError, match=r"does not answer within 0\.05 s; look whether"),
    ):
        ask(path, "keys.create", {"org": "acme"})


def test_a_daemon_of_another_version_says_so_itself(path: Path) -> None:
    def from_the_future(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b'{"v": 2, "error": {"code": "version", "message": "speaks 2"}}\n')

    with Peer(path, from_the_future), pytest.raises(ControlError, match="speaks 2"):
        ask(path, "echo", {})


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"SSH-2.0-other\r\n", "cannot be read: "), (b'{"v": 2}\n', "in version 2")],
)
def test_an_answer_that_is_none_of_ours_is_told_in_words(
    path: Path, answer: bytes, words: str
) -> None:
    def other(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(answer)

    with Peer(path, other), pytest.raises(ControlError, match=words) as refused:
        ask(path, "echo", {})
    assert refused.value.code == "version"


@pytest.mark.asyncio
async def test_closing_ends_no_answer_that_is_on_its_way(path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: dict[str, object]) -> object:
        begun.set()
        await go_on.wait()
        return "done"

    server = ControlServer(path, {"slow": slow})
    await server.open()
    waiting = asyncio.get_running_loop().run_in_executor(None, ask, path, "slow", {})
    await begun.wait()
    server.close()
    await until(lambda: not path.exists(), "the socket is left")
    go_on.set()

    assert await waiting == "done"
    assert os.listdir(path.parent) == []
