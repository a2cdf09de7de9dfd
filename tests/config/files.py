"""Files that are refused, each with the exact problems, and one that is not: tables for the tests.

A row reads as: what is wrong, the file, what is said about it.
"""
# ruff: noqa: E501 - a table reads by its rows

from llmrouter.config.load import FILE_BYTES_MAX

DEMO = '[upstreams.demo]\nurl = "builtin:demo"\n'
MODEL = '[models."gpt-4o"]\ndeployments = [{ upstream = "demo" }]\n'
OK = DEMO + MODEL
SECRET = "sk-proj-abcDEF123456"  # a made-up one, to be looked for in every message

# The example of design.md, section 6, with the upstream that it only mentions.
DESIGN = """
state = "state"

[server]
listen = "127.0.0.1:4000"
admin_listen = "127.0.0.1:4001"
workers = 0
tls = { cert = "tls.crt", key = "tls.key" }

[server.limits]
connections = 10_000
head_bytes = 65_536
body_bytes = 33_554_432
inflight = 4_000
queued = 2_000
buffered_bytes = 536_870_912

[server.timeouts]
head = 10
body = 60
idle = 75
drain = 30

[upstreams.openai]
dialect = "openai"
url = "https://api.openai.com/v1"
credential = { env = "OPENAI_API_KEY" }
concurrent = 200
timeouts = { connect = 5, first_token = 60, idle = 30, total = 600 }
health = { path = "/models", every = 10 }

[upstreams.claude]
dialect = "anthropic"
url = "https://api.anthropic.com"
credential = { env = "ANTHROPIC_API_KEY" }

[upstreams.azure-eu]
url = "https://eu.example.com/openai/v1"
credential = { env = "AZURE_API_KEY" }

[upstreams.demo]
url = "builtin:demo"
dialect = "openai"

[models."gpt-4o"]
aliases = ["gpt-4o-latest"]
strategy = "weighted"
deployments = [
  { upstream = "openai", model = "gpt-4o-2024-08-06", weight = 3 },
  { upstream = "azure-eu", weight = 1 },
]
fallbacks = ["gpt-4o-mini"]
price = { input = 2.50, cached_input = 1.25, output = 10.00 }
retry = { attempts = 3, budget = 0.2 }

[models."gpt-*"]
deployments = [{ upstream = "openai" }]

[orgs.acme]
models = ["gpt-4o*", "claude-*"]
limits = [
  { requests = 600, per = "minute" },
  { tokens = 200_000, per = "minute", model = "gpt-4o" },
  { concurrent = 50 },
]
budgets = [{ usd = 500.00, per = "month", at_limit = "model:gpt-4o-mini" }]
weight = 2
priority = "interactive"
  [orgs.acme.teams.research]
  limits = [{ requests = 60, per = "minute" }]

[auth.oidc.corp]
issuer = "https://login.example.com"
audience = "llmrouter"
claims = { org = "org", user = "email", teams = "groups" }
"""

_MODEL_RULE = (
    "use letters, digits and . _ : / @ + ~ = - only, at most 256 of them, "
    "and * for any run of characters in a pattern"
)
_DIALECTS = "'anthropic', 'bedrock', 'gemini', 'openai'"
_NO_HOST = 'has no valid host and port; write "https://HOST/PATH" or "http://HOST:PORT/PATH"'
_LISTEN = 'write "HOST:PORT", "[::1]:PORT", "unix:/PATH" or "fd:NUMBER"'
_ENV = (
    "is not the name of an environment variable (a string, not shown); "
    "use letters, digits and _, and keep the secret itself out of this file"
)


def server(line: str, table: str = "server") -> str:
    return f"[{table}]\n{line}\n{OK}"


def upstream(*lines: str) -> str:
    return "[upstreams.openai]\n" + "\n".join(lines) + "\n" + OK


def model(*lines: str) -> str:
    return OK + "\n".join(lines) + "\n"


