"""What a call used, written down so that no crash can lose it.

A worker appends two records per call to files of its own: `begin` before the first byte goes
upstream, `end` when the call is over (`records` says what they hold, `journal` writes them).
Whoever counts reads them back (`replay`), also after the writer was killed at any instruction:

- a call whose `begin` is not in a file never reached an upstream, so it cost nothing;
- a call with both records is counted by its `end`;
- a call with a `begin` only was interrupted: it may have cost something, and is never forgotten.

Nothing here talks to a network, a clock or an event loop: time comes in the records, and the loop
as two plain callables. Deliberately absent: locks (a file has one writer), secrets and prompts (the
records have no member that could hold one), and any update in place (a record is never changed).
"""
