"""Where an upstream is: an address, and how to make a connection to it."""

import ssl
from urllib.parse import urlsplit

import msgspec


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream host: its address, and what of a URL goes into requests to it."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    """Verifies the certificate against `host`, which is also sent as SNI; None is plain HTTP."""
    unix_path: str | None = None
    """Connect to this socket instead of host and port."""
    host_header: bytes
    path_prefix: bytes
    """The URL's own path, without a slash at its end."""

    @classmethod
    def from_url(cls, url: str, *, unix_path: str | None = None) -> "Origin":
        """Take a base URL apart: `https://api.example.com/v1`."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        assert parts.hostname is not None
        authority = parts.netloc.rpartition("@")[2]  # credentials are sent in no Host header
        return cls(
            host=parts.hostname,
            port=parts.port or (443 if secure else 80),
            tls=_verifying_context() if secure else None,
            unix_path=unix_path,
            host_header=authority.encode("ascii" if authority.isascii() else "idna"),
            path_prefix=parts.path.rstrip("/").encode(),
        )

    def __repr__(self) -> str:
        return f"<Origin {self.unix_path or f'{self.host}:{self.port}'}>"


def _verifying_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
