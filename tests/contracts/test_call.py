import msgspec
import pytest

from llmrouter.contracts.call import Call, Operation, Usage

CALL = Call(
    operation=Operation.CHAT,
    model="gpt-4o",
    stream=True,
    wants_usage=True,
    output_max=200,
    choices=2,
    body=b'{"messages": "a secret", "model": "gpt-4o"}',
    members={"messages": msgspec.Raw(b'"a secret"'), "model": msgspec.Raw(b'"gpt-4o"')},
    spans={"messages": (13, 23), "model": (34, 42)},
)


def test_without_its_body_a_call_holds_no_prompt() -> None:
    """A stream may last for minutes, and its prompt is not needed any more."""
    light = CALL.without_body()

    assert (light.body, light.members, light.spans) == (b"", {}, None)
    assert "secret" not in repr(light)


def test_without_its_body_a_call_is_otherwise_the_same() -> None:
    light = CALL.without_body()

    for name in set(Call.__struct_fields__) - {"body", "members", "spans"}:
        assert getattr(light, name) == getattr(CALL, name)
    assert CALL.body
    assert light.without_body() == light


@pytest.mark.parametrize(("value", "field"), [(CALL, "model"), (Usage(), "prompt_tokens")])
def test_values_that_pass_between_the_parts_cannot_be_changed(value: object, field: str) -> None:
    with pytest.raises(AttributeError):
        setattr(value, field, "other")


def test_operations_are_known_by_names_that_journals_keep() -> None:
    """They stand in files, so none may be renamed."""
    assert {one.value for one in Operation} >= {"chat", "completion", "embedding", "response"}


def test_usage_is_written_without_what_it_does_not_say() -> None:
    assert msgspec.json.encode(Usage()) == b"{}"
    assert msgspec.json.encode(Usage(output_tokens=5, cost_nano_usd=0)) == (
        b'{"output_tokens":5,"cost_nano_usd":0}'
    )
