"""How exports are read: numbers, days and models, quoting, and what is refused."""

import csv
import io
from datetime import date, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.metering.exportforms import Provider
from llmrouter.metering.exports import DayUsage, Export, ExportError, read_export

HEAD = ("day", "model", "calls", "prompt_tokens", "cached_tokens", "output_tokens", "cost_usd")


def read(text: str, provider: Provider = Provider.GENERIC) -> Export:
    return read_export(text.encode(), provider)


def one(**members: object) -> DayUsage:
    (usage,) = read_export(
        msgspec.json.encode([{"day": "2026-11-23", **members}]), Provider.GENERIC
    ).usage
    return usage


def refusal(text: str | bytes, provider: Provider = Provider.GENERIC) -> str:
    with pytest.raises(ExportError) as refused:
        read_export(text.encode() if isinstance(text, str) else text, provider)
    return str(refused.value)


# ---- any export of ours reads back as itself ----------------------------------------------------

counts = st.integers(0, 10**15)
models = (
    st.text(min_size=1, max_size=30)
    .map(str.strip)
    .filter(lambda text: text and "\0" not in text and text.isprintable())
)
usages = st.builds(
    DayUsage,
    day=st.dates(date(2020, 1, 1), date(2030, 1, 1)).map(date.isoformat),
    model=models,
    calls=counts,
    prompt_tokens=counts,
    cached_tokens=st.none() | counts,
    output_tokens=counts,
    cost_nano_usd=st.none() | st.integers(-(10**20), 10**20),
)


def members(usage: DayUsage) -> list[object]:
    nano = usage.cost_nano_usd
    cost = None if nano is None else f"{Decimal(nano).scaleb(-9):f}"
    return [*msgspec.structs.astuple(usage)[:-1], cost]


def as_csv(rows: list[DayUsage], delimiter: str, quoting: int) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]  # one of the csv.QUOTE_ numbers
    writer.writerow(HEAD)
    writer.writerows(members(row) for row in rows)
    return text.getvalue()


@given(
    st.lists(usages, max_size=20, unique_by=lambda usage: (usage.day, usage.model)),
    st.sampled_from(",;\t"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["", "\ufeff"]),
)
def test_csv_reads_back_whatever_the_quotes_and_delimiters(
    rows: list[DayUsage], delimiter: str, quoting: int, mark: str
) -> None:
    found = read(mark + as_csv(rows, delimiter, quoting))

    assert found.usage == sorted(rows, key=lambda row: (row.day, row.model or ""))
    assert found.days == sorted({row.day for row in rows})


@given(st.lists(usages, max_size=20, unique_by=lambda usage: (usage.day, usage.model)))
def test_json_reads_back_to_the_last_nano(rows: list[DayUsage]) -> None:
    entries = [dict(zip(HEAD, members(row), strict=True)) for row in rows]
    for document in (entries, {"data": entries}, [{"data": [entry]} for entry in entries]):
        found = read_export(msgspec.json.encode(document), Provider.GENERIC)

        assert found.usage == sorted(rows, key=lambda row: (row.day, row.model or ""))


@given(st.lists(st.integers(-(10**21), 10**21), min_size=1, max_size=30))
def test_amounts_are_added_exactly_and_rounded_once(parts: list[int]) -> None:
    entries = [
        {"day": "2026-11-23", "cost_usd": f"{Decimal(part).scaleb(-12):f}"} for part in parts
    ]

    (usage,) = read_export(msgspec.json.encode(entries), Provider.GENERIC).usage

    assert usage.cost_nano_usd == (2 * sum(parts) + 1000) // 2000


@given(st.binary(max_size=200), st.sampled_from(Provider))
def test_bytes_of_any_kind_are_read_or_refused(content: bytes, provider: Provider) -> None:
    try:
        found = read_export(content, provider)
    except ExportError:
        return
    assert found.days or not found.usage


# ---- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "nano"),
    [
        ("0", 0), ("12", 12 * 10**9), ("$1,234.50", 1_234_500_000_000), ("0.0000000005", 1),
        ("0.00000000049", 0), ("1e-9", 1), ("-0.25", -250_000_000),
        ("0.003835980000000000000000000000", 3_835_980), (0.06, 60_000_000), (7, 7 * 10**9),
        ("1,234,567", 1_234_567 * 10**9),
    ],
)  # fmt: skip
def test_an_amount_is_read_as_people_write_it(written: object, nano: int) -> None:
    assert one(cost_usd=written).cost_nano_usd == nano


@pytest.mark.parametrize(
    ("written", "tokens"), [("4,228", 4228), ("3.0", 3), (3.0, 3), ("1e3", 1000), (10**17, 10**17)]
)
def test_tokens_are_whole_numbers_also_where_a_point_is_written(
    written: object, tokens: int
) -> None:
    assert one(prompt_tokens=written).prompt_tokens == tokens


@pytest.mark.parametrize(
    "written",
    ["0,05", "1.234,50", "12 USD", "NaN", "Infinity", "1e18", "1e999999999", "1e-999999999", "--1",
     "1,23", True, [1]],
    ids=str,
)  # fmt: skip
def test_what_is_no_amount_is_refused(written: object) -> None:
    text = msgspec.json.encode([{"day": "2026-11-23", "cost_usd": written}])

    assert refusal(text).startswith("entry 1: cost_usd is ")