def org(line: str) -> str:
    return f"{OK}[orgs.acme]\n{line}\n"


URL = 'url = "https://api.example.com/v1"'

# fmt: off
BAD: dict[str, tuple[str, tuple[str, ...]]] = {
    # Shape
    "a top-level key that is unknown": ("stat = 'x'\n" + OK, ("stat: unknown key (value a string, not shown); did you mean 'state'?",)),
    "a table that is unknown": ("[upstream.a]\nurl='x'\n" + OK, ("upstream: unknown key (value a table); did you mean 'upstreams'?",)),
    "an unknown key near to a known one": (upstream(URL, "timeouts = { conect = 5 }"), ("upstreams.openai.timeouts.conect: unknown key (value 5); did you mean 'connect'?",)),
    "an unknown key near to none": (server("zzz = 1", "server.timeouts"), ("server.timeouts.zzz: unknown key (value 1); known here: head, body, idle, drain",)),
    "an unknown key with the right letters": (server("LISTEN = 1"), ("server.LISTEN: unknown key (value 1); did you mean 'listen'?",)),
    "a secret instead of its source": (upstream(URL, f"api_key = '{SECRET}'"), ('upstreams.openai.api_key: unknown key (value a string, not shown); write credential = { env = "NAME" }: no secret stands in this file',)),
    "a secret as the credential": (upstream(URL, f"credential = '{SECRET}'"), ("upstreams.openai.credential: must be a table (value a string, not shown)",)),
    "a secret as the upstream": (f"[upstreams]\nopenai = '{SECRET}'\n", ("upstreams.openai: must be a table (value a string, not shown)",)),
    "a string for a number": (server("workers = 'two'"), ("server.workers: must be a whole number from 0 up to 512 (value 'two')",)),
    "a fraction for a whole number": (server("workers = 1.5"), ("server.workers: must be a whole number from 0 up to 512 (value 1.5)",)),
    "a boolean for a number": (server("head = true", "server.timeouts"), ("server.timeouts.head: must be a number above 0 up to 86400 (value true)",)),
    "a number below its range": (server("workers = -1"), ("server.workers: must be a whole number from 0 up to 512 (value -1)",)),
    "a number above its range": (server("inflight = 10_000_000_000", "server.limits"), ("server.limits.inflight: must be a whole number from 1 up to 1000000000 (value 10000000000)",)),
    "a number that cannot be printed": (server("inflight = 0x" + "f" * 5_000, "server.limits"), ("server.limits.inflight: must be a whole number from 1 up to 1000000000 (value a huge number)",)),
    "an infinite time-out": (server("idle = inf", "server.timeouts"), ("server.timeouts.idle: must be a number above 0 up to 86400 (value inf)",)),
    "a time-out that is not a number": (server("idle = nan", "server.timeouts"), ("server.timeouts.idle: must be a number above 0 up to 86400 (value nan)",)),
    "a date for a string": ("state = 2024-05-01\n" + OK, ("state: must be a string of 1 to 4096 characters (value the date or time 2024-05-01)",)),
    "an empty string": ("state = ''\n" + OK, ("state: must be a string of 1 to 4096 characters (value '')",)),
    "a number for listen": (server("listen = 4000"), ("server.listen: must be a string of 1 to 4096 characters or a list of 1 to 1000 entries (value 4000)",)),
    "an empty list for listen": (server("listen = []"), ("server.listen: must be a list of 1 to 1000 entries (value [])",)),
    "a wrong entry in a list": (server("listen = ['127.0.0.1:1', 5]"), ("server.listen[1]: must be a string of 1 to 4096 characters (value 5)",)),
    "a value where a table belongs": ("server = 5\n" + OK, ("server: must be a table (value 5)",)),
    "a value where named tables belong": ("orgs = 5\n" + OK, ("orgs: must be one table for each org, such as [orgs.acme] (value 5)",)),
    "an array of tables where named ones belong": ("[[upstreams]]\nurl='x'\n", ("upstreams: must be one table for each upstream, such as [upstreams.demo] (value a list with entries)",)),
    "an unknown dialect": (upstream(URL, "dialect = 'opnai'"), (f"upstreams.openai.dialect: must be one of {_DIALECTS} (value 'opnai'); did you mean 'openai'?",)),
    "a dialect that is no string": (upstream(URL, "dialect = ['openai']"), (f"upstreams.openai.dialect: must be one of {_DIALECTS} (value a list with entries)",)),
    "an upstream without url": (upstream("dialect = 'openai'"), ('upstreams.openai.url: is required, but missing; add url = "https://HOST/v1"',)),
    "a model without deployments": (DEMO + "[models.x]\n", ('models."x".deployments: is required, but missing; add deployments = [{ upstream = "NAME" }]',)),
    "a model with no deployment": (DEMO + "[models.x]\ndeployments = []", ('models."x".deployments: must be a list with at least one entry (value [])',)),
    "a deployment without upstream": (DEMO + "[models.x]\ndeployments = [{ model = 'a' }]", ('models."x".deployments[0].upstream: is required, but missing; add upstream = "NAME", one of [upstreams.NAME]',)),
    "a weight of zero": (DEMO + "[models.x]\ndeployments = [{ upstream = 'demo', weight = 0 }]", ('models."x".deployments[0].weight: must be a whole number from 1 up to 1000 (value 0)',)),
    "a price without output": (model("price = { input = 1 }"), ('models."gpt-4o".price.output: is required, but missing; add output = USD per million tokens',)),
    "a share above one": (model("retry = { budget = 20 }"), ('models."gpt-4o".retry.budget: must be a number from 0 up to 1 (value 20)',)),
    "a long value": (server("workers = '" + "x" * 100 + "'"), ("server.workers: must be a whole number from 0 up to 512 (value '" + "x" * 59 + "…)",)),
    "an org without models": (org("models = []"), ("orgs.acme.models: must be a list of 1 to 1000 entries (value [])",)),
    "a budget without a window": (org("budgets = [{ usd = 5 }]"), ('orgs.acme.budgets[0].per: is required, but missing; add per = "month"',)),
    "a provider without audience": (OK + "[auth.oidc.corp]\nissuer = 'https://a.example.com'", ('auth.oidc.corp.audience: is required, but missing; add audience = "llmrouter"',)),
    "several at once": (
        server("workers = -1\nlisten = 3", "server") + "[orgs.a]\nweigth = 2\n",
        (
            "server.workers: must be a whole number from 0 up to 512 (value -1)",
            "server.listen: must be a string of 1 to 4096 characters or a list of 1 to 1000 entries (value 3)",
            "orgs.a.weigth: unknown key (value 2); did you mean 'weight'?",
        ),
    ),
    # Addresses
    "an address without port": (server("listen = '127.0.0.1'"), (f"server.listen: '127.0.0.1' is no address; {_LISTEN}",)),
    "an address without host": (server("listen = ':4000'"), (f"server.listen: ':4000' is no address; {_LISTEN}",)),
    "a port that does not exist": (server("listen = ['127.0.0.1:4000', 'a:70000']"), (f"server.listen[1]: 'a:70000' is no address; {_LISTEN}",)),
    "an IP address that does not exist": (server("listen = '300.0.0.1:1'"), (f"server.listen: '300.0.0.1:1' holds no valid IP address; {_LISTEN}",)),
    "a standard stream as a listener": (server("listen = 'fd:1'"), ("server.listen: 'fd:1' is no inherited socket; write a number from 3, as in fd:3",)),
    "two listeners on one address": (server("listen = ['0.0.0.0:4000', '127.0.0.1:4000']"), ("server.listen[1]: '127.0.0.1:4000' clashes with '0.0.0.0:4000', which we listen on too; change one",)),
    "a listener on the admin address": (server("listen = '127.0.0.1:4001'"), ("server.admin_listen: '127.0.0.1:4001' clashes with '127.0.0.1:4001', which we listen on too; change one",)),
    "a url without scheme": (upstream("url = 'api.example.com/v1'"), ('upstreams.openai.url: is not a URL; write "https://HOST/PATH", "http://HOST:PORT/PATH" or "builtin:demo"',)),
    "a url without host": (upstream("url = 'https:///v1'"), (f"upstreams.openai.url: {_NO_HOST}",)),
    "a url with a password": (upstream(f"url = 'https://me:{SECRET}@example.com/v1'"), ("upstreams.openai.url: holds a user or password; remove it and name a credential instead",)),
    "a url with a query": (upstream(f"url = 'https://example.com/v1?key={SECRET}'"), ("upstreams.openai.url: holds a query or fragment; a base URL ends with its path",)),
    "a url of an endpoint": (upstream("url = 'https://example.com/v1/chat/completions'"), ("upstreams.openai.url: 'https://example.com/v1/chat/completions' is an endpoint; write the base URL that SDKs take, without the last part",)),
    "a builtin that does not exist": (upstream("url = 'builtin:echo'"), ("upstreams.openai.url: 'builtin:echo' does not exist; the only upstream built in is 'builtin:demo'",)),
    # Rules between keys
    "buffers smaller than one body": (server("buffered_bytes = 1_000", "server.limits"), ("server.limits.buffered_bytes: is less than body_bytes, so the longest body never fits (value 1000); make it at least 33554432",)),
    "a credential in two places": (upstream(URL, "credential = { env = 'A_KEY', file = 'b' }"), ('upstreams.openai.credential: must hold one of env and file, as in { env = "NAME" }',)),
    "a credential in no place": (upstream(URL, "credential = {}"), ('upstreams.openai.credential: must hold one of env and file, as in { env = "NAME" }',)),
    "a secret as the name of a variable": (upstream(URL, f"credential = {{ env = '{SECRET}' }}"), (f"upstreams.openai.credential.env: {_ENV}",)),
    "a probe without a path": (upstream(URL, "health = { path = 'models' }"), ('upstreams.openai.health.path: is no path; write one from its slash, as in "/models"',)),
    "a limit of two kinds": (org("limits = [{ requests = 1, tokens = 2, per = 'day' }]"), ("orgs.acme.limits[0]: must hold one of requests, tokens and concurrent; write one limit for each",)),
    "a limit of no kind": (org("limits = [{ per = 'day' }]"), ("orgs.acme.limits[0]: must hold one of requests, tokens and concurrent; write one limit for each",)),
    "a rate without its time": (org("limits = [{ tokens = 2 }]"), ('orgs.acme.limits[0].per: is required for a rate, but missing; add per = "minute"',)),
    "a concurrency limit with a time": (org("limits = [{ concurrent = 2, per = 'day' }]"), ("orgs.acme.limits[0].per: means nothing beside concurrent (value 'day'); remove it",)),
    "an unknown way out of a budget": (org("budgets = [{ usd = 1, per = 'day', at_limit = 'rejct' }]"), ("orgs.acme.budgets[0].at_limit: must be 'reject', 'queue' or 'model:NAME' (value 'rejct'); did you mean 'reject'?",)),
    "an issuer that is no URL": (OK + "[auth.oidc.corp]\nissuer = 'corp'\naudience = 'a'", ('auth.oidc.corp.issuer: is no issuer; write the https URL that stands as "iss" in its JWTs',)),
    "a burst beside concurrency": (org("limits = [{ concurrent = 2, burst = 3 }]"), ("orgs.acme.limits[0].burst: means nothing beside concurrent (value 3); remove it",)),
    "a burst of nothing": (org("limits = [{ tokens = 2, per = 'day', burst = 0 }]"), ("orgs.acme.limits[0].burst: must be a whole number from 1 up to 1000000000000000 (value 0)",)),
    "a wait where nothing waits": (org("limits = [{ concurrent = 2, wait = 5 }]"), ('orgs.acme.limits[0].wait: means nothing without at_limit = "queue" (value 5); remove it',)),
    "an unknown way out of a limit": (org("limits = [{ concurrent = 2, at_limit = 'que' }]"), ("orgs.acme.limits[0].at_limit: must be 'reject', 'queue' or 'model:NAME' (value 'que'); did you mean 'queue'?",)),
    "two limits that count the same": (org("limits = [{ concurrent = 2 }, { concurrent = 3 }]"), ("orgs.acme.limits[1]: counts the same as orgs.acme.limits[0]; keep one",)),
    "a budget in parts of a nano-USD": (org("budgets = [{ usd = 0.0000000001, per = 'day' }]"), ("orgs.acme.budgets[0].usd: has more than 9 decimals (value 1e-10); round it",)),
    "a strict budget that cuts": (org("budgets = [{ usd = 1, per = 'day', strict = true, mid_stream = 'cut' }]"), ("orgs.acme.budgets[0].mid_stream: means nothing beside strict, which lets no stream overshoot; keep one",)),
    "an unknown end of streams": (org("budgets = [{ usd = 1, per = 'day', mid_stream = 'stop' }]"), ("orgs.acme.budgets[0].mid_stream: must be one of 'cut', 'finish' (value 'stop')",)),
    "a strict that is no boolean": (org("budgets = [{ usd = 1, per = 'day', strict = 1 }]"), ("orgs.acme.budgets[0].strict: must be true or false (value 1)",)),
    "an unknown way with unpriced models": (org("unpriced = 'free'"), ("orgs.acme.unpriced: must be one of 'refuse', 'warn' (value 'free'); did you mean 'refuse'?",)),
    "a wait for holds below zero": (OK + "[quotas]\nhold_wait = -1\n", ("quotas.hold_wait: must be a number from 0 up to 86400 (value -1)",)),
    "a value where tables of users belong": (org("users = ['ann']"), ('orgs.acme.users: must be one table for each user, such as [orgs.acme.users."ann@example.com"] (value a list with entries)',)),
    # References
    "a deployment at an unknown upstream": (DEMO + "[models.x]\ndeployments = [{ upstream = 'demo' }, { upstream = 'dmeo' }]", ("models.\"x\".deployments[1].upstream: no upstream is called 'dmeo'; define it as [upstreams.dmeo]; did you mean 'demo'?",)),
    "a deployment where no upstream is near": (DEMO + "[models.x]\ndeployments = [{ upstream = 'zzz' }]", ("models.\"x\".deployments[0].upstream: no upstream is called 'zzz'; define it as [upstreams.zzz]; the file has 'demo'",)),
    "a deployment of a dialect not served": (upstream(URL, "dialect = 'anthropic'") + "[models.x]\ndeployments = [{ upstream = 'openai' }]", ("models.\"x\".deployments[0].upstream: the dialect 'anthropic' of 'openai' is not served yet; use an upstream that speaks 'openai'",)),
    "a deployment of a pattern": (DEMO + "[models.x]\ndeployments = [{ upstream = 'demo', model = 'gpt-*' }]", ("models.\"x\".deployments[0].model: 'gpt-*' cannot be asked for upstream; write the name itself, in visible ASCII without *",)),
    "a deployment that stands twice": (DEMO + "[models.x]\ndeployments = [{ upstream = 'demo' }, { upstream = 'demo', weight = 3 }]", ('models."x".deployments[1]: stands twice in this list; keep one and give it the weight of both',)),
    "a fallback to an unknown model": (model("fallbacks = ['gpt-4']"), ("models.\"gpt-4o\".fallbacks[0]: no model is called 'gpt-4'; define it as [models.\"gpt-4\"]; did you mean 'gpt-4o'?",)),
    "a fallback to a pattern": (model("fallbacks = ['gpt-*']"), ("models.\"gpt-4o\".fallbacks[0]: 'gpt-*' is a pattern; name one model",)),
    "a fallback to itself": (model("fallbacks = ['gpt-4o']"), ('models."gpt-4o".fallbacks[0]: falls back to itself: gpt-4o -> gpt-4o; take one of these fallbacks out',)),
    "fallbacks in a loop": (
        model("fallbacks = ['b']", "[models.b]", "deployments = [{ upstream = 'demo' }]", "fallbacks = ['gpt-4o']"),
        ('models."gpt-4o".fallbacks[0]: falls back to itself: gpt-4o -> b -> gpt-4o; take one of these fallbacks out',),
    ),
    "an org with an unknown model": (org("models = ['gpt-5']"), ("orgs.acme.models[0]: no model is called 'gpt-5'; define it as [models.\"gpt-5\"]; did you mean 'gpt-4o'?",)),
    "a team with an unknown model": (OK + "[orgs.acme.teams.a]\nmodels = ['x']", ("orgs.acme.teams.a.models[0]: no model is called 'x'; define it as [models.\"x\"]; the file has 'gpt-4o'",)),
    "an org with patterns in one string": (org("models = ['gpt-4o', 'gpt-4*, demo']"), (f"orgs.acme.models[1]: 'gpt-4*, demo' is not a model name; {_MODEL_RULE}",)),
    "a team with a pattern that has a space": (OK + "[orgs.acme.teams.a]\nmodels = ['gpt 4*']", (f"orgs.acme.teams.a.models[0]: 'gpt 4*' is not a model name; {_MODEL_RULE}",)),
    "an org with a pattern that has two stars in a row": (org("models = ['gpt**']"), ("orgs.acme.models[0]: 'gpt**' has ** in it, which means the same as *; write one",)),
    "a limit on an unknown model": (org("limits = [{ requests = 1, per = 'day', model = 'x' }]"), ("orgs.acme.limits[0].model: no model is called 'x'; define it as [models.\"x\"]; the file has 'gpt-4o'",)),
    "a budget that ends at an unknown model": (org("budgets = [{ usd = 1, per = 'day', at_limit = 'model:x' }]"), ("orgs.acme.budgets[0].at_limit: no model is called 'x'; define it as [models.\"x\"]; the file has 'gpt-4o'",)),
    "a budget on an unknown model": (org("budgets = [{ usd = 1, per = 'day', model = 'x' }]"), ("orgs.acme.budgets[0].model: no model is called 'x'; define it as [models.\"x\"]; the file has 'gpt-4o'",)),
    "a user's limit on no model name": (OK + "[orgs.acme.users.ann]\nlimits = [{ concurrent = 1, model = 'a b*' }]", (f"orgs.acme.users.ann.limits[0].model: 'a b*' is not a model name; {_MODEL_RULE}",)),
    "a limit that ends at the model it is for": (org("limits = [{ concurrent = 1, model = 'gpt-*', at_limit = 'model:gpt-4o' }]"), ("orgs.acme.limits[0].at_limit: 'gpt-4o' is covered by the model 'gpt-*' of this rule, which would refuse it again; name one that is not",)),
    "a limit that ends at a model of others": (
        model("[models.b]", "deployments = [{ upstream = 'demo' }]", "[orgs.acme]", "models = ['gpt-4o']", "limits = [{ concurrent = 1, at_limit = 'model:b' }]"),
        ("orgs.acme.limits[0].at_limit: 'b' is not among the models that may be used here; add it to models",),
    ),
    "a tls file that is not there": (server("tls = { cert = '/none/a.crt', key = '/none/a.key' }"), (
        "server.tls.cert: no such file: /none/a.crt; relative paths start beside router.toml",
        "server.tls.key: no such file: /none/a.key; relative paths start beside router.toml",
    )),
    "a state that is a file": ("state = '/dev/null'\n" + OK, ("state: is no directory (value '/dev/null'); name one, or a new one",)),
    "a shadow at an unknown upstream": (model("shadow = { upstream = 'dmeo' }"), ("models.\"gpt-4o\".shadow.upstream: no upstream is called 'dmeo'; define it as [upstreams.dmeo]; did you mean 'demo'?",)),
    "a shadow of no upstream": (model("shadow = { share = 0.5 }"), ('models."gpt-4o".shadow.upstream: is required, but missing; add upstream = "NAME", one of [upstreams.NAME]',)),
    "a shadow that is a deployment of the model": (model("shadow = { upstream = 'demo' }"), ('models."gpt-4o".shadow: is a deployment of this model, which serves its calls already; name another',)),
    "a shadow of a pattern": (model("shadow = { upstream = 'demo', model = 'a*' }"), ("models.\"gpt-4o\".shadow.model: 'a*' cannot be asked for upstream; write the name itself, in visible ASCII without *",)),
    "a hedge after no time": (model("hedge_after = 'p50'"), ("models.\"gpt-4o\".hedge_after: must be a number above 0 up to 86400 or 'p95' (value 'p50')",)),
    "an unknown reason to fall back": (model("fallback_on = ['context']"), ("models.\"gpt-4o\".fallback_on[0]: must be one of 'content_filter', 'context_length', 'unavailable' (value 'context'); did you mean 'context_length'?",)),
    "a price of a deployment in parts of a nano-USD": (DEMO + "[models.x]\ndeployments = [{ upstream = 'demo', price = { input = 1, output = 0.00000000001 } }]", ('models."x".deployments[0].price.output: has more than 9 decimals (value 1e-11); round it',)),
    "a breaker that rests for longer than it may": (upstream(URL, "breaker = { rest = 90 }"), ("upstreams.openai.breaker.rest: is longer than rest_max (value 90); make it at most 60, or rest_max longer",)),
    "tags that are no table": (upstream(URL, "tags = ['eu']"), ('upstreams.openai.tags: must be a table of words, such as { region = "eu" } (value a list with entries)',)),
    "a tag that is no word": (upstream(URL, "tags = { region = 'the EU' }"), ("upstreams.openai.tags.region: 'the EU' is not the value of a tag; use letters, digits and . _ - only, at most 64 of them",)),
    "a required tag that the model has nowhere": (org("models = ['gpt-4o']\nrequire = { region = 'eu' }"), ("orgs.acme.models[0]: no deployment of 'gpt-4o' has region = \"eu\", which org acme requires; give it one that has, or take it out of models",)),
    "a name that is mapped to an unknown model": (org("model_map = { 'gpt-4' = 'gpt-4o-mini' }"), ("orgs.acme.model_map.gpt-4: no model is called 'gpt-4o-mini'; define it as [models.\"gpt-4o-mini\"]; did you mean 'gpt-4o'?",)),
    "a name that is mapped to itself": (org("model_map = { 'gpt-4o' = 'gpt-4o' }"), ("orgs.acme.model_map.gpt-4o: 'gpt-4o' is mapped to itself; name another model, or take it out",)),
    "a map that is no table": (org("model_map = 'gpt-4o'"), ('orgs.acme.model_map: must be a table of names, such as { "gpt-4" = "gpt-4o-mini" } (value a string, not shown)',)),
    # Names
    "an alias equal to a model": (model("aliases = ['x']", "[models.x]", "deployments = [{ upstream = 'demo' }]"), ("models.\"gpt-4o\".aliases[0]: 'x' is already the name of a model; rename or remove the alias",)),
    "an alias of two models": (
        model("aliases = ['a']", "[models.x]", "aliases = ['b', 'a']", "deployments = [{ upstream = 'demo' }]"),
        ("models.\"x\".aliases[1]: 'a' is also an alias of the model 'gpt-4o'; keep one",),
    ),
    "an alias that stands twice": (model("aliases = ['a', 'a']"), ("models.\"gpt-4o\".aliases[1]: 'a' stands twice in this list; keep one",)),
    "an alias that is a pattern": (model("aliases = ['a*']"), ("models.\"gpt-4o\".aliases[0]: 'a*' is a pattern; give it a table of its own: [models.\"a*\"]",)),
    "a pattern with aliases": (DEMO + "[models.'a*']\naliases = ['b']\ndeployments = [{ upstream = 'demo' }]", ('models."a*".aliases: a pattern has no aliases; add a table of their own for these names',)),
    "a pattern with two stars in a row": (DEMO + "[models.'a**']\ndeployments = [{ upstream = 'demo' }]", ('models."a**": has ** in it, which means the same as *; write one',)),
    "a model name with a wildcard that we do not have": (DEMO + "[models.'a?']\ndeployments = [{ upstream = 'demo' }]", (f'models."a?": is not a model name; {_MODEL_RULE}',)),
    "a model name with a space": (DEMO + "[models.'a b']\ndeployments = [{ upstream = 'demo' }]", (f'models."a b": is not a model name; {_MODEL_RULE}',)),
    "a model name with a comma": (DEMO + "[models.'a,b']\ndeployments = [{ upstream = 'demo' }]", (f'models."a,b": is not a model name; {_MODEL_RULE}',)),
    "an alias with a comma": (model("aliases = ['a,b']"), (f"models.\"gpt-4o\".aliases[0]: 'a,b' is not a model name; {_MODEL_RULE}",)),
    "models that differ by case": (model("[models.'GPT-4o']", "deployments = [{ upstream = 'demo' }]"), ("models.\"GPT-4o\": 'GPT-4o' differs from 'gpt-4o' only by case; rename one",)),
    "an org name with a space": (OK + '[orgs."a b"]', ('orgs."a b": is not a name; use letters, digits and . _ - only, at most 64 of them',)),
    "a user with a slash": (OK + '[orgs.acme.users."a/b"]', ('orgs.acme.users."a/b": is not the name of a user; write 1 to 128 printable characters, without / and without spaces at either end, or "*" for each user without a table of its own',)),
    "orgs that differ by case": (OK + "[orgs.acme]\n[orgs.Acme]", ("orgs.Acme: differs from 'acme' only by case, so people mix them up; rename one",)),
}



NOT_TOML: list[tuple[str | bytes, str]] = [
    ("a = [1\nb", "line 2, column 1: not TOML: unclosed array; close the list with ]"),
    (f"x = 1\ncredential = {SECRET}", "line 2, column 14: not TOML: invalid value; a string needs quotes, and true, false and numbers have none"),
    ("state = 'a'\nstate = 'b'\n", "line 2, column 12: not TOML: cannot overwrite a value; the same key stands twice, or is both a value and a table"),
    ("[orgs.a]\n[orgs.a]\n", "line 2, column 8: not TOML: cannot declare ('orgs', 'a') twice; the same table stands twice; put its keys under one heading"),
    ("\nstate", "line 2, at the end of the file: not TOML: expected '=' after a key in a key/value pair; look for a missing quote, bracket, comma or = there"),
    ("state = " + "[" * 5_000, "nests lists or tables too deeply; is it a router.toml?"),
    ("state = " + "9" * 5_000, "holds a number that is too long; shorten it"),
    (b"state = 'a'\n# caf\xe9", "line 2: is not UTF-8; save the file as UTF-8"),
    (b"#" * (FILE_BYTES_MAX + 1), f"is longer than {FILE_BYTES_MAX} bytes; is it a router.toml?"),
]
# fmt: on
