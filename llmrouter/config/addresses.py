"""Addresses: where we listen, and the base URLs of upstreams."""

import ipaddress
import re
from urllib.parse import urlsplit

from msgspec import Struct

from llmrouter.config.problems import Findings, Key
from llmrouter.config.schema import Server

DEMO_URL = "builtin:demo"
"""The url of the upstream that the daemon itself runs."""

_UNIX_BYTES_MAX = 107  # what a socket address holds
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_WILDCARDS = {"0.0.0.0": 4, "::": 6}  # noqa: S104 - compared with, not listened on
_LISTEN_RULE = 'write "HOST:PORT", "[::1]:PORT", "unix:/PATH" or "fd:NUMBER"'
_NO_HOST = 'has no valid host and port; write "https://HOST/PATH" or "http://HOST:PORT/PATH"'
_ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/responses", "/messages")


class TcpAddress(Struct, frozen=True):
    """A host, an IPv6 one without its brackets, and a port; 0 lets the system choose one."""

    host: str
    port: int


class UnixAddress(Struct, frozen=True):
    """A Unix socket that we create."""

    path: str


class FdAddress(Struct, frozen=True):
    """A socket that whoever started us has opened, such as systemd."""

    fd: int


Address = TcpAddress | UnixAddress | FdAddress


def read_address(text: str) -> Address:
    """Read what `listen` takes; ValueError says what is wrong and what to write."""
    kind, _, rest = text.partition(":")
    if kind == "unix":
        return _unix(text, rest)
    if kind == "fd":
        if not re.fullmatch(r"[0-9]{1,5}", rest) or int(rest) < 3:
            raise ValueError(f"'{text}' is no inherited socket; write a number from 3, as in fd:3")
        return FdAddress(int(rest))
    return _tcp(text)


def listen_texts(server: Server) -> tuple[str, ...]:
    """What `server.listen` holds, as a list also where it is a single address."""
    return (server.listen,) if isinstance(server.listen, str) else server.listen


def listen_addresses(server: Server) -> tuple[Address, ...]:
    """The addresses to listen on, of settings that were checked."""
    return tuple(map(read_address, listen_texts(server)))


def admin_address(server: Server) -> Address:
    """Where health is answered, of settings that were checked."""
    return read_address(server.admin_listen)


def listen_findings(server: Server) -> Findings:
    """Addresses that cannot be read, and addresses that cannot both be listened on."""
    listed = isinstance(server.listen, tuple)
    places: list[tuple[Key, str]] = [
        (("server", "listen", index) if listed else ("server", "listen"), text)
        for index, text in enumerate(listen_texts(server))
    ]
    places.append((("server", "admin_listen"), server.admin_listen))
    taken: list[tuple[str, Address]] = []
    for key, text in places:
        try:
            address = read_address(text)
        except ValueError as error:
            yield key, str(error)
            continue
        other = next((seen for seen, used in taken if _clash(address, used)), None)
        if other is not None:
            yield key, f"'{text}' clashes with '{other}', which we listen on too; change one"
        taken.append((text, address))


def url_problem(url: str) -> str | None:
    """What is wrong with the base URL of an upstream; never shows what may be a secret in it."""
    if url == DEMO_URL:
        return None
    if url.startswith("builtin:"):
        return f"'{url}' does not exist; the only upstream built in is '{DEMO_URL}'"
    if not re.fullmatch(r"[!-~]+", url) or not re.match(r"https?://", url, re.IGNORECASE):
        return f'is not a URL; write "https://HOST/PATH", "http://HOST:PORT/PATH" or "{DEMO_URL}"'
    return _url_part_problem(url)


def _url_part_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return _NO_HOST
    if not has_host:
        return _NO_HOST
    if "@" in parts.netloc:
        return "holds a user or password; remove it and name a credential instead"
    if "?" in url or "#" in url:
        return "holds a query or fragment; a base URL ends with its path"
    if parts.path.rstrip("/").endswith(_ENDPOINTS):
        return f"'{url}' is an endpoint; write the base URL that SDKs take, without the last part"
    return None


def _unix(text: str, path: str) -> UnixAddress:
    if not path or "\0" in path:
        raise ValueError(f"{text!r} names no socket; write unix:/PATH")
    if len(path.encode()) > _UNIX_BYTES_MAX:
        raise ValueError(f"the path is longer than {_UNIX_BYTES_MAX} bytes; choose a shorter one")
    return UnixAddress(path)


def _tcp(text: str) -> TcpAddress:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f"{text!r} is no address; {_LISTEN_RULE}")
    try:
        if host.startswith("[") and host.endswith("]"):
            return TcpAddress(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        if re.fullmatch(r"[0-9.]+", host):
            return TcpAddress(str(ipaddress.IPv4Address(host)), int(port))
    except ValueError:
        raise ValueError(f"{text!r} holds no valid IP address; {_LISTEN_RULE}") from None
    if not _HOST.fullmatch(host):
        raise ValueError(f"{text!r} is no address; {_LISTEN_RULE}")
    return TcpAddress(host.lower(), int(port))


def _clash(one: Address, other: Address) -> bool:
    """Whether both cannot be listened on; a wildcard takes every address of its family."""
    if not isinstance(one, TcpAddress) or not isinstance(other, TcpAddress):
        return one == other
    if one.port != other.port or one.port == 0:
        return False
    return one.host == other.host or _covers(one.host, other.host) or _covers(other.host, one.host)


def _covers(wildcard: str, host: str) -> bool:
    family = _WILDCARDS.get(wildcard)
    return family is not None and family == (6 if ":" in host else 4)
