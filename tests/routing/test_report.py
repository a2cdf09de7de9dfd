"""Reports pass between processes: what one sends is what another reads."""

import msgspec

from llmrouter.routing.breaker import State
from llmrouter.routing.report import Report


def test_a_report_comes_as_it_was_sent() -> None:
    report = Report(deployment="up/gpt", state=State.OPEN, rest_s=1.5, reason="502", changed_s=7.25)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report) == report
    assert report.throttled_s == 0
