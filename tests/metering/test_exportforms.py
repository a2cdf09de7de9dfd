"""Each form, by an export as the provider's documents and dashboards show it."""

import pytest

from llmrouter.metering.exportforms import FORMS, Provider
from llmrouter.metering.exports import DayUsage, read_export

OPENAI_USAGE_JSON = """{"object": "page", "data": [
  {"object": "bucket", "start_time": 1730419200, "end_time": 1730505600, "results": [
    {"object": "organization.usage.completions.result", "input_tokens": 1000,
     "output_tokens": 500, "input_cached_tokens": 800, "num_model_requests": 5,
     "project_id": null, "user_id": null, "api_key_id": null, "model": "gpt-4o-2024-08-06",
     "batch": null},
    {"object": "organization.usage.completions.result", "input_tokens": 7, "output_tokens": 1,
     "num_model_requests": 1, "model": "gpt-4o-mini-2024-07-18", "batch": false}]},
  {"object": "bucket", "start_time": 1730505600, "end_time": 1730592000, "results": []}
], "has_more": true, "next_page": "AAAAAGdGxdEiJdKOAAAAAGcqsYA="}"""

OPENAI_EMBEDDINGS_JSON = """{"object": "page", "data": [
  {"object": "bucket", "start_time": 1730419200, "end_time": 1730505600, "results": [
    {"object": "organization.usage.embeddings.result", "input_tokens": 16,
     "num_model_requests": 2, "model": "text-embedding-3-small"}]}], "has_more": false}"""

OPENAI_USAGE_CSV = """\
start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,\
model,batch,service_tier,input_tokens,output_tokens,input_cached_tokens,input_uncached_tokens
1761523200,1761523260,2025-10-27T00:00:00+00:00,2025-10-27T00:01:00+00:00,proj_a,3.0,,key_1,\
gpt-4o-mini-2024-07-18,False,default,4212.0,1673.0,0.0,4212.0
1761523800,1761523860,2025-10-27T00:10:00+00:00,2025-10-27T00:11:00+00:00,proj_a,1.0,,key_1,\
gpt-4o-mini-2024-07-18,False,default,100.0,10.0,64.0,36.0
1761609600,1761609660,2025-10-28T00:00:00+00:00,2025-10-28T00:01:00+00:00,,,,,,,,,,,
"""

OPENAI_COST_JSON = """{"object": "page", "data": [
  {"object": "bucket", "start_time": 1730419200, "end_time": 1730505600, "results": [
    {"object": "organization.costs.result", "amount": {"value": 0.06, "currency": "usd"},
     "line_item": "gpt-4o-2024-08-06, input", "project_id": null},
    {"object": "organization.costs.result", "amount": {"value": 0.0125, "currency": "usd"},
     "line_item": "gpt-4o-2024-08-06, cached input", "project_id": null},
    {"object": "organization.costs.result", "amount": {"value": 0.03, "currency": "usd"},
     "line_item": "web search tool calls", "project_id": null}]}], "has_more": false}"""

OPENAI_COST_CSV = """\
start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id,\
organization_id,organization_name
1759622400,1759708800,2025-10-05T00:00:00+00:00,2025-10-06T00:00:00+00:00,\
0.895874000000000000000000000000,usd,,,org-x,Personal
1759968000,1760054400,2025-10-09T00:00:00+00:00,2025-10-10T00:00:00+00:00,,,,,,
"""

OPENAI_NOTHING_CSV = """\
start_time,end_time,start_time_iso,end_time_iso
1759622400,1759708800,2025-10-05T00:00:00+00:00,2025-10-06T00:00:00+00:00
"""

ANTHROPIC_USAGE_JSON = """{"data": [
  {"starting_at": "2025-08-01T00:00:00Z", "ending_at": "2025-08-02T00:00:00Z", "results": [
    {"uncached_input_tokens": 1500,
     "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
     "cache_read_input_tokens": 200, "output_tokens": 500,
     "server_tool_use": {"web_search_requests": 10}, "api_key_id": "apikey_01",
     "workspace_id": null, "model": "claude-sonnet-4-20250514", "service_tier": "standard",
     "context_window": "0-200k"}]},
  {"starting_at": "2025-08-02T00:00:00Z", "ending_at": "2025-08-03T00:00:00Z", "results": []}
], "has_more": false, "next_page": null}"""

ANTHROPIC_USAGE_CSV = """\
usage_date_utc,model_version,api_key,workspace,usage_type,context_window,\
usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,\
usage_input_tokens_cache_read,usage_output_tokens,web_search_count,inference_geo,speed
2026-03-22,claude-sonnet-4-20250514,test,Default,standard,≤ 200k,100000,10,20,30,500,0,global,
"""

ANTHROPIC_COST_JSON = """{"data": [
  {"starting_at": "2025-08-01T00:00:00Z", "ending_at": "2025-08-02T00:00:00Z", "results": [
    {"amount": "123.45", "currency": "USD", "cost_type": "tokens", "context_window": "0-200k",
     "description": "Claude Sonnet 4 Usage - Input Tokens", "model": "claude-sonnet-4-20250514",
     "service_tier": "standard", "token_type": "uncached_input_tokens", "workspace_id": null},
    {"amount": "10", "currency": "USD", "cost_type": "web_search",
     "description": "Web Search Usage", "model": null, "token_type": null}]}],
  "has_more": false, "next_page": null}"""

