import msgspec

from llmrouter.daemon.demo.response_shapes import Event, FunctionCall, Numbered, OutputMessage


def test_events_are_named_and_numbered_from_zero() -> None:
    numbered = Numbered()

    first = numbered.write(Event(type="response.created"))
    second = numbered.write(Event(type="response.x", delta="a\n"))

    assert first == (
        b'event: response.created\ndata: {"type":"response.created","sequence_number":0}\n\n'
    )
    assert b'"delta":"a\\n","sequence_number":1}\n\n' in second


def test_items_say_what_they_are() -> None:
    message = OutputMessage(id="a", status="completed", content=[])
    call = FunctionCall(id="b", status="completed", arguments="{}", call_id="c", name="n")

    assert msgspec.to_builtins(message)["type"] == "message"
    assert msgspec.to_builtins(call)["type"] == "function_call"
