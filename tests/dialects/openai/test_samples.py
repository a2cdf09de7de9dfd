import shlex

import msgspec
import pytest

from llmrouter.contracts.call import Operation
from llmrouter.dialects.openai.request import read_call
from llmrouter.dialects.openai.samples import sample_body, sample_calls

CALLS = sample_calls("http://127.0.0.1:4000/v1", "sk-1", "gpt-4o")


def test_the_shell_sees_one_call_with_a_json_body() -> None:
    command, _, _ = CALLS.partition("\n\n")
    words = shlex.split(command)

    assert words[:2] == ["curl", "http://127.0.0.1:4000/v1/chat/completions"]
    assert "Authorization: Bearer sk-1" in words
    assert msgspec.json.decode(words[-1])["model"] == "gpt-4o"


def test_python_compiles_its_sample() -> None:
    _, _, code = CALLS.partition("\n\n")

    compile(code, "sample", "exec")
    assert 'base_url="http://127.0.0.1:4000/v1", api_key="sk-1"' in code


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("stream", [False, True])
def test_a_sample_body_is_a_call(operation: Operation, stream: bool) -> None:
    call = read_call(operation, sample_body(operation, "gpt-4o", stream=stream))

    assert (call.model, call.choices) == ("gpt-4o", 1)
    assert call.stream is (stream and operation is not Operation.EMBEDDING)
    assert len(call.members) == 2 + stream
