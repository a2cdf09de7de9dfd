"""What the books answered, as a table, as JSON and as CSV."""

import msgspec
import pytest

from llmrouter.cli.sheet import lines
from llmrouter.cli.usageviews import CallsView, TotalsView
from llmrouter.metering.accounts import BookedCall, Dimension, Period, Report, Total
from llmrouter.metering.tally import Tally

PLAIN = Tally(calls=2, prompt_tokens=1_500, output_tokens=20, cost_nano_usd=1_000_000_001)
ALL = Tally(*range(1, len(Tally.__struct_fields__) + 1))
CALL = BookedCall(
    at_ms=1_763_880_002_500,
    request_id="req_1",
    org="acme",
    team=None,
    user=None,
    key_id="3fQ9xW2LbT0c",
    model="gpt-4o",
    deployment="openai/gpt-4o-2024-08-06",
    upstream="openai",
    dialect="openai",
    operation="chat",
    stream=True,
    status=200,
    outcome="ok",
    error_code=None,
    is_error=False,
    attempts=1,
    estimated=False,
    prompt_tokens=1_000,
    cached_tokens=200,
    output_tokens=30,
    reasoning_tokens=10,
    cost_nano_usd=2_500_000,
    reported_nano_usd=None,
    ttft_ms=80,
    duration_ms=2_000,
    price="2.5/1.25/10",
)


def totals(*totals: Total, by: tuple[Dimension | Period, ...] = (Dimension.ORG,)) -> TotalsView:
    return TotalsView(by, Report(None, None, list(totals)))


def call(**changes: object) -> BookedCall:
    return msgspec.structs.replace(CALL, **changes)


# ---- totals -----------------------------------------------------------------------------------


def test_a_table_has_the_total_and_no_column_of_zeros() -> None:
    view = totals(Total(("acme",), PLAIN), Total(("globex",), PLAIN))

    assert list(lines(view.sheet())) == [
        "org     calls  prompt  output     USD",
        "acme        2   1_500      20  1.0000  ████████████████████",
        "globex      2   1_500      20  1.0000  ████████████████████",
        "total       4   3_000      40  2.0000",
    ]


def test_whatever_is_counted_is_shown_where_there_is_any() -> None:
    sheet = totals(Total((None, "gpt-4o"), ALL), by=(Dimension.TEAM, Dimension.MODEL)).sheet()

    assert sheet.columns == [
        "team", "model", "calls", "other attempts", "errors", "estimated", "interrupted",
        "unpriced", "prompt", "cached", "output", "reasoning", "USD", "reported USD",
    ]  # fmt: skip
    assert sheet.rows[0][:8] == ["-", "gpt-4o", "1", "13", "2", "3", "4", "5"]
    assert sheet.footer is not None
    assert sheet.footer[:3] == ["total", "", "1"]


def test_bars_show_money_else_tokens_else_calls() -> None:
    for name, amounts in {
        "cost_nano_usd": (1, 4), "output_tokens": (1, 4), "calls": (1, 4)
    }.items():  # fmt: skip
        few, many = (msgspec.structs.replace(Tally(calls=4), **{name: each}) for each in amounts)
        view = totals(Total(("a",), few), Total(("b",), many))

        assert view.sheet().shares == [0.25, 1.0]


def test_the_document_has_every_measure_and_money_to_the_nano() -> None:
    view = totals(Total((None,), PLAIN), Total(("b",), ALL), by=(Dimension.TEAM,))

    document = msgspec.json.decode(msgspec.json.encode(view.document()))

    assert document["by"] == ["team"]
    assert document["rows"][0] == {
        "team": None, "calls": 2, "errors": 0, "estimated": 0, "interrupted": 0, "unpriced": 0,
        "reported": 0, "prompt_tokens": 1_500, "cached_tokens": 0, "output_tokens": 20,
        "reasoning_tokens": 0, "cost_usd": "1.000000001", "reported_usd": "0.00",
        "other_attempts": 0,
    }  # fmt: skip
    assert document["total"]["cost_usd"] == "1.000000012"
    assert document["total"]["calls"] == 3


def test_the_document_says_of_what_time_it_is() -> None:
    view = TotalsView([], Report(1_763_880_000_000, 1_763_880_002_500, []))

    document = view.document()

    assert isinstance(document, dict)
    assert document["since"] == "2025-11-23T06:40:00.000Z"
    assert document["until"] == "2025-11-23T06:40:02.500Z"


def test_records_have_the_columns_of_the_header() -> None:
    view = totals(Total(("2025-11-23", "acme"), ALL), by=(Period.DAY, Dimension.ORG))

    assert [list(record) for record in view.records()] == [view.columns()]
    assert view.records()[0]["day"] == "2025-11-23"


def test_nothing_is_empty_and_its_total_is_zero() -> None:
    view = totals()

    assert view.is_empty()
    assert list(lines(view.sheet())) == [
        "org    calls  prompt  output     USD",
        "total      0       0       0  0.0000",
    ]
    assert not totals(Total(("acme",), Tally())).is_empty()


# ---- calls ------------------------------------------------------------------------------------


def test_a_call_is_a_row_and_failed_ones_are_marked() -> None:
    interrupted = call(
        status=0, outcome="interrupted", estimated=True, is_error=True, cost_nano_usd=None,
        duration_ms=None,
    )  # fmt: skip

    sheet = CallsView([CALL, interrupted]).sheet()

    assert sheet.columns == [
        "time", "request", "org", "key", "model", "deployment", "status", "outcome", "prompt",
        "cached", "output", "USD", "ms",
    ]  # fmt: skip
    assert sheet.rows == [
        ["2025-11-23T06:40:02.500Z", "req_1", "acme", "3fQ9xW2LbT0c", "gpt-4o",
         "openai/gpt-4o-2024-08-06", "200", "ok", "1_000", "200", "30", "0.0025", "2_000"],
        ["2025-11-23T06:40:02.500Z", "req_1", "acme", "3fQ9xW2LbT0c", "gpt-4o",
         "openai/gpt-4o-2024-08-06", "0", "interrupted (estimated)", "1_000", "200", "30", "-",
         "-"],
    ]  # fmt: skip
    assert sheet.marked == {1}


@pytest.mark.parametrize(
    ("attempts", "estimated", "shown"),
    [
        (2, False, "hedged"),
        (2, True, "hedged (estimated)"),
        (0, False, "hedged (attempt)"),
        (0, True, "hedged (attempt, estimated)"),
    ],
)
def test_what_is_no_call_of_its_own_is_told_from_calls(
    attempts: int, estimated: bool, shown: str
) -> None:
    view = CallsView([call(outcome="hedged", attempts=attempts, estimated=estimated)])

    sheet = view.sheet()

    assert sheet.rows[0][sheet.columns.index("outcome")] == shown
    assert view.records()[0]["attempts"] == attempts


def test_teams_and_users_are_columns_where_there_are_any() -> None:
    columns = CallsView([CALL, call(team="research")]).sheet().columns

    assert "team" in columns
    assert "user" not in columns


def test_a_call_as_a_document_has_every_member_and_money_to_the_nano() -> None:
    view = CallsView([call(reported_nano_usd=1)])

    (record,) = view.records()

    assert view.document() == [record]
    assert list(record) == view.columns()
    assert (record["at"], record["cost_usd"], record["reported_usd"]) == (
        "2025-11-23T06:40:02.500Z", "0.0025", "0.000000001",
    )  # fmt: skip
    assert len(record) == len(BookedCall.__struct_fields__)
    assert CallsView([call(cost_nano_usd=None)]).records()[0]["cost_usd"] is None
