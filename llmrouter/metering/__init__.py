"""What a call used, written down so that no crash can lose it.

A worker appends records of each call to files of its own: `begin` before the first byte goes
upstream, `hold` where more is held for a running stream, `end` (with usage and cost) when the call
is over. `records` says what they hold, `journal` writes them. Two read them back, also after the
writer was killed at any instruction: `replay` whole files, and `tail` (of one boot: `follow`) what
is new in them, from where it was before; the ledger and the books are fed from there. For both:

- a call whose `begin` is not in a file never reached an upstream, so it cost nothing;
- a call with both records is counted by its `end`, and each attempt that is told of there;
- a call that another model took over has a record at each of them, and the last stands for it;
- a call with a `begin` only was interrupted: it may have cost something, and is never forgotten. It
  is counted by what was held for it at last.

`prices` says what tokens cost: whole nano-USD per million tokens, out of router.toml or a list that
comes in as plain data; a cost is rounded once for the whole call. A model that neither knows has no
price, which is not the same as free: whoever counts money has to decide. Nothing here talks to a
network, a clock or an event loop: time comes in the records, and the loop as two plain callables.
Deliberately absent: locks that anybody waits for (a file has one writer, and holds a lock only to
show that it lives), secrets and prompts (the records have no member that could hold one), any
update in place (a record is never changed), and limits: what is read here is charged to buckets
elsewhere, in the generation of the rules that stands in the begin.
"""