@pytest.mark.parametrize("written", ["1.5", "-1", "4.228", 0.5], ids=str)
def test_parts_of_tokens_are_refused(written: object) -> None:
    text = msgspec.json.encode([{"day": "2026-11-23"}, {"day": "2026-11-23", "calls": written}])

    assert refusal(text) == f"entry 2: calls is {str(written)!r}, which is not a whole number"


@pytest.mark.parametrize("currency", ["eur", "EUR"])
def test_only_usd_can_be_compared(currency: str) -> None:
    text = f"start_time,amount_value,amount_currency\n1759622400,1.5,{currency}\n"

    assert refusal(text, Provider.OPENAI) == (
        f"entry 1: the currency is {currency!r}; only USD can be compared"
    )


# ---- days and models --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    ["2026-11-23", "20261123", "2026-11-23T23:59:59", "2026-11-23T23:59:59Z", 1795392000,
     "1795392000", "1795392000.0", 1795478399, "2026-11-24T01:30:00+02:00",
     "2026-11-22T20:00:00-05:00"],
    ids=str,
)  # fmt: skip
def test_a_day_is_that_of_utc(written: object) -> None:
    assert one(day=written, calls=1).day == "2026-11-23"


@given(st.dates(date(2001, 9, 10), date(2999, 1, 1)), st.integers(0, 86_399))
def test_every_second_of_a_day_is_of_that_day(day: date, second: int) -> None:
    at = (day - date(1970, 1, 1)) // timedelta(seconds=1) + second

    assert one(day=at, calls=1).day == day.isoformat()


@pytest.mark.parametrize("written", ["", "yesterday", 5, "2026-13-01", "9" * 30, "23.11.2026"])
def test_what_is_no_day_is_refused(written: object) -> None:
    text = msgspec.json.encode([{"day": written, "calls": 1}])

    assert "is not a day; write one such as 2026-11-23" in refusal(text)


@pytest.mark.parametrize(
    ("line_item", "model"),
    [
        ("gpt-4o-2024-08-06, input", "gpt-4o-2024-08-06"),
        ("gpt-5-nano, cached input", "gpt-5-nano"),
        ("priority | gpt-5.6-sol, output, long context", "gpt-5.6-sol"),
        ("gpt-image-2.5-flare image, output", "gpt-image-2.5-flare"),
        ("web search tool calls", "web search tool calls"),
        ("assistants api | file search", "assistants api | file search"),
    ],
)
def test_a_line_item_is_of_a_model_or_stands_for_itself(line_item: str, model: str) -> None:
    text = f'start_time,amount_value,line_item\n1759622400,1,"{line_item}"\n'

    assert [usage.model for usage in read(text, Provider.OPENAI).usage] == [model]


def test_entries_of_one_day_and_model_are_added_and_what_is_unknown_stays_unknown() -> None:
    text = "day,model,calls,prompt_tokens\n2026-11-23,a,1,\n2026-11-23,a,2,\n2026-11-23,,4,5\n"

    assert read(text).usage == [
        DayUsage("2026-11-23", None, 4, 5),
        DayUsage("2026-11-23", "a", 3),
    ]


# ---- what is refused --------------------------------------------------------------------------


def test_a_file_that_is_cut_is_refused() -> None:
    assert refusal("day,model,calls\n2026-11-23,a,1\n2026-11-24,a") == (
        "line 3 has not as many cells as the header; is the file whole?"
    )
    assert "not one JSON value" in refusal('[{"day": "2026-11-23"}')
    assert "not CSV from line" in refusal('day,model\n2026-11-23,"a')


def test_a_row_with_more_cells_than_the_header_is_refused() -> None:
    assert refusal("day,calls\n2026-11-23,1,234\n").startswith("line 2 has not as many cells")


def test_text_in_another_encoding_is_refused() -> None:
    assert refusal("day,calls\n2026-11-23,1\n".encode("utf-16")).startswith("it is not UTF-8")


@pytest.mark.parametrize("provider", Provider)
def test_a_file_of_another_kind_is_refused_with_what_it_has(provider: Provider) -> None:
    said = refusal("name,phone\nann,123\n", provider)

    assert said.startswith(f"entry 1: no usage or cost export of the provider '{provider}'")
    assert said.endswith(": name, phone")


def test_an_export_of_something_else_of_the_provider_is_not_taken_for_an_empty_one() -> None:
    text = '{"data": [{"start_time": 1730419200, "results": [{"usage_bytes": 5}]}]}'

    assert refusal(text, Provider.OPENAI).endswith(": start_time, usage_bytes")


@pytest.mark.parametrize("text", ["[1]", '{"data": 5}', '{"data": [[]]}', '[{"results": 7}]'])
def test_json_of_another_shape_is_refused(text: str) -> None:
    assert "must be" in refusal(text, Provider.OPENAI)


@pytest.mark.parametrize("text", ["", "day,model,calls\n", "[]", '{"data": []}'])
def test_a_file_without_entries_says_nothing(text: str) -> None:
    assert read(text) == Export([], [])
