import ssl

import pytest

from llmrouter.http1.origin import Origin


@pytest.mark.parametrize(
    ("url", "host", "port", "host_header", "path_prefix"),
    [
        ("http://example.com", "example.com", 80, b"example.com", b""),
        ("https://example.com", "example.com", 443, b"example.com", b""),
        ("https://api.openai.com/v1", "api.openai.com", 443, b"api.openai.com", b"/v1"),
        ("https://api.openai.com/v1/", "api.openai.com", 443, b"api.openai.com", b"/v1"),
        ("http://127.0.0.1:8000/a/b", "127.0.0.1", 8000, b"127.0.0.1:8000", b"/a/b"),
        ("http://[::1]:8000", "::1", 8000, b"[::1]:8000", b""),
        ("HTTP://Example.COM:8000/V1", "example.com", 8000, b"Example.COM:8000", b"/V1"),
        ("http://bücher.example:8000", "bücher.example", 8000, b"xn--bcher-kva.example:8000", b""),
        ("http://user:secret@example.com/v1", "example.com", 80, b"example.com", b"/v1"),
    ],
)
def test_a_url_is_taken_apart(
    url: str, host: str, port: int, host_header: bytes, path_prefix: bytes
) -> None:
    origin = Origin.from_url(url)
    assert (origin.host, origin.port) == (host, port)
    assert origin.host_header == host_header
    assert origin.path_prefix == path_prefix


def test_https_verifies_the_certificate_and_speaks_http_1_1() -> None:
    origin = Origin.from_url("https://example.com")
    assert origin.tls is not None
    assert origin.tls.verify_mode is ssl.CERT_REQUIRED
    assert origin.tls.check_hostname
    assert Origin.from_url("http://example.com").tls is None


def test_the_repr_shows_the_address_and_no_secret() -> None:
    assert repr(Origin.from_url("https://u:secret@example.com")) == "<Origin example.com:443>"
    assert repr(Origin.from_url("http://a", unix_path="/run/x")) == "<Origin /run/x>"
