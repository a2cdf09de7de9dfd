"""Listeners: what is listened on, how it is shown, and what is said when it cannot be."""

import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from llmrouter.config.addresses import Address, FdAddress, TcpAddress, UnixAddress
from llmrouter.daemon import listeners, unix
from llmrouter.daemon.listeners import ListenError

_NOBODY = 65_534


@contextmanager
def bound(*addresses: Address) -> Iterator[list[socket.socket]]:
    listening = listeners.bind(addresses)
    try:
        yield listening
    finally:
        listeners.close(listening, addresses)


@contextmanager
def taken(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that somebody listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as other:
        other.bind((host, 0))
        other.listen()
        yield other.getsockname()[1]


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not do everything; root becomes nobody for so long."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def accepts(listener: socket.socket) -> bool:
    """Whether a connection to where `listener` says it is reaches it."""
    with socket.socket(listener.family) as client:
        client.settimeout(5)
        client.connect(listener.getsockname())
        listener.setblocking(True)
        listener.accept()[0].close()
    return True


def answers(addresses: Iterable[tuple[socket.AddressFamily, str]]) -> object:
    """A resolver that knows one name."""

    def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        return [
            (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (text, port))
            for family, text in addresses
        ]

    return getaddrinfo


@pytest.mark.parametrize(
    ("host", "family", "shown"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1:{port}"),
        ("0.0.0.0", socket.AF_INET, "0.0.0.0:{port}"),
        ("::1", socket.AF_INET6, "[::1]:{port}"),
        ("::", socket.AF_INET6, "[::]:{port}"),
    ],
)
def test_an_ip_address_is_listened_on_at_a_port_that_the_system_chooses(
    host: str, family: socket.AddressFamily, shown: str
) -> None:
    with bound(TcpAddress(host, 0)) as (listener,):
        port = listener.getsockname()[1]

        assert listener.family == family
        assert port > 0
        assert listeners.shown(listener) == shown.format(port=port)
        assert not listener.getblocking()
        assert accepts(listener)


def test_the_wildcards_of_both_families_share_a_port() -> None:
    with bound(TcpAddress("::", 0)) as (six,):
        port = six.getsockname()[1]

        with bound(TcpAddress("0.0.0.0", port)) as (four,):
            assert accepts(six)
            assert accepts(four)


def test_a_name_is_listened_on_at_every_address_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    monkeypatch.setattr(socket, "getaddrinfo", answers([*both, both[0]]))

    with bound(TcpAddress("localhost", 0)) as listening:
        assert [listener.family for listener in listening] == [socket.AF_INET, socket.AF_INET6]
        assert all(map(accepts, listening))


def test_localhost_is_reached_by_its_name() -> None:
    with bound(TcpAddress("localhost", 0)) as listening:
        for listener in listening:
            assert accepts(listener)


def test_an_address_of_a_name_that_this_machine_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many containers know ::1 as localhost, and have no IPv6."""
    addresses = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", answers(addresses))

    with bound(TcpAddress("localhost", 0)) as (listener,):
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_family_of_a_name_that_this_machine_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = [(socket.AF_APPLETALK, "::1"), (socket.AF_INET, "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", answers(addresses))

    with bound(TcpAddress("localhost", 0)) as (listener,):
        assert listener.getsockname()[0] == "127.0.0.1"


def test_an_address_that_this_machine_lacks_is_refused() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:4000: .* requested addr"):
        listeners.bind([TcpAddress("192.0.2.1", 4000)])


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ListenError, match=r"^cannot listen on nobody\.invalid:4000: ."):
        listeners.bind([TcpAddress("nobody.invalid", 4000)])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_somebody_listens_on_is_refused(host: str) -> None:
    with taken(host) as port, pytest.raises(ListenError) as refused:
        listeners.bind([TcpAddress(host, port)])

    shown = f"[{host}]" if ":" in host else host
    assert str(refused.value) == (
        f"cannot listen on {shown}:{port}: address already in use; stop what listens there, or"
        " change server.listen in router.toml"
    )


def test_what_is_refused_is_told_with_the_key_to_change() -> None:
    said = r"change server\.admin_listen in router\.toml$"
    with taken() as port, pytest.raises(ListenError, match=said):
        listeners.bind([TcpAddress("127.0.0.1", port)], key="server.admin_listen")


def test_a_name_of_which_one_address_is_taken_is_refused_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    monkeypatch.setattr(socket, "getaddrinfo", answers(both))

    with taken("::1") as port:
        with pytest.raises(ListenError, match="already in use"):
            listeners.bind([TcpAddress("localhost", port)])
        monkeypatch.undo()

        with bound(TcpAddress("127.0.0.1", port)) as (listener,):  # was given back
            assert accepts(listener)


def test_a_port_is_listened_on_again_right_after_it_was_served_on() -> None:
    with bound(TcpAddress("127.0.0.1", 0)) as (listener,):
        address = listener.getsockname()
        client = socket.create_connection(address)
        listener.setblocking(True)
        accepted, _ = listener.accept()
        accepted.close()  # first, so that this side remembers the connection for a minute
        client.close()

    with bound(TcpAddress(*address)) as (again,):
        assert accepts(again)


def test_a_privileged_port_is_refused_to_a_user_without_the_privilege() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("every user may listen on low ports here")

    with unprivileged(), pytest.raises(ListenError) as refused:
        listeners.bind([TcpAddress("127.0.0.1", 81)])

    assert str(refused.value) == (
        "cannot listen on 127.0.0.1:81: permission denied; let this user do that, or change"
        " server.listen in router.toml"
    )


def test_a_unix_socket_is_open_to_its_owner_and_group_and_goes_with_us(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    with bound(UnixAddress(str(path))) as (listener,):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert listeners.shown(listener) == f"unix:{path}"
        assert not listener.getblocking()
        assert accepts(listener)

    assert not path.exists()


def test_a_unix_socket_is_replaced_only_if_nobody_listens_there(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    unix.listen(path, mode=0o600, backlog=1).close()

    with bound(UnixAddress(str(path))):
        with pytest.raises(ListenError) as refused:
            listeners.bind([UnixAddress(str(path))])

        assert path.is_socket()
    assert str(refused.value) == (
        f"cannot listen on unix:{path}: another process listens there; stop what listens there, or"
        " change server.listen in router.toml"
    )


def test_a_file_where_a_unix_socket_shall_be_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("precious")

    with pytest.raises(ListenError, match=f"^cannot listen on unix:{path}: there is something"):
        listeners.bind([UnixAddress(str(path))])

    assert path.read_text() == "precious"


def test_a_unix_socket_in_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="no such file or directory; make its directory, or"):
        listeners.bind([UnixAddress(str(tmp_path / "missing" / "socket"))])


def test_a_unix_socket_where_we_may_not_write_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)

    with unprivileged(), pytest.raises(ListenError, match="permission denied; let this user"):
        listeners.bind([UnixAddress(str(closed / "socket"))])


def test_an_inherited_socket_is_listened_on_and_stays_with_its_owner(tmp_path: Path) -> None:
    """Socket activation: the socket, and its file, are systemd's."""
    path = tmp_path / "socket"
    with closing(unix.listen(path, mode=0o600, backlog=4)) as inherited:
        with bound(FdAddress(inherited.fileno())) as (listener,):
            assert listener.fileno() != inherited.fileno()
            assert listeners.shown(listener) == f"unix:{path}"
            assert not listener.getblocking()
            assert accepts(listener)

        assert path.is_socket()
        assert accepts(inherited)


def test_an_inherited_socket_without_a_file_is_listened_on() -> None:
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind("\0llmrouter-test-" + os.urandom(8).hex())
        inherited.listen()

        with bound(FdAddress(inherited.fileno())) as (listener,):
            assert listeners.shown(listener).startswith("unix:@llmrouter-test-")
            assert accepts(listener)


def a_file(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_RDONLY)


def a_closed_number(tmp_path: Path) -> int:
    number = a_file(tmp_path)
    os.close(number)
    return number


def a_socket_that_does_not_listen(_: Path) -> int:
    return socket.socket().detach()


def a_datagram_socket(_: Path) -> int:
    return socket.socket(type=socket.SOCK_DGRAM).detach()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_file, "it is not an open socket"),
        (a_closed_number, "it is not an open socket"),
        (a_socket_that_does_not_listen, "the socket there does not listen"),
        (a_datagram_socket, "the socket there does not listen"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_number_that_is_no_listening_socket_is_refused(
    tmp_path: Path, make: object, reason: str
) -> None:
    assert callable(make)
    number = make(tmp_path)
    before = open_numbers()

    with pytest.raises(ListenError, match=f"^cannot listen on fd:{number}: {reason}"):
        listeners.bind([FdAddress(number)])

    assert open_numbers() == before
    if make is not a_closed_number:
        os.close(number)


def open_numbers() -> set[str]:
    listing = os.listdir("/proc/self/fd")
    return {number for number in listing if os.path.lexists(f"/proc/self/fd/{number}")}


def test_several_addresses_are_listened_on_in_their_order(tmp_path: Path) -> None:
    addresses = (
        TcpAddress("127.0.0.1", 0),
        UnixAddress(str(tmp_path / "socket")),
        TcpAddress("::1", 0),
    )

    with bound(*addresses) as listening:
        assert [listener.family for listener in listening] == [
            socket.AF_INET,
            socket.AF_UNIX,
            socket.AF_INET6,
        ]


def test_where_one_address_is_refused_none_is_listened_on(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    before = open_numbers()

    with taken() as port:
        with pytest.raises(ListenError, match="already in use"):
            listeners.bind(
                iter(
                    (TcpAddress("::1", port), UnixAddress(str(path)), TcpAddress("127.0.0.1", port))
                )
            )

        assert not path.exists()
        with bound(TcpAddress("::1", port)) as (listener,):
            assert accepts(listener)
    assert open_numbers() == before


def test_closing_twice_takes_nothing_from_a_successor(tmp_path: Path) -> None:
    addresses = (UnixAddress(str(tmp_path / "socket")),)
    first = listeners.bind(addresses)
    listeners.close(first, addresses)

    with bound(*addresses) as (successor,):
        listeners.close(first, addresses)

        assert accepts(successor)
