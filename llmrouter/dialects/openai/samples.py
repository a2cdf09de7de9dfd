"""Sample calls: to paste into a shell and into Python, and bodies of calls that nobody makes."""

from collections.abc import Mapping

import msgspec

from llmrouter.contracts.call import Operation

_SAMPLES = """\
curl {base_url}/chat/completions \\
  -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key="{key}")
print(client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "Hello"}}],
).choices[0].message.content)"""

_PROMPT = "Hello"
_PROMPTS: Mapping[Operation, dict[str, object]] = {
    Operation.CHAT: {"messages": [{"role": "user", "content": _PROMPT}]},
    Operation.COMPLETION: {"prompt": _PROMPT},
    Operation.EMBEDDING: {"input": _PROMPT},
    Operation.RESPONSE: {"input": _PROMPT},
}


def sample_body(operation: Operation, model: str, *, stream: bool) -> bytes:
    """The body of a call with a short prompt, and nothing that need not be said."""
    members = {"model": model, **_PROMPTS[operation]}
    return msgspec.json.encode({**members, "stream": True} if stream else members)


def sample_calls(base_url: str, key: str, model: str) -> str:
    """The same call twice: by `curl`, and by the official Python SDK."""
    return _SAMPLES.format(base_url=base_url, key=key, model=model)
