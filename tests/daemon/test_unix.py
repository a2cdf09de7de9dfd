"""Unix sockets at paths of any length, and what may be replaced there."""

import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from llmrouter.daemon import unix


@contextmanager
def listening(path: Path, *, mode: int = 0o600) -> Iterator[socket.socket]:
    with closing(unix.listen(path, mode=mode, backlog=16)) as listener:
        yield listener


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(5)
    client.connect(unix.address(path))
    return client


def is_reached(path: Path, listener: socket.socket) -> bool:
    """Whether a connection to `path` is accepted by `listener`."""
    with connect(path) as client:
        client.sendall(b"hello")
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            return accepted.recv(16) == b"hello"


def deep(directory: Path, length: int) -> Path:
    """A path of exactly `length` bytes below `directory`."""
    path = directory
    while length - len(str(path)) > 60:
        path /= "d" * 40
    path.mkdir(parents=True, exist_ok=True)
    path /= "s" * (length - len(str(path)) - 1)
    assert len(str(path)) == length
    return path


@pytest.mark.parametrize("length", [90, 107, 108, 150, 400])
def test_a_path_of_any_length_is_listened_and_connected_to(tmp_path: Path, length: int) -> None:
    if len(str(tmp_path)) > length - 2:
        pytest.skip("the temporary directory has a longer path already")
    path = deep(tmp_path, length)

    with listening(path) as listener:
        assert path.is_socket()
        assert is_reached(path, listener)


def test_the_bytes_of_a_path_count_and_not_its_characters(tmp_path: Path) -> None:
    directory = tmp_path / ("ü" * 50)
    directory.mkdir()

    with listening(directory / "socket") as listener:
        assert is_reached(directory / "socket", listener)


def test_a_short_path_stays_as_it_is(tmp_path: Path) -> None:
    assert unix.address(Path("/run/socket")) == "/run/socket"


def test_a_long_path_below_no_directory_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unix.address(tmp_path / ("missing" * 20) / "socket")


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_the_mode_that_was_asked_for(tmp_path: Path, mode: int) -> None:
    with listening(tmp_path / "socket", mode=mode):
        assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == mode


def test_it_never_waits(tmp_path: Path) -> None:
    with listening(tmp_path / "socket") as listener, pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("length", [90, 150])
def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path: Path, length: int) -> None:
    path = deep(tmp_path, max(length, len(str(tmp_path)) + 10))
    unix.listen(path, mode=0o600, backlog=1).close()
    assert path.is_socket()

    with listening(path) as listener:
        assert is_reached(path, listener)


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(path) as listener:
        with pytest.raises(OSError, match="another process listens there"):
            unix.listen(path, mode=0o600, backlog=1)
        listener.setblocking(True)
        listener.accept()[0].close()  # the look whether anybody is there

        assert is_reached(path, listener)


def test_a_listener_that_accepts_nothing_is_left_alone_without_waiting_for_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "socket"
    with closing(unix.listen(path, mode=0o600, backlog=0)), connect(path):
        # Its queue is full now: one more connection would wait until somebody accepts.
        with pytest.raises(OSError, match="another process listens there"):
            unix.listen(path, mode=0o600, backlog=1)
        assert path.is_socket()


def make_file(path: Path) -> None:
    path.write_text("precious")


def make_link(path: Path) -> None:
    path.symlink_to("somewhere")


@pytest.mark.parametrize("make", [make_file, make_link, Path.mkdir])
def test_anything_else_than_a_socket_is_left_alone(tmp_path: Path, make: object) -> None:
    path = tmp_path / "socket"
    assert callable(make)
    make(path)
    before = path.lstat()

    with pytest.raises(FileExistsError, match="something else than a socket") as refused:
        unix.listen(path, mode=0o600, backlog=1)

    assert path.lstat() == before
    assert refused.value.filename == str(path)


def test_a_datagram_socket_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))

        with pytest.raises(OSError, match="Protocol wrong type"):
            unix.listen(path, mode=0o600, backlog=1)

        assert path.is_socket()


def test_a_directory_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unix.listen(tmp_path / "missing" / "socket", mode=0o600, backlog=1)
