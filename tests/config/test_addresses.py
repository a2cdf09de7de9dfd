"""Addresses: what can be listened on together, and which URLs are a base."""

import pytest

from llmrouter.config.addresses import (
    Address,
    FdAddress,
    TcpAddress,
    UnixAddress,
    listen_addresses,
    listen_findings,
    listen_texts,
    read_address,
    url_problem,
)
from llmrouter.config.schema import Server


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4000", TcpAddress("127.0.0.1", 4000)),
        ("0.0.0.0:0", TcpAddress("0.0.0.0", 0)),
        ("[::1]:4000", TcpAddress("::1", 4000)),
        ("[0:0::1]:4000", TcpAddress("::1", 4000)),
        ("LocalHost:65535", TcpAddress("localhost", 65535)),
        ("unix:/run/llmrouter.sock", UnixAddress("/run/llmrouter.sock")),
        ("fd:3", FdAddress(3)),
    ],
)
def test_reads_what_can_be_listened_on(text: str, address: Address) -> None:
    assert read_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "4000", ":4000", "localhost", "localhost:", "localhost:http", "a:-1", "a:65536", "a:٣",
        "::1:4000", "[::1]", "[::g]:1", "1.2.3:1", "http://a:1", "a b:1", "-a:1",
        "unix:", "unix:" + "x" * 108, "fd:", "fd:2", "fd:x",
    ],
)  # fmt: skip
def test_refuses_what_cannot_be_listened_on(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|choose"):
        read_address(text)


@pytest.mark.parametrize(
    ("listen", "is_free"),
    [
        (("127.0.0.1:1", "127.0.0.1:2"), True),
        (("127.0.0.1:1", "127.0.0.2:1"), True),
        (("127.0.0.1:1", "127.0.0.1:1"), False),
        (("127.0.0.1:1", "0.0.0.0:1"), False),
        (("0.0.0.0:1", "[::]:1"), True),  # one socket for each family
        (("[::]:1", "[::1]:1"), False),
        (("127.0.0.1:0", "127.0.0.1:0"), True),  # the system chooses two ports
        (("unix:/a", "unix:/b", "fd:3", "fd:4"), True),
        (("unix:/a", "unix:/a"), False),
        (("fd:3", "fd:3"), False),
    ],
)
def test_two_listeners_never_share_an_address(listen: tuple[str, ...], is_free: bool) -> None:
    assert (list(listen_findings(Server(listen=listen))) == []) is is_free


def test_reads_one_address_and_a_list_alike() -> None:
    assert listen_texts(Server(listen="fd:3")) == ("fd:3",)
    assert listen_addresses(Server(listen="fd:3")) == (FdAddress(3),)
    assert listen_addresses(Server(listen=("fd:3", "a:1"))) == (FdAddress(3), TcpAddress("a", 1))


@pytest.mark.parametrize(
    "url",
    [
        "builtin:demo",
        "https://api.openai.com/v1",
        "https://api.example.com/v1/",
        "HTTP://127.0.0.1:8000/v1",
        "http://[::1]:11434",
        "https://example.com/a/b-c_d",
    ],
)
def test_takes_base_urls(url: str) -> None:
    assert url_problem(url) is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is not a URL"),
        ("api.openai.com/v1", "is not a URL"),
        ("ftp://example.com", "is not a URL"),
        ("https://exämple.com", "is not a URL"),
        ("https://example.com/a b", "is not a URL"),
        ("https://example.com\n", "is not a URL"),
        ("https://", "has no valid host"),
        ("https://[::1", "has no valid host"),
        ("https://example.com:99999/v1", "has no valid host"),
        ("https://example.com:0/v1", "has no valid host"),
        ("https://example.com:x/v1", "has no valid host"),
        ("https://user:hunter2@example.com", "holds a user or password"),
        ("https://hunter2@example.com", "holds a user or password"),
        ("https://example.com/v1?key=hunter2", "holds a query"),
        ("https://example.com/v1?", "holds a query"),
        ("https://example.com/v1#hunter2", "holds a query or fragment"),
        ("https://example.com/v1/embeddings/", "is an endpoint"),
        ("builtin:other", "does not exist"),
    ],
)
def test_refuses_other_urls_and_shows_no_secret_in_them(url: str, says: str) -> None:
    problem = url_problem(url)

    assert problem is not None
    assert says in problem
    assert "hunter2" not in problem
