"""Calls, and what their providers bill for them by the prices that they publish.

A bill is worked out by hand: tokens x USD per million of them, summed, in nano-USD.
"""
# ruff: noqa: E501 - a table reads by its rows

from typing import NamedTuple

from llmrouter.contracts.call import Usage

UPSTREAMS = {
    "openai": "https://api.openai.com/v1",
    "claude": "https://api.anthropic.com",
    "router": "https://openrouter.ai/api/v1",
    "azure-eu": "https://acme.openai.azure.com/openai",
    "deep": "https://api.deepseek.com",
    "search": "https://api.perplexity.ai",
    "vertex": "https://europe-west1-aiplatform.googleapis.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "mistral": "https://api.mistral.ai/v1",
    "grok": "https://api.x.ai/v1",
    "groq": "https://api.groq.com/openai/v1",
    "moonshot": "https://api.moonshot.ai/v1",
    "minimax": "https://api.minimax.io/v1",
    "zai": "https://api.z.ai/api/paas/v4",
    "bedrock": "https://bedrock-runtime.us-east-1.amazonaws.com",
    "local": "http://127.0.0.1:11434/v1",
    "demo": "builtin:demo",
}


class Bill(NamedTuple):
    """One call."""

    upstream: str
    model: str
    usage: Usage
    sum: str
    """In millionths of USD."""
    nano_usd: int


def used(prompt: int, cached: int, output: int, reasoning: int) -> Usage:
    return Usage(
        prompt_tokens=prompt,
        cached_tokens=cached,
        output_tokens=output,
        reasoning_tokens=reasoning,
    )


