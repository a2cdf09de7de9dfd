"""Tables of names and numbers: aligned text, coloured on a terminal; a bar in each row.

Nothing is ever cut off: a figure without its last digits is another figure. Where a terminal is too
narrow bars give way first, and then lines run on in the next one.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

import msgspec
from rich.console import Console, Group
from rich.text import Text

from llmrouter.units import NANO_PER_USD

BAR_CELLS = 20
_BAR_CELLS_MIN = 4
_BAR, _BAR_IN_ASCII = "█", "#"
_GAP = "  "
_NANO_PER_SHOWN = 10**5
"""The table shows four decimals: a call may cost less than a cent."""


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """What a table shows."""

    columns: Sequence[str]
    numbers: frozenset[str]
    """The columns that are aligned to the right."""
    rows: list[list[str]]
    footer: list[str] | None = None
    """The total, below the rows."""
    shares: list[float] | None = None
    """How long the bar of each row is, 0 to 1; None for no bars."""
    marked: frozenset[int] = frozenset()
    """The rows to which the eye is drawn."""


def print_sheet(sheet: Sheet) -> None:
    """Print it; coloured where standard output is a terminal."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(drawn(sheet, console.width))
    else:
        for line in lines(sheet, is_ascii=console.options.ascii_only):
            print(line)
        sys.stdout.flush()


def lines(sheet: Sheet, *, is_ascii: bool = False) -> Iterator[str]:
    """As aligned text, each column as wide as it needs."""
    head, rows, footer = _aligned(sheet)
    yield head.rstrip()
    for row, share in zip(rows, sheet.shares or [0.0] * len(rows), strict=True):
        yield (row + _GAP + bar(share, is_ascii=is_ascii)).rstrip()
    if footer is not None:
        yield footer.rstrip()


def drawn(sheet: Sheet, width: int) -> Group:
    """As coloured text for a terminal of that width."""
    head, rows, footer = _aligned(sheet)
    room = min(BAR_CELLS, width - len(head) - len(_GAP))
    found = [Text(head.rstrip(), style="dim")]
    for number, row in enumerate(rows):
        text = Text(row, style="red" if number in sheet.marked else "")
        if sheet.shares is not None and room >= _BAR_CELLS_MIN:
            text.append(_GAP).append(bar(sheet.shares[number], room), style="cyan")
        text.rstrip()
        found.append(text)
    if footer is not None:
        found.append(Text(footer.rstrip(), style="bold"))
    return Group(*found)


def _aligned(sheet: Sheet) -> tuple[str, list[str], str | None]:
    """The head, the rows and the footer, as wide as each other."""
    table = [list(sheet.columns), *sheet.rows, *([sheet.footer] if sheet.footer else [])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    aligned = [
        _GAP.join(
            cell.rjust(width) if column in sheet.numbers else cell.ljust(width)
            for cell, width, column in zip(row, widths, sheet.columns, strict=True)
        )
        for row in table
    ]
    rows = len(sheet.rows)
    return aligned[0], aligned[1 : rows + 1], aligned[-1] if sheet.footer else None


def bar(share: float, room: int = BAR_CELLS, *, is_ascii: bool = False) -> str:
    """A bar of up to `room` cells; what there is at all shows."""
    cells = round(min(1.0, max(0.0, share)) * room)
    return (_BAR_IN_ASCII if is_ascii else _BAR) * max(cells, 1 if share > 0 else 0)


def shares(amounts: Iterable[int]) -> list[float]:
    """Of the largest of them."""
    found = list(amounts)
    most = max(found, default=0) or 1
    return [amount / most for amount in found]


def count(number: int) -> str:
    """A number with its thousands apart, as router.toml writes them."""
    return f"{number:_}"


def usd(nano_usd: int) -> str:
    """Money to the last nano-USD, with the cents at least: `12.50`, `0.000000001`."""
    whole, nano = divmod(abs(nano_usd), NANO_PER_USD)
    fraction = f"{nano:09}".rstrip("0")
    return f"{'-' if nano_usd < 0 else ''}{whole}.{fraction:0<2}"


def decimal_usd(amount: object) -> str:
    """Money that is in USD already, with the cents, and below them only what there is."""
    whole, _, fraction = f"{Decimal(str(amount)):f}".partition(".")
    return f"{whole}.{fraction.rstrip('0'):0<2}"


def rounded_usd(nano_usd: int) -> str:
    """Money as a table shows it: `1_234.5000`; halves are rounded away from zero."""
    shown = (abs(nano_usd) + _NANO_PER_SHOWN // 2) // _NANO_PER_SHOWN
    whole, fraction = divmod(shown, NANO_PER_USD // _NANO_PER_SHOWN)
    return f"{'-' if nano_usd < 0 and shown else ''}{whole:_}.{fraction:04}"


def name(text: object) -> str:
    """A name as a terminal may see it: callers choose some, and may put anything into them."""
    if text is None:
        return "-"
    shown = str(text)
    return shown if shown.isprintable() else repr(shown)[1:-1]
