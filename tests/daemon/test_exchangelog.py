"""The line of an exchange: what it looks like, and that nobody can forge one."""

import pytest

from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.principal import Principal
from llmrouter.daemon import exchangelog
from llmrouter.errors import InternalError, InvalidKey, RouterError, UpstreamTimeout
from tests.support.logged import STAMP, Pipe, Timers, exchange, fields, line_of, logging_to


def test_a_served_call_is_one_line_of_fields(pipe: Pipe) -> None:
    logged = exchange(model="gpt-4o", deployment="openai/gpt-4o-2024-08-06")

    assert line_of(pipe, logged) == (
        f"time={STAMP} level=info process=worker-1 request=req_1a org=acme key=3fQ9xW2LbT0c"
        " method=POST path=/v1/chat/completions model=gpt-4o"
        " deployment=openai/gpt-4o-2024-08-06 status=200 ms=12.5"
    )


def test_what_was_refused_before_anybody_was_known_has_fewer_fields(pipe: Pipe) -> None:
    logged = exchange(status=401, principal=None, error=InvalidKey("the key is not valid"))

    assert line_of(pipe, logged) == (
        f"time={STAMP} level=info process=worker-1 request=req_1a"
        " method=POST path=/v1/chat/completions status=401 code=invalid_key ms=12.5"
    )


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (None, "info"),
        (InvalidKey("wrong"), "info"),
        (UpstreamTimeout("late"), "warning"),
        (InternalError("a bug"), "error"),
    ],
)
def test_the_level_says_whose_fault_it_was(
    pipe: Pipe, error: RouterError | None, level: str
) -> None:
    found = fields(line_of(pipe, exchange(error=error)))

    assert found["level"] == level
    assert found.get("code") == (error.code if error is not None else None)


def test_the_query_of_a_path_is_not_logged(pipe: Pipe) -> None:
    """Some clients put their key there."""
    line = line_of(pipe, exchange(target=b"/v1/models?key=sk-lr-secret"))

    assert fields(line)["path"] == "/v1/models"
    assert "secret" not in line


HOSTILE = [
    "a b",
    "a\nlevel=error",
    "a\r\ntime=0 level=error",
    'a" status=200 "',
    "a\\",
    'a\\" status=200',
    "a=b",
    "\x1b[2Jcleared",
    "\x00\x07\x7f",
    "a\u2028b\u0085c",
    "a%0alevel=error",
    "status=500 ms=0",
    "ü\udcff",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_that_a_caller_chooses_forges_a_line_or_a_field(pipe: Pipe, text: str) -> None:
    path = b"/" + text.encode("utf-8", "surrogateescape")
    hostile = exchange(target=path, model=text, deployment=f"up/{text}")

    line = line_of(pipe, hostile)

    found = fields(line)
    assert line.isascii()
    assert line.isprintable()
    assert found["status"] == "200"
    assert found["level"] == "info"
    assert found["ms"] == "12.5"


def test_an_org_named_with_spaces_stays_one_field(pipe: Pipe) -> None:
    spaced = Principal(
        org="Acme level=error", team=None, user=None, key_id="3fQ9xW2LbT0c", models=ModelPatterns()
    )

    assert fields(line_of(pipe, exchange(principal=spaced)))["org"] == '"Acme level=error"'


def test_an_ordinary_percent_encoded_path_is_logged_as_it_came(pipe: Pipe) -> None:
    assert fields(line_of(pipe, exchange(target=b"/v1/models/a%0ab")))["path"] == "/v1/models/a%0ab"


def test_long_values_are_cut(pipe: Pipe) -> None:
    line = line_of(pipe, exchange(target=b"/" + b"x" * 60_000, model="m" * 60_000, deployment="d"))

    assert len(line) < 700


def test_lines_of_one_moment_are_written_at_once(pipe: Pipe) -> None:
    timers = Timers()
    with logging_to(pipe.writing, timers) as log:
        for _ in range(3):
            log(exchange())
        assert len(timers.due) == 1
        assert pipe.read() == ""

        timers.fire()

        assert len(pipe.lines(3)) == 3
        log(exchange())
        assert len(timers.due) == 1


def test_what_is_remembered_of_a_long_path_is_short(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    what = exchangelog._what

    def noted(method: bytes, path: bytes) -> str:
        asked.append(path)
        return what(method, path)

    monkeypatch.setattr(exchangelog, "_what", noted)
    line_of(pipe, exchange(target=b"/" + b"x" * 60_000))
    (path,) = asked
    assert len(path) <= exchangelog._VALUE_CHARS_MAX + 1