ANTHROPIC_COST_CSV = """\
usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,\
list_price_usd,cost_type,inference_geo,speed
2026-08-04,Claude Haiku 4.5,Default,demo,message,≤ 200k,input_no_cache,0.05,0.05,token,,
2026-08-04,Claude Haiku 4.5,Default,demo,message,≤ 200k,output,0.02,0.02,token,,
2026-08-04,,Default,demo,message,,,0.10,0.10,web_search,,
"""

GENERIC_CSV = """\
day,model,calls,prompt_tokens,cached_tokens,output_tokens,cost_usd
2026-11-23,"llama-3.1, 8b",3,1000,200,50,0.000000001
2026-11-24,"llama-3.1, 8b",,,,,
"""

GENERIC_JSON = """[
  {"day": "2026-11-23", "model": "llama-3.1, 8b", "calls": 3, "prompt_tokens": 1000,
   "cached_tokens": 200, "output_tokens": 50, "cost_usd": "0.000000001"},
  {"day": "2026-11-24"}]"""


@pytest.mark.parametrize(
    ("provider", "text", "usage", "days"),
    [
        (
            Provider.OPENAI,
            OPENAI_USAGE_JSON,
            [
                DayUsage("2024-11-01", "gpt-4o-2024-08-06", 5, 1000, 800, 500),
                DayUsage("2024-11-01", "gpt-4o-mini-2024-07-18", 1, 7, None, 1),
            ],
            ["2024-11-01", "2024-11-02"],
        ),
        (
            Provider.OPENAI,
            OPENAI_EMBEDDINGS_JSON,
            [DayUsage("2024-11-01", "text-embedding-3-small", 2, 16)],
            ["2024-11-01"],
        ),
        (
            Provider.OPENAI,
            OPENAI_USAGE_CSV,
            [DayUsage("2025-10-27", "gpt-4o-mini-2024-07-18", 4, 4312, 64, 1683)],
            ["2025-10-27", "2025-10-28"],
        ),
        (
            Provider.OPENAI,
            OPENAI_COST_JSON,
            [
                DayUsage("2024-11-01", "gpt-4o-2024-08-06", cost_nano_usd=72_500_000),
                DayUsage("2024-11-01", "web search tool calls", cost_nano_usd=30_000_000),
            ],
            ["2024-11-01"],
        ),
        (
            Provider.OPENAI,
            OPENAI_COST_CSV,
            [DayUsage("2025-10-05", None, cost_nano_usd=895_874_000)],
            ["2025-10-05", "2025-10-09"],
        ),
        (Provider.OPENAI, OPENAI_NOTHING_CSV, [], ["2025-10-05"]),
        (
            Provider.ANTHROPIC,
            ANTHROPIC_USAGE_JSON,
            [DayUsage("2025-08-01", "claude-sonnet-4-20250514", None, 3200, 200, 500)],
            ["2025-08-01", "2025-08-02"],
        ),
        (
            Provider.ANTHROPIC,
            ANTHROPIC_USAGE_CSV,
            [DayUsage("2026-03-22", "claude-sonnet-4-20250514", None, 100_060, 30, 500)],
            ["2026-03-22"],
        ),
        (
            Provider.ANTHROPIC,
            ANTHROPIC_COST_JSON,
            [
                DayUsage("2025-08-01", "Web Search Usage", cost_nano_usd=100_000_000),
                DayUsage("2025-08-01", "claude-sonnet-4-20250514", cost_nano_usd=1_234_500_000),
            ],
            ["2025-08-01"],
        ),
        (
            Provider.ANTHROPIC,
            ANTHROPIC_COST_CSV,
            [
                DayUsage("2026-08-04", "Claude Haiku 4.5", cost_nano_usd=70_000_000),
                DayUsage("2026-08-04", "web_search", cost_nano_usd=100_000_000),
            ],
            ["2026-08-04"],
        ),
        *(
            (
                Provider.GENERIC,
                text,
                [DayUsage("2026-11-23", "llama-3.1, 8b", 3, 1000, 200, 50, 1)],
                ["2026-11-23", "2026-11-24"],
            )
            for text in (GENERIC_CSV, GENERIC_JSON)
        ),
    ],
    ids=[
        "openai usage JSON", "openai embeddings JSON", "openai usage CSV", "openai cost JSON",
        "openai cost CSV", "openai CSV of no usage", "anthropic usage JSON",
        "anthropic usage CSV", "anthropic cost JSON", "anthropic cost CSV", "generic CSV",
        "generic JSON",
    ],
)  # fmt: skip
def test_an_export_is_read_as_what_it_says(
    provider: Provider, text: str, usage: list[DayUsage], days: list[str]
) -> None:
    found = read_export(text.encode(), provider)

    assert found.usage == usage
    assert found.days == days


@pytest.mark.parametrize("provider", Provider)
def test_the_measures_of_a_form_are_members_of_the_rows(provider: Provider) -> None:
    for form in FORMS[provider]:
        assert set(form.sums) <= set(DayUsage.__struct_fields__) - {"day", "model"}


@pytest.mark.parametrize("provider", Provider)
def test_no_provider_is_without_a_form(provider: Provider) -> None:
    assert FORMS[provider]
