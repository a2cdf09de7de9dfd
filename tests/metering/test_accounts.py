"""Totals and calls as they are read back, compared with adding up by hand."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmrouter.metering.accounts import Accounts, BookedCall, Dimension, Period, Report, Total
from llmrouter.metering.bookfile import BooksError
from llmrouter.metering.booking import INTERRUPTED
from llmrouter.metering.books import DAY_MS, HOUR_MS, Books
from llmrouter.metering.tail import Ended, Folded, Interrupted
from llmrouter.metering.tally import Tally
from tests.metering.test_books import (
    NOW_MS,
    any_fact,
    apart,
    at_of,
    ended,
    interrupted,
    tally_of,
    times,
)
from tests.metering.test_records import an_attempt
from tests.support.folding import fold

HOUR = NOW_MS // HOUR_MS * HOUR_MS
Call = Ended | Interrupted
By = Dimension | Period


def text(call: Call, form: str) -> str:
    return datetime.fromtimestamp(at_of(call) // 1000, UTC).strftime(form)


def deployment(call: Call) -> str:
    moved_to = call.end.deployment if isinstance(call, Ended) else None
    return moved_to or call.begin.deployment


VALUES: dict[By, Callable[[Call], str | None]] = {
    Dimension.ORG: lambda call: call.begin.org,
    Dimension.TEAM: lambda call: call.begin.team,
    Dimension.USER: lambda call: call.begin.user,
    Dimension.KEY: lambda call: call.begin.key_id,
    Dimension.MODEL: lambda call: call.begin.model,
    Dimension.DEPLOYMENT: deployment,
    Period.HOUR: lambda call: text(call, "%Y-%m-%dT%H:00Z"),
    Period.DAY: lambda call: text(call, "%Y-%m-%d"),
    Period.MONTH: lambda call: text(call, "%Y-%m"),
}


def by_hand(calls: Sequence[Call], by: Sequence[By]) -> dict[tuple[str | None, ...], Tally]:
    groups: dict[tuple[str | None, ...], list[Folded]] = {} if by else {(): []}
    for call in calls:
        groups.setdefault(tuple(VALUES[each](call) for each in by), []).append(call)
    return {group: tally_of(members) for group, members in groups.items()}


@contextlib.contextmanager
def accounts_of(*folds: Sequence[Folded], kept_from: int = 0) -> Iterator[Accounts]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "books.db")
        with (
            contextlib.closing(Books(path)) as books,
            contextlib.closing(Accounts(path)) as accounts,
        ):
            for facts in folds:
                fold(books, facts, {})
            books.prune(kept_from)
            yield accounts


bounds = st.none() | times | times.map(lambda at_ms: at_ms // HOUR_MS * HOUR_MS)
wheres = st.fixed_dictionaries(
    {},
    optional={
        Dimension.ORG: st.sampled_from(["acme", "nobody"]),
        Dimension.TEAM: st.sampled_from(["", "research"]),
        Dimension.MODEL: st.just("small"),
        Dimension.DEPLOYMENT: st.just("b/large"),
    },
)
questions = st.lists(st.sampled_from([*Dimension, *Period]), max_size=4, unique=True)
facts_of_days = st.lists(any_fact, max_size=40)


@settings(deadline=None, max_examples=150)
@given(facts_of_days, questions, wheres, bounds, bounds)
@example([ended()], [], {}, NOW_MS, NOW_MS + 1)
@example([ended(at_ms=HOUR)], [], {}, HOUR, HOUR + HOUR_MS)
@example([ended(at_ms=HOUR)], [], {}, NOW_MS, NOW_MS - DAY_MS)
def test_totals_are_what_adding_up_by_hand_gives(
    facts: list[Folded],
    by: list[By],
    where: dict[Dimension, str],
    since_ms: int | None,
    until_ms: int | None,
) -> None:
    chosen = [
        fact
        for fact in apart(facts)
        if (since_ms is None or at_of(fact) >= since_ms)
        and (until_ms is None or at_of(fact) < until_ms)
        and all((VALUES[each](fact) or "") == value for each, value in where.items())
    ]
    with accounts_of(facts[:20], facts[20:]) as accounts:
        report = accounts.totals(by, where=where, since_ms=since_ms, until_ms=until_ms)

    assert {total.group: total.tally for total in report.totals} == by_hand(chosen, by)
    assert len(report.totals) == len(by_hand(chosen, by))
    assert (report.since_ms, report.until_ms) == (since_ms, until_ms)
    sortable = [tuple(part or "" for part in total.group) for total in report.totals]
    assert sortable == sorted(sortable)


@settings(deadline=None, max_examples=100)
@given(facts_of_days, bounds, bounds, times)
def test_a_report_says_of_what_time_it_is_where_calls_are_not_kept(
    facts: list[Folded], since_ms: int | None, until_ms: int | None, kept_from: int
) -> None:
    with accounts_of(facts, kept_from=kept_from) as accounts:
        report = accounts.totals(since_ms=since_ms, until_ms=until_ms)

    since, until = report.since_ms, report.until_ms
    chosen = [
        fact
        for fact in apart(facts)
        if (since is None or at_of(fact) >= since) and (until is None or at_of(fact) < until)
    ]
    if since_ms is None or until_ms is None or since_ms < until_ms:
        assert report.totals == [Total((), tally_of(chosen))]
    for asked, given_ms in ((since_ms, since), (until_ms, until)):
        if asked is None or given_ms is None or asked >= kept_from // HOUR_MS * HOUR_MS:
            assert given_ms == asked
        else:
            assert given_ms % HOUR_MS == 0
            assert abs(given_ms - asked) < HOUR_MS


def test_a_part_of_an_hour_is_exact_while_its_calls_are_kept_and_whole_afterwards() -> None:
    calls = [ended(seq, at_ms=HOUR + seq) for seq in range(10)]
    with accounts_of(calls) as accounts:
        report = accounts.totals(since_ms=HOUR + 3, until_ms=HOUR + 5)
        assert report == Report(HOUR + 3, HOUR + 5, [Total((), tally_of(calls[3:5]))])
    with accounts_of(calls, kept_from=HOUR + HOUR_MS) as accounts:
        report = accounts.totals(since_ms=HOUR + 3, until_ms=HOUR + 5)
        assert report == Report(HOUR, HOUR + HOUR_MS, [Total((), tally_of(calls))])


def test_groups_come_in_the_order_asked_for_and_sorted() -> None:
    calls = [ended(1, at_ms=NOW_MS + DAY_MS), ended(2), ended(3, deployment="b/large")]

    with accounts_of(calls) as accounts:
        totals = accounts.totals([Period.DAY, Dimension.TEAM, Dimension.DEPLOYMENT]).totals

    assert [(total.group, total.tally.calls) for total in totals] == [
        (("2025-11-23", None, "b/large"), 1),
        (("2025-11-23", None, "openai/gpt-4o"), 1),
        (("2025-11-24", None, "openai/gpt-4o"), 1),
    ]


def test_books_without_calls_come_to_nothing() -> None:
    with accounts_of() as accounts:
        assert accounts.totals() == Report(None, None, [Total((), Tally())])
        assert accounts.totals([Dimension.ORG]).totals == []
        assert accounts.calls() == []


def test_more_groups_than_a_report_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrouter.metering.accounts.TOTALS_MAX", 2)
    calls = [ended(hour, at_ms=HOUR + hour * HOUR_MS) for hour in range(3)]

    with accounts_of(calls) as accounts:
        until_ms = HOUR + 2 * HOUR_MS
        assert len(accounts.totals([Period.HOUR], until_ms=until_ms).totals) == 2
        with pytest.raises(BooksError, match="these are more than 2 totals; ask for a shorter"):
            accounts.totals([Period.HOUR])


@settings(deadline=None, max_examples=50)
@given(facts_of_days, wheres, bounds, bounds, st.integers(0, 10))
def test_the_last_calls_are_those_that_were_asked_for(
    facts: list[Folded],
    where: dict[Dimension, str],
    since_ms: int | None,
    until_ms: int | None,
    last: int,
) -> None:
    chosen = [
        (at_of(fact), fact.begin.org, deployment(fact))
        for fact in apart(facts)
        if (since_ms is None or at_of(fact) >= since_ms)
        and (until_ms is None or at_of(fact) < until_ms)
        and all((VALUES[each](fact) or "") == value for each, value in where.items())
    ]
    with accounts_of(facts) as accounts:
        calls = accounts.calls(where=where, since_ms=since_ms, until_ms=until_ms, last=last)

    in_order = sorted(chosen, key=lambda call: call[0])
    assert [(call.at_ms, call.org, call.deployment) for call in calls] == in_order[
        len(in_order) - min(last, len(in_order)) :
    ]


def test_a_call_is_read_with_all_that_is_known_of_it() -> None:
    with accounts_of(
        [ended(1, estimated=True, ttft_ms=7, price="2.5/1.25/10"), interrupted(2)]
    ) as accounts:
        died, first = accounts.calls()

    assert first == BookedCall(
        at_ms=1_763_880_002_000, request_id="req_1", org="acme", team=None, user=None,
        key_id="Ab12", model="gpt-4o", deployment="openai/gpt-4o", upstream=None, dialect="openai",
        operation="chat", stream=False, status=200, outcome="ok", error_code=None, is_error=False,
        attempts=1, estimated=True, prompt_tokens=9, cached_tokens=0, output_tokens=3,
        reasoning_tokens=0, cost_nano_usd=None, reported_nano_usd=None, ttft_ms=7,
        duration_ms=2_000,
        price="2.5/1.25/10",
    )  # fmt: skip
    assert (died.request_id, died.outcome, died.is_error) == ("req_2", INTERRUPTED, True)


def test_other_attempts_are_read_with_0_attempts_and_add_up_where_they_were_made() -> None:
    other = replace(an_attempt(), deployment="b/large", cost_nano_usd=70)
    call = ended(1, deployment="a/large", attempts=2, cost_nano_usd=90, others=(other,))

    with accounts_of([call]) as accounts:
        assert [(row.deployment, row.attempts) for row in accounts.calls()] == [
            ("a/large", 2),
            ("b/large", 0),
        ]
        for since_ms in (None, NOW_MS - 1):  # out of totals, and out of single rows
            totals = accounts.totals([Dimension.DEPLOYMENT], since_ms=since_ms).totals
            found = [(total.group[0], total.tally) for total in totals]
            assert [
                (name, one.calls, one.other_attempts, one.cost_nano_usd) for name, one in found
            ] == [("a/large", 1, 0, 90), ("b/large", 0, 1, 70)]


def test_no_more_calls_are_read_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrouter.metering.accounts.CALLS_MAX", 2)

    with accounts_of([ended(seq) for seq in range(5)]) as accounts:
        assert [call.request_id for call in accounts.calls(last=10)] == ["req_3", "req_4"]


def test_a_report_is_of_one_moment_though_folding_and_pruning_go_on(tmp_path: Path) -> None:
    """All statements of one report see what was there at its first."""
    path = tmp_path / "books.db"
    with contextlib.closing(Books(path)) as books, contextlib.closing(Accounts(path)) as accounts:
        fold(books, [ended(1, at_ms=HOUR + 1)], {})

        def meanwhile(statement: str) -> None:
            if "singles" in statement:
                fold(books, [ended(2, at_ms=HOUR + 2)], {})
                books.prune(HOUR + HOUR_MS)

        accounts._db.set_trace_callback(meanwhile)
        report = accounts.totals(since_ms=HOUR + 1, until_ms=HOUR + 3)
        accounts._db.set_trace_callback(None)
        assert report == Report(HOUR + 1, HOUR + 3, [Total((), tally_of([ended(1)]))])
        wider = accounts.totals(since_ms=HOUR + 1, until_ms=HOUR + 3)
        assert wider == Report(HOUR, HOUR + HOUR_MS, [Total((), tally_of([ended(1), ended(2)]))])


def test_a_report_can_be_made_at_once_after_a_damaged_one(tmp_path: Path) -> None:
    """No transaction stays open that would keep the log from being merged."""
    path = tmp_path / "books.db"
    with contextlib.closing(Books(path)) as books:
        fold(books, [ended()], {})
        with contextlib.closing(Accounts(path)) as accounts:
            books._db.execute("ALTER TABLE days RENAME TO elsewhere")
            with pytest.raises(BooksError, match="no such table: "):
                accounts.totals()
            books._db.execute("ALTER TABLE elsewhere RENAME TO days")
            assert accounts.totals().totals == [Total((), tally_of([ended()]))]


def test_there_is_nothing_to_read_before_there_are_books(tmp_path: Path) -> None:
    with pytest.raises(BooksError, match="there are no books at"):
        Accounts(tmp_path / "books.db")


def test_repr_shows_the_file() -> None:
    with accounts_of() as accounts:
        assert repr(accounts).endswith("/books.db>")


def test_columns_of_single_calls_are_those_of_the_view() -> None:
    with accounts_of() as accounts:
        columns = [row[1] for row in accounts._db.execute("PRAGMA table_info(usage_calls)")]

    assert columns == ["id", "at", *BookedCall.__struct_fields__]
