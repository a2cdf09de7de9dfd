"""The listeners: bound once by the supervisor, inherited by every worker."""

import errno
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmrouter.config.addresses import Address, FdAddress, TcpAddress, UnixAddress
from llmrouter.daemon import unix
from llmrouter.daemon.errors import DaemonError

BACKLOG = 4096
"""Connections that wait to be accepted; the kernel caps it at net.core.somaxconn."""
_UNIX_MODE = 0o660
_LACKING = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})
"""Of a name with several addresses, such as localhost, those may be left out: many containers know
::1 by name, and have no IPv6."""
_REMEDIES = {
    errno.EADDRINUSE: "stop what listens there, or ",
    errno.EACCES: "let this user do that, or ",
    errno.EPERM: "let this user do that, or ",
    errno.ENOENT: "make its directory, or ",
}


class ListenError(DaemonError):
    """An address cannot be listened on; the message says which, why and what to do."""


class _Refused(Exception):
    """An address is not to be had; the message ends where it says what to change."""


def bind(addresses: Iterable[Address], *, key: str = "server.listen") -> list[socket.socket]:
    """Listen on all `addresses`, which `key` holds, or raise ListenError and listen on none."""
    wanted = list(addresses)
    bound: list[socket.socket] = []
    try:
        for address in wanted:
            bound += _bind(address)
    except _Refused as refused:
        close(bound, wanted)
        raise ListenError(f"{refused}change {key} in router.toml") from refused
    except BaseException:
        close(bound, wanted)
        raise
    return bound


def close(bound: Iterable[socket.socket], addresses: Iterable[Address]) -> None:
    """Listen no more. The Unix sockets that we made go too; one that we were given stays."""
    made = {address.path for address in addresses if isinstance(address, UnixAddress)}
    for listener in bound:
        if listener.fileno() >= 0 and (name := listener.getsockname()) in made:
            Path(name).unlink(missing_ok=True)
        listener.close()


def shown(listener: socket.socket) -> str:
    """A listener's address as people write it, with the port that was chosen for port 0."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}" if isinstance(name, str) else f"unix:@{name[1:].decode()}"
    return _tcp_text(*name[:2])


def _tcp_text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tls_context(cert: str, key: str) -> ssl.SSLContext:
    """What listeners prove themselves with. Raises ListenError if these files cannot serve."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password=lambda: "")  # never ask the terminal for one
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise ListenError(
            f"cannot serve TLS with the certificate {cert} and the key {key}:"
            f" {reason.lower().replace('_', ' ')}; server.tls takes a PEM certificate chain and its"
            " own PEM key, unencrypted"
        ) from error
    return context


def _bind(address: Address) -> list[socket.socket]:
    match address:
        case TcpAddress(host=host, port=port):
            return _tcp(host, port)
        case UnixAddress(path=path):
            try:
                return [unix.listen(Path(path), mode=_UNIX_MODE, backlog=BACKLOG)]
            except OSError as error:
                raise _refused(f"unix:{path}", error) from error
        case FdAddress(fd=fd):
            return [_inherited(fd)]


def _tcp(host: str, port: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except socket.gaierror as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    bound: list[socket.socket] = []
    lacking: OSError | None = None
    for family, kind, protocol, _, name in dict.fromkeys(found):
        try:
            bound.append(_listening(socket.socket(family, kind, protocol), name))
        except OSError as error:
            if error.errno not in _LACKING:
                close(bound, ())
                raise _refused(_tcp_text(host, port), error) from error
            lacking = error
    if not bound and lacking is not None:
        raise _refused(_tcp_text(host, port), lacking) from lacking
    return bound


def _listening(listener: socket.socket, name: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(name)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _inherited(fd: int) -> socket.socket:
    try:
        given = socket.socket(fileno=fd)
    except OSError as error:
        raise ListenError(
            f"cannot listen on fd:{fd}: it is not an open socket; start us by socket activation,"
            " or name an address"
        ) from error
    listener = given.dup()
    given.detach()
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        raise ListenError(f"cannot listen on fd:{fd}: the socket there does not listen")
    listener.setblocking(False)
    return listener


def _refused(shown_address: str, error: OSError) -> _Refused:
    reason = (error.strerror or str(error)).lower()
    remedy = _REMEDIES.get(error.errno or 0, "")
    return _Refused(f"cannot listen on {shown_address}: {reason}; {remedy}")
