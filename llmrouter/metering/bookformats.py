"""What is in the file of the books: its tables and views, from the first format to the newest.

    usage_calls              one row a call, and one (with 0 attempts) for each other attempt of it;
                             kept for as long as is configured
    usage_hours, usage_days  totals by hour and day (UTC), who and what; kept for ever

These views are for other tools to read, and only ever get more columns. The tables beneath them
are ours: what many calls share stands in small ones (`who` called, `what` was called, `how` it
ended, how it was `priced`), so that a call takes little more than a hundred bytes. There an empty
text means none, as NULL would not be unique; the views say NULL.

    format 1  a call is a row
    format 2  so are its other attempts; totals count them apart from calls
"""

APPLICATION_ID = 0x4C4C4D52
"""Tells our file from any other database."""

_TOTALS_TABLE = """CREATE TABLE {0} (
  start_ms INTEGER NOT NULL, who INTEGER NOT NULL, what INTEGER NOT NULL,
  calls INTEGER NOT NULL, errors INTEGER NOT NULL, estimated INTEGER NOT NULL,
  interrupted INTEGER NOT NULL, unpriced INTEGER NOT NULL, reported INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL, cost_nano_usd INTEGER NOT NULL,
  reported_nano_usd INTEGER NOT NULL, PRIMARY KEY (start_ms, who, what)
) WITHOUT ROWID"""
_TOTALS_VIEW = """CREATE VIEW usage_{0} AS SELECT
  strftime('%Y-%m-%dT%H:%MZ', start_ms / 1000, 'unixepoch') AS start, start_ms, org,
  NULLIF(team, '') AS team, NULLIF(user, '') AS user, key_id, model, deployment,
  NULLIF(upstream, '') AS upstream, dialect, operation, calls, errors, estimated, interrupted,
  unpriced, reported, prompt_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd,
  reported_nano_usd
FROM {0} AS totals CROSS JOIN who ON who.id = totals.who CROSS JOIN what ON what.id = totals.what"""
_FORMAT_1 = (
    """CREATE TABLE who (
  id INTEGER PRIMARY KEY, org TEXT NOT NULL, team TEXT NOT NULL, user TEXT NOT NULL,
  key_id TEXT NOT NULL, UNIQUE (org, team, user, key_id)
)""",
    """CREATE TABLE what (
  id INTEGER PRIMARY KEY, model TEXT NOT NULL, deployment TEXT NOT NULL, upstream TEXT NOT NULL,
  dialect TEXT NOT NULL, operation TEXT NOT NULL,
  UNIQUE (model, deployment, upstream, dialect, operation)
)""",
    """CREATE TABLE how (
  id INTEGER PRIMARY KEY, status INTEGER NOT NULL, outcome TEXT NOT NULL, error_code TEXT NOT NULL,
  attempts INTEGER NOT NULL, stream INTEGER NOT NULL, estimated INTEGER NOT NULL,
  is_error INTEGER NOT NULL,
  UNIQUE (status, outcome, error_code, attempts, stream, estimated, is_error)
)""",
    "CREATE TABLE priced (id INTEGER PRIMARY KEY, price TEXT NOT NULL UNIQUE)",
    """CREATE TABLE calls (
  id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, request_id TEXT NOT NULL, who INTEGER NOT NULL,
  what INTEGER NOT NULL, how INTEGER NOT NULL, priced INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL,
  cost_nano_usd INTEGER, reported_nano_usd INTEGER, ttft_ms INTEGER, duration_ms INTEGER
)""",
    "CREATE INDEX calls_at ON calls (at_ms)",
    _TOTALS_TABLE.format("hours"),
    _TOTALS_TABLE.format("days"),
    "CREATE TABLE positions (boot TEXT PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE notes (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO notes VALUES ('kept_from_ms', 0), ('syncs', 0)",
    # CROSS JOIN keeps SQLite from starting at a small table, and reading all calls for each row.
    """CREATE VIEW usage_calls AS SELECT
  calls.id, strftime('%Y-%m-%dT%H:%M:%fZ', at_ms / 1000.0, 'unixepoch') AS at, at_ms, request_id,
  org, NULLIF(team, '') AS team, NULLIF(user, '') AS user, key_id, model, deployment,
  NULLIF(upstream, '') AS upstream, dialect, operation, stream, status, outcome,
  NULLIF(error_code, '') AS error_code, is_error, attempts, estimated, prompt_tokens,
  cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd, reported_nano_usd, ttft_ms,
  duration_ms, NULLIF(price, '') AS price
FROM calls CROSS JOIN who ON who.id = calls.who CROSS JOIN what ON what.id = calls.what
  CROSS JOIN how ON how.id = calls.how CROSS JOIN priced ON priced.id = calls.priced""",
    # Each call as totals of its own, in their columns.
    """CREATE VIEW singles AS SELECT
  at_ms AS start_ms, who, what, 1 AS calls, is_error AS errors, estimated,
  outcome = 'interrupted' AS interrupted, cost_nano_usd IS NULL AS unpriced,
  reported_nano_usd IS NOT NULL AS reported, prompt_tokens, cached_tokens, output_tokens,
  reasoning_tokens, COALESCE(cost_nano_usd, 0) AS cost_nano_usd,
  COALESCE(reported_nano_usd, 0) AS reported_nano_usd
FROM calls CROSS JOIN how ON how.id = calls.how""",
    _TOTALS_VIEW.format("hours"),
    _TOTALS_VIEW.format("days"),
    f"PRAGMA application_id = {APPLICATION_ID}",
)
# Rows with 0 attempts are no calls: what else was tried for one, and what another model took over.
_SINGLES_2 = """CREATE VIEW singles AS SELECT
  at_ms AS start_ms, who, what, attempts > 0 AS calls, is_error AS errors, estimated,
  outcome = 'interrupted' AS interrupted, cost_nano_usd IS NULL AS unpriced,
  reported_nano_usd IS NOT NULL AS reported, prompt_tokens, cached_tokens, output_tokens,
  reasoning_tokens, COALESCE(cost_nano_usd, 0) AS cost_nano_usd,
  COALESCE(reported_nano_usd, 0) AS reported_nano_usd, attempts = 0 AS other_attempts
FROM calls CROSS JOIN how ON how.id = calls.how"""
_TOTALS_VIEW_2 = """CREATE VIEW usage_{0} AS SELECT
  strftime('%Y-%m-%dT%H:%MZ', start_ms / 1000, 'unixepoch') AS start, start_ms, org,
  NULLIF(team, '') AS team, NULLIF(user, '') AS user, key_id, model, deployment,
  NULLIF(upstream, '') AS upstream, dialect, operation, calls, errors, estimated, interrupted,
  unpriced, reported, prompt_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd,
  reported_nano_usd, other_attempts
FROM {0} AS totals CROSS JOIN who ON who.id = totals.who CROSS JOIN what ON what.id = totals.what"""
_FORMAT_2 = (
    "ALTER TABLE hours ADD COLUMN other_attempts INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE days ADD COLUMN other_attempts INTEGER NOT NULL DEFAULT 0",
    *(f"DROP VIEW {name}" for name in ("singles", "usage_hours", "usage_days")),
    _SINGLES_2,
    _TOTALS_VIEW_2.format("hours"),
    _TOTALS_VIEW_2.format("days"),
)
Steps = tuple[tuple[str, ...], ...]
STEPS: Steps = (_FORMAT_1, _FORMAT_2)
"""What brings a file of each format to the next; format 0 is an empty file. A new format is one
more tuple of statements at the end. What stands here is never changed: books of any age catch up.
"""
