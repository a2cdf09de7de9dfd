"""The listeners: bound once by the supervisor, inherited by every worker."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from llmrouter.config.addresses import Address, FdAddress, TcpAddress, UnixAddress
from llmrouter.daemon import unix

BACKLOG = 4096
"""Connections that wait to be accepted; the kernel caps it at net.core.somaxconn."""
_UNIX_MODE = 0o660


class ListenError(Exception):
    """An address cannot be listened on; the message says which, why and what to do."""


def bind(addresses: Iterable[Address]) -> list[socket.socket]:
    """Listen on all `addresses`, or raise ListenError and listen on none."""
    bound: list[socket.socket] = []
    try:
        for address in addresses:
            bound += _bind(address)
    except BaseException:
        for listener in bound:
            listener.close()
        raise
    return bound


def shown(listener: socket.socket) -> str:
    """A listener's address as people write it, with the port that was chosen for port 0."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{host}:{port}"


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
    for family, kind, protocol, _, name in dict.fromkeys(found):
        listener = socket.socket(family, kind, protocol)
        bound.append(listener)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(name)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            for opened in bound:
                opened.close()
            raise _refused(f"{host}:{port}", error) from error
    return bound


def _inherited(fd: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=os.dup(fd))
    except OSError as error:
        raise ListenError(
            f"cannot listen on fd:{fd}: it is not an open socket; start us by socket activation,"
            " or name an address"
        ) from error
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        raise ListenError(f"cannot listen on fd:{fd}: the socket there does not listen")
    listener.setblocking(False)
    return listener


def _refused(shown_address: str, error: OSError) -> ListenError:
    reason = (error.strerror or str(error)).lower()
    return ListenError(
        f"cannot listen on {shown_address}: {reason}; stop what listens there, or change"
        " server.listen in router.toml"
    )
