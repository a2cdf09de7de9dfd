"""What the books cost: to fold into, on the disk, and to ask."""

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from llmrouter.contracts.call import Usage
from llmrouter.metering.accounts import Accounts, Dimension, Period
from llmrouter.metering.books import DAY_MS, Books
from llmrouter.metering.records import Begin, End
from llmrouter.metering.tail import Ended, Position
from tests.support.folding import fold

pytestmark = pytest.mark.bench

FIRST_MS = 1_761_955_200_000  # 2025-11-01T00:00Z
MONTH_MS = 30 * DAY_MS
A_FOLD = 5_000
KEYS, MODELS = 500, 5
BYTES_A_CALL_MAX = 250
MANY = 5_000_000


def begins() -> list[Begin]:
    """A call of each key for each model."""
    return [
        Begin(
            seq=1, at_ms=FIRST_MS, request_id=f"req_{'x' * 20}", org=f"org-{key % 20}",
            team=f"team-{key % 60}", user=f"user-{key}@example.com", key_id=f"key{key:09}",
            model=f"model-{model}", deployment=f"upstream/model-{model}", upstream="upstream",
            dialect="wire", operation="chat", stream=key % 2 == 0,
        )
        for key, model in itertools.product(range(KEYS), range(MODELS))
    ]  # fmt: skip


def calls(count: int, apart_ms: float) -> Iterator[Ended]:
    """`count` calls of all keys and models in turn, so far apart."""
    each = itertools.cycle(begins())
    for number in range(count):
        usage = Usage(
            prompt_tokens=1_000 + number % 7_000,
            cached_tokens=number % 900,
            output_tokens=number % 1_500,
            reasoning_tokens=number % 200,
        )
        end = End(
            seq=1, at_ms=FIRST_MS + int(number * apart_ms), request_id=f"req_{number:020}",
            status=200, outcome="ok", usage=usage, cost_nano_usd=1_000_000 + number % 9_000_000,
            ttft_ms=number % 900, duration_ms=900 + number % 20_000,
        )  # fmt: skip
        yield Ended("b00t", next(each), (0, 0), end)


def fold_all(books: Books, facts: Iterator[Ended], a_fold: int = A_FOLD) -> int:
    done = 0
    while some := list(itertools.islice(facts, a_fold)):
        done += fold(books, some, {"b00t": Position("0-1.jsonl", done)})
    return done


def grown(path: Path) -> int:
    """The size of the file; of books that are closed, so that no log stands beside it."""
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return path.stat().st_size


def test_folding_five_thousand_calls(tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    """SC: 5,000 calls/s at less than 30 % of a core, so 60 µs a call with reading the journal."""
    facts = calls(1_000_000, 0.2)

    with contextlib.closing(Books(tmp_path / "books.db")) as books:
        benchmark.pedantic(  # type: ignore[no-untyped-call]  # the plugin has no types
            lambda some: fold(books, some, {"b00t": Position("0-1.jsonl", 1)}),
            setup=lambda: ((list(itertools.islice(facts, A_FOLD)),), {}),
            rounds=10,
        )

    if benchmark.stats is not None:  # it is where benchmarks are turned off
        benchmark.extra_info["us_per_call"] = benchmark.stats.stats.mean / A_FOLD * 1e6


@pytest.mark.parametrize("apart_ms", [1, 100, 6_000], ids=lambda apart_ms: f"every {apart_ms} ms")
def test_a_call_takes_less_than_250_bytes(tmp_path: Path, apart_ms: int) -> None:
    """Also the rarest ones, of which each begins a total of its own."""
    path = tmp_path / "books.db"
    with contextlib.closing(Books(path)):
        pass
    before = grown(path)
    with contextlib.closing(Books(path)) as books:
        folded = fold_all(books, calls(20_000, apart_ms))

    assert (grown(path) - before) / folded < BYTES_A_CALL_MAX


@pytest.mark.slow
def test_asking_about_a_month_of_five_million_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SC: `llmrouter usage` for a month answers in under 1 s. Never fails on a time: it says it."""
    path = tmp_path / "books.db"
    began_s = time.perf_counter()
    with contextlib.closing(Books(path)) as books:
        folded = fold_all(books, calls(MANY, MONTH_MS / MANY), 50_000)
    said = [f"folding: {(time.perf_counter() - began_s) / folded * 1e6:.1f} us a call"]
    said.append(f"size: {grown(path) / folded:.0f} bytes a call")

    with contextlib.closing(Accounts(path)) as accounts:
        for name, ask in questions(accounts).items():
            began_s = time.perf_counter()
            found = ask()
            said.append(f"{name}: {time.perf_counter() - began_s:.3f} s, {found} rows")
        assert accounts.totals().totals[0].tally.calls == folded == MANY

    with capsys.disabled():
        sys.stdout.write("\n  ".join(["", *said, ""]))


def questions(accounts: Accounts) -> dict[str, Callable[[], int]]:
    """What is asked, and how many rows answer it."""
    month = {"since_ms": FIRST_MS, "until_ms": FIRST_MS + MONTH_MS}
    uneven = {"since_ms": FIRST_MS + 1_234_567, "until_ms": FIRST_MS + MONTH_MS - 7_654_321}
    one_key = {Dimension.KEY: "key000000007"}

    def totals(*by: Dimension | Period, **options: int) -> Callable[[], int]:
        return lambda: len(
            accounts.totals(
                by, since_ms=options.get("since_ms"), until_ms=options.get("until_ms")
            ).totals
        )

    return {
        "month, all": totals(**month),
        "month, by org": totals(Dimension.ORG, **month),
        "month, by key and model": totals(Dimension.KEY, Dimension.MODEL, **month),
        "month, by day and org": totals(Period.DAY, Dimension.ORG, **month),
        "month, by hour": totals(Period.HOUR, **month),
        "month, uneven ends, by org": totals(Dimension.ORG, **uneven),
        "everything, by month": totals(Period.MONTH),
        "one key, by hour": lambda: len(accounts.totals([Period.HOUR], where=one_key).totals),
        "last 100 calls": lambda: len(accounts.calls()),
        "last 100 calls of one key": lambda: len(accounts.calls(where=one_key)),
    }
