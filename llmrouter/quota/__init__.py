"""Limits and budgets, kept exactly: by several workers, under racing calls, and across any crash.

A *rule* says what a limit or budget allows; its running state in one scope (an org, a team, a user,
a key) is a *bucket*. The `rulebook` knows which apply to a call; `bucket` and `window` know how a
rate drains and when a budget starts again. What was used is counted in one place and lent out from
there, so that nothing on the path of a call waits for a disk or for another process:

    worker      estimate     what a call is foreseen to use, learned from what calls used
                reservation  what one call holds of every bucket that applies: all of it, or nothing
                leases       what this worker may spend of each bucket without asking anybody
                lease        its part of one bucket, and what the ledger said of that last
                denials      the calls that were refused, gathered to be told to the supervisor
    between     messages     what is asked and answered
    supervisor  desk         who asks, who is granted what, and what is recalled before a refusal
                queues       who waits where, in the order of arrival
                verdict      why there is no room, how long to wait for it, when there will be
                ledger       per bucket: what is used, and what each worker has a claim on
                tail         (metering) reads the journals, and charges what was spent
                store        the states of buckets, beside how far the journals were read

- **The journal is the truth for what was spent.** A worker's `begin` is written before the first
  upstream byte and carries what the call holds; `hold` raises that while a stream runs; `end`
  carries what was used and what it cost. The supervisor charges a request at `begin`, tokens and
  money at `end`, and the last hold of a call whose worker died before its `end`.
- **The ledger** lends from balance = capacity - used - claims. A worker's claim on a bucket is what
  it was granted, and what it forced, less what it gave back and what was charged to it. Claims of a
  worker end with it, but not before its journal is read to the end. Charging turns claim into use
  and changes no balance, so it does not matter how late it happens.
- **A lease** is spent in memory. Where it is too small the worker asks for all short buckets in one
  message; before the desk refuses, it recalls what others do not use and has the journals read on.
  A refusal is remembered by the worker, so a flood of refused calls costs the ledger nothing.
- **A reservation** is settled once: what it held too much returns to the lease. Where a call used
  more than it held the worker *forces* the difference: the books come before the limit, and the
  ledger's balance may go below zero, by no more than README states. A strict budget is reserved
  from at the worst case of the call; one that cuts ends a stream that it cannot extend the hold of.
- **Rules change** while calls run. A bucket's name says whose it is, and what is counted over which
  time for which model, but no amount: so a changed amount keeps what was used. Calls are journaled
  with the *generation* of the rules that they reserved under, and are counted by those: a younger
  rule counts none of them, as they reserved nothing of it, and one that was taken away still does,
  so that nothing stays claimed if it comes back.

Invariants: balance + claims + used = capacity, for every bucket and at all times, so that N workers
together admit no more than one would. States and the positions of the tail are stored in a single
transaction, so that every record of a journal is charged exactly once, whatever is killed. Spent is
not held: a call that fits but for what others hold waits in order for them (`quotas.hold_wait`).
Nothing is held while waiting, so nobody waits in a circle. Amounts are integers: nano-USD, tokens,
requests; times are milliseconds, of a clock that all processes of a node share.

Deliberately absent: asyncio, sockets, files and clocks (the daemon carries messages and brings the
time), floating point, prices (metering turns tokens into money), what becomes of a refused call
(the gateway knows errors and other models), fairness between orgs, buckets that several nodes
share, and any table that callers could make grow without end.
"""
