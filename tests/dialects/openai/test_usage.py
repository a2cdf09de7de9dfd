# ruff: noqa: E501 - a table reads by its rows
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.call import Usage
from llmrouter.dialects.openai.counts import Counts
from llmrouter.dialects.openai.lenient import odd_usage
from llmrouter.dialects.openai.usage import usage_of

NUMBERS = st.none() | st.integers(0, 10_000)


def read(members: dict[str, object]) -> Usage | None:
    return usage_of(msgspec.convert(members, Counts))


@pytest.mark.parametrize(
    ("members", "usage"),
    [
        # chat and completions, embeddings, responses
        ({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}, Usage(prompt_tokens=3, output_tokens=5)),
        ({"prompt_tokens": 4, "total_tokens": 4}, Usage(prompt_tokens=4)),
        ({"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}, Usage(prompt_tokens=3, output_tokens=5)),
        (
            {
                "prompt_tokens": 30,
                "completion_tokens": 20,
                "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 6},
            },
            Usage(prompt_tokens=30, cached_tokens=7, output_tokens=20, reasoning_tokens=6),
        ),
        (
            {
                "input_tokens": 30,
                "output_tokens": 20,
                "input_tokens_details": {"cached_tokens": 7},
                "output_tokens_details": {"reasoning_tokens": 6},
            },
            Usage(prompt_tokens=30, cached_tokens=7, output_tokens=20, reasoning_tokens=6),
        ),
        # both spellings at once, as some servers send them
        ({"prompt_tokens": 3, "completion_tokens": 5, "input_tokens": 3, "output_tokens": 5}, Usage(prompt_tokens=3, output_tokens=5)),
        # what is left out, or null
        ({"prompt_tokens": 3}, Usage(prompt_tokens=3)),
        ({"completion_tokens": 5}, Usage(output_tokens=5)),
        ({"total_tokens": 8}, Usage(prompt_tokens=8)),
        ({"completion_tokens": 5, "total_tokens": 8}, Usage(prompt_tokens=3, output_tokens=5)),
        ({"prompt_tokens": 3, "completion_tokens": None}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 0, "completion_tokens": 7}, Usage(output_tokens=7)),
        ({"prompt_tokens": 10**8}, Usage(prompt_tokens=10**8)),
        ({"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": None, "completion_tokens_details": None}, Usage(prompt_tokens=3, output_tokens=5)),
        ({"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": None}}, Usage(prompt_tokens=3, output_tokens=5)),
        # reasoning that only the total tells of: counted, because it is billed
        ({"prompt_tokens": 66, "completion_tokens": 6, "total_tokens": 100}, Usage(prompt_tokens=66, output_tokens=34)),
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 42, "completion_tokens_details": {"reasoning_tokens": 30}},
            Usage(prompt_tokens=10, output_tokens=32, reasoning_tokens=30),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 0}, Usage(prompt_tokens=10, output_tokens=5)),
        # a part is never more than the whole
        (
            {"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}, "completion_tokens_details": {"reasoning_tokens": 6}},
            Usage(prompt_tokens=3, cached_tokens=3, output_tokens=5, reasoning_tokens=5),
        ),
        # other places for what came from a cache
        ({"prompt_tokens": 9, "cached_tokens": 4}, Usage(prompt_tokens=9, cached_tokens=4)),
        ({"prompt_tokens": 9, "num_cached_tokens": 4}, Usage(prompt_tokens=9, cached_tokens=4)),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5}, Usage(prompt_tokens=9, cached_tokens=4)),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 4, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(prompt_tokens=9, cached_tokens=4)),
        # money
        ({"prompt_tokens": 1, "cost": 0}, Usage(prompt_tokens=1, cost_nano_usd=0)),
        ({"prompt_tokens": 1, "cost": 0.00183}, Usage(prompt_tokens=1, cost_nano_usd=1_830_000)),
        ({"prompt_tokens": 1, "cost": 1.5e-9}, Usage(prompt_tokens=1, cost_nano_usd=2)),
        ({"prompt_tokens": 1, "cost": {"input_tokens_cost": 1, "total_cost": 0.25}}, Usage(prompt_tokens=1, cost_nano_usd=250_000_000)),
        ({"prompt_tokens": 1, "cost": {"currency": "USD"}}, Usage(prompt_tokens=1)),
        ({"prompt_tokens": 1, "cost": 1e300}, Usage(prompt_tokens=1)),
    ],
)  # fmt: skip
def test_usage_is_read_as_servers_write_it(members: dict[str, object], usage: Usage) -> None:
    """FR-004: the tokens that the upstream bills."""
    assert read(members) == usage


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"queue_time": 0.1},
        {"cost": 0.5},
    ],
)
def test_nothing_counted_is_not_nothing_used(members: dict[str, object]) -> None:
    """SC-005: such a call is estimated, and not free."""
    assert read(members) is None


def test_no_usage_is_none() -> None:
    assert usage_of(None) is None


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        ({"prompt_tokens": 3.0, "completion_tokens": 5e0}, Usage(prompt_tokens=3, output_tokens=5)),
        ({"prompt_tokens": 3, "completion_tokens": -1}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 3, "completion_tokens": 10**30}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 3, "completion_tokens": float("inf")}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 3, "completion_tokens": float("nan")}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 3, "completion_tokens": "5"}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 3, "completion_tokens": True}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 3, "prompt_tokens_details": []}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 3, "cost": -0.5}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 3, "cost": "0.5"}, Usage(prompt_tokens=3)),
        ({"prompt_tokens": 3, "cost": 0.5}, Usage(prompt_tokens=3, cost_nano_usd=500_000_000)),
        ({"prompt_tokens": -1, "completion_tokens": -1}, None),
        ({"prompt_tokens": 10**8 + 1, "completion_tokens": 10**12}, None),
        ({"prompt_tokens": 3.5}, None),
        (None, None),
        ([], None),
        ("usage", None),
        (7, None),
        ({}, None),
    ],
)
def test_what_is_no_count_is_not_read(value: object, usage: Usage | None) -> None:
    """Every other count is: half of the bill is nearer to it than none."""
    assert odd_usage(value) == usage


def test_usage_nested_without_end_is_not_read() -> None:
    value: dict[str, object] = {"prompt_tokens": 3}
    for _ in range(5_000):
        value = {"prompt_tokens": 3, "x": value}

    assert odd_usage(value) is None


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **{name: NUMBERS for name in Counts.__struct_fields__ if "details" not in name},
            "prompt_tokens_details": st.none() | st.fixed_dictionaries({"cached_tokens": NUMBERS}),
            "output_tokens_details": st.none()
            | st.fixed_dictionaries({"reasoning_tokens": NUMBERS}),
        },
    )
)
def test_a_part_is_never_more_than_the_whole(members: dict[str, object]) -> None:
    """What `Usage` promises of every dialect, whatever an upstream says."""
    usage = read(members)

    if usage is not None:
        assert 0 <= usage.cached_tokens <= usage.prompt_tokens
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens
        told = [members.get(name) for name in ("completion_tokens", "output_tokens")]
        assert any(
            usage.output_tokens >= (count or 0) for count in told if isinstance(count, int | None)
        )
        assert usage == odd_usage(members)
