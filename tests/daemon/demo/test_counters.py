from llmrouter.daemon.demo.counters import LAST_BODY_BYTES, Counters, last_of
from llmrouter.http1.request import Request


def test_requests_are_numbered_and_counted_by_path() -> None:
    counters = Counters(by_path={})

    assert [counters.count(name) for name in ("/a", "/b", "/a")] == [1, 2, 3]
    assert (counters.requests, counters.by_path) == (3, {"/a": 2, "/b": 1})


def arrived(body: bytes) -> Request:
    request = Request(b"/v1/x?y=%ff")
    request.method = b"POST"
    request.headers = {b"host": b"demo", b"x-name": b"\xe9"}
    request.pieces = [body]
    return request


def test_the_last_request_is_kept_as_it_arrived() -> None:
    request = arrived(b'{"a":"\xff"}')
    last = last_of(request)
    request.drop_body()

    found = last.arrived()
    assert (found.method, found.target) == ("POST", "/v1/x?y=%ff")
    assert found.headers == [("host", "demo"), ("x-name", "\xe9")]
    assert found.body == '{"a":"\ufffd"}'


def test_of_a_long_body_only_the_beginning_is_kept() -> None:
    assert len(last_of(arrived(b"x" * 1_000_000)).arrived().body) == LAST_BODY_BYTES
