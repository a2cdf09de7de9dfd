import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.daemon.demo.directives import (
    NONE,
    TABLE,
    Directive,
    DirectiveError,
    Directives,
    read_directives,
)

README = (Path(__file__).parents[3] / "README.md").read_text()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("demo-slow", Directives(slow=2.0)),
        ("demo-slow=0.5", Directives(slow=0.5)),
        ("demo-slow-3", Directives(slow=3.0)),
        ("demo-slow=0.5,tokens=500", Directives(slow=0.5, tokens=500)),
        ("demo-pace", Directives(gap=20.0)),
        ("demo-gap=5", Directives(gap=5.0)),
        ("demo-long", Directives(tokens=2_000)),
        ("demo-big", Directives(bytes=4 * 1024 * 1024)),
        ("demo-bytes=100", Directives(bytes=100)),
        ("demo-error-503", Directives(error=503)),
        ("demo-error=429", Directives(error=429)),
        ("demo-error", Directives(error=500)),
        ("demo-cut", Directives(cut=5)),
        ("demo-cut=0", Directives(cut=0)),
        ("demo-stall=7", Directives(stall=7)),
        ("demo-malformed", Directives(malformed=5)),
        ("demo-no-done", Directives(no_done=True)),
        ("demo-not-json", Directives(not_json=True)),
        ("demo-keepalive-close", Directives(keepalive_close=True)),
        ("demo-reasoning=3,cached=4", Directives(reasoning=3, cached=4)),
        ("demo-flap", Directives(flap=2)),
        ("demo-throttle=30", Directives(throttle=30)),
        ("demo-blink=0.5", Directives(blink=0.5)),
        ("demo-stall-rate=5,slow=1.5", Directives(stall_rate=5, slow=1.5)),
        ("demo-fail-rate-20", Directives(fail_rate=20)),
        ("demo-role-cut", Directives(role_cut=True)),
        ("demo-error-event=0", Directives(error_event=0)),
        ("demo-ping=2,gap", Directives(ping=2, gap=20.0)),
    ],
)
def test_a_name_behind_the_prefix_is_a_directive(model: str, expected: Directives) -> None:
    assert read_directives(model, None) == expected
    assert read_directives("any", model.removeprefix("demo-").encode()) == expected


@pytest.mark.parametrize("model", ["demo", "gpt-9", "", "ademo-slow", "DEMO-slow"])
def test_any_other_name_asks_for_nothing(model: str) -> None:
    assert read_directives(model, None) is NONE


def test_the_header_counts_alone() -> None:
    assert read_directives("demo-reset", b"empty") == Directives(empty=True)
    assert read_directives("demo-whatever", b"empty , drip") == Directives(empty=True, drip=True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nope", "unknown directive 'nope'; known are slow, gap, "),
        ("", "unknown directive ''; known are slow"),
        ("cut,", "unknown directive ''"),
        ("cut=-1", "unknown directive 'cut=-1'"),
        ("cut=1e3", "unknown directive"),
        ("error=399", "'error=399': the number must be from 400 to 599"),
        ("error=600", "'error=600': the number must be from 400 to 599"),
        ("tokens=0", "'tokens=0': the number must be from 1 to 1e+06"),
        ("tokens=1.5", "'tokens=1.5': the number must be whole"),
        ("slow=3601", "'slow=3601': the number must be from 0 to 3600"),
        ("fail-rate=101", "'fail-rate=101': the number must be from 1 to 100"),
        ("blink=0", "'blink=0': the number must be from 0.01 to 3600"),
        ("reset=1", "the directive 'reset' takes no number; leave it out"),
    ],
)
def test_what_is_not_understood_is_refused_with_what_would_be(text: str, complaint: str) -> None:
    with pytest.raises(DirectiveError) as caught:
        read_directives("demo-" + text, None)

    assert complaint in str(caught.value)


def test_a_refusal_lists_every_directive_but_not_all_that_was_sent() -> None:
    with pytest.raises(DirectiveError) as caught:
        read_directives("demo-" + "x" * 10_000, None)

    assert all(directive.name in str(caught.value) for directive in TABLE)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("directive", TABLE, ids=lambda directive: directive.name)
def test_every_directive_changes_something_by_its_name_alone(directive: Directive) -> None:
    asked = read_directives("demo-" + directive.name, None)

    assert getattr(asked, directive.field) != getattr(NONE, directive.field)
    assert directive.meaning


@pytest.mark.parametrize("directive", TABLE, ids=lambda directive: directive.name)
def test_readme_has_every_directive(directive: Directive) -> None:
    name = directive.name if directive.kind is None else f"{directive.name}=N"
    default = "" if directive.kind is None else str(directive.default).removesuffix(".0")

    assert f"| `{name}` | {default} | {directive.meaning} |\n" in README


def test_every_field_has_a_directive() -> None:
    assert {directive.field for directive in TABLE} == set(Directives.__struct_fields__)


@given(st.text(), st.binary())
def test_nothing_but_a_directive_error_comes_of_any_text(text: str, header: bytes) -> None:
    found: list[Directives] = []
    with contextlib.suppress(DirectiveError):
        found.append(read_directives("demo-" + text, None))
    with contextlib.suppress(DirectiveError):
        found.append(read_directives("demo", header))

    assert NONE not in found
