"""Calls to paste into a shell and into Python, for those who have a key and a base URL."""

_SAMPLES = """\
curl {base_url}/chat/completions \\
  -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key="{key}")
print(client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "Hello"}}],
).choices[0].message.content)"""


def sample_calls(base_url: str, key: str, model: str) -> str:
    """The same call twice: by `curl`, and by the official Python SDK."""
    return _SAMPLES.format(base_url=base_url, key=key, model=model)
