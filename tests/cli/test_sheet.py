"""Tables: nothing is cut, columns are aligned, and bars give way."""

import io
from decimal import ROUND_HALF_UP, Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmrouter.cli.sheet import (
    BAR_CELLS,
    Sheet,
    bar,
    count,
    decimal_usd,
    drawn,
    lines,
    name,
    print_sheet,
    rounded_usd,
    shares,
    usd,
)

EXACTLY = Context(prec=100)
SHEET = Sheet(
    columns=("org", "calls"),
    numbers=frozenset({"calls"}),
    rows=[["acme", "1_000"], ["a-longer-name", "5"]],
    footer=["total", "1_005"],
    shares=[1.0, 0.005],
    marked=frozenset({1}),
)


def test_columns_are_aligned_and_bars_stand_behind() -> None:
    assert list(lines(SHEET)) == [
        "org            calls",
        "acme           1_000  ████████████████████",
        "a-longer-name      5  █",
        "total          1_005",
    ]


def test_a_table_without_rows_is_its_head() -> None:
    assert list(lines(Sheet(columns=("org",), numbers=frozenset(), rows=[]))) == ["org"]


def test_what_cannot_show_a_bar_gets_one_of_ascii(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)

    print_sheet(SHEET)

    out.seek(0)
    assert out.read().splitlines()[1].endswith("  " + "#" * BAR_CELLS)


def on_a_terminal(width: int) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system="standard")
    console.print(drawn(SHEET, width))
    return file.getvalue()


def test_a_terminal_sees_colours() -> None:
    head, acme, other, total = on_a_terminal(80).splitlines()

    assert head == "\x1b[2morg            calls\x1b[0m"
    assert "\x1b[36m████████████████████\x1b[0m" in acme
    assert other.startswith("\x1b[31ma-longer-name      5")
    assert total.startswith("\x1b[1mtotal")


@pytest.mark.parametrize(("width", "cells"), [(80, 20), (42, 20), (41, 19), (26, 4), (25, 0)])
def test_bars_give_way_where_a_terminal_is_narrow(width: int, cells: int) -> None:
    assert on_a_terminal(width).count("█") == cells + bool(cells)


@pytest.mark.parametrize("width", [20, 15, 6])
def test_no_figure_is_cut_off_where_a_terminal_is_too_narrow(width: int) -> None:
    shown = on_a_terminal(width)

    assert "1_000" in shown
    assert "1_005" in shown
    assert "…" not in shown


@given(st.floats(-1, 2))
def test_a_bar_is_never_too_long_and_shows_what_there_is(share: float) -> None:
    assert (1 if share > 0 else 0) <= len(bar(share)) <= BAR_CELLS
    assert bar(1.0) == "█" * BAR_CELLS


@pytest.mark.parametrize(
    ("amounts", "expected"), [([], []), ([0, 0], [0.0, 0.0]), ([1, 4], [0.25, 1.0])]
)
def test_shares_are_of_the_largest(amounts: list[int], expected: list[float]) -> None:
    assert shares(amounts) == expected


# ---- numbers and names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nano", "exact", "rounded"),
    [
        (0, "0.00", "0.0000"), (1, "0.000000001", "0.0000"), (50_000, "0.00005", "0.0001"),
        (49_999, "0.000049999", "0.0000"), (12_500_000_000, "12.50", "12.5000"),
        (1_234_567_890_123, "1234.567890123", "1_234.5679"),
        (-20_000_000, "-0.02", "-0.0200"), (-1, "-0.000000001", "0.0000"),
        (99_999_950_000, "99.99995", "100.0000"),
    ],
)  # fmt: skip
def test_money_is_exact_or_rounded_to_four_decimals(nano: int, exact: str, rounded: str) -> None:
    assert usd(nano) == exact
    assert rounded_usd(nano) == rounded


@given(st.integers(-(10**30), 10**30))
def test_no_nano_is_lost_and_rounding_is_that_of_money(nano: int) -> None:
    assert int(Decimal(usd(nano)).scaleb(9, EXACTLY)) == nano
    as_decimal = Decimal(usd(nano)).quantize(Decimal("0.0001"), ROUND_HALF_UP, EXACTLY)
    assert Decimal(rounded_usd(nano).replace("_", "")) == as_decimal


def test_thousands_are_set_apart() -> None:
    assert count(1_234_567) == "1_234_567"


@pytest.mark.parametrize(
    ("text", "shown"),
    [(None, "-"), ("acme", "acme"), ("café", "café"), ("a\x1b[31mb\n", r"a\x1b[31mb\n")],
)
def test_a_name_cannot_command_the_terminal(text: str | None, shown: str) -> None:
    assert name(text) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (20, "20.00"),
        (0.5, "0.50"),
        (0.0023625, "0.0023625"),
        (1e-9, "0.000000001"),
        (-1.5, "-1.50"),
    ],
)
def test_money_in_usd_has_its_cents_and_what_is_below_them(amount: float, shown: str) -> None:
    assert decimal_usd(amount) == shown
