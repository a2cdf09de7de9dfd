"""router.toml, as typed structs: read once, refused when wrong, never changed afterwards.

`schema` says what the file may hold, key by key. `load` reads one file: TOML syntax first, then
shape (`explain` words what the schema refuses), then meaning (`checks`, `addresses`, `names`,
`references`, `quotas`; of what orgs may use, `grants`, `tags` and `maps`).
A step that fails reports everything it found, as `problems`, and ends the load: what depends on a
broken part is not judged. `credentials` resolves secrets, so that a `Config` never holds one;
`notes` says what is allowed but probably not meant; `effective` writes a `Config` back as TOML.

Invariants: a `Config` that `load` returned is consistent (each reference leads somewhere) and its
paths are absolute. Nothing here listens, connects or writes. Deliberately absent: a default taken
from the environment, and any key that is read but ignored.
"""