# The usage as recorded in real traffic, but for those of which nothing but round numbers exist.
RECORDED = [
    Bill("openai", "gpt-3.5-turbo-0125", used(76, 0, 35, 0), "76 x 0.5 + 35 x 1.5", 90_500),
    Bill("openai", "gpt-4.1-nano-2025-04-14", used(23, 0, 51, 0), "23 x 0.1 + 51 x 0.4", 22_700),
    Bill("openai", "gpt-4o-2024-08-06", used(48, 0, 14, 0), "48 x 2.5 + 14 x 10", 260_000),
    Bill("openai", "gpt-5-2025-08-07", used(12_594, 3_200, 1_150, 1_088), "9394 x 1.25 + 3200 x 0.125 + 1150 x 10", 23_642_500),
    Bill("openai", "gpt-5-mini-2025-08-07", used(126, 0, 85, 64), "126 x 0.25 + 85 x 2", 201_500),
    Bill("openai", "gpt-5-nano-2025-08-07", used(11, 0, 228, 192), "11 x 0.05 + 228 x 0.4", 91_750),
    Bill("openai", "gpt-5-pro-2025-10-06", used(13, 0, 77, 64), "13 x 15 + 77 x 120", 9_435_000),
    Bill("openai", "gpt-5.2-2025-12-11", used(251, 0, 19, 0), "251 x 1.75 + 19 x 14", 705_250),
    Bill("openai", "gpt-5.4-2026-03-05", used(652, 0, 44, 19), "652 x 2.5 + 44 x 15", 2_290_000),
    Bill("openai", "gpt-5.5-2026-04-23", used(63, 0, 72, 29), "63 x 5 + 72 x 30", 2_475_000),
    Bill("openai", "o1-mini-2024-09-12", used(30, 0, 212, 192), "30 x 1.1 + 212 x 4.4", 965_800),
    Bill("openai", "o3-mini-2025-01-31", used(31, 0, 467, 448), "31 x 1.1 + 467 x 4.4", 2_088_900),
    Bill("openai", "o4-mini-2025-04-16", used(1_207, 0, 535, 320), "1207 x 1.1 + 535 x 4.4", 3_681_700),
    Bill("openai", "text-embedding-3-small", used(4, 0, 0, 0), "4 x 0.02", 80),
    Bill("azure-eu", "gpt-5-nano-2025-08-07", used(11, 0, 203, 192), "11 x 0.05 + 203 x 0.4", 81_750),
    Bill("claude", "claude-3-5-sonnet-20240620", used(1_171, 1_167, 256, 0), "4 x 3 + 1167 x 0.3 + 256 x 15", 4_202_100),
    Bill("claude", "claude-opus-4-7", used(53, 0, 14, 0), "53 x 5 + 14 x 25", 615_000),
    Bill("claude", "claude-opus-4-8", used(1_592, 1_590, 4, 0), "2 x 5 + 1590 x 0.5 + 4 x 25", 905_000),
    Bill("gemini", "gemini-2.5-flash", used(154, 0, 151, 117), "154 x 0.3 + 151 x 2.5", 423_700),
    Bill("gemini", "gemini-3-pro-preview", used(29, 0, 1_737, 1_001), "29 x 2 + 1737 x 12", 20_902_000),
    Bill("vertex", "gemini-2.5-flash", used(6, 0, 18, 17), "6 x 0.3 + 18 x 2.5", 46_800),
    Bill("mistral", "mistral-medium-latest", used(273, 32, 104, 0), "241 x 1.5 + 32 x 0.15 + 104 x 7.5", 1_146_300),
    Bill("mistral", "mistral-tiny", used(20, 10, 18, 0), "20 x 0.25 + 18 x 0.25", 9_500),  # none for cached
    Bill("deep", "deepseek-v4-flash", used(563, 512, 116, 60), "51 x 0.15 + 512 x 0.003 + 116 x 0.6", 78_786),
    Bill("deep", "deepseek-reasoner", used(12, 0, 789, 415), "12 x 0.55 + 789 x 2.19", 1_734_510),
    # Of these the recording has the bill itself, too.
    Bill("grok", "grok-4-0709", used(687, 679, 187, 118), "8 x 3 + 679 x 0.75 + 187 x 15", 3_338_250),
    Bill("zai", "glm-4.6", used(16, 0, 2, 0), "16 x 0.6 + 2 x 2.2", 14_000),
    Bill("router", "anthropic/claude-sonnet-4.5", used(550, 0, 12, 0), "550 x 3 + 12 x 15", 1_830_000),
    Bill("router", "openai/gpt-5-mini", used(37, 0, 92, 64), "37 x 0.25 + 92 x 2", 193_250),
    Bill("router", "openai/o3", used(9, 0, 104, 0), "9 x 2 + 104 x 8", 850_000),
]  # fmt: skip

CACHED = [
    Bill("openai", "gpt-4o", used(1_000, 400, 200, 0), "600 x 2.5 + 400 x 1.25 + 200 x 10", 4_000_000),
    Bill("azure-eu", "GPT-4o-2024-11-20", used(2_048, 1_024, 1, 0), "1024 x 2.5 + 1024 x 1.25 + 1 x 10", 3_850_000),
    Bill("openai", "gpt-4o-mini", used(1_237, 1_024, 333, 0), "213 x 0.15 + 1024 x 0.075 + 333 x 0.6", 308_550),
    Bill("openai", "gpt-5-nano", used(1_000, 999, 7, 3), "1 x 0.05 + 999 x 0.005 + 7 x 0.4", 7_845),
    Bill("openai", "o1-pro", used(1_000, 500, 100, 50), "1000 x 150 + 100 x 600", 210_000_000),  # none for cached
    Bill("claude", "claude-haiku-4-5-20251001", used(3_333, 1_111, 777, 0), "2222 x 1 + 1111 x 0.1 + 777 x 5", 6_218_100),
    Bill("claude", "claude-opus-4-1", used(123_456, 120_000, 4_321, 0), "3456 x 15 + 120000 x 1.5 + 4321 x 75", 555_915_000),
    Bill("claude", "claude-sonnet-4-0", used(5_000, 4_500, 800, 0), "500 x 3 + 4500 x 0.3 + 800 x 15", 14_850_000),
    Bill("mistral", "codestral-2508", used(4_000, 1_000, 333, 0), "3000 x 0.3 + 1000 x 0.03 + 333 x 0.9", 1_229_700),
    Bill("moonshot", "kimi-k2-0905-preview", used(5_000, 4_096, 700, 0), "904 x 0.6 + 4096 x 0.15 + 700 x 2.5", 2_906_800),
    # To the nano-dollar, half up
    Bill("openai", "gpt-4o-mini", used(1, 1, 0, 0), "1 x 0.075", 75),
    Bill("bedrock", "amazon.nova-micro-v1:0", used(3, 1, 1, 0), "2 x 0.035 + 1 x 0.00875 + 1 x 0.14", 219),
    Bill("gemini", "gemini-1.5-flash", used(2, 2, 0, 0), "2 x 0.01875", 38),
    # Reasoning at a price of its own
    Bill("router", "perplexity/sonar-deep-research", used(100, 0, 1_000, 600), "100 x 2 + 400 x 8 + 600 x 3", 5_200_000),
]  # fmt: skip

