"""Where the usage and cost exports of providers have what; `exports` reads them.

One entry after the other is read by the first form of its provider that it fits. What stands nested
in an entry is named with a dot: `amount.value`. Sources, as of 2026-11:

- openai, usage: `GET /v1/organization/usage/completions` (also embeddings and others that count
  tokens) grouped by model, and the dashboard's `completions_usage_<from>_<to>.csv`, which has the
  same names. https://developers.openai.com/api/reference/resources/admin
- openai, cost: `GET /v1/organization/costs` grouped by line item, and the dashboard's
  `cost_<from>_<to>.csv`. Line items read `gpt-4o-2024-08-06, cached input`; what is not of a model
  (`web search tool calls`) stands under its own name.
- anthropic, usage: `GET /v1/organizations/usage_report/messages` grouped by model, and the
  console's usage CSV. Input tokens come in parts, which are added.
  https://platform.claude.com/docs/en/api/admin/usage_report
- anthropic, cost: `GET /v1/organizations/cost_report` grouped by description, whose amounts are
  cents, and the console's cost CSV, whose amounts are USD in whole cents, and whose models are
  display names. https://platform.claude.com/docs/en/api/admin/cost_report
- generic, for every other provider: a form of ours, described in README. Prompt tokens include the
  cached ones; all but `day` may be left out or empty, which means that it is not known.
"""

import enum
from collections.abc import Mapping

import msgspec

from llmrouter.units import NANO_PER_USD

_NANO_PER_CENT = 10**7
LINE_ITEM = "line_item"
"""Holds more than a model's name."""


class Provider(enum.StrEnum):
    """Whose exports can be read."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GENERIC = "generic"


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """Where one kind of export has what; of some measures the parts that are to be added."""

    time: str
    model: tuple[str, ...]
    """The first that is not empty."""
    sums: Mapping[str, tuple[str, ...]]
    """By the member of `exports.DayUsage`."""
    nano_per_unit: int = NANO_PER_USD
    """Of the cost."""
    currency: str | None = None
    """The member that names it, where there is one."""


FORMS: Mapping[Provider, tuple[Form, ...]] = {
    Provider.OPENAI: (
        Form(
            time="start_time",
            model=("model",),
            sums={
                "calls": ("num_model_requests",),
                "prompt_tokens": ("input_tokens",),
                "cached_tokens": ("input_cached_tokens",),
                "output_tokens": ("output_tokens",),
            },
        ),
        Form(
            time="start_time",
            model=(LINE_ITEM,),
            sums={"cost_nano_usd": ("amount.value",)},
            currency="amount.currency",
        ),
        Form(
            time="start_time",
            model=(LINE_ITEM,),
            sums={"cost_nano_usd": ("amount_value",)},
            currency="amount_currency",
        ),
    ),
    Provider.ANTHROPIC: (
        Form(
            time="starting_at",
            model=("model",),
            sums={
                "prompt_tokens": (
                    "uncached_input_tokens",
                    "cache_read_input_tokens",
                    "cache_creation.ephemeral_5m_input_tokens",
                    "cache_creation.ephemeral_1h_input_tokens",
                ),
                "cached_tokens": ("cache_read_input_tokens",),
                "output_tokens": ("output_tokens",),
            },
        ),
        Form(
            time="starting_at",
            model=("model", "description"),
            sums={"cost_nano_usd": ("amount",)},
            nano_per_unit=_NANO_PER_CENT,
            currency="currency",
        ),
        Form(
            time="usage_date_utc",
            model=("model_version",),
            sums={
                "prompt_tokens": (
                    "usage_input_tokens_no_cache",
                    "usage_input_tokens_cache_read",
                    "usage_input_tokens_cache_write_5m",
                    "usage_input_tokens_cache_write_1h",
                ),
                "cached_tokens": ("usage_input_tokens_cache_read",),
                "output_tokens": ("usage_output_tokens",),
            },
        ),
        Form(
            time="usage_date_utc",
            model=("model", "cost_type"),
            sums={"cost_nano_usd": ("cost_usd",)},
        ),
    ),
    Provider.GENERIC: (
        Form(
            time="day",
            model=("model",),
            sums={
                "calls": ("calls",),
                "prompt_tokens": ("prompt_tokens",),
                "cached_tokens": ("cached_tokens",),
                "output_tokens": ("output_tokens",),
                "cost_nano_usd": ("cost_usd",),
            },
        ),
    ),
}
EMPTY_MEMBERS = {"object", "end_time", "start_time_iso", "end_time_iso", "ending_at"}
"""What an entry of a day without usage may say, besides the time."""
