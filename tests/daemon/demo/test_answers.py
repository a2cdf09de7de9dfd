import msgspec
import pytest

from llmrouter.daemon.demo import answers
from llmrouter.daemon.demo.directives import NONE, TABLE
from llmrouter.daemon.demo.shapes import BadRequest, Stamp
from tests.daemon.demo.running import sdk

CALLS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        *((path.encode(), (path, b"POST")) for path in CALLS),
        (b"/v1/models", ("/v1/models", b"GET")),
        (b"/v1/models/demo-slow", ("/v1/models/{id}", b"GET")),
        (b"/v1/models/org/name", ("/v1/models/{id}", b"GET")),
        (b"/v1/modelsx", None),
        (b"/v1/chat", None),
        (b"/chat/completions", None),
        (b"/", None),
    ],
)
def test_paths_are_those_of_the_api(path: bytes, place: tuple[str, bytes] | None) -> None:
    assert answers.place_of(path) == place


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model":"\xff"}',
        b'{"model":5}',
        b'{"model":"demo","input":' + b"[" * 100_000,
        b'{"messages":[],"prompt":"","input":""}',
    ],
)
def test_a_body_that_is_no_request_is_refused(path: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
        answers.read(path.encode(), body)


def test_members_that_are_read_late_are_refused_as_the_others_are() -> None:
    body = b'{"model":"demo","messages":[{"role":"user"}],"tools":[5]}'
    asked = answers.read(b"/v1/chat/completions", body)

    with pytest.raises(BadRequest, match="the body cannot be read: "):
        answers.answer(asked, Stamp(1, 1), NONE)


def test_every_directive_is_a_model_of_the_list() -> None:
    asked = answers.read(b"/v1/models", b"")
    listed = msgspec.json.decode(answers.answer(asked, Stamp(1, 9), NONE).body)

    assert [model["id"] for model in listed["data"]] == [
        "demo",
        *("demo-" + directive.name for directive in TABLE),
    ]
    assert listed["data"][0]["created"] == 9


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", None),
        (401, "invalid_request_error", "invalid_api_key"),
        (404, "invalid_request_error", "model_not_found"),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (500, "server_error", None),
        (503, "server_error", None),
    ],
)
def test_an_error_has_the_usual_type_and_code_of_its_status(
    status: int, kind: str, code: str | None
) -> None:
    error = {"message": "why", "type": kind, "param": None, "code": code}

    assert msgspec.json.decode(answers.error_body(status, "why")) == {"error": error}


def test_an_error_may_have_a_code_of_its_own() -> None:
    body = msgspec.json.decode(answers.error_body(429, "why", code="c", param="p"))

    assert (body["error"]["code"], body["error"]["param"]) == ("c", "p")


@pytest.mark.asyncio
async def test_the_sdk_reads_models() -> None:
    async with sdk() as client:
        listed = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("any name/at all")

    assert listed[0] == "demo"
    assert one.id == "any name/at all"
