"""A certificate authority of the tests' own, and certificates that it signed."""

import ssl
import subprocess
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


class Authority:
    """Makes certificates in a directory; needs the `openssl` command."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.certificate = directory / "ca.crt"
        self._key = directory / "ca.key"
        _openssl(
            "req", "-x509", *_CURVE, "-subj", "/CN=test authority",
            "-addext", "keyUsage=critical,keyCertSign",
            "-keyout", str(self._key), "-out", str(self.certificate),
        )  # fmt: skip

    def server_context(self, name: str) -> ssl.SSLContext:
        """A server's context with a certificate for `name`."""
        key, certificate = self._directory / f"{name}.key", self._directory / f"{name}.crt"
        _openssl(
            "req", "-x509", *_CURVE, "-subj", f"/CN={name}",
            "-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=CA:FALSE",
            "-CA", str(self.certificate), "-CAkey", str(self._key),
            "-keyout", str(key), "-out", str(certificate),
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """A client's context that trusts this authority and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
