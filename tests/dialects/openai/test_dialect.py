import openai
import pytest

from llmrouter.contracts.call import Operation
from llmrouter.dialects.openai import OpenAI
from llmrouter.dialects.openai.taps import CompletionTap, ResponseTap
from llmrouter.errors import UpstreamError
from tests.dialects.openai.test_refusal import client
from tests.dialects.recorded import call


@pytest.mark.parametrize(
    ("path", "operation", "upstream"),
    [
        (b"/v1/chat/completions", Operation.CHAT, b"/chat/completions"),
        (b"/v1/completions", Operation.COMPLETION, b"/completions"),
        (b"/v1/embeddings", Operation.EMBEDDING, b"/embeddings"),
        (b"/v1/responses", Operation.RESPONSE, b"/responses"),
    ],
)
def test_paths(path: bytes, operation: Operation, upstream: bytes) -> None:
    assert OpenAI().paths[path] is operation
    assert OpenAI().upstream_path(operation) == upstream


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({b"authorization": b"Bearer sk-1"}, b"sk-1"),
        ({b"authorization": b"bearer sk-1"}, b"sk-1"),
        ({b"authorization": b"BEARER   sk-1 "}, b"sk-1"),
        ({b"authorization": b"sk-1"}, b"sk-1"),
        ({b"authorization": b"Bearer sk-1", b"api-key": b"sk-2"}, b"sk-1"),
        ({b"authorization": b"Basic dXNlcjpwdw==", b"api-key": b"sk-2"}, b"Basic dXNlcjpwdw=="),
        ({b"api-key": b"sk-2"}, b"sk-2"),
        ({b"x-api-key": b"sk-3"}, b"sk-3"),
        ({b"authorization": b"Bearer"}, b""),
        ({b"authorization": b"Bearer "}, b""),
        ({b"authorization": b""}, b""),
        ({b"cookie": b"key=sk-1"}, None),
        ({}, None),
    ],
)
def test_where_a_key_is_looked_for(headers: dict[bytes, bytes], key: bytes | None) -> None:
    """FR-001: as this API's SDKs send it, and as those of its relatives do."""
    assert OpenAI().presented_key(headers) == key


@pytest.mark.parametrize("operation", list(Operation))
def test_every_operation_is_followed_in_its_own_way(operation: Operation) -> None:
    tap = OpenAI().tap(call(operation))
    event = OpenAI().error_event(call(operation), UpstreamError("broke off"), "req-1")

    of_responses = operation is Operation.RESPONSE
    assert isinstance(tap, ResponseTap if of_responses else CompletionTap)
    assert event.startswith(b"event: error\n" if of_responses else b"data: ")


def test_the_sdk_reads_the_list_of_models() -> None:
    """FR-002: what this key may use."""
    with client(200, OpenAI().models_body(["gpt-4o", "my/model:1"], 1_700_000_000)) as sdk:
        listed = list(sdk.models.list())

    assert [model.id for model in listed] == ["gpt-4o", "my/model:1"]
    assert {(model.object, model.created) for model in listed} == {("model", 1_700_000_000)}


def test_the_sdk_reads_one_model() -> None:
    with client(200, OpenAI().model_body("gpt-4o", 1_700_000_000)) as sdk:
        model = sdk.models.retrieve("gpt-4o")

    assert model == openai.types.Model(
        id="gpt-4o", created=1_700_000_000, object="model", owned_by="llmrouter"
    )