LONG = [
    # above 272,000 tokens: 5, 0.5, 22.5 instead of 2.5, 0.25, 15
    Bill("openai", "gpt-5.4", used(272_000, 200_000, 1_000, 400), "72000 x 2.5 + 200000 x 0.25 + 1000 x 15", 245_000_000),
    Bill("openai", "gpt-5.4", used(272_001, 200_000, 1_000, 400), "72001 x 5 + 200000 x 0.5 + 1000 x 22.5", 482_505_000),
    Bill("openai", "gpt-5.5-pro", used(300_000, 100_000, 10, 7), "300000 x 60 + 10 x 270", 18_002_700_000),  # none for cached
    # above 200,000: 6, 0.6, 22.5 instead of 3, 0.3, 15
    Bill("claude", "claude-sonnet-4-5", used(200_000, 150_000, 2_000, 0), "50000 x 3 + 150000 x 0.3 + 2000 x 15", 225_000_000),
    Bill("claude", "claude-sonnet-4-5", used(200_001, 150_000, 2_000, 0), "50001 x 6 + 150000 x 0.6 + 2000 x 22.5", 435_006_000),
    # above 200,000: 2.5, 0.25, 15 instead of 1.25, 0.125, 10
    Bill("vertex", "gemini-2.5-pro", used(200_000, 120_000, 1_500, 900), "80000 x 1.25 + 120000 x 0.125 + 1500 x 10", 130_000_000),
    Bill("vertex", "gemini-2.5-pro", used(1_000_000, 900_000, 8_192, 4_096), "100000 x 2.5 + 900000 x 0.25 + 8192 x 15", 597_880_000),
    # above 128,000: 0.15, 0.0375, 0.6 instead of 0.075, 0.01875, 0.3
    Bill("gemini", "gemini-1.5-flash", used(128_001, 64_000, 1, 0), "64001 x 0.15 + 64000 x 0.0375 + 1 x 0.6", 12_000_750),
    # from 200,000 on: 2.5, 0.4, 5 instead of 1.25, 0.2, 2.5
    Bill("grok", "grok-4.3", used(199_999, 150_000, 100, 50), "49999 x 1.25 + 150000 x 0.2 + 100 x 2.5", 92_748_750),
    Bill("grok", "grok-4.3", used(200_000, 150_000, 100, 50), "50000 x 2.5 + 150000 x 0.4 + 100 x 5", 185_500_000),
    # above 512,000: 0.6, 0.12, 2.4 instead of 0.3, 0.06, 1.2
    Bill("minimax", "minimax-m3", used(512_001, 100_000, 50, 0), "412001 x 0.6 + 100000 x 0.12 + 50 x 2.4", 259_320_600),
]  # fmt: skip

BILLS = (*RECORDED, *CACHED, *LONG)
